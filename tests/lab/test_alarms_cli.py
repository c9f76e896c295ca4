"""``qunetlab alarms``, ``stop`` and ``acknowledge`` on a machine without a hub: what an operator types and reads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from drivers.catalogue import SafeOrder
from drivers.safely import SafeJob
from lab.alarms.book import Observed
from lab.alarms.table import TABLE
from lab.cli.alarms import acknowledge_alarm, list_alarms, seconds, shelve_alarm
from lab.cli.interlock import acknowledge_roles, stop_roles
from lab.interlock.interlock import interlocked
from lab.interlock.latch import LATCH_FILE, kept_causes
from lab.runs.following.observer import Observer, ObserverError
from lab.runs.interlocks import acknowledge, chosen_roles, states, stop
from lab.runs.testbeds.folder import template_path
from lab.runs.testbeds.machine import Machine
from lab.testbed import TestbedError, parse_testbed, read_testbed
from orchestrator.processes.alarm_watch import AlarmWatch
from orchestrator.wire.control_socket import ControlError, ControlRefusedError, ControlSocket, listener
from orchestrator.wire.links import LinkState


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a testbed file whose orchestrator does not answer."""

    def nobody(*_: object) -> None:
        raise ObserverError("the orchestrator did not answer")

    monkeypatch.setattr(Observer, "connect", nobody)
    path = tmp_path / "testbed.toml"
    path.write_bytes(template_path("simulated-four-node").read_bytes())
    return path


@pytest.fixture
def alice(bench: Path) -> Iterator[list[Observed]]:
    """Alice's alarms at her control socket; what is in the list is observed."""
    observed = [Observed("low-water", 4096.0, peer="bob", text="auth_ab")]
    agent: Any = SimpleNamespace(link_state=LinkState.LOST)
    watch = AlarmWatch(agent, "alice", TABLE, [lambda: observed], lambda event: None)
    folder = bench.parent / "state" / "alice"
    folder.mkdir(parents=True)

    def answer(request: Any) -> Any:
        watch.look()
        return watch.answer(request)

    with ControlSocket(folder, answer):
        yield observed


def test_alarms_are_listed_acknowledged_and_shelved_without_a_hub(
    bench: Path, alice: list[Observed], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert list_alarms(bench, None, None, False) == 1
    said = capsys.readouterr().out
    assert "alice/low-water/bob  minor" in said
    assert "at or below 16383" in said
    assert "qunetlab keys reseed" in said
    assert "of the roles that run on this machine alone" in said
    assert acknowledge_alarm("alice/low-water/bob", bench, None) == 0
    assert shelve_alarm("alice/low-water/bob", "2h", bench, None) == 0
    capsys.readouterr()
    assert list_alarms(bench, None, None, True) == 0, "a shelved one disturbs nobody"
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["id"], row["severity"], row["acknowledged"]) == ("alice/low-water/bob", "minor", True)
    assert 7100 < row["shelved_s"] <= 7200
    alice.clear()
    assert list_alarms(bench, None, None, False) == 0
    assert "no alarms" in capsys.readouterr().out


def test_a_file_that_names_no_hub_lists_the_roles_of_this_machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "testbed.toml"
    path.write_bytes(template_path("simulated-four-node").read_bytes())
    (tmp_path / "secrets" / "observer").mkdir(parents=True)
    assert list_alarms(path, None, None, False) == 0
    said = capsys.readouterr().out
    assert "no alarms" in said
    assert "of the roles that run on this machine alone (hub.control is 'auto'" in said


def test_what_cannot_be_done_to_an_alarm_is_told(bench: Path, alice: list[Observed]) -> None:
    with pytest.raises(ControlRefusedError, match="its alarms: alice/low-water/bob"):
        acknowledge_alarm("alice/store", bench, None)
    with pytest.raises(ControlRefusedError, match="at most 24 hours"):
        shelve_alarm("alice/low-water/bob", "48h", bench, None)
    with pytest.raises(ValueError, match="its first part is none of relay, alice"):
        acknowledge_alarm("eve/store", bench, None)
    with pytest.raises(ControlError, match="bob does not run on this machine"):
        acknowledge_alarm("bob/store", bench, None)


@pytest.mark.parametrize(
    ("text", "for_s"), [("90s", 90), ("1.5 min", 90), ("30m", 1800), ("2h", 7200), ("0", 0)]
)
def test_times_of_people(text: str, for_s: float) -> None:
    assert seconds(text) == for_s


