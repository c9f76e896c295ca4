"""An ID900, or its service, whose firmware says things in another form, and callers who do: a right value or a typed error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from tagger_bench import Light, own_host

from drivers.links.errors import (
    InstrumentError,
    LimitError,
    MalformedReplyError,
    NotReadyError,
    WrongKindError,
)
from drivers.timetaggers.id900 import ID900
from sim_backends.timetaggers.id900 import ID900Twin

Bench = tuple[ID900Twin, ID900]


@pytest.fixture
def bench() -> Iterator[Bench]:
    twin = ID900Twin(on_record=Light(), scpi_port=0, dlt_port=0)
    tagger = ID900("tagger", twin.serve(own_host()), dlt_address=twin.dlt_address, timeout_s=5.0)
    yield twin, tagger
    tagger.close()
    twin.close()


def says(monkeypatch: pytest.MonkeyPatch, service: Any, answers: Callable[[str], object]) -> None:
    """Have a twin's service answer as ``answers`` has it, or as ever where that is None."""
    as_ever = service.execute
    monkeypatch.setattr(
        service, "execute", lambda asked: as_ever(asked) if answers(asked) is None else answers(asked)
    )


@pytest.mark.parametrize("form", ["{}.0", "{} TB", "{}TB", "{} PS", "+{}", "{}E+00"])
def test_a_whole_number_is_taken_in_every_form(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    twin, tagger = bench
    says(monkeypatch, twin._scpi, lambda asked: form.format(13) if asked == "DEVI:RES:BWID?" else None)
    tagger.connect()
    assert tagger.time_base_ps() == 13


@pytest.mark.parametrize("reply", ["13,0", "-13", "13.5", "NaN", "9.9E37", "", "13 NS"])
def test_what_is_no_whole_number_is_none(bench: Bench, monkeypatch: pytest.MonkeyPatch, reply: str) -> None:
    twin, tagger = bench
    says(monkeypatch, twin._scpi, lambda asked: reply if asked == "DEVI:RES:BWID?" else None)
    with pytest.raises(MalformedReplyError, match="BWID"):
        tagger.connect()


def test_switches_and_words_come_as_numbers_and_in_quotes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    twin, tagger = bench
    as_ever = twin._scpi.execute
    other = {"ON": "1", "OFF": "0", "STOPPED": '"STOPPED"'}

    def execute(asked: str) -> str:
        reply = as_ever(asked)
        return other.get(reply, reply)

    monkeypatch.setattr(twin._scpi, "execute", execute)
    tagger.connect()
    tagger.configure([1], 0.1)
    assert tagger.record_stage() == "STOPPED"


@pytest.mark.parametrize(
    ("reply", "serial", "firmware"),
    [
        ('"IDQ","ID900","7","1.0"', "7", "1.0"),
        ("IDQ,ID1000,7", "", ""),
        ("ID Quantiqüe, ID900, 7, 1.0", "7", "1.0"),
        ("ID900", "", ""),
    ],
)
def test_identities_in_other_forms(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, reply: str, serial: str, firmware: str
) -> None:
    twin, tagger = bench
    says(monkeypatch, twin._scpi, lambda asked: reply if asked == "*IDN?" else None)
    identity = tagger.connect()
    assert (identity.serial_number, identity.firmware) == (serial, firmware)


def test_more_than_can_be_is_no_value(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    twin, tagger = bench
    tagger.connect()
    tagger.configure([1], 0.1)
    tagger.start_streams([1])
    counted = {"acquisitions_count": 0, "timestamps_count": 10**30}
    says(monkeypatch, twin._dlt, lambda asked: counted if asked.startswith("status") else None)
    with pytest.raises(MalformedReplyError, match="more than this machine can hold"):
        tagger.read_tags(1)
    with pytest.raises(NotReadyError, match="start the streams again"):
        tagger.read_tags(1)
    says(monkeypatch, twin._scpi, lambda asked: f"[{10**30}]" if asked.endswith("DATA?") else None)
    with pytest.raises(MalformedReplyError, match="beyond 64 bits"):
        tagger.histogram_1()


REFUSED: list[tuple[Callable[[ID900], object], type[InstrumentError]]] = [
    (lambda tagger: tagger.configure(1, 0.1), WrongKindError),  # type: ignore[arg-type]
    (lambda tagger: tagger.configure([True], 0.1), LimitError),
    (lambda tagger: tagger.configure([1, 1], 0.1), LimitError),
    (lambda tagger: tagger.start_streams("12"), WrongKindError),  # type: ignore[arg-type]
    (lambda tagger: tagger.play_record(1.5), LimitError),  # type: ignore[arg-type]
    (lambda tagger: tagger.play_record("1000"), WrongKindError),  # type: ignore[arg-type]
    (lambda tagger: tagger.play_record(float("nan")), LimitError),  # type: ignore[arg-type]
    (lambda tagger: tagger.counts(-1), LimitError),
    (lambda tagger: tagger.counts("1"), LimitError),  # type: ignore[arg-type]
    (lambda tagger: tagger.input_error(False), LimitError),
    (lambda tagger: tagger.count_rate(7), LimitError),
]


def test_what_callers_cannot_mean_is_refused_before_anything_is_sent(bench: Bench) -> None:
    _, tagger = bench
    tagger.connect()
    sent: list[object] = []
    for link in tagger.links:
        link.tap = lambda direction, data: sent.append(data)
    for act, kind in REFUSED:
        with pytest.raises(kind) as caught:
            act(tagger)
        assert caught.value.instrument == "tagger"
        assert caught.value.address == tagger.address
    assert sent == []
    tagger.configure(np.array([1, 2]), np.array(0.1))  # type: ignore[arg-type]
    tagger.play_record(np.int64(10**9))  # type: ignore[arg-type]
