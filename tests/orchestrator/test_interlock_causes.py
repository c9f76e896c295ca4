"""What trips by itself: real drivers on a ring that is too bright, and a light phase that loses a station."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from driven_ring import DrivenRing, ring_content

from lab import needs
from lab.interlock.interlock import Interlock, NotReleasedError
from lab.interlock.watching import watching
from orchestrator.light.launching import Launching
from orchestrator.light.messages import DetectorsBlinded, LightAborted
from orchestrator.processes.interlock_causes import (
    HUB_LOOKS,
    detector_watch,
    sensor_bounds_w,
    sensor_watch,
    station_watch,
    tripped_by_light,
)
from orchestrator.wire.channel import ChannelBrokenError
from orchestrator.wire.links import LinkState

LIMIT_S = 5.0
DARK_S = 1.0


@pytest.fixture(scope="module")
def driven() -> Iterator[DrivenRing]:
    ring = DrivenRing(ring_content(1 << 12))
    yield ring
    ring.close()


def brighten(driven: DrivenRing, by_db: float) -> None:
    """Somebody turns a launch attenuator while light is on."""
    first = driven.instruments.launch
    first.attenuation_db(first.attenuation_db() - by_db)


def launched_w(driven: DrivenRing) -> float:
    light = driven.bench.ring.light()
    return sum(sum(light.entering_w(direction)) for direction in ("cw", "ccw"))


def until(happened: Callable[[], bool], limit_s: float) -> float:
    """How long it took; ``limit_s`` where it did not happen."""
    begun = time.monotonic()
    while not happened() and time.monotonic() < begun + limit_s:
        time.sleep(0.002)
    return time.monotonic() - begun


def test_sensor_bounds_are_what_a_detector_at_its_limit_makes_them_read(driven: DrivenRing) -> None:
    """The real ring: launch scaled so that detectors would count the limit; what the sensors of both users get then."""
    testbed = driven.testbed
    stations = driven.light()
    plan = driven.plan()
    light_cps = (
        plan.detector_cps - testbed.calibration.dark_count_probability / testbed.protocol.gate_ns * 1e9
    )
    scale = testbed.interlock.detector_cps / light_cps
    assert scale > 10.0
    for user in stations:
        bounds = sensor_bounds_w(testbed, user)
        for direction in ("cw", "ccw"):
            read_w = driven.bench.ring.sensor_power_w(user, direction)
            assert bounds[direction] > 5.0 * read_w, "no planned light comes near it"
            assert bounds[direction] > 0.8 * scale * read_w
    driven.instruments.launch.block()


def test_a_detector_over_rate_is_dark_within_a_second_and_stays_so(
    driven: DrivenRing, tmp_path: Path
) -> None:
    relay = driven.stations["relay"]
    interlock = Interlock(relay, tmp_path)
    watch = detector_watch(driven.testbed, relay.get(needs.DETECTORS).count_rates)
    driven.light()
    with watching(interlock, [watch]):
        assert until(lambda: bool(interlock.causes), 1.0) >= 1.0, "the planned light is not over rate"
        brighten(driven, 15.0)
        dark_s = until(lambda: launched_w(driven) < 1e-18, LIMIT_S)
        print(f"detector over rate: dark after {1e3 * dark_s:.0f} ms")
        assert dark_s < DARK_S
        (cause,) = interlock.causes
        assert cause.cause == "detector-rate"
        assert "counts" in cause.text
        launching = Launching(driven.testbed, driven.instruments)
        refused = interlock.unless_latched(launching.set_up)
        assert refused is not None
        interlock.acknowledge("dana")
    assert interlock.unless_latched(launching.set_up) is None


def test_a_sensor_above_its_bound_darkens_the_station_and_is_not_gone_while_it_shines(
    driven: DrivenRing, tmp_path: Path
) -> None:
    station = driven.stations["alice"]
    interlock = Interlock(station, tmp_path)
    own = driven.light()["alice"]
    watch = sensor_watch(driven.testbed, "alice", driven.owned["alice"].sensors, lambda: own.is_in)
    out = driven.bench.ring.mean_photon_number("alice", "ccw")
    with watching(interlock, [watch]):
        assert until(lambda: bool(interlock.causes), 1.0) >= 1.0, "the planned light is within its bound"
        brighten(driven, 25.0)
        assert until(lambda: bool(interlock.causes), LIMIT_S) < DARK_S
        assert until(lambda: driven.bench.ring.mean_photon_number("alice", "ccw") < 1e-3 * out, 20.0) < 20.0
        with pytest.raises(NotReleasedError, match=r"not gone: monitor: the c+w sensor of alice reads"):
            interlock.acknowledge("dana")
        driven.instruments.launch.block()
        interlock.acknowledge("dana")


def tripped(
    error: Exception, tmp_path: Path, *, peers: frozenset[str], lit: bool, link: LinkState
) -> list[str]:
    station: Any = SimpleNamespace(owner="relay", safe_jobs=lambda: (), permit=None)
    agent: Any = SimpleNamespace(peers=peers, link_state=link)
    interlock = Interlock(station, tmp_path)
    with pytest.raises(type(error)), tripped_by_light(interlock, agent, ("alice", "bob"), lambda: lit):
        raise error
    return [each.cause for each in interlock.causes]


GONE, THERE = frozenset({"alice"}), frozenset({"alice", "bob"})


@pytest.mark.parametrize(
    ("error", "peers", "lit", "link", "causes"),
    [
        (ChannelBrokenError("bob left"), GONE, True, LinkState.UP, ["station-lost"]),
        (ChannelBrokenError("bob left"), GONE, False, LinkState.UP, []),
        (ChannelBrokenError("the hub is gone"), frozenset(), True, LinkState.LOST, []),
        (ChannelBrokenError("bob closed it"), THERE, True, LinkState.UP, []),
        (LightAborted("bob gave up"), GONE, True, LinkState.UP, []),
        (DetectorsBlinded("D1 latched again"), THERE, True, LinkState.UP, ["detector-rate"]),
    ],
)
def test_a_station_lost_in_the_light_and_a_detector_that_latches_again_latch_the_relay(
    tmp_path: Path, error: Exception, peers: frozenset[str], lit: bool, link: LinkState, causes: list[str]
) -> None:
    assert tripped(error, tmp_path, peers=peers, lit=lit, link=link) == causes


@pytest.mark.parametrize(
    ("peers", "link", "lit", "found", "darkened"),
    [
        (THERE, LinkState.UP, True, "", 0),
        (GONE, LinkState.UP, True, "bob went and the launch stays open", 0),
        (GONE, LinkState.UP, False, "", 0),
        (THERE, LinkState.LOST, True, "", 1),
        (THERE, LinkState.LOST, False, "", 0),
    ],
)
def test_a_light_phase_that_goes_on_without_a_station_trips_and_without_a_hub_is_darkened(
    peers: frozenset[str], link: LinkState, lit: bool, found: str, darkened: int
) -> None:
    agent: Any = SimpleNamespace(peers=peers, link_state=link)
    calls: list[None] = []
    watch = station_watch(agent, lambda: ("alice", "bob"), lambda: lit, lambda: calls.append(None))
    said = [watch.look() for _ in range(HUB_LOOKS)]
    assert said[-1] == found
    assert said[0] == "", "it may be ending"
    assert len(calls) == darkened
