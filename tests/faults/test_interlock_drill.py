"""Drill of the interlock: a real role with real drivers, its main thread stuck, and the light as the simulated ring has it.

There is no hub and no orchestrator anywhere here, as with both killed.  The ring and all twins live in this process; the role that is stopped is
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
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import held_role
import pytest
from driven_ring import ring_content

from drivers.links.errors import InstrumentError
from lab import needs
from lab.guard import guarded_role
from lab.interlock.latch import LATCH_FILE
from lab.interlock.watching import watching
from lab.runs.interlocks import Told, acknowledge, states, stop
from lab.runs.testbeds.machine import Machine
from lab.station import Station
from lab.testbed import parse_testbed, write_testbed
from orchestrator.light.launching import Launching, RelayInstruments, planned_light
from orchestrator.light.own_station import OwnStation, StationInstruments
from orchestrator.processes.interlock_causes import station_watch
from orchestrator.wire.links import LinkState
from sim_backends.bench import Bench
from sim_backends.optics import Ring
from sim_backends.optics_way import DIRECTIONS

pytestmark = pytest.mark.early

ROOT = str(Path(__file__).resolve().parents[2])
DARK_S = 1.0
PHOTON_W = 1e-18


class Drill:
    """A served ring with alice and bob taken in, and the machine on which its relay runs."""

    def __init__(self, folder: Path, stack: ExitStack, *, sensor_speed: float | None = None) -> None:
        data = ring_content(1 << 12)
        if sensor_speed is not None:
            data["simulation"]["sensor_speed"] = sensor_speed
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

    @contextmanager
    def lit(self, brighter_db: float = 0.0) -> Iterator[Callable[[float], object]]:
        """Light by the relay's drivers in this process, watched by nobody; gives what turns it up by so many dB.

        Planned light, or with the detectors off so much more.
        """
        with Station(self.machine.testbed, "relay") as station:
            owned = RelayInstruments.of(station)
            launching = Launching(self.machine.testbed, owned)
            launching.set_up()
            plan = planned_light(self.machine.testbed, *held_role.PAIR)
            if brighter_db:
                launching.shine(plan.attenuation_db - brighter_db)
            else:
                launching.open(plan)
            yield lambda by_db: owned.launch.attenuation_db(owned.launch.attenuation_db() - by_db)

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


STANDS_STILL = [
    pytest.param("end", id="no hub"),
    pytest.param("exchange", id="stuck in an exchange"),
    pytest.param("lock", id="stuck in a lock"),
]


@pytest.mark.long
@pytest.mark.parametrize("how", STANDS_STILL)
@pytest.mark.parametrize("cause", ["detector-rate", "guard-gone"])
def test_what_a_relay_finds_itself_darkens_it_whatever_its_main_thread_does(
    drill: Drill, how: str, cause: str
) -> None:
    drill.take_in()
    with drill.role(how) as (child, said):
        assert said == "lit"
        gone: list[float] = []
        begun = time.monotonic()
        with watched(lambda: drill.launched_w < PHOTON_W, gone):
            if cause == "guard-gone":
                os.kill(guard_of(child.pid), signal.SIGKILL)
            else:
                drill.bench.ring.set_launch("launch_second", 0.0)  # somebody turns it by hand
        assert gone, "light is still launched"
        print(f"{cause}, {how}: {1e3 * (gone[0] - begun):.0f} ms to a dark loop")
        assert gone[0] - begun < DARK_S
        (told,) = states(drill.machine, ["relay"])
        assert told.state is not None
        assert [each.cause for each in told.state.causes] == [cause]
        # who kills a role without a guard in the middle leaves the rest as it is
        mine = {entry.name for entry in drill.machine.testbed.owned_by("relay")}
        latch = drill.machine.folder("relay") / LATCH_FILE
        while mine & set(drill.bench.unsafe()) or not latch.exists():
            time.sleep(0.01)
    released_by_an_operator(drill, "relay", cause)


def guard_of(role: int) -> int:
    """The number of a role's guard."""
    for each in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(each.read_text().rpartition(")")[2].split()[1]) == role:
                return int(each.parent.name)
    raise AssertionError("it has no guard")


def released_by_an_operator(drill: Drill, role: str, cause: str) -> None:
    """Latched over a restart; acknowledged, it is lit again."""
    with drill.role("end", role) as (_, said):
        assert said.startswith(f"dark: interlock of {role}: {cause}")
        (released,) = acknowledge(drill.machine, [role], "the drill")
        assert released.ok, released.text


