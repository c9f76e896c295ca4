"""A user's own station: taken into the ring or bypassed, and the light in it as its sensors see it.

Both directions pass the same parts; a user modulates one of them, its *own* light.  Intensity is set by the relay, and
verified here: at the output it is what the sensor of that direction reads, less what lies between (calibrated by the
user alone) and what its attenuator takes.

The switch goes to bypass only after the relay confirmed that the launch is closed, or where both sensors of the station,
which stand ahead of its attenuator, are dark.  Whatever fails before that leaves the station in, behind its attenuator at
maximum: dark for everybody, and no light on live detectors.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Literal

from drivers.links.errors import NotReadyError
from lab import needs
from lab.calibration.steps import Step
from lab.light_budget import DARK_W, photons_per_slot
from lab.testbed import Testbed
from orchestrator.light.messages import LightAborted, LightMissing
from orchestrator.light.tracking.correction import Correction

if TYPE_CHECKING:
    from drivers.kinds import Attenuator, OpticalSwitch, PolarizationController, PowerSensor
    from lab.station import Station

logger = logging.getLogger(__name__)


Direction = Literal["cw", "ccw"]
OWN_DIRECTION: tuple[Direction, Direction] = ("ccw", "cw")
"""What the first and the second user of a pair modulate: the light that passes no partner afterwards."""
ATTENUATION_STEP_DB = 0.01
TRIM_READINGS = 4
"""As many are averaged before light is trimmed, and before light is left alone that may be too bright: the noise of a single one is
not far below what may be noticed."""
ZERO_READINGS = 4
"""As many say what an instrument's zero left: that is as noisy as a single reading, and a hundredth of the own light by itself."""
SAME_COLOUR_NM = 1.0
"""A diode's reading is wrong by some .003 dB then."""
LOW_DB = 1.5
"""How far an intensity may fall below its plan: less light is less key, not less security."""


def _over_db(actual: float, planned: float) -> float:
    """How far one intensity is above another; an attenuator may report what lets nothing through, or no number."""
    return 10 * math.log10(actual / planned) if actual > 0 else -math.inf


@dataclass(frozen=True)
class StationInstruments:
    """What a user owns, its generator apart.

    ``left_w``: what sensors read in the dark since their zero, which whoever reads own light with them takes off.
    """

    switch: OpticalSwitch
    attenuator: Attenuator
    sensor_cw: PowerSensor
    sensor_ccw: PowerSensor
    polarization: PolarizationController | None = None
    left_w: dict[Direction, float] = field(default_factory=dict)

    @classmethod
    def of(cls, station: Station) -> StationInstruments:
        """Those of a user's opened station."""
        return cls(
            station.get(needs.SWITCH),
            station.get(needs.ATTENUATOR),
            station.get(needs.SENSOR_CW),
            station.get(needs.SENSOR_CCW),
            station.find(needs.POLARIZATION),
        )

    @property
    def sensors(self) -> dict[Direction, PowerSensor]:
        """By the direction that each sees."""
        return {"cw": self.sensor_cw, "ccw": self.sensor_ccw}


