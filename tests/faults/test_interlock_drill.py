"""Drill of the interlock: a real role with real drivers, its main thread stuck, and the light as the simulated ring has it.

There is no hub and no orchestrator anywhere here.  The ring and all twins live in this process; the role that is stopped is
a child, which nothing but its interlock, its guard and a signal can reach.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import held_role
import pytest
from driven_ring import ring_content

from lab.interlock.latch import LATCH_FILE
from lab.runs.interlocks import Told, acknowledge, stop
from lab.runs.testbeds.machine import Machine
from lab.station import Station
from lab.testbed import parse_testbed, write_testbed
from orchestrator.light.own_station import OwnStation, StationInstruments
from sim_backends.bench import Bench
from sim_backends.optics import Ring
from sim_backends.optics_way import DIRECTIONS

pytestmark = pytest.mark.early

ROOT = str(Path(__file__).resolve().parents[2])
DARK_S = 1.0
PHOTON_W = 1e-18


class Drill:
    """A served ring with alice and bob taken in, and the machine on which its relay runs."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        data = ring_content(1 << 12)
        testbed = parse_testbed(data, Path("t"))
        owners = ("relay", *held_role.PAIR)
        self.bench = Bench(testbed, only=[e.name for e in testbed.instruments if e.owner in owners])
        stack.enter_context(self.bench)
        self.path = folder / "testbed.toml"
        write_testbed(self.bench.resolved(data), self.path)
        self.machine = Machine(self.path, None)
        self.stations = {
            user: stack.enter_context(Station(self.machine.testbed, user)) for user in held_role.PAIR
        }
        for role in owners:
            self.machine.folder(role).mkdir(parents=True)

    def take_in(self) -> None:
        for user, station in self.stations.items():
            OwnStation(self.machine.testbed, user, StationInstruments.of(station)).take_in()

    @contextmanager
    def role(self, how: str, role: str = "relay") -> Iterator[tuple[subprocess.Popen[str], str]]:
        """The running role and what it said; killed at the end, its guard done."""
        child = subprocess.Popen(
            [sys.executable, held_role.__file__, str(self.path), str(self.machine.folder(role)), role, how],
            env={**os.environ, "PYTHONPATH": ROOT},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        try:
            yield child, child.stdout.readline().strip()
        finally:
            if how != "end":
                child.kill()
            child.communicate()
            mine = {entry.name for entry in self.machine.testbed.owned_by(role)}
            while mine & set(self.bench.unsafe()):
                time.sleep(0.01)  # its guard is at work; the test's own time-out ends this

    @property
    def launched_w(self) -> float:
        """What really enters the loop."""
        light = self.bench.ring.light()
        return sum(sum(light.entering_w(direction)) for direction in DIRECTIONS)

    def stop(self, role: str = "relay") -> tuple[Told, float]:
        """`qunetlab stop`, and after how long the ring was dark."""
        begun = time.monotonic()
        gone: list[float] = []
        with watched(lambda: self.launched_w < PHOTON_W, gone):
            (told,) = stop(self.machine, [role], "drill")
        assert gone, "light is still launched"
        return told, gone[0] - begun


@contextmanager
def watched(happened: Callable[[], bool], at_s: list[float]) -> Iterator[None]:
    """Note in ``at_s`` when something happened, while the block runs or some seconds later."""

    def look() -> None:
        give_up = time.monotonic() + 15.0
        while not happened() and time.monotonic() < give_up:
            time.sleep(0.002)
        if happened():
            at_s.append(time.monotonic())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        thread.join()


@pytest.fixture(scope="module")
def drill(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drill]:
    with ExitStack() as stack:
        yield Drill(tmp_path_factory.mktemp("drill"), stack)


@pytest.mark.parametrize(
    "how",
    ["exchange", pytest.param("lock", marks=pytest.mark.long), pytest.param("end", marks=pytest.mark.long)],
)
def test_a_stop_darkens_a_relay_whose_main_thread_is_stuck_and_it_stays_dark_until_acknowledged(
    drill: Drill, how: str
) -> None:
    drill.take_in()
    with drill.role(how) as (_, said):
        assert said == "lit"
        assert drill.launched_w > PHOTON_W
        told, dark_s = drill.stop()
        assert told.ok, told.text
        print(f"stuck in {how}: {1e3 * dark_s:.0f} ms from the command to a dark loop")
        assert dark_s < DARK_S
        assert told.state is not None
        assert [each.cause for each in told.state.causes] == ["operator"]
    assert (drill.machine.folder("relay") / LATCH_FILE).exists()
    with drill.role("end") as (_, said):
        assert said.startswith("dark: interlock of relay: operator: drill")
        assert drill.launched_w < PHOTON_W
        (released,) = acknowledge(drill.machine, ["relay"], "the drill")
        assert released.ok, released.text
    if how == "lock":
        with drill.role("end") as (_, said):
            assert said == "lit"


@pytest.mark.long
def test_a_relay_that_stands_still_as_a_process_is_ended_and_its_guard_darkens(drill: Drill) -> None:
    drill.take_in()
    with drill.role("end") as (child, said):
        assert said == "lit"
        child.send_signal(signal.SIGSTOP)
        told, dark_s = drill.stop()
        assert told.ok, told.text
        assert "did not answer" in told.text
        print(f"stopped process: {1e3 * dark_s:.0f} ms from the command to a dark loop")
        assert dark_s < DARK_S
        assert child.wait(5) == -signal.SIGKILL
    with drill.role("end") as (_, said):
        assert said.startswith("dark: interlock of relay: operator: drill")
        assert acknowledge(drill.machine, ["relay"], "the drill")[0].ok


@pytest.mark.long
def test_a_stop_closes_a_users_attenuator_although_its_main_thread_holds_the_line(drill: Drill) -> None:
    drill.take_in()
    ring = drill.bench.ring
    with drill.role("end") as (_, lit):
        assert lit == "lit"
        drill.stations["alice"].close()
        with drill.role("exchange", "alice") as (_, said):
            assert said == "lit"
            check_closed_by_stop(drill, ring)


def check_closed_by_stop(drill: Drill, ring: Ring) -> None:
    before = ring.mean_photon_number("alice", "ccw")
    gone: list[float] = []
    begun = time.monotonic()
    with watched(lambda: ring.mean_photon_number("alice", "ccw") < 1e-3 * before, gone):
        (told,) = stop(drill.machine, ["alice"], "drill")
    assert gone, told.text
    print(f"user: 30 dB after {gone[0] - begun:.2f} s of motor")
    assert gone[0] - begun < DARK_S
    assert told.state is not None
    assert [each.cause for each in told.state.causes] == ["operator"]
