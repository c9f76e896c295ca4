"""``qunetlab instruments record`` and ``replay``: agreed to, kept whatever happens, and told with an exit code."""

from __future__ import annotations

import io
import json
import re
import tomllib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drivers.catalogue import create_instrument
from drivers.links.transcript import Outcome, Passed, Step, from_text
from lab.claims import claiming
from lab.runs.first_contact.recording import Recorder, recorded, run
from lab.runs.first_contact.session import Session, parameters, unique_name
from lab.runs.testbeds.folder import template_path
from lab.testbed import load_testbed, write_testbed
from sim_backends.lasers.nkt_basik import NKTBasikTwin
from sim_backends.modulators.tektronix_awg70002a import AWG70002ATwin
from sim_backends.powermeters.thorlabs_pm100d import PM100DTwin


@pytest.fixture
def meter() -> Iterator[Any]:
    with closing(PM100DTwin(read_power_w=lambda: 1e-6, serial=7)) as twin:
        twin.address = twin.serve("127.0.0.1", 0)  # type: ignore[attr-defined]
        yield twin


def told(path: Path) -> str:
    return " ".join(path.read_text(encoding="utf-8").split())


def test_a_session_is_agreed_to_kept_and_replayed(qunetlab: Any, meter: Any, tmp_path: Path) -> None:
    out = tmp_path / "meter.jsonl"
    said = qunetlab("instruments", "record", "thorlabs-pm100d", meter.address, "--out", str(out), "--yes")
    assert said.returncode == 0, said.stderr
    for words in ("brought to its known state", "written back with the value that was read", "wavelength_nm"):
        assert words in said.stdout
    header = json.loads(out.read_text().splitlines()[0])
    assert header["identity"]["serial_number"] == "SIM00007"
    assert header["driver"] == "drivers.powermeters.thorlabs_pm100d:ThorlabsPM100D"
    assert "127.0.0.1" not in told(out)
    assert str(tmp_path) not in told(out)
    replayed = qunetlab("instruments", "replay", str(out), "--json")
    assert replayed.returncode == 0, replayed.stdout
    report = json.loads(replayed.stdout)
    assert report["driver"]["steps"] == 10
    assert report["twin"]["differences"] == []


def test_nothing_is_sent_before_it_is_agreed_to(qunetlab: Any, meter: Any, tmp_path: Path) -> None:
    out = tmp_path / "meter.jsonl"
    said = qunetlab("instruments", "record", "thorlabs-pm100d", meter.address, "--out", str(out))
    assert said.returncode == 1
    assert not out.exists()
    assert meter.state()["errors"] == 0


def test_a_file_is_never_written_over(qunetlab: Any, meter: Any, tmp_path: Path) -> None:
    out = tmp_path / "meter.jsonl"
    out.write_text("mine")
    said = qunetlab("instruments", "record", "thorlabs-pm100d", meter.address, "--out", str(out), "--yes")
    assert said.returncode == 2
    assert "never written over" in said.stderr
    assert out.read_text() == "mine"


def test_what_only_reads_leaves_everything_as_it_is(qunetlab: Any, tmp_path: Path) -> None:
    out = tmp_path / "meter.jsonl"
    with closing(PM100DTwin(left_by_someone=True)) as left:
        before = left.state()
        address = left.serve("127.0.0.1", 0)
        said = qunetlab(
            "instruments", "record", "thorlabs-pm100d", address, "--out", str(out), "--yes", "--read-only"
        )
        assert said.returncode == 0, said.stderr
        assert left.state() == before
    sent = [
        each.data for each in from_text(out.read_text()).entries if isinstance(each, Passed) and each.data
    ]
    assert sent[0] == b"*IDN?\n"
    assert all(b"?" in data for data in sent[::2])
    assert qunetlab("instruments", "replay", str(out), "--only", "driver").returncode == 0


