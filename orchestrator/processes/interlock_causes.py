"""What trips the interlocks of relay and users by itself, besides a guard that is gone.

*Relay.*  A detector over rate, read all the time, and one that latched again after it was brought back: more light reaches
it than it bears.  A station lost while the launch was open: its node vanished without a word, so nobody knows what its
switch and attenuator do.

The light phase finds that out itself, unless it hangs: then a look from outside does.

*User.*  A sensor above its bound while the station is in the ring: the reading with which the relay's detectors would count
that rate, ten and more decibels above any planned light.  What is above the plan by less ends the block, and latches
nothing (:meth:`orchestrator.light.own_station.OwnStation.judge`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lab.interlock.interlock import Interlock
from lab.interlock.watching import Watch
from lab.light_of import pair_light
from lab.testbed import Testbed
from orchestrator.hub.agent import Agent
from orchestrator.light.messages import DetectorsBlinded
from orchestrator.light.own_station import OWN_DIRECTION, Direction
from orchestrator.wire.channel import ChannelError
from orchestrator.wire.links import LinkState

if TYPE_CHECKING:
    from drivers.kinds import PowerSensor

EVERY_S = 0.3
"""With a reading of some tenths of a second and what making safe takes, dark within a second.

Sensors that average for ten seconds are looked at by glances, each of which takes, and may have to wait for, a tenth of a second:
a long reading is made of such parts, and gives way between two of them.
"""
STATION_EVERY_S, STATION_LOOKS, HUB_LOOKS = 0.2, 3, 4
"""A light phase ends well within so many looks once a station or the hub is gone, unless it hangs."""
ANY_MU = 0.01
"""All light of a pair is proportional to it; what a detector counts besides is dark."""


def detector_watch(testbed: Testbed, read: Callable[[], Iterable[float]]) -> Watch:
    """Of the relay's two detectors, whose counts per second ``read`` measures."""
    limit_cps = testbed.interlock.detector_cps

    def look() -> str:
        over = [
            f"D{number} counts {rate:.3g} per second"
            for number, rate in zip((1, 2), read(), strict=False)
            if rate > limit_cps
        ]
        return f"{' and '.join(over)}, above {limit_cps:.3g}" if over else ""

    return Watch("detector-rate", look, EVERY_S)


def station_watch(
    agent: Agent,
    users: Callable[[], Collection[str]],
    is_lit: Callable[[], bool],
    darken: Callable[[], object],
) -> Watch:
    """Of the stations of ``users`` in the light, for a light phase that does not end although one is gone.

    Without a hub nobody knows of any of them: then ``darken`` is called, and nothing latched, as all is well once it is back.
    """
    missed = 0

    def look() -> str:
        nonlocal missed
        there, connected = agent.peers, agent.link_state is LinkState.UP
        lost = [user for user in users() if not (connected and user in there)]
        missed = missed + 1 if lost and is_lit() else 0
        if missed < (STATION_LOOKS if connected else HUB_LOOKS):
            return ""
        if not connected:
            missed = 0
            darken()
            return ""
        return f"{' and '.join(lost)} went and the launch stays open"

    return Watch("station-lost", look, STATION_EVERY_S)


def sensor_bounds_w(testbed: Testbed, user: str) -> dict[Direction, float]:
    """What each sensor of ``user`` reads, at the most of its pairs, when a detector counts the limit."""
    bounds: dict[Direction, float] = {"cw": 0.0, "ccw": 0.0}
    for pair in testbed.pairs():
        if user not in pair:
            continue
        place = pair.index(user)
        light = pair_light(testbed, *pair)
        own, other = OWN_DIRECTION[place], OWN_DIRECTION[1 - place]
        budget, twice = light.budget(ANY_MU), light.budget(2 * ANY_MU)
        scale = testbed.interlock.detector_cps / (twice.detector_rate_cps - budget.detector_rate_cps)
        seen = budget.sensors[place]
        bounds[own] = max(bounds[own], scale * seen.own_w)
        bounds[other] = max(bounds[other], scale * seen.other_w)
    return bounds


def sensor_watch(
    testbed: Testbed, user: str, sensors: Mapping[Direction, PowerSensor], is_in: Callable[[], bool]
) -> Watch:
    """Of both sensors of a user, at a glance; nobody looks while the station is bypassed, where sensors take their zero."""
    bounds = sensor_bounds_w(testbed, user)

    def look() -> str:
        read = {direction: sensor.glance_w() for direction, sensor in sensors.items()}
        over = [
            f"the {direction} sensor of {user} reads {power_w:.3g} W, above {bounds[direction]:.3g} W"
            for direction, power_w in read.items()
            if power_w > bounds[direction]
        ]
        return " and ".join(over)

    return Watch("monitor", look, EVERY_S, due=is_in)


@contextmanager
def tripped_by_light(
    interlock: Interlock, agent: Agent, users: Collection[str], was_lit: Callable[[], bool]
) -> Iterator[None]:
    """Around a light phase of the relay with ``users``; ``was_lit`` says whether the launch was opened in it."""
    try:
        yield
    except DetectorsBlinded as error:
        interlock.trip("detector-rate", str(error))
        raise
    except ChannelError as error:
        lost = [user for user in users if user not in agent.peers]
        if lost and was_lit() and agent.link_state is LinkState.UP:
            interlock.trip(
                "station-lost",
                f"{' and '.join(lost)} went without a word while the launch was open ({error})",
            )
        raise
