"""Alarms over a restart of their role: what an operator said stands, what nobody said comes anew, a wrong file hides nothing."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from lab.alarms import kept as module
from lab.alarms.book import AWAITED_S, AlarmBook, NoAlarmError, Observed
from lab.alarms.kept import ALARMS_FILE, keep_alarms, kept_alarms
from lab.alarms.table import TABLE
from orchestrator.events.status import Alarm
from orchestrator.processes.alarm_watch import AlarmWatch
from orchestrator.wire.control_socket import AcknowledgeAlarm, Done, ShelveAlarm
from orchestrator.wire.links import LinkState


class Role:
    """A role's alarms; another one with the same folder is the role after a restart."""

    def __init__(self, folder: Path, now_s: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("orchestrator.runtime.now", lambda: now_s[0])
        self.observed: list[Observed] = []
        self.told: list[Alarm] = []
        self.link_state = LinkState.LOST
        agent: Any = self
        self.watch = AlarmWatch(agent, "alice", TABLE, [lambda: self.observed], self.told.append, folder)

    def look(self, *observed: Observed) -> list[Alarm]:
        self.observed = list(observed)
        self.told.clear()
        self.watch.look()
        return list(self.told)


LOW = Observed("low-water", 900.0, peer="bob", text="auth_ab")
HOT = Observed("temperature", 60.0, part="laser")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The role's clock, which begins anew with every machine, and the wall clock: set together."""
    now_s = [0.0]
    monkeypatch.setattr(module.time, "time", lambda: 1e9 + now_s[0])
    return now_s


def test_what_was_acknowledged_is_so_after_a_restart_even_if_its_source_takes_a_while(
    tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    role = Role(tmp_path, clock, monkeypatch)
    role.look(LOW, HOT)
    assert role.watch.answer(AcknowledgeAlarm("alice/low-water/bob")) == Done(
        "alice/low-water/bob is acknowledged"
    )
    assert (tmp_path / ALARMS_FILE).stat().st_mode & 0o777 == 0o600
    clock[0] = 10.0
    again = Role(tmp_path, clock, monkeypatch)
    (first,) = again.look()
    assert (first.name, first.peer, first.acknowledged, first.value) == ("low-water", "bob", True, 900.0)
    clock[0] = 20.0
    told = again.look(LOW, HOT)
    assert [(each.name, each.acknowledged) for each in told] == [("temperature", False)]
    clock[0] = 30.0
    (over,) = again.look(HOT)
    assert (over.name, over.on) == ("low-water", False)
    (anew,) = again.look(LOW, HOT)
    assert not anew.acknowledged
    assert [each.name for each in kept_alarms(tmp_path)] == []


def test_what_never_comes_back_after_a_restart_ends(
    tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    role = Role(tmp_path, clock, monkeypatch)
    role.look(LOW)
    role.watch.answer(AcknowledgeAlarm("alice/low-water/bob"))
    again = Role(tmp_path, clock, monkeypatch)
    again.look()
    clock[0] = AWAITED_S - 1.0
    assert again.look() == []
    clock[0] = AWAITED_S + 1.0
    (over,) = again.look()
    assert not over.on
    assert kept_alarms(tmp_path) == []


def test_a_shelf_goes_on_for_what_is_left_of_it_by_the_wall_clock(
    tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    role = Role(tmp_path, clock, monkeypatch)
    role.look(HOT)
    role.watch.answer(ShelveAlarm("alice/temperature/laser", 600.0))
    clock[0] = 400.0
    again = Role(tmp_path, clock, monkeypatch)
    (shelved,) = again.look(HOT)
    assert shelved.shelved_s == pytest.approx(200.0)
    clock[0] = 601.0
    (back,) = again.look(HOT)
    assert back.shelved_s == 0.0
    clock[0] = 2000.0
    (late,) = Role(tmp_path, clock, monkeypatch).look(HOT)
    assert late.shelved_s == 0.0


def test_what_latched_and_nobody_saw_still_stands(
    tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    role = Role(tmp_path, clock, monkeypatch)
    role.look(Observed("detector-rate", 2e7, part="D1"))
    role.look(Observed("detector-rate", 100.0, part="D1"))
    again = Role(tmp_path, clock, monkeypatch)
    (stands,) = again.look(Observed("detector-rate", 120.0, part="D1"))
    assert (stands.severity, stands.active, stands.acknowledged) == ("major", False, False)
    again.watch.answer(AcknowledgeAlarm("alice/detector-rate/D1"))
    assert Role(tmp_path, clock, monkeypatch).look() == []


def test_drift_counts_from_what_was_acknowledged_before_the_restart(
    tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    role = Role(tmp_path, clock, monkeypatch)
    role.look(Observed("temperature", 20.0, part="laser"))
    role.look(Observed("temperature", 29.0, part="laser"))
    role.watch.answer(ShelveAlarm("alice/temperature/laser", 600.0))
    (still,) = Role(tmp_path, clock, monkeypatch).look(Observed("temperature", 29.0, part="laser"))
    assert still.condition == "drift"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"format": 9}',
        b'{"format": 1, "at": 1e9, "alarms": [{"name": "nonsense"}]}',
        b'{"format": 1, "at": 1e9, "alarms": [{"name": "qber", "peer": "bob", "part": "", "text": "", "value": null,'
        b' "reference": null, "condition": "high", "limit": null, "severity": "major", "worst": "major",'
        b' "acknowledged": true}]}',
    ],
)
def test_a_file_that_cannot_be_read_is_told_and_hides_no_alarm(
    tmp_path: Path,
    clock: list[float],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    content: bytes,
) -> None:
    (tmp_path / ALARMS_FILE).write_bytes(content)
    with caplog.at_level(logging.ERROR):
        role = Role(tmp_path, clock, monkeypatch)
    assert "alarms.json cannot be read, so every alarm counts as not acknowledged" in caplog.text
    (alarm,) = role.look(LOW)
    assert not alarm.acknowledged


def test_a_disk_that_is_full_is_told_to_who_acknowledges(
    tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    role = Role(tmp_path / "gone", clock, monkeypatch)
    role.look(LOW)
    with pytest.raises(OSError, match="bob is acknowledged, but a restart would not know, for it cannot be"):
        role.watch.answer(AcknowledgeAlarm("alice/low-water/bob"))
    assert role.told[-1].acknowledged


def test_an_alarm_of_before_may_be_acknowledged_before_its_source_speaks(tmp_path: Path) -> None:
    book = AlarmBook("alice", TABLE)
    book.observe([Observed("qber", 0.08, peer="bob")], 0.0)
    keep_alarms(tmp_path, book.lasting(0.0))
    again = AlarmBook("alice", TABLE, kept_alarms(tmp_path), 0.0)
    (stands,) = again.standing(1.0)
    assert stands.text.startswith("errors of the latest block: 0.08")
    (seen,) = again.acknowledge("alice/qber/bob", 1.0)
    assert seen.acknowledged
    with pytest.raises(NoAlarmError):
        again.acknowledge("alice/qber/carol", 1.0)
