"""How the relay brings light into the ring: pulses first, then light, a hundredth of it at first.

The laser shines on the carver while the launch is closed; the bias controller finds the null, the generator waits for a
trigger and then repeats the pattern, so that later triggers find the pulses where they were.  Only then does the launch
open, 20 dB low, and only with rates on the detectors that say that all of it will not blind them does it step up.  A
detector that is silent then was latched before; it is brought back in the dark (:mod:`orchestrator.light.latching`).

Nothing opens before both stations of the pair are taken in: past two stations in bypass the same light would put a
hundred million photons a second on live detectors.

All of it is levelled before the first frame: what arrives is counted for some milliseconds, with all modulators at rest,
and the launch is set by what is missing.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab import needs
from lab.calibration.steps import Step
from lab.light_budget import LATCHING_CPS
from lab.light_of import LAUNCH_LIMIT_DB, pair_light
from lab.testbed import Testbed
from orchestrator import runtime
from orchestrator.light.carving import carver_pattern
from orchestrator.light.latching import Latching
from orchestrator.light.messages import LightAborted
from orchestrator.light.recording import plays_to_its_end
from orchestrator.light.tracking.correction import Correction
from orchestrator.protocols.block_planning import plan_for

if TYPE_CHECKING:
    from drivers.kinds import (
        Attenuator,
        BiasController,
        Laser,
        PhotonDetectors,
        PolarizationController,
        PulseCarver,
        TimeTagger,
    )
    from lab.station import Station

logger = logging.getLogger(__name__)

LOW_DB = 20.0
"""How far below the planned light the launch opens."""
FIRST_DB = 40.0
"""Most of one launch attenuator, below where it ends; the other takes the rest."""
TOLD_DB = 0.01
"""A launch that is set anew by less is not told of."""
LEVEL_DB = 0.5
"""As much are a launch and two stations wrong together, where nobody reads the light; what is more is something else."""
READ_LEVEL_DB = 1.5
"""As far a launch is set off its plan where users read their own light: as much of it as may be missing for a block."""
MISSING = 0.2
"""Of the planned counts, without dark ones; with fewer, light that should be there is not."""
STARTING_PS = 1_000_000
"""A record whose only purpose is its trigger, on which the carver's pattern begins."""


@dataclass(frozen=True)
class RelayInstruments:
    """What the relay owns."""

    laser: Laser
    launch: Attenuator
    launch_second: Attenuator
    carver: PulseCarver
    carver_bias: BiasController
    detectors: PhotonDetectors
    tagger: TimeTagger
    polarization: PolarizationController | None = None

    @classmethod
    def of(cls, station: Station) -> RelayInstruments:
        """Those of the relay's opened station."""
        laser, launch, launch_second, carver, bias, detectors, tagger = (
            station.get(need) for need in needs.RELAY
        )
        controller = station.find(needs.POLARIZATION)
        return cls(laser, launch, launch_second, carver, bias, detectors, tagger, controller)


@dataclass(frozen=True)
class PlannedLight:
    """What a light phase is planned with.

    ``attenuation_db`` of both launch attenuators together, ``detector_cps`` counts of each detector in a second of light
    with random symbols (0: none are expected), and the stations that are to be bypassed.  ``pair``: for whom the light is,
    in ring order.  ``arriving``: counts per slot of the light of either direction, by which the launch is levelled (0: it
    stays as planned).  ``backscatter``: counts per gate and detector for every photon of it.
    """

    attenuation_db: float
    detector_cps: float = 0.0
    bystanders: tuple[str, ...] = ()
    pair: tuple[str, ...] = ()
    arriving: float = 0.0
    backscatter: float = 0.0

    @property
    def low_db(self) -> float:
        """How far below it the launch opens: what both attenuators still can, and no more than :data:`LOW_DB`."""
        return min(LOW_DB, LAUNCH_LIMIT_DB + LOW_DB - self.attenuation_db)


def planned_light(testbed: Testbed, first: str, second: str) -> PlannedLight:
    """The light with which both users of a pair send what their plan says; ValueError unless it is named in ring order."""
    light, mu_a = pair_light(testbed, first, second), plan_for(testbed, first, second).mu_a
    budget = light.budget(mu_a)
    others = tuple(name for name in testbed.user_names() if name not in (first, second))
    arriving = mu_a * 10 ** (-light.arms_db[0] / 10)
    return PlannedLight(
        budget.launch_attenuation_db,
        budget.detector_rate_cps,
        others,
        (first, second),
        arriving,
        light.backscatter,
    )