@pytest.mark.long
def test_a_station_that_is_lost_darkens_a_relay_whose_light_phase_hangs(drill: Drill, tmp_path: Path) -> None:
    """The launch of this process; a thread has the laser's line for good, and the hub says that bob is gone."""
    drill.take_in()
    with guarded_role(drill.machine.testbed, drill.path, "relay", tmp_path) as (station, interlock):
        launching = Launching(drill.machine.testbed, RelayInstruments.of(station))
        launching.set_up()
        launching.open(planned_light(drill.machine.testbed, *held_role.PAIR))
        agent: Any = SimpleNamespace(peers={"alice", "bob"}, link_state=LinkState.UP)
        watch = station_watch(agent, lambda: held_role.PAIR, lambda: True)
        held, over = threading.Event(), threading.Event()

        def hang() -> None:
            with suppress(InstrumentError), station.get(needs.LASER).link.exchange():  # type: ignore[attr-defined]
                held.set()
                over.wait(30)

        thread = threading.Thread(target=hang)
        thread.start()
        held.wait()
        with watching(interlock, [watch]):
            time.sleep(1.0)
            assert not interlock.causes
            gone: list[float] = []
            begun = time.monotonic()
            with watched(lambda: drill.launched_w < PHOTON_W, gone):
                agent.peers = {"alice"}
            assert gone
            print(f"station-lost, light phase hangs: {1e3 * (gone[0] - begun):.0f} ms to a dark loop")
            assert gone[0] - begun < DARK_S
            assert [each.cause for each in interlock.causes] == ["station-lost"]
        over.set()
        thread.join()


BRIGHTER_DB = 25.0
"""What reaches the bound is some 15 dB above the plan; what the second launch attenuator alone can add is less."""


@contextmanager
def lent(drill: Drill, user: str) -> Iterator[None]:
    """The station of ``user`` is left to a role in a process of its own; this process has it back afterwards."""
    drill.stations[user].close()
    try:
        yield
    finally:
        drill.stations[user].open()


def check_closed_by_monitor(
    drill: Drill, begin: Callable[[], object], bright: float, situation: str, limit_s: float = DARK_S
) -> None:
    """Once ``begin`` is called alice's sensor is above its bound: what leaves is soon 30 dB below ``bright`` photons."""
    latch = drill.machine.folder("alice") / LATCH_FILE
    closed: list[float] = []
    begun = time.monotonic()
    with watched(
        lambda: latch.exists() and drill.bench.ring.mean_photon_number("alice", "ccw") < 1e-3 * bright, closed
    ):
        begin()
    (told,) = states(drill.machine, ["alice"])
    assert told.state is not None, told.text
    assert [each.cause for each in told.state.causes] == ["monitor"]
    assert closed, "the station still lets light through"
    print(f"monitor, {situation}: latched and 30 dB down after {closed[0] - begun:.2f} s")
    assert closed[0] - begun < limit_s


def check_brightened(drill: Drill, how: str, limit_s: float = DARK_S) -> None:
    """Alice is in planned light, which becomes bright while her main thread is busy with ``how``."""
    drill.take_in()
    with lent(drill, "alice"):
        with drill.role(how, "alice") as (_, said), drill.lit() as brighten:
            assert said == "lit"
            bright = drill.bench.ring.mean_photon_number("alice", "ccw") * 10 ** (BRIGHTER_DB / 10)
            check_closed_by_monitor(drill, lambda: brighten(BRIGHTER_DB), bright, how, limit_s)
        released_by_an_operator(drill, "alice", "monitor")


@pytest.mark.parametrize(
    "how",
    ["exchange", pytest.param("end", marks=pytest.mark.long), pytest.param("lock", marks=pytest.mark.long)],
)
def test_a_sensor_above_its_bound_closes_the_station_of_a_role_whatever_its_main_thread_does(
    drill: Drill, how: str
) -> None:
    check_brightened(drill, how)


READING_S = 1.0


@pytest.mark.long
def test_a_sensor_that_a_light_phase_reads_all_the_time_is_looked_at_between_two_readings(
    drill: Drill, tmp_path: Path
) -> None:
    """Readings average for ten seconds, ten times as fast as at a bench."""
    with lent(drill, "alice"), lent(drill, "bob"), ExitStack() as stack:
        slow = Drill(tmp_path, stack, sensor_speed=10.0 / READING_S)
        check_brightened(slow, "reading", READING_S + DARK_S)


@pytest.mark.long
def test_nothing_trips_in_bypass_and_a_station_taken_into_bright_light_is_closed(drill: Drill) -> None:
    drill.take_in()
    ring = drill.bench.ring
    with lent(drill, "alice"):
        with drill.role("bypass", "alice") as (child, said), drill.lit(BRIGHTER_DB):
            assert said == "bypassed"
            feed = child.stdin
            assert feed is not None
            time.sleep(1.0)
            (told,) = states(drill.machine, ["alice"])
            assert told.state is not None
            assert not told.state.causes
            passing = ring.mean_photon_number("alice", "ccw")
            assert passing > 1.0, "bright light goes by"

            def take_in() -> None:
                feed.write("\n")
                feed.flush()

            check_closed_by_monitor(drill, take_in, passing, "taken in from bypass")
        released_by_an_operator(drill, "alice", "monitor")