class OwnStation:
    """Switch, attenuator and sensors of one user."""

    def __init__(self, testbed: Testbed, user: str, owned: StationInstruments) -> None:
        self._testbed = testbed
        self._user = testbed.user(user)
        self._owned = owned
        self._sensors = owned.sensors
        self.is_in = False
        """Whether it was taken into the ring, and not out of it since."""
        self.stays_in = ""
        """Why it could not leave the ring when it was last to; empty once it has, or was taken in again."""

    def use(self, testbed: Testbed) -> None:
        """Go on with these values, once they are set up."""
        self._testbed, self._user = testbed, testbed.user(self._user.name)

    def set_up(self) -> None:
        """Tuned, dark and zeroed, after connecting and after a failure."""
        if self.tune():
            self.zero()

    def tune(self) -> bool:
        """Tune sensors and attenuator; out of the ring where that is dark, as somebody may have left the station in.

        Whether it is out.
        """
        for sensor in self._sensors.values():
            sensor.wavelength_nm(self._testbed.ring.wavelength_nm)
        self._owned.attenuator.tune(self._testbed.ring.wavelength_nm)
        self._owned.attenuator.block()
        return self.bypass_if_dark()

    def zero(self) -> None:
        """In the dark behind the own switch the sensors take their zero, and some readings say what is left.

        Never more is taken off than the proof charges for a zero: light that comes just while the sensors are read gains
        nobody more than that.
        """
        charged_w = self._testbed.uncertainty.sensor_zero_pw * 1e-12
        for direction, sensor in self._sensors.items():
            sensor.zero()
            left_w = fmean(sensor.power_w() for _ in range(ZERO_READINGS))
            self._owned.left_w[direction] = min(max(left_w, -charged_w), charged_w)

    def take_in(self) -> None:
        """Into the ring, dark at first."""
        self._owned.attenuator.block()
        self.is_in = True
        self.stays_in = ""
        self._owned.switch.crossed(False)
        if self._owned.switch.crossed():
            raise LightAborted(
                f"{self._user.name}: the switch stays in bypass; is it powered, is its fibre plugged in?"
            )
        self._owned.attenuator.attenuation_db(self._user.attenuation_db)
        self._owned.attenuator.let_through()

    def darken(self) -> None:
        """As little light as the attenuator lets through; the station stays where it is."""
        self._owned.attenuator.block()

    def bypass(self) -> None:
        """Out of the ring: only after the relay confirmed that the launch is closed."""
        self._owned.switch.crossed(True)
        self.is_in = False
        self.stays_in = ""

    def bypass_if_dark(self) -> bool:
        """Out of the ring if neither direction brings light; else the station stays in, and dark.  Whether it is out."""
        if self._owned.switch.crossed():
            self.stays_in = ""
            return True
        seen_w = {direction: sensor.power_w() for direction, sensor in self._sensors.items()}
        if max(seen_w.values()) < DARK_W:
            self.bypass()
            return True
        read = " and ".join(f"{power_w:.3g} W ({direction})" for direction, power_w in seen_w.items())
        self.stays_in = (
            f"{self._user.name} stays in the ring behind its closed attenuator: its sensors read {read}, and below "
            f"{DARK_W:.2g} W would be dark; the launch is open, or they tell no less from none"
        )
        logger.warning("%s", self.stays_in)
        return False

    def output_photons(self, direction: Direction) -> float:
        """Mean photons per slot of one direction at the output, by sensor and attenuator.

        Raises LightMissing where the sensor sees no light, NotReadyError where its reading is for light of another colour.
        """
        set_nm, light_nm = self._sensors[direction].wavelength_nm(), self._testbed.ring.wavelength_nm
        if not abs(set_nm - light_nm) < SAME_COLOUR_NM:
            raise NotReadyError(
                f"{self._user.name}: the {direction} sensor is set to {set_nm:g} nm and the light has {light_nm:g} nm; it was "
                "right when it was set up: who else turns it?"
            )
        power_w = self._sensors[direction].power_w() - self._owned.left_w.get(direction, 0.0)
        if not power_w > 0:
            raise LightMissing(
                f"{self._user.name}: the {direction} sensor reads {power_w:g} W; no light arrives: is the launch open, "
                "the switch in, and are the two taps not swapped; does no station of "
                f"{', '.join(name for name in self._testbed.user_names() if name != self._user.name)} stand in the light "
                "(a switch may come on in bar)?"
            )
        arriving = photons_per_slot(
            power_w, self._testbed.ring.wavelength_nm, self._testbed.protocol.clock_hz
        )
        return arriving * 10 ** (-self._lost_db(direction) / 10)

    def own_power_w(self, mu: float, direction: Direction) -> float:
        """What the sensor of a direction reads when ``mu`` photons per slot leave."""
        one_w = 1 / photons_per_slot(1.0, self._testbed.ring.wavelength_nm, self._testbed.protocol.clock_hz)
        return mu * one_w * 10 ** (self._lost_db(direction) / 10)

    def _lost_db(self, direction: Direction) -> float:
        """From a sensor's reading to the output, as the attenuator is set."""
        between_db = self._user.sensor_to_output_db[0 if direction == "cw" else 1]
        beyond_db = self._owned.attenuator.attenuation_db() - self._user.attenuation_db
        return between_db + self._user.attenuator_slope * beyond_db

    def trim(self, direction: Direction, mu: float) -> Correction | None:
        """Attenuate what the own light is too bright by; the other user's light is attenuated as much.  What was corrected.

        It is too bright above half of what it may drift by before the block ends.  What is within that is left to the
        relay, which knows a pair's light by its counts far better than a sensor's zero is known: trimming every reading
        above the plan, and none below, would darken the light by the noise of the readings.

        LightMissing where it is less than a block may have.
        """
        if self._testbed.protocol.monitoring == "calibrated":
            return None
        readings = [self.output_photons(direction)]
        while _over_db(mean := fmean(readings), mu) > self._allowed_db / 2 and len(readings) < TRIM_READINGS:
            readings.append(self.output_photons(direction))
        if not (excess_db := _over_db(mean, mu)) >= -LOW_DB:
            raise LightMissing(self._off_its_plan(direction, mu, excess_db))
        return self._attenuate_more(mu, mean, self._allowed_db) if self.is_bright(mu, mean) else None

    def is_bright(self, mu: float, actual: float) -> bool:
        """Whether light is so far above its plan that it is trimmed, if that is no noise of a reading."""
        return _over_db(actual, mu) > self._allowed_db

    @property
    def _allowed_db(self) -> float:
        """How far above its plan light may be without being trimmed."""
        return self._testbed.uncertainty.drift_db / 2

    def _attenuate_more(self, mu: float, actual: float, left_db: float) -> Correction:
        """Leave ``left_db`` above the plan of what is ``actual``, in steps that an attenuator takes."""
        excess_db = _over_db(actual, mu)
        before_db = self._owned.attenuator.attenuation_db() - self._user.attenuation_db
        steps = math.ceil(round((before_db + excess_db - left_db) / ATTENUATION_STEP_DB, 6))
        self._owned.attenuator.attenuation_db(self._user.attenuation_db + steps * ATTENUATION_STEP_DB)
        after_db = self._owned.attenuator.attenuation_db() - self._user.attenuation_db
        why = f"the output was {excess_db:+.3f} dB off its plan"
        return Correction("own attenuation", before_db, after_db, "dB", why)

    def follow(self, mu: float, actual: float) -> Correction | None:
        """Trim light that rose between frames, by what readings came to; the correction, if one was made.

        Light that polarisation or a warming connector gives back would else end the block as too bright.  It is brought back
        to half of what it is trimmed above: a rise by all that is left is met by the next reading, and light that is only
        read a little too bright, as every sensor's zero makes it, is not darkened by all of that.  Nothing is given back before
        the next lease: both directions pass the attenuator, and what one user gives back is too much for the other.
        """
        return self._attenuate_more(mu, actual, self._allowed_db / 2) if self.is_bright(mu, actual) else None

    def intensity(self, direction: Direction, mu: float) -> float:
        """The own light at the output, in photons per slot, from one reading; raises as :meth:`output_photons` does.

        Without sensors that see so little (``monitoring = "calibrated"``) nothing is read and ``mu`` is believed.
        """
        return mu if self._testbed.protocol.monitoring == "calibrated" else self.output_photons(direction)

    def judge(self, direction: Direction, mu: float, actual: float) -> None:
        """LightAborted where the own light is not the planned ``mu``, LightMissing where it is less.

        The bound of the proof allows for the drift above and for what the reading may be wrong by; below, the block was
        planned for more light.
        """
        deviation_db = _over_db(actual, mu)
        if deviation_db < -LOW_DB:
            raise LightMissing(self._off_its_plan(direction, mu, deviation_db))
        if not deviation_db <= self._testbed.uncertainty.drift_db:
            raise LightAborted(self._off_its_plan(direction, mu, deviation_db))

    def _off_its_plan(self, direction: Direction, mu: float, deviation_db: float) -> str:
        return (
            f"{self._user.name}: the output is {deviation_db:+.3f} dB off the planned {mu:.4g} photons per slot "
            f"({direction}); -{LOW_DB:g} to +{self._testbed.uncertainty.drift_db:g} dB are allowed: calibrate "
            f"{Step.INTENSITY}, {Step.POLARIZATION}, or suspect the light"
        )
