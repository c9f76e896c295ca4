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
from orchestrator.events.status import RELAY
from orchestrator.light.aligning import Climber, Meter, align, own_climber
from orchestrator.light.calibration.exposures import Exposures
from orchestrator.light.launching import Launching, PlannedLight, RelayInstruments
from orchestrator.light.own_station import Direction
from orchestrator.light.tracking.polarization import OwnPolarization
from orchestrator.protocols.block_planning import plan_for

DIM = 0.01
"""Counts a slot around the ring with less than a pair in it: far below what latches a detector."""
MEASURED = "losses are measured, of which polarisation that is off adds some"


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
        gates_ps: tuple[float, float] | None = None,
    ) -> None:
        """``polarization`` is the relay's own; ``users_climb``: turns of those of the users taken in who have one.

        ``gates_ps``: where pulses stand at the detectors, if not where they are calibrated to.
        """
        self._gates_ps = gates_ps
        self.testbed = testbed
        self._polarization, self._users_climb = polarization, users_climb
        self._owned = owned
        self._stations = stations

    @contextmanager
    def lit(self, pair: tuple[str, str], why: str = "") -> Iterator[Lit]:
        """The planned light of a pair, at rest and with its polarisation aligned, while it lasts.

        ``why`` says what polarisation is climbed for though settings are kept, which may be hours old.
        The launch is closed and both stations are out of the ring in the end.
        """
        mu_a = plan_for(self.testbed, *pair).mu_a
        launch_db = pair_light(self.testbed, *pair).budget(mu_a).launch_attenuation_db
        with self._light(pair, launch_db) as exposures:
            self._align(exposures, pair, why)
            yield Lit(exposures, (self._stations[pair[0]], self._stations[pair[1]]))

    @contextmanager
    def bypassed(self, arriving: float) -> Iterator[Exposures]:
        """Pulses of about so many counts a slot around the ring with nobody in it, while it lasts."""
        with self._light((), self._launch_db("", arriving)) as exposures:
            self._align(exposures, ())
            yield exposures

    def align_alone(self, user: str) -> None:
        """Have polarisation climbed with one user alone in the ring, where somebody can; controllers stay as they stand then."""
        if self.climbers((user,)):
            with self._light((user,), self._launch_db(user, DIM)) as exposures:
                self._align(exposures, (user,), MEASURED)

    def _launch_db(self, taken_in: str, arriving: float) -> float:
        """The attenuation for about so many counts a slot with nobody in the ring but one."""
        ring = ring_light(self.testbed)
        light = all_bypassed(ring, taken_in)
        loss_db = ring.relay.launch_loss_db + light.loop_db + ring.relay.detection_db
        one_way = ring.photons_per_slot(ring.relay.laser_w) * 10 ** (-loss_db / 10)
        return 10 * math.log10(2 * one_way / arriving)

    @contextmanager
    def _light(self, taken_in: Sequence[str], launch_db: float) -> Iterator[Exposures]:
        """Light with these stations in the ring, at rest; the launch is closed and they are out of the ring in the end."""
        launching = Launching(self.testbed, self._owned)
        stations = [self._stations[user] for user in taken_in]
        closed = False
        try:
            for station in stations:
                station.take_in()
            try:
                launching.open(PlannedLight(launch_db))
                self._owned.tagger.restart_streams()
                yield Exposures(self.testbed, self._owned.tagger, gates_ps=self._gates_ps)
            finally:
                launching.close()
                closed = True
        finally:
            for station in stations:
                station.darken()
                if closed:
                    station.bypass()

    def _align(self, exposures: Exposures, taken_in: Sequence[str], why: str = "") -> None:
        align(Meter(self.testbed, exposures, gated=False), self.climbers(taken_in).values(), why=why)

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
