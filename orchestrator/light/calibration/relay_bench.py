"""The relay's own means of calibrating: light of a pair at rest, light past everybody, darkness, detector bias.

Stations of users are asked to step in and out, whether they are reached by a call or over a channel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from lab.light_budget import all_bypassed
from lab.light_of import pair_light, ring_light
from lab.testbed import Testbed
from orchestrator.light.aligning import Climber, Meter, align, own_climber
from orchestrator.light.calibration.exposures import Exposures
from orchestrator.light.launching import Launching, PlannedLight, RelayInstruments
from orchestrator.light.own_station import Direction
from orchestrator.light.tracking.polarization import RELAY, OwnPolarization
from orchestrator.protocols.block_planning import plan_for


class AskedStation(Protocol):
    """What the relay may ask of a user's station; see :class:`~orchestrator.light.own_station.OwnStation`."""

    def take_in(self) -> None:
        """Into the ring."""

    def darken(self) -> None:
        """As little light as the attenuator lets through."""

    def bypass(self) -> None:
        """Out of the ring: the launch is closed."""

    def output_photons(self, direction: Direction) -> float:
        """Mean photons per slot at the output, as its user measures it."""

    def own_power_w(self, mu: float, direction: Direction) -> float:
        """What the user's sensor reads for so many photons."""


@dataclass(frozen=True)
class Lit:
    """Light of a pair: the relay's records of it, and both stations."""

    exposures: Exposures
    stations: tuple[AskedStation, AskedStation]


class RelayBench:
    """The relay's instruments with the stations that it may ask."""

    def __init__(
        self,
        testbed: Testbed,
        owned: RelayInstruments,
        stations: Mapping[str, AskedStation],
        polarization: OwnPolarization | None = None,
        users_climb: Callable[[Sequence[str]], Mapping[str, Climber]] = lambda taken_in: {},
    ) -> None:
        """``polarization`` is the relay's own; ``users_climb``: turns of those of the users taken in who have one."""
        self.testbed = testbed
        self._polarization, self._users_climb = polarization, users_climb
        self._owned = owned
        self._stations = stations

    @contextmanager
    def lit(self, pair: tuple[str, str]) -> Iterator[Lit]:
        """The planned light of a pair, at rest and with its polarisation aligned, while it lasts.

        The launch is closed and both stations are out of the ring in the end.
        """
        mu_a = plan_for(self.testbed, *pair).mu_a
        launch_db = pair_light(self.testbed, *pair).budget(mu_a).launch_attenuation_db
        launching = Launching(self.testbed, self._owned)
        first, second = (self._stations[user] for user in pair)
        closed = False
        try:
            for station in (first, second):
                station.take_in()
            try:
                launching.open(PlannedLight(launch_db))
                self._owned.tagger.restart_streams()
                exposures = Exposures(self.testbed, self._owned.tagger)
                align(Meter(self.testbed, exposures), self.climbers(pair).values())
                yield Lit(exposures, (first, second))
            finally:
                launching.close()
                closed = True
        finally:
            for station in (first, second):
                station.darken()
                if closed:
                    station.bypass()

    @contextmanager
    def bypassed(self, arriving: float) -> Iterator[Exposures]:
        """Pulses of about so many counts a slot around the ring with nobody in it, while it lasts."""
        ring = ring_light(self.testbed)
        light = all_bypassed(ring)
        loss_db = ring.relay.launch_loss_db + light.loop_db + ring.relay.detection_db
        one_way = ring.photons_per_slot(ring.relay.laser_w) * 10 ** (-loss_db / 10)
        launching = Launching(self.testbed, self._owned)
        try:
            launching.open(PlannedLight(10 * math.log10(2 * one_way / arriving)))
            self._owned.tagger.restart_streams()
            exposures = Exposures(self.testbed, self._owned.tagger)
            align(Meter(self.testbed, exposures), self.climbers(()).values())
            yield exposures
        finally:
            launching.close()

    def climbers(self, pair: Sequence[str]) -> dict[str, Climber]:
        """The turns of everybody who can align polarisation with these stations taken in, the relay first."""
        users = dict(self._users_climb(pair))
        if self._polarization is None:
            return users
        return {RELAY: own_climber(self._polarization, self.testbed, pair), **users}

    def bias(self, bias_ua: Sequence[float]) -> None:
        """Bias the detectors, from no bias at all: one that was latched or beyond its critical current counts again."""
        self._owned.detectors.enabled(False)
        self._owned.detectors.bias_current_ua(list(bias_ua))
        self._owned.detectors.enabled(True)

    def dark(self) -> Exposures:
        """The detectors with the launch closed, biased as they are."""
        self._owned.tagger.restart_streams()
        return Exposures(self.testbed, self._owned.tagger)