@pytest.mark.parametrize("text", ["", "2", "-1h", "2 days", "h", "1e9s"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no time"):
        seconds(text)


def test_limits_of_the_testbed_file_are_taken_and_wrong_ones_refused(bench: Path) -> None:
    data = read_testbed(bench)
    data["alarms"] = {"temperature": {"high_minor": 30.0}}
    limits = parse_testbed(data, bench).alarm_table()["temperature"].limits
    assert limits is not None
    assert limits.high_minor == 30.0
    for wrong, words in (
        ({"temperature": {"high_minor": 99.0}}, "alarms.temperature: limits must rise"),
        ({"store": {"high_minor": 1.0}}, "alarms.store is a state"),
        ({"temprature": {"high_minor": 1.0}}, "temprature"),
        ({"temperature": {"stale_s": 0.0}}, "stale_s"),
    ):
        with pytest.raises(TestbedError, match=words):
            parse_testbed(data | {"alarms": wrong}, bench)


class Laser:
    owner = "relay"
    permit = None

    def __init__(self) -> None:
        self.on = True

    def safe_jobs(self) -> tuple[SafeJob, ...]:
        return (SafeJob(SafeOrder.LIGHT, "laser", self.off),)

    def off(self) -> None:
        self.on = False


def test_stop_reaches_a_role_that_runs_and_one_that_does_not_and_says_which_is_elsewhere(
    bench: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine, laser = Machine(bench, None), Laser()
    for role in ("relay", "alice"):
        machine.folder(role).mkdir(parents=True)
    station: Any = laser
    with ExitStack() as stack:
        stack.enter_context(interlocked(station, machine.folder("relay")))
        assert stop_roles(bench, None, None, "smoke", False) == 1, "bob, carol and dave are elsewhere"
        said = capsys.readouterr().out.splitlines()
        assert not laser.on
        assert "relay: latched by operator: stopped by" in said[0]
        assert ": smoke (" in said[0]
        assert "dark after 0." in said[0]
        assert "alice does not run; it stays dark when it is started" in said[1]
        assert "bob has no state folder here" in said[2]
        (alice,) = states(machine, ["alice"])
        assert alice.state is not None
        assert [each.cause for each in alice.state.causes] == ["operator"]
        assert acknowledge_roles(bench, "relay", None, False) == 0
        assert "relay: released" in capsys.readouterr().out
    (refused,) = acknowledge(machine, ["alice"], "dana")
    assert not refused.ok
    assert "start it (it comes up dark), then acknowledge" in refused.text
    with pytest.raises(ValueError, match="'eve' owns no instrument"):
        chosen_roles(machine, "eve")


def test_a_folder_that_cannot_be_written_keeps_no_other_role_from_being_stopped(
    bench: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = Machine(bench, None)
    for role in ("relay", *machine.testbed.user_names()):
        machine.folder(role).mkdir(parents=True)
    (machine.folder("alice") / f".{LATCH_FILE}.tmp").mkdir()  # nobody writes there, root neither
    assert stop_roles(bench, None, None, "smoke", False) == 1
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == ["relay", "alice:", "bob", "carol", "dave"]
    assert "interlock.json.tmp" in said[1]
    assert "give the command as the user that runs it or as root, or make room" in said[1]
    for role in ("relay", "bob", "carol", "dave"):
        assert kept_causes(machine.folder(role)), role


def test_a_role_that_stands_still_and_whose_latch_cannot_be_written_is_ended_and_told(bench: Path) -> None:
    machine = Machine(bench, None)
    folder = machine.folder("relay")
    folder.mkdir(parents=True)
    (folder / f".{LATCH_FILE}.tmp").mkdir()
    silent = subprocess.Popen(
        [sys.executable, "-c", SILENT, str(folder / "interlock")], stdout=subprocess.PIPE, text=True
    )
    assert silent.stdout is not None
    silent.stdout.readline()
    (told,) = stop(machine, ["relay"], "smoke")
    assert silent.wait(10) == -signal.SIGKILL
    silent.stdout.close()
    assert not told.ok
    assert "was ended and its guard makes its instruments safe" in told.text
    assert "it would NOT stay dark when it is started" in told.text


SILENT = """
import signal, socket, sys
there = socket.socket(socket.AF_UNIX)
there.bind(sys.argv[1])
there.listen(8)
print("listens", flush=True)
signal.pause()
"""
"""A role whose interlock answers nothing."""


def test_the_socket_of_an_interlock_is_its_users_alone_and_knows_its_process(bench: Path) -> None:

    folder = bench.parent
    station: Any = Laser()
    with interlocked(station, folder):
        assert (folder / "interlock").stat().st_mode & 0o777 == 0o600
        assert listener(folder, name="interlock") == os.getpid()
    assert listener(folder, name="interlock") is None
