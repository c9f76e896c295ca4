"""Drill of the interlock: a real role with real drivers, its main thread stuck, and the light as the simulated ring has it.

The ring and all twins live in this process; the role that is to go dark is a child.  There is no hub anywhere but in the table of every
cause in every condition, which is printed (``pytest -s -m long``): from a cause to a dark loop or, for a user's sensor, to 30 dB less.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import held_role
import hub_alone
import pytest
from driven_ring import ring_content

from lab.interlock.latch import LATCH_FILE
from lab.runs.interlocks import Told, acknowledge, states, stop
from lab.runs.testbeds.machine import Machine
from lab.station import Station
from lab.testbed import parse_testbed, write_testbed
from orchestrator.light.launching import Launching, RelayInstruments, planned_light
from orchestrator.light.own_station import OwnStation, StationInstruments
from sim_backends.bench import Bench
from sim_backends.optics import Ring
from sim_backends.optics_way import DIRECTIONS

pytestmark = pytest.mark.early

ROOT = str(Path(__file__).resolve().parents[2])
DARK_S = 1.0
PAIR = held_role.PAIR
PHOTON_W = 1e-18


class Drill:
    """A served ring with alice and bob taken in, and the machine on which its relay runs."""

    def __init__(self, folder: Path, stack: ExitStack, *, sensor_speed: float | None = None) -> None:
        data = ring_content(1 << 12)
        if sensor_speed is not None:
            data["simulation"]["sensor_speed"] = sensor_speed
        testbed = parse_testbed(data, Path("t"))
        owners = ("relay", *PAIR)
        self.bench = Bench(testbed, only=[e.name for e in testbed.instruments if e.owner in owners])
        stack.enter_context(self.bench)
        self.path = folder / "testbed.toml"
        write_testbed(self.bench.resolved(data), self.path)
        self.machine = Machine(self.path, None)
        self.stations = {user: stack.enter_context(Station(self.machine.testbed, user)) for user in PAIR}
        for role in owners:
            self.machine.folder(role).mkdir(parents=True)

    def take_in(self) -> None:
        for user, station in self.stations.items():
            OwnStation(self.machine.testbed, user, StationInstruments.of(station)).take_in()

    @contextmanager
    def role(
        self, how: str, role: str = "relay", hub: Sequence[str] = ()
    ) -> Iterator[tuple[subprocess.Popen[str], str]]:
        """The running role and what it said; killed at the end, its guard done."""
        arguments = (str(self.path), str(self.machine.folder(role)), role, how, *hub)
        with process(held_role.__file__, *arguments) as (child, said):
            try:
                yield child, said
            finally:
                if how != "end":
                    child.kill()
                child.communicate()
                self.wait_until_safe(role)

    def wait_until_safe(self, role: str) -> None:
        """The role or its guard is at work; the test's own time-out ends this."""
        mine = {entry.name for entry in self.machine.testbed.owned_by(role)}
        while mine & set(self.bench.unsafe()):
            time.sleep(0.01)

    @contextmanager
    def lit(self, brighter_db: float = 0.0) -> Iterator[Callable[[float], object]]:
        """Light by the relay's drivers in this process, watched by nobody; gives what turns it up by so many dB.

        Planned light, or with the detectors off so much more.
        """
        with Station(self.machine.testbed, "relay") as station:
            owned = RelayInstruments.of(station)
            launching = Launching(self.machine.testbed, owned)
            launching.set_up()
            plan = planned_light(self.machine.testbed, *PAIR)
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
def process(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A child that runs a file, and the first line it said; killed at the end if it is there still."""
    child = subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": ROOT},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    try:
        yield child, child.stdout.readline().strip()
    finally:
        child.kill()
        child.wait()


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


def test_a_stop_darkens_a_relay_whose_main_thread_is_stuck_and_it_stays_dark_until_acknowledged(
    drill: Drill,
) -> None:
    drill.take_in()
    with drill.role("exchange") as (_, said):
        assert said == "lit"
        assert drill.launched_w > PHOTON_W
        told, dark_s = drill.stop()
        assert told.ok, told.text
        print(f"operator, stuck in an exchange: {1e3 * dark_s:.0f} ms from the command to a dark loop")
        assert dark_s < DARK_S
        assert told.state is not None
        assert [each.cause for each in told.state.causes] == ["operator"]
    released_by_an_operator(drill, "relay", "operator")


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
        with lent(drill, "alice"):
            with drill.role("exchange", "alice") as (_, said):
                assert said == "lit"
                check_closed_by_stop(drill, ring)
            released_by_an_operator(drill, "alice", "operator")


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


def guard_of(role: int) -> int:
    """The number of a role's guard."""
    for each in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(each.read_text().rpartition(")")[2].split()[1]) == role:
                return int(each.parent.name)
    raise AssertionError("it has no guard")


def released_by_an_operator(drill: Drill, role: str, cause: str) -> None:
    """Latched over a restart; acknowledged, it is lit again."""
    assert (drill.machine.folder(role) / LATCH_FILE).exists()
    with drill.role("end", role) as (child, said):
        assert said.startswith(f"dark: interlock of {role}: {cause}")
        if role == "relay":
            assert drill.launched_w < PHOTON_W
        (released,) = acknowledge(drill.machine, [role], "the drill")
        assert released.ok, released.text
        assert child.stdin is not None
        assert child.stdout is not None
        print("again", file=child.stdin, flush=True)
        assert child.stdout.readline().strip() == "lit"


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
    drill: Drill, begin: Callable[[], object], bright: float, situation: str
) -> float:
    """Once ``begin`` is called alice's sensor is above its bound: what leaves is soon 30 dB below ``bright`` photons; how soon."""
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
    assert closed[0] - begun < DARK_S
    return closed[0] - begun


