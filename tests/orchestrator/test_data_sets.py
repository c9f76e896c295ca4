"""The writer of a role's data sets: nothing waits for it, and what it cannot write waits and is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from qcodes.dataset import load_by_id

from lab.alarms.book import AlarmBook, Observed
from lab.alarms.table import TABLE
from lab.calibration.finding import Finding, Measured
from lab.calibration.steps import Step
from lab.datasets.database import readable
from lab.datasets.slow_log import SlowLog
from orchestrator.events.process import ProcessEvent, Tracked
from orchestrator.processes.data_sets import DataSets, RoleFiles

FINDING = Finding(Step.PHASE, "alice", {"v_pi_v": Measured(4.0, 0.01, "V")}, {}, {}, {}, {}, [], 1.0)


@dataclass
class Station:
    """Without instruments."""

    identities: dict[str, object] = field(default_factory=dict)

    def instruments(self) -> tuple[()]:
        return ()


@pytest.fixture
def files(tmp_path: Path) -> RoleFiles:
    (tmp_path / "testbed.toml").write_text("ring")
    return RoleFiles("ring", tmp_path / "testbed.toml", "abc+")


@pytest.fixture
def sets(files: RoleFiles, tmp_path: Path) -> DataSets:
    return DataSets(files, SlowLog(tmp_path / "state", "alice", "ring", TABLE))


def calibrated(tmp_path: Path) -> int:
    """How many data sets there are of alice's calibrations."""
    with readable(tmp_path / "calibrations" / "alice.db") as connection:
        (count,) = connection.execute("SELECT count(*) FROM runs").fetchone()
        for run_id in range(1, count + 1):
            data = load_by_id(run_id, connection)
            assert data.metadata["code_commit"] == "abc+"
            assert data.get_parameter_data()["v_pi_v"]["v_pi_v"].tolist() == [4.0]
    return int(count)


def test_what_waits_when_a_role_ends_is_written(sets: DataSets, tmp_path: Path) -> None:
    with sets:
        sets.look([Observed("qber", 0.01, 1.0, peer="bob")], 1.0)
        found = sets.begin(Station())  # type: ignore[arg-type]
        found(FINDING)
    assert calibrated(tmp_path) == 1
    assert [path.suffix for path in (tmp_path / "state" / "slow-log").iterdir()] == [".db"]


def test_without_room_an_alarm_says_what_to_do_and_all_is_written_later(
    sets: DataSets, tmp_path: Path
) -> None:
    (tmp_path / "calibrations").write_text("in the way")
    alarms = AlarmBook("alice", TABLE)
    for _ in range(2):
        sets.begin(Station())(FINDING)  # type: ignore[arg-type]
        sets.write()
    (told,) = alarms.observe(sets(), 1.0)
    assert (told.name, told.severity) == ("data-sets", "minor")
    assert str(tmp_path / "calibrations" / "alice.db") in told.text
    assert "make room" in told.what_to_do
    (tmp_path / "calibrations").unlink()
    sets.write()
    (over,) = alarms.observe(sets(), 2.0)
    assert not over.on
    assert calibrated(tmp_path) == 2


def test_corrections_are_noted_and_told_on(sets: DataSets, tmp_path: Path) -> None:
    told: list[ProcessEvent] = []
    event = Tracked("loop phase", "alice", "alice", "bob", 3, 0.0, 0.01, "rad", "seen")
    sets.noting(told.append)(event)
    assert told == [event]
    sets.write()
    (path,) = (tmp_path / "state" / "slow-log").iterdir()
    with readable(path) as connection:
        found = load_by_id(1, connection).get_parameter_data()["loop_phase_alice_bob"]
    assert found["loop_phase_alice_bob"].tolist() == [0.01]


def test_a_role_without_files_writes_nothing(tmp_path: Path) -> None:
    with DataSets() as nothing:
        nothing.begin(Station())(FINDING)  # type: ignore[arg-type]
        nothing.look([Observed("qber", 0.01, 1.0, peer="bob")], 1.0)
    assert list(nothing()) == []
    assert list(tmp_path.iterdir()) == []
