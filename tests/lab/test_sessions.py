"""A notebook or a calibration has the interlock of the roles in whose place it works."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from drivers.links.errors import InstrumentError, InterlockedError
from lab import bench
from lab.calibration.book import book_path, now, read_book
from lab.calibration.steps import Step
from lab.interlock.latch import kept_causes
from lab.interlock.watching import Watch
from lab.runs.calibrating.rig import opened_rig
from lab.runs.calibrating.runner import Due, plan, run
from lab.runs.interlocks import acknowledge, owning_roles, stop
from lab.runs.testbeds.machine import Machine
from lab.testbed import read_testbed

if TYPE_CHECKING:
    from tests.lab.conftest import SimulatedLab

pytestmark = pytest.mark.early

QUIET = Watch("detector-rate", lambda: "", 10.0)
DARK_S = 1.0
LIMIT_S = 10.0


def until(happened: Callable[[], bool], limit_s: float = LIMIT_S) -> float:
    begun = time.monotonic()
    while not happened():
        assert time.monotonic() < begun + limit_s, "it does not happen"
        time.sleep(0.005)
    return time.monotonic() - begun


def causes(machine: Machine, role: str) -> list[str]:
    return [each.cause for each in kept_causes(machine.folder(role))]


def shine(station: Any) -> None:
    station.launch.ch1.let_through()
    station.laser.emission(True)


def test_a_stop_reaches_a_notebook_which_stays_dark_until_acknowledged(lab: SimulatedLab) -> None:
    machine = Machine(lab.folder, None)
    with bench.load(lab.folder).instruments("relay") as station:
        shine(station)
        assert lab.lit
        (told,) = stop(machine, ["relay"], "drill")
        assert told.ok, told.text
        assert told.state is not None
        assert told.state.dark_s is not None
        print(f"a notebook is dark after {1e3 * told.state.dark_s:.0f} ms")
        assert told.state.dark_s < DARK_S
        assert not lab.lit
        with pytest.raises(InterlockedError, match=r"operator: drill.*then `qunetlab acknowledge`"):
            station.laser.emission(True)
    with bench.load(lab.folder).instruments("relay") as station:
        with pytest.raises(InterlockedError):
            station.laser.emission(True)
        assert acknowledge(machine, ["relay"], "dana")[0].ok
        shine(station)
        assert lab.lit
    assert causes(machine, "relay") == []


def test_a_stop_darkens_a_notebook_whose_cell_holds_the_laser(lab: SimulatedLab) -> None:
    machine, go_on = Machine(lab.folder, None), threading.Event()
    with bench.load(lab.folder).instruments("relay") as station:
        shine(station)
        held, ended = threading.Event(), list[BaseException]()

        def cell() -> None:
            try:
                with station.laser.link.exchange():
                    held.set()
                    go_on.wait(LIMIT_S)
            except InstrumentError as error:
                ended.append(error)

        thread = threading.Thread(target=cell)
        thread.start()
        assert held.wait(LIMIT_S)
        (told,) = stop(machine, ["relay"], "drill")
        assert told.ok, told.text
        assert not lab.lit
        go_on.set()
        thread.join(LIMIT_S)
    assert causes(machine, "relay") == ["operator"]
    (told,) = acknowledge(machine, ["relay"], "dana")
    assert "start it (it comes up dark), then acknowledge" in told.text


@pytest.mark.usefixtures("no_guards")
def test_too_much_light_trips_the_interlocks_of_a_lit_notebook(lab: SimulatedLab) -> None:
    machine = Machine(lab.folder, None)
    with bench.load(lab.folder).lit("alice", "bob") as station:
        seen = station.light.look()
        assert seen.visibility > 0.9
        assert causes(machine, "relay") == causes(machine, "alice") == []
        station.launch.ch1.attenuation_db(station.launch.ch1.attenuation_db() - 25.0)
        took_s = until(lambda: not lab.lit)
        print(f"a lit notebook with too much light is dark after {1e3 * took_s:.0f} ms")
        assert took_s < DARK_S
        until(lambda: bool(causes(machine, "relay")))
        with pytest.raises(InterlockedError, match=r"D1 counts|sensor of (alice|bob) reads"):
            station.laser.emission(True)
    # whether detectors or sensors see it first depends on who looks first
    assert set(causes(machine, "relay")) <= {"detector-rate", "monitor"}
    assert causes(machine, "carol") == []


@pytest.mark.usefixtures("no_guards")
def test_a_sensor_above_its_bound_trips_a_lit_notebook(
    lab: SimulatedLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody watches the detectors here."""
    monkeypatch.setattr("lab.runs.sessions.detector_watch", lambda testbed, read: QUIET)
    machine = Machine(lab.folder, None)
    with bench.load(lab.folder).lit("alice", "bob") as station:
        station.launch.ch1.attenuation_db(station.launch.ch1.attenuation_db() - 25.0)
        took_s = until(lambda: not lab.lit)
        print(f"a sensor above its bound: dark after {1e3 * took_s:.0f} ms")
        assert took_s < DARK_S
        until(lambda: "monitor" in causes(machine, "alice") + causes(machine, "bob"))
        until(lambda: causes(machine, "relay") == ["monitor"])
        with pytest.raises(InterlockedError, match=r"sensor of (alice|bob) reads"):
            station.laser.emission(True)