def check_brightened(
    drill: Drill, how: str, hub: Sequence[str] = (), before: Callable[[], object] = lambda: None
) -> float:
    """Alice is in planned light, which becomes bright while her main thread is busy with ``how``; how soon it is closed."""
    drill.take_in()
    with lent(drill, "alice"):
        with drill.role(how, "alice", hub) as (_, said), drill.lit() as brighten:
            assert said == "lit"
            before()
            bright = drill.bench.ring.mean_photon_number("alice", "ccw") * 10 ** (BRIGHTER_DB / 10)
            took_s = check_closed_by_monitor(drill, lambda: brighten(BRIGHTER_DB), bright, how)
        released_by_an_operator(drill, "alice", "monitor")
    return took_s


def test_a_sensor_above_its_bound_closes_the_station_of_a_role_whose_main_thread_is_stuck(
    drill: Drill,
) -> None:
    check_brightened(drill, "exchange")


@pytest.mark.long
def test_a_sensor_that_a_light_phase_reads_all_the_time_is_looked_at_in_the_middle_of_a_reading(
    drill: Drill, tmp_path: Path
) -> None:
    """Each reading averages for ten seconds, as at a bench."""
    with lent(drill, "alice"), lent(drill, "bob"), ExitStack() as stack:
        check_brightened(Drill(tmp_path, stack, sensor_speed=1.0), "reading")


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


CAUSES = ("detector-rate", "monitor", "station-lost", "guard-gone", "operator")
CONDITIONS = {
    "hub alive": "end",
    "hub killed": "end",
    "stuck in an exchange": "exchange",
    "stuck in a lock": "lock",
}
"""And what the main thread of the role does; a stuck role is connected to a living hub."""


@pytest.fixture(scope="module")
def table() -> Iterator[dict[tuple[str, str], float]]:
    """What every cell took, printed at the end."""
    took_s: dict[tuple[str, str], float] = {}
    yield took_s
    print(f"\n{'':16s}" + "".join(f"{condition:>22s}" for condition in CONDITIONS))
    for cause in CAUSES:
        cells = [took_s.get((cause, condition)) for condition in CONDITIONS]
        print(f"{cause:16s}" + "".join(f"{'-' if cell is None else f'{cell:.2f} s':>22s}" for cell in cells))


@pytest.mark.long
@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("cause", CAUSES)
def test_every_cause_darkens_in_every_condition_and_an_operator_lets_it_go_on(
    drill: Drill, tmp_path: Path, table: dict[tuple[str, str], float], cause: str, condition: str
) -> None:
    hub_alone.make_keys(tmp_path)
    how = CONDITIONS[condition]
    with process(hub_alone.__file__, str(tmp_path)) as (hub, addresses):
        connected = (str(tmp_path), addresses)
        before = hub.kill if condition == "hub killed" else lambda: None
        if cause == "monitor":
            took_s = check_brightened(drill, how, connected, before)
        elif cause == "station-lost":
            took_s = check_left_alone(drill, how, connected, before, condition != "hub killed")
        else:
            took_s = check_darkened(drill, how, cause, connected, before, partial(begin, drill, cause))
    table[cause, condition] = took_s


def begin(drill: Drill, cause: str, relay: int) -> None:
    """What makes a relay find ``cause``."""
    if cause == "guard-gone":
        os.kill(guard_of(relay), signal.SIGKILL)
    elif cause == "detector-rate":
        drill.bench.ring.set_launch("launch_second", 0.0)  # somebody turns it by hand
    else:
        assert stop(drill.machine, ["relay"], "drill")[0].ok


def check_left_alone(
    drill: Drill, how: str, hub: Sequence[str], before: Callable[[], object], latches: bool
) -> float:
    """Bob's role is killed while his station is in the light of a relay that does not end its light phase.

    Without a hub nobody can say so: it is dark all the same, and nothing is latched.
    """
    with ExitStack() as stack:
        users = [stack.enter_context(process(hub_alone.__file__, hub[0], user, hub[1])) for user in PAIR]
        assert [said for _, said in users] == ["up", "up"]
        bob, _ = users[1]
        return check_darkened(
            drill, how, "station-lost", (*hub, "watched"), before, lambda _: bob.kill(), latches
        )


def check_darkened(
    drill: Drill,
    how: str,
    cause: str,
    hub: Sequence[str],
    before: Callable[[], object],
    begin: Callable[[int], object],
    latches: bool = True,
) -> float:
    """The relay is lit; ``before`` and ``begin`` are called, with its process: how soon the loop is dark."""
    drill.take_in()
    with drill.role(how, "relay", hub) as (child, said):
        assert said == "lit"
        before()
        gone: list[float] = []
        begun = time.monotonic()
        with watched(lambda: drill.launched_w < PHOTON_W, gone):
            begin(child.pid)
        assert gone, "light is still launched"
        assert gone[0] - begun < DARK_S
        (told,) = states(drill.machine, ["relay"])
        assert told.state is not None
        assert [each.cause for each in told.state.causes] == [cause] * latches
        # who kills a role without a guard in the middle leaves the rest as it is
        drill.wait_until_safe("relay")
        while latches and not (drill.machine.folder("relay") / LATCH_FILE).exists():
            time.sleep(0.01)
    if latches:
        released_by_an_operator(drill, "relay", cause)
    return gone[0] - begun
