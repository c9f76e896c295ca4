"""Transcripts as contracts: those in the folder beside this file, made from public examples or sent by whoever met an
instrument, and those of sessions with our own twins.

Each is held against the driver, which must send the same and make the same of it, and against the twin, whose answers must
have the shapes of the recorded ones.  A planted difference must be seen.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from every_driver import MODELS, _made

from drivers.catalogue import create_instrument
from drivers.links.transcript import Passed, Transcript, from_text
from lab.runs.first_contact.against_driver import against_driver
from lab.runs.first_contact.against_twin import against_twin, alone
from lab.runs.first_contact.recording import Recorder, recorded, run
from lab.runs.first_contact.session import Session, unique_name
from sim_backends.bench import Bench

pytestmark = pytest.mark.early

OPTIONS = {"id-quantique-id900": {"integration_ms": 10.0}}
"""Counting takes its time."""
SHIPPED = sorted((Path(__file__).parent / "transcripts").glob("*.jsonl"))
Change = Callable[[bytes], bytes]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_transcript_holds_for_driver_and_twin(path: Path) -> None:
    transcript = from_text(path.read_text(encoding="utf-8"))
    source, identity = transcript.header.source, transcript.header.identity
    assert (source is None) != (identity is None), "from a public example, or from an instrument"
    if source is not None:
        assert source.repository.count("/") == 1
        assert source.paths
        assert source.note
    if transcript.only != "twin":
        report = against_driver(transcript)
        assert report is not None
        assert report.differences == ()
        assert report.steps
    if transcript.only != "driver":
        twin = against_twin(transcript)
        assert twin.differences == ()
        assert twin.answers


def test_every_model_has_public_examples_for_both() -> None:
    seen = {(from_text(path.read_text()).header.model, side) for path in SHIPPED for side in sides(path)}
    ours = {model for model in MODELS if not model.startswith("acme")}
    assert {(model, side) for model in ours for side in ("driver", "twin")} <= seen


def sides(path: Path) -> tuple[str, ...]:
    only = from_text(path.read_text(encoding="utf-8")).only
    return (only,) if only else ("driver", "twin")


@cache
def session_with_twin(model: str, folder: Path) -> Transcript:
    testbed, entry = alone(model)
    with Bench(testbed, only=(entry.name,)) as bench:
        options = {**entry.options, **bench.options[entry.name], **OPTIONS.get(model, {})}
        driver = create_instrument(model, unique_name("first"), bench.addresses[entry.name], **options)
        out = folder / f"{model}.jsonl"
        with recorded(driver, model, options, out, read_only=False) as (recorder, session):
            assert run(recorder, session)
    return from_text(out.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sessions")


@pytest.mark.parametrize("model", MODELS)
def test_a_session_with_a_twin_holds_for_driver_and_twin(model: str, folder: Path) -> None:
    transcript = session_with_twin(model, folder)
    assert transcript.header.identity is not None
    assert not transcript.header.ended
    report = against_driver(transcript)
    assert report is not None
    assert report.differences == ()
    assert report.steps == len(list(transcript.steps()))
    twin = against_twin(transcript)
    assert twin.differences == ()
    assert twin.answers >= 10


@pytest.mark.parametrize("model", MODELS)
def test_a_session_with_a_twin_as_somebody_left_it_holds_for_the_driver(model: str) -> None:
    kept: list[str] = []
    options: dict[str, Any] = dict(OPTIONS.get(model, {}))
    built = _made(model, left=True)
    with closing(built.twin):
        address = built.serve()
        options |= built.options()
        driver = create_instrument(model, unique_name("left"), address, **options)
        with closing(driver):
            recorder = Recorder(driver, model, options, kept.append)
            assert run(recorder, Session(driver, read_only=False))
    report = against_driver(from_text(kept[-1]))
    assert report is not None
    assert report.differences == ()


def changed(transcript: Transcript, direction: str, change: Change) -> Transcript:
    """The transcript, up to a little behind the first of those bytes that ``change`` makes something else of."""
    entries = list(transcript.entries)
    for index, entry in enumerate(entries):
        if isinstance(entry, Passed) and entry.direction == direction and change(entry.data) != entry.data:
            entries[index] = msgspec.structs.replace(entry, data=change(entry.data))
            return Transcript(transcript.header, tuple(entries[: index + 10]))
    raise AssertionError("nothing to change")


@pytest.mark.parametrize(
    ("model", "change", "twin_says"),
    [
        ("thorlabs-pm100d", lambda data: data.replace(b"\n", b"\r\n"), "\\n"),
        (
            "thorlabs-pm100d",
            lambda data: data.replace(b'+0,"No error"', b'-113,"Undefined header"'),
            "error 0",
        ),
        ("thorlabs-pm100d", lambda data: data.replace(b"PM100D", b"PM400"), "PM100D"),
        ("keysight-n7764a", lambda data: b"1;" + data if data == b"0\r\n" else data, "integer \\r\\n"),
        ("tektronix-awg70002a", lambda data: b"" if data == b"0\n" else data, "integer"),
        ("oz-dd100", lambda data: data.replace(b"ATTEN:60.00", b"Atten:60.00(dB)"), "ATTEN:number"),
        ("oz-dd100", lambda data: data.replace(b"Pos:", b"Error-5\r\nPos:"), "Pos:integer"),
        ("oz-dd100", lambda data: data.replace(b"SN:", b"FW:1.2\r\nSN:"), "SN:word"),
        (
            "id-quantique-id900",
            lambda data: b"-100 SCPI_ERR_INVALID_CMD" if data == b"13" else data,
            "integer",
        ),
        ("thorlabs-mpc320", lambda data: data[:-1] if data[:2] == b"\x32\x05" else data, "12 bytes"),
        ("single-quantum-websq", lambda data: data.replace(b'"TriggerLevel"', b'"Trigger"'), "TriggerLevel:"),
        ("single-quantum-websq", lambda data: data.replace(b'{"value": false}', b'{"value": 0}'), "switch"),
    ],
)
def test_an_answer_of_another_shape_is_seen(model: str, change: Change, twin_says: str, folder: Path) -> None:
    twin = against_twin(changed(session_with_twin(model, folder), "received", change), reply_s=0.2)
    assert twin.differences
    assert twin_says in twin.differences[0].twin


@pytest.mark.parametrize("model", MODELS)
def test_another_command_of_the_driver_is_seen(model: str, folder: Path) -> None:
    def other(data: bytes) -> bytes:
        if model == "nkt-basik":  # another register
            return data.replace(b"\x04\x22", b"\x04\x23")
        if model == "thorlabs-mpc320":  # another channel
            return data.replace(b"\x90\x04\x02", b"\x90\x04\x01")
        return data.upper().replace(b"E", b"F").replace(b"D\r", b"Q\r").replace(b"I?", b"J?")

    report = against_driver(changed(session_with_twin(model, folder), "sent", other))
    assert report is not None
    assert len(report.differences) == 1
    assert report.differences[0].startswith("line ")


def test_a_command_that_is_not_sent_any_more_is_seen(folder: Path) -> None:
    transcript = session_with_twin("oz-dd100", folder)
    more = Passed(9.0, 0, "sent", b"H\r")
    report = against_driver(Transcript(transcript.header, (*transcript.entries, more)))
    assert report is not None
    assert report.differences == (f"line {len(transcript.entries) + 2}: sent nothing, then it was 'H\\r'",)


def test_a_value_that_is_read_otherwise_is_seen(folder: Path) -> None:
    transcript = session_with_twin("nkt-basik", folder)
    entries: list[Any] = [
        msgspec.structs.replace(entry, gave=11.0) if getattr(entry, "gave", None) == 10.0 else entry
        for entry in transcript.entries
    ]
    report = against_driver(Transcript(transcript.header, tuple(entries)))
    assert report is not None
    assert report.differences == ("read power_mw: gave 10.0, then it gave 11.0",)