def test_a_notebook_whose_guard_is_gone_is_dark(lab: SimulatedLab, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(lab.folder, None)
    lives = [True]
    monkeypatch.setattr("drivers.guard.Guard.lives", property(lambda self: lives[0]))
    with bench.load(lab.folder).instruments("relay") as station:
        shine(station)
        lives[0] = False
        took_s = until(lambda: not lab.lit)
        assert took_s < DARK_S
        until(lambda: causes(machine, "relay") == ["guard-gone"])
        (told,) = acknowledge(machine, ["relay"], "dana")
        assert "the guard process has ended" in told.text
        lives[0] = True
        assert acknowledge(machine, ["relay"], "dana")[0].ok


@pytest.fixture
def path(lab: SimulatedLab) -> Path:
    return lab.folder / "testbed.toml"


@pytest.mark.usefixtures("no_guards")
def test_a_stop_ends_a_calibration_in_the_dark_and_the_next_one_waits_for_an_operator(
    lab: SimulatedLab, path: Path
) -> None:
    machine, told = Machine(lab.folder, None), list[str]()
    due = plan(
        machine.testbed.user_names(),
        machine.testbed.pairs(),
        read_book(path, read_testbed(path)),
        now(),
        steps=[Step.VISIBILITY],
        asked=[("alice", "bob")],
    )

    def progress(due: Due, part: float) -> None:
        if not told:
            told.extend(each.text for each in stop(machine, ["relay"], "drill"))
            assert not lab.lit

    with pytest.raises(InterlockedError, match="operator: drill"), opened_rig(path) as rig:
        list(run(rig, path, due, progress=progress))
    assert told
    assert not book_path(path).exists(), "nothing is kept of it"
    with pytest.raises(InterlockedError, match="operator: drill"), opened_rig(path):
        pass

    def operator(why: str) -> None:
        told.append(why)
        assert all(each.ok for each in acknowledge(machine, owning_roles(machine), "dana"))

    with opened_rig(path, when_latched=operator) as rig:
        (outcome,) = run(rig, path, due, progress=lambda due, part: None)
        assert outcome.finding is not None
    assert "operator: drill" in told[-1]


def test_a_state_folder_that_cannot_be_made_is_told_before_anything_is_opened(lab: SimulatedLab) -> None:
    (lab.folder / "elsewhere").write_text("no folder")
    with (
        pytest.raises(OSError, match="elsewhere"),
        bench.load(lab.folder, lab.folder / "elsewhere").instruments("relay"),
    ):
        pass