class Launching:
    """The relay's instruments on the way from dark to light and back."""

    def __init__(
        self,
        testbed: Testbed,
        owned: RelayInstruments,
        *,
        timeout_s: float = 10.0,
        pause: Callable[[float], None] = runtime.sleep,
        clock: Callable[[], float] = runtime.now,
    ) -> None:
        self._testbed = testbed
        self._owned = owned
        self._timeout_s = timeout_s
        self._pause = pause
        self._clock = clock
        self._carving = False
        self._set_db = 0.0
        self._levelled: tuple[PlannedLight, float] | None = None

    def use(self, testbed: Testbed) -> None:
        """Go on with these values, once they are set up."""
        self._testbed, self._levelled = testbed, None

    def set_up(self) -> None:
        """Configure everything, after connecting and after a failure; no light in the ring."""
        testbed, owned = self._testbed, self._owned
        self._carving = False
        for attenuator in (owned.launch, owned.launch_second, owned.carver_bias.attenuator):
            if attenuator is not None:
                attenuator.tune(testbed.ring.wavelength_nm)
                attenuator.block()
        detectors = testbed.detectors
        owned.detectors.bias_current_ua(list(detectors.bias_ua))
        owned.detectors.trigger_level_mv(list(detectors.trigger_mv))
        owned.detectors.enabled(True)
        owned.tagger.configure(detectors.channels, detectors.threshold_v)
        owned.tagger.start_streams(detectors.channels)

    def latching(self, plan: PlannedLight, on_latched: Callable[[str], None] = lambda text: None) -> Latching:
        """The watch over the detectors in a light phase."""
        return Latching(
            self._testbed,
            self._owned.detectors,
            expected_cps=plan.detector_cps,
            on_latched=on_latched,
            pause=self._pause,
            clock=self._clock,
        )

    def open(self, plan: PlannedLight, latching: Latching | None = None) -> None:
        """Launch the planned light.

        Raises LightAborted for rates that do not allow it; the launch is closed then.
        """
        owned, latching = self._owned, latching or self.latching(plan)
        owned.laser.power_mw(self._testbed.ring.laser_power_mw)
        owned.laser.emission(True)
        owned.laser.check_emitting()
        self._carve()
        try:
            self._open_low(plan)
            while silent := self._check_rates(plan, latching):
                self.bring_back(latching, silent, f"no count at {plan.low_db:.3g} dB below the planned light")
                self._open_low(plan)
            self._attenuate(plan.attenuation_db + self._off_db(plan))
        except BaseException:
            self.close()
            raise

    def level(self, plan: PlannedLight, arriving: float) -> Correction | None:
        """Have as much light arrive as is planned, by the counts per slot that do; for every opening with this plan.

        Losses of stations and launch are known to some tenths of a dB and drift by more in a day, a count is known to some
        thousandths.  It chooses what arrives: how bright a user's light may be the users' own sensors say, who trim what is
        too much for them.  Where they read none the launch goes no further off its plan than values are wrong by.

        Returns what is told of it, None where the launch stays as it was.
        """
        before_db = self._off_db(plan)
        more_db = 10 * math.log10(arriving / plan.arriving) if arriving > 0 else -math.inf
        off_db = self._set_db - plan.attenuation_db + more_db
        is_read = self._testbed.protocol.monitoring == "monitored"
        if abs(off_db) > (READ_LEVEL_DB if is_read else LEVEL_DB):
            logger.warning(
                "the light that arrives is %+.2f dB off its plan, too much to be made up for: calibrate %s, %s",
                *(off_db, Step.ARM_LOSS, Step.POLARIZATION),
            )
            return None
        self._levelled = plan, off_db
        self._attenuate(plan.attenuation_db + off_db)
        if abs(off_db - before_db) < TOLD_DB:
            return None
        why = f"the light that arrived was {more_db:+.2f} dB off its plan"
        return Correction("launch attenuation", before_db, off_db, "dB", why)

    def find_null(self, plan: PlannedLight, latching: Latching) -> None:
        """Have the carver's null found anew with the launch closed, and launch the light again; raises as :meth:`open` does."""
        self.close()
        self._owned.carver_bias.hold("null", anew=True)
        self.open(plan, latching)

    def _off_db(self, plan: PlannedLight) -> float:
        """How far the launch is set off what was planned."""
        return self._levelled[1] if self._levelled is not None and self._levelled[0] == plan else 0.0

    def shine(self, attenuation_db: float) -> None:
        """Launch light that detectors would not bear, with their bias off: :meth:`close` ends it, and they get their bias back.

        Raises LightAborted where they are biased still; the launch is closed then.
        """
        owned = self._owned
        owned.detectors.enabled(False)
        if owned.detectors.enabled():
            raise LightAborted("the detectors stay biased: nothing bright may be launched")
        owned.laser.power_mw(self._testbed.ring.laser_power_mw)
        owned.laser.emission(True)
        owned.laser.check_emitting()
        self._carve()
        try:
            self._let_through(attenuation_db)
        except BaseException:
            self.close()
            raise

    def bring_back(self, latching: Latching, silent: Sequence[int], seen: str) -> str:
        """Close the launch and bring these detectors back; what is told of it."""
        self.close()
        return latching.bring_back(silent, seen)

    def _open_low(self, plan: PlannedLight) -> None:
        self._let_through(plan.attenuation_db + plan.low_db)

    def _let_through(self, attenuation_db: float) -> None:
        self._attenuate(attenuation_db)
        if (behind_carver := self._owned.carver_bias.attenuator) is not None:
            behind_carver.attenuation_db(self._testbed.carver.attenuation_db)
            behind_carver.let_through()
        for attenuator in (self._owned.launch_second, self._owned.launch):
            attenuator.let_through()

    def close(self) -> None:
        """Launch nothing; laser and pulses go on for the next lease, unless an attenuator cannot be told."""
        try:
            try:
                self._owned.launch.block()
            finally:
                self._owned.launch_second.block()
        except BaseException:
            self._owned.laser.emission(False)
            raise

    def check_running(self) -> None:
        """NotReadyError unless the laser emits, pulses are cut, the null is held and the detectors are biased."""
        self._owned.laser.check_emitting()
        self._owned.carver.check_carving()
        self._owned.detectors.check_biased()
        if not self._owned.carver_bias.locked():
            raise LightAborted("the bias controller no longer holds the carver at its null")

    def _carve(self) -> None:
        """Pulses on the closed launch; once, until something is set up anew."""
        owned = self._owned
        if self._carving and owned.carver_bias.locked():
            return
        owned.carver_bias.hold("null")
        pattern, rate_hz = carver_pattern(self._testbed)
        owned.carver.carve(pattern, rate_hz, self._testbed.carver.awg_amplitude_vpp)
        if not plays_to_its_end(
            owned.tagger, STARTING_PS, timeout_s=self._timeout_s, pause=self._pause, clock=self._clock
        ):
            raise LightAborted("the record that starts the carver's pattern did not end in time")
        owned.carver.check_carving()
        owned.tagger.restart_streams()
        self._carving = True

    def _attenuate(self, attenuation_db: float) -> None:
        self._set_db = attenuation_db
        first = min(attenuation_db, FIRST_DB)
        self._owned.launch.attenuation_db(first)
        self._owned.launch_second.attenuation_db(attenuation_db - first)

    def _check_rates(self, plan: PlannedLight, latching: Latching) -> tuple[int, ...]:
        """Of so dim a light something must be seen, and no more than the same part of what detectors bear.

        Returns the detectors that are latched.
        """
        rates = self._owned.detectors.count_rates()[:2]
        part = 10 ** (-plan.low_db / 10)
        counted = f"detectors count {rates[0]:.3g} and {rates[1]:.3g} per second at {part:.3g} of the light"
        if max(rates) > LATCHING_CPS * part:
            raise LightAborted(
                f"{counted}, more than {LATCHING_CPS * part:.3g}: all of it would blind them; are both stations of the "
                "pair taken in, and is the launch attenuation right?"
            )
        if max(rates) <= 0:
            return 0, 1
        if min(rates) <= 0 and (silent := latching.silent()):
            return silent
        dark_cps, light_cps = 2 * latching.dark_cps, 2 * (plan.detector_cps - latching.dark_cps) * part
        if plan.detector_cps and sum(rates) - dark_cps < MISSING * light_cps:
            others = ", ".join(plan.bystanders)
            taken_in = (
                f"is a station taken in that should be bypassed ({others}), as a switch may come on in bar; "
            )
            raise LightAborted(
                f"{counted}, and {light_cps + dark_cps:.3g} together were planned: {taken_in if others else ''}do both "
                "stations let light through, is polarisation right, do pulses pass the carver?"
            )
        return ()