def test_own_lines_are_recorded_too(
    qunetlab: Any, meter: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lab.cli import first_contact

    typed = "SENS:POW:RANG?\nask MEAS:CURR?\nwrite SENS:AVER 3\nNO:SUCH\n\nnever read\n"
    monkeypatch.setattr(first_contact.sys, "stdin", io.StringIO(typed))
    out = tmp_path / "meter.jsonl"
    said = first_contact.record(
        "thorlabs-pm100d", meter.address, out, tmp_path, [], read_only=False, interactive=True, yes=True
    )
    assert said == 0
    pairs = [
        (step, outcome) for step, outcome in from_text(out.read_text()).steps() if step.do in ("ask", "write")
    ]
    assert [step.name for step, _ in pairs] == ["SENS:POW:RANG?", "MEAS:CURR?", "SENS:AVER 3", "NO:SUCH"]
    assert [bool(outcome and outcome.failed) for _, outcome in pairs] == [False, False, False, True]
    assert "never read" not in told(out)
    assert qunetlab("instruments", "replay", str(out)).returncode == 0


def test_a_failure_in_the_middle_keeps_what_was_recorded(qunetlab: Any, tmp_path: Path) -> None:
    out = tmp_path / "meter.jsonl"
    asked: list[None] = []

    def read_power_w() -> float:
        asked.append(None)
        twin.close()
        return 1e-6

    with closing(PM100DTwin(read_power_w=read_power_w)) as twin:
        said = qunetlab(
            "instruments", "record", "thorlabs-pm100d", twin.serve("127.0.0.1", 0), "--out", str(out), "--yes"
        )
    assert said.returncode == 3
    assert asked
    transcript = from_text(out.read_text())
    assert transcript.header.identity is not None
    assert transcript.header.ended.startswith("LinkBrokenError in ")
    assert any(outcome and outcome.failed for _, outcome in transcript.steps())
    assert '"sent": "MEASure:POWer?\\n"' in out.read_text()


def test_another_instrument_than_the_one_meant_is_asked_who_it_is_and_nothing_more(
    qunetlab: Any, meter: Any, tmp_path: Path
) -> None:
    out = tmp_path / "attenuator.jsonl"
    said = qunetlab("instruments", "record", "keysight-n7764a", meter.address, "--out", str(out), "--yes")
    assert said.returncode == 3
    assert "connect: WrongInstrumentError: " in said.stdout
    transcript = from_text(out.read_text())
    assert transcript.header.ended == "WrongInstrumentError in connect"
    assert [
        each.data for each in transcript.entries if isinstance(each, Passed) and each.direction == "sent"
    ] == [b"*IDN?\n"]


def test_options_that_a_driver_does_not_have_are_named(qunetlab: Any, meter: Any, tmp_path: Path) -> None:
    arguments = (
        "instruments",
        "record",
        "thorlabs-pm100d",
        meter.address,
        "--out",
        str(tmp_path / "m.jsonl"),
    )
    for option, why in (
        ("colour=red", "(given was 'colour')"),
        ("colour", "is not NAME=VALUE"),
    ):
        said = qunetlab(*arguments, "--yes", "--option", option)
        assert said.returncode == 2, said.stderr
        assert why in said.stderr
    said = qunetlab(*arguments, "--yes", "--option", "averaging=3")
    assert said.returncode == 0
    assert from_text((tmp_path / "m.jsonl").read_text()).header.options == {"averaging": 3}


def test_a_replay_leads_to_no_real_instrument(qunetlab: Any, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    header = {
        "transcript": 1,
        "model": "id-quantique-id900",
        "links": [{"option": "", "kind": "zeromq"}],
        "options": {"dlt_address": "192.0.2.1:6060"},
    }
    path.write_text(json.dumps(header) + '\n{"at_s": 0.0, "do": "connect"}\n')
    said = qunetlab("instruments", "replay", str(path), "--only", "driver")
    assert said.returncode == 2
    assert "lacks the link of the driver's dlt_address" in said.stderr


def test_a_stop_button_keeps_what_was_recorded_and_leaves_the_instrument_safe(tmp_path: Path) -> None:
    out = tmp_path / "laser.jsonl"
    told: list[str] = []
    with closing(NKTBasikTwin()) as twin:
        driver = create_instrument("nkt-basik", unique_name("laser"), twin.serve())

        def stop() -> float:
            raise KeyboardInterrupt

        driver.parameters["temperature_c"].get = stop  # type: ignore[attr-defined]
        driver.connect()
        driver.emission(True)  # type: ignore[operator]
        assert not twin.is_safe()
        with (
            pytest.raises(KeyboardInterrupt),
            recorded(driver, "nkt-basik", {}, out, read_only=False) as (recorder, session),
        ):
            run(recorder, session, tell=told.append)
        assert twin.is_safe()
    assert re.fullmatch(r"Dark at [\d:]+, read back: laser\.", told[-1])
    transcript = from_text(out.read_text())
    assert transcript.header.ended == "KeyboardInterrupt in read temperature_c"
    assert [step.do for step, _ in transcript.steps()][-1] == "safe_state"


def test_a_switch_that_is_on_is_not_written(tmp_path: Path) -> None:
    with closing(NKTBasikTwin()) as twin:
        address = twin.serve()
        with closing(create_instrument("nkt-basik", unique_name("laser"), address)) as somebody:
            somebody.emission(True)  # type: ignore[operator]
        driver = create_instrument("nkt-basik", unique_name("laser"), address)
        with recorded(driver, "nkt-basik", {}, tmp_path / "l.jsonl", read_only=False) as (recorder, session):
            assert run(recorder, session)
    pairs = list(from_text((tmp_path / "l.jsonl").read_text()).steps())
    assert [outcome.gave for step, outcome in pairs if step.name == "emission" and outcome] == [True]
    steps = [step for step, _ in pairs]
    assert {step.name for step in steps if step.do == "set"} == {"power_mw", "wavelength_offset_pm"}


class LastRefused(Session):
    """Its last reading is refused."""

    def perform(self, step: Step) -> Outcome:
        *_, last = parameters(self.driver)
        return Outcome(0.0, failed="NotReadyError") if step.name == last else super().perform(step)


@pytest.mark.parametrize("read_only", [False, True])
def test_a_refusal_is_an_answer_the_last_one_too(meter: Any, read_only: bool) -> None:
    with closing(create_instrument("thorlabs-pm100d", unique_name("meter"), meter.address)) as driver:
        recorder = Recorder(driver, "thorlabs-pm100d", {}, str.encode, read_only=read_only)
        assert run(recorder, LastRefused(driver, read_only=read_only))


def test_a_host_that_comes_in_two_pieces_is_taken_out_too() -> None:
    kept: list[str] = []
    driver = create_instrument("single-quantum-websq", unique_name("detectors"), "detectors.lab:12000")
    with closing(driver):
        recorder = Recorder(driver, "single-quantum-websq", {}, kept.append)
        tap = driver.links[0].tap
        assert tap is not None
        for piece in (b'{"label": "Host", "value": "detec', b"tors.lab 192.168.1", b'.17"}\x17'):
            tap("received", piece)
        recorder.save()
    received = [each.data for each in from_text(kept[-1]).entries if isinstance(each, Passed)]
    assert received == [b'{"label": "Host", "value": "HOST HOST"}\x17']


def test_a_host_in_a_list_or_in_a_value_that_is_set_is_taken_out_too() -> None:
    kept: list[str] = []
    address = "detectors.lab:12000"
    driver = create_instrument("single-quantum-websq", unique_name("detectors"), address)
    with closing(driver):
        recorder = Recorder(driver, "single-quantum-websq", {"clients": [address]}, kept.append)
        session = Session(driver, read_only=True)
        session.perform = lambda step: Outcome(0.0, gave=[f"from {address}"])  # type: ignore[method-assign]
        recorder.perform(session, Step(0.0, "set", "client", address))
    assert "detectors" not in kept[-1].replace("single-quantum", "").replace("drivers.detectors", "")
    assert kept[-1].count("HOST") == 3


def test_samples_never_reach_a_transcript() -> None:
    kept: list[str] = []
    samples = np.linspace(-1, 1, 2400, dtype=np.float32)
    with closing(AWG70002ATwin()) as twin:
        driver: Any = create_instrument("tektronix-awg70002a", unique_name("awg"), twin.serve("127.0.0.1", 0))
        with closing(driver):
            driver.connect()
            recorder = Recorder(driver, "tektronix-awg70002a", {}, kept.append)
            driver.configure(1e9, 0.3)
            driver.prepare(2400)
            driver.upload(0, samples)
            recorder.perform(
                Session(driver, read_only=True), Step(0.0, "ask", 'WLISt:WAVeform:LENGth? "frame0"')
            )
            driver.safe_state()
    assert '"block_bytes": 9600' in kept[-1]
    passed = [each for each in from_text(kept[-1]).entries if isinstance(each, Passed)]
    assert max(len(each.data) for each in passed) < 100
    assert not any(samples.tobytes()[:8] in each.data for each in passed)


def test_an_instrument_of_a_testbed_is_recorded_by_name_unless_its_role_runs(
    qunetlab: Any, meter: Any, tmp_path: Path
) -> None:
    data = tomllib.loads(template_path("simulated-four-node").read_text(encoding="utf-8"))
    entry = next(each for each in data["instruments"] if each["name"] == "sensors_alice")
    others = {key: value for key, value in entry.items() if key != "options"} | {"model": "thorlabs-pm100d"}
    data["instruments"].remove(entry)
    data["instruments"] += [
        {**others, "name": "monitor_alice", "address": meter.address, "serves": {"sensor_cw": ""}},
        {**others, "name": "monitor_ccw_alice", "serves": {"sensor_ccw": ""}},
    ]
    write_testbed(data, tmp_path / "testbed.toml")
    out = tmp_path / "meter.jsonl"
    arguments = (
        "instruments",
        "record",
        "monitor_alice",
        "--testbed",
        str(tmp_path),
        "--out",
        str(out),
        "--yes",
    )
    said = qunetlab(*arguments)
    assert said.returncode == 0, said.stderr
    assert from_text(out.read_text()).header.model == "thorlabs-pm100d"
    out.unlink()
    with claiming(load_testbed(tmp_path / "testbed.toml").owned_by("alice"), "alice"):
        said = qunetlab(*arguments)
    assert said.returncode == 1
    assert "runs as alice and has monitor_alice" in said.stderr
    assert not out.exists()
    nobody = qunetlab(*arguments[:2], "nobody", *arguments[3:])
    assert nobody.returncode == 2
    assert "no instrument 'nobody'" in nobody.stderr


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "the file is empty"),
        ("hello\n", "line 1: no JSON"),
        ('{"transcript": 9}\n', "of version 9"),
        ('{"transcript": 1, "model": "none-such", "links": []}\n', "no driver for 'none-such'"),
    ],
)
def test_a_file_that_is_no_transcript_is_said_to_be_none(
    qunetlab: Any, tmp_path: Path, content: str, why: str
) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(content)
    said = qunetlab("instruments", "replay", str(path))
    assert said.returncode == 2
    assert why in said.stderr


def test_differences_are_a_table_with_an_exit_code(qunetlab: Any, meter: Any, tmp_path: Path) -> None:
    out = tmp_path / "meter.jsonl"
    qunetlab("instruments", "record", "thorlabs-pm100d", meter.address, "--out", str(out), "--yes")
    out.write_text(out.read_text().replace("MEASure:POWer?", "MEASure:POWER:WATTs?"))
    said = qunetlab("instruments", "replay", str(out))
    assert said.returncode == 1
    assert "driver: 2 steps, 1 differences" in said.stdout
    assert "sent 'MEASure:POWer?\\n', then it was 'MEASure:POWER:WATTs?\\n'" in said.stdout
    assert "instrument  number \\n" in said.stdout
    assert "twin        silence" in said.stdout
