"""The parts of the ring as they really are, and what goes into and comes out of an exposure.

Frozen values only; :class:`sim_backends.optics.Ring` gives them a state.  Nobody outside the simulator sees them: what
the testbed file says was measured on them, or believed.  Every value that makes no sense is refused with its name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LIGHT_SPEED_M_S = 299_792_458.0
GROUP_INDEX = 1.468
"""Of standard single-mode fibre at 1550 nm (ITU-T G.652 fibres: 1.4677 to 1.4682)."""
PS_PER_KM = GROUP_INDEX / LIGHT_SPEED_M_S * 1e15
FWHM_PER_SIGMA = 2 * math.sqrt(2 * math.log(2))
TAU_PER_RISE = 1 / math.log(9)
"""Time constant of a single pole over its rise time from 10 to 90 %."""


def require(condition: bool, what: str, value: object) -> None:
    """Raise ValueError naming the rule and the value that breaks it."""
    if not condition:
        raise ValueError(f"{what}; got {value}")


def gain(loss_db: float) -> float:
    """Power transmission of a loss in dB; 0 for an infinite one."""
    return 10 ** (-loss_db / 10)


@dataclass(frozen=True)
class StationOptics:
    """One user's station, passed in both directions: switch, tap, modulator, attenuator, tap, switch.

    The tap met first in each direction feeds the sensor of that direction.
    """

    name: str
    position_km: float
    """Fibre from the relay to the station, clockwise."""
    v_pi_v: float
    rf_gain: float
    """Voltage gain of the driver amplifier between waveform generator and modulator."""
    rise_ns: float = 1.5
    """Rise time (10 to 90 %) of amplifier and modulator together, a single pole."""
    switch_db: float = 0.6
    """One pass of the switch; a bypassed station costs one, a station taken in two."""
    tap_share: float = 0.5
    """Share of the light that each tap takes out."""
    modulator_db: float = 3.7
    attenuator_db: float = 1.0
    """Insertion loss, on top of what is set."""
    attenuator_error_db: float = 0.0
    attenuator_slope: float = 0.0
    """True attenuation is (1 + slope) times the set one plus the error."""
    crosstalk_db: float = math.inf
    """Of the switch in bypass: light that takes the station in all the same."""


@dataclass(frozen=True)
class CarverOptics:
    """The Mach-Zehnder modulator that cuts the laser's light into pulses."""

    v_pi_v: float = 4.0
    rf_gain: float = 8.0
    insertion_db: float = 3.5
    extinction_db: float = 35.0
    """Light of a pulse over the residue within one gate, with the bias at the null."""
    null_bias_v: float = 0.0
    """The bias at which nothing passes without a pattern."""
    gate_ns: float = 1.0
    """The gate that ``extinction_db`` refers to."""


@dataclass(frozen=True)
class RingOptics:
    """The loop, the relay and what spoils the interference."""

    users: tuple[StationOptics, ...]
    """In ring order, positions rising."""
    length_km: float
    fibre_loss_db_per_km: float
    relay_loss_db: float
    """From a loop end through the coupler's port to a detector, the coupler's splitting left out."""
    circulator_db: float = 0.8
    carver: CarverOptics = CarverOptics()
    visibility: float = 1.0
    """Amplitude overlap of the two returning modes."""
    splitter_ratio: float = 0.5
    """Power fraction that the coupler transmits."""
    polarizer_db: float = 0.0
    """Lost at the polarisers of the loop ports, for the polarisation that arrives."""
    phase_noise_rad: float = 0.0
    """Standard deviation of a phase drawn for every pulse."""
    loop_phase_rad: float = 0.0
    """Phase between the two ways around with all modulators at rest."""
    backscatter_db_per_m: float = math.inf
    """Rayleigh back-scatter: 72 dB below the light per metre in G.652 fibre at 1550 nm."""
    leak_db: float = math.inf
    """What of the launched light reaches D1 directly: the circulator's directivity and returns of the coupler."""
    leak_delay_ps: float = 0.0
    """When the leaked pulse reaches D1, from its pass through the coupler."""
    tap_db: float = 0.0
    """Taken from the light of either direction by a coupler in the first fibre clockwise, at its end towards the relay."""
    thinning_margin: float = 1.0
    """The bound used for thinning over the least possible one; the statistics do not depend on it."""

    def __post_init__(self) -> None:
        positions = [user.position_km for user in self.users]
        names = [user.name for user in self.users]
        require(len(self.users) >= 2, "the ring needs at least two users", names)
        require(len(set(names)) == len(names), "the users need distinct names", names)
        require(
            positions == sorted(set(positions)) and positions[0] > 0 and positions[-1] < self.length_km,
            f"the users must be listed in ring order, strictly between 0 and {self.length_km} km",
            positions,
        )
        for name in ("fibre_loss_db_per_km", "relay_loss_db", "circulator_db", "polarizer_db", "tap_db"):
            require(getattr(self, name) >= 0, f"{name} must not be negative", getattr(self, name))
        require(self.phase_noise_rad >= 0, "phase_noise_rad must not be negative", self.phase_noise_rad)
        require(0 <= self.visibility <= 1, "visibility must lie in 0..1", self.visibility)
        require(0 < self.splitter_ratio < 1, "splitter_ratio must lie between 0 and 1", self.splitter_ratio)
        require(self.thinning_margin >= 1, "thinning_margin must be at least 1", self.thinning_margin)
        for user in self.users:
            require(user.v_pi_v > 0 and user.rf_gain > 0, f"{user.name}: v_pi_v, rf_gain > 0", user)
            require(0 < user.tap_share < 1, f"{user.name}: tap_share must lie between 0 and 1", user)
            require(user.rise_ns >= 0, f"{user.name}: rise_ns must not be negative", user)


@dataclass(frozen=True)
class DetectorOptics:
    """One superconducting nanowire detector with its discriminator and its cable."""

    efficiency_max: float
    dark_count_probability: float
    """Per gate at the operating bias; dark counts come at the rate that gives it, at any time alike."""
    gate_ns: float
    dead_time_ns: float = 0.0
    recovery_ns: float = 0.0
    """Time constant with which the efficiency returns after the dead time."""
    jitter_ps: float = 0.0
    """Standard deviation of the tag time."""
    delay_ps: float = 0.0
    """From the light's arrival to the pulse at the far end of the cable."""
    afterpulse_probability: float = 0.0
    afterpulse_decay_ns: float = 100.0
    bias_half_ua: float = 12.0
    """Bias current of half the plateau efficiency."""
    bias_width_ua: float = 2.0
    operating_bias_ua: float = 20.0
    dark_width_ua: float = 1.0
    """Dark counts grow by e for each of these beyond the operating bias, and fall below it."""
    critical_ua: float = math.inf
    """Above this current the wire is normal and counts nothing."""
    latch_rate_hz: float = math.inf
    """Absorbed photons per second above which the wire stays normal until its bias is cycled."""

    def __post_init__(self) -> None:
        for name in ("efficiency_max", "dark_count_probability", "afterpulse_probability"):
            require(0 <= getattr(self, name) <= 1, f"{name} must lie in 0..1", getattr(self, name))
        require(self.dark_count_probability < 1, "a gate cannot always count", self.dark_count_probability)
        require(self.afterpulse_probability < 1, "afterpulses must end", self.afterpulse_probability)
        require(self.gate_ns > 0, "gate_ns must be positive", self.gate_ns)
        for name in ("dead_time_ns", "recovery_ns", "jitter_ps"):
            require(getattr(self, name) >= 0, f"{name} must not be negative", getattr(self, name))
        for name in ("afterpulse_decay_ns", "bias_width_ua", "dark_width_ua"):
            require(getattr(self, name) > 0, f"{name} must be positive", getattr(self, name))

    def efficiency(self, bias_ua: float) -> float:
        """Detection efficiency at a bias current: an error function that saturates at the plateau.

        The usual shape of the internal efficiency of nanowires (e.g. Natarajan et al., Supercond. Sci.
        Technol. 25, 063001 (2012), figure 4); half and width are chosen, not measured.
        """
        if not 0 < bias_ua < self.critical_ua:
            return 0.0
        return self.efficiency_max * 0.5 * (1 + math.erf((bias_ua - self.bias_half_ua) / self.bias_width_ua))

    def dark_rate_per_s(self, bias_ua: float) -> float:
        """Dark counts per second at a bias current: exponential, ``dark_count_probability`` per gate at the operating one.

        Exponential growth with bias as measured on nanowires (e.g. Natarajan et al., figure 4); the width is chosen.
        """
        if not 0 < bias_ua < self.critical_ua:
            return 0.0
        operating = -math.log1p(-self.dark_count_probability) / (self.gate_ns * 1e-9)
        return operating * math.exp((bias_ua - self.operating_bias_ua) / self.dark_width_ua)


@dataclass(frozen=True)
class Drive:
    """What a generator's channel puts out during one exposure, as its driver amplifier receives it.

    The first sample begins at ``start_ps``; before it and after the last one the voltage is 0.
    """

    samples: npt.NDArray[np.float32]
    """In [-1, 1] of ``amplitude_vpp / 2``."""
    sample_ps: float
    amplitude_vpp: float
    start_ps: float = 0.0
    rise_ps: float = 0.0
    """Of the generator's own edges, 10 to 90 %."""

    def __repr__(self) -> str:
        return f"Drive({self.samples.size} samples of {self.sample_ps:g} ps, {self.amplitude_vpp:g} Vpp)"


@dataclass(frozen=True)
class PulseTrain:
    """The launched light in time: one pulse per ``period_ps`` on a flat rest.

    ``pulsed`` and ``flat`` are mean transmissions of the carver, of the light in the pulses and of the rest.  Pulse 0
    passes the coupler at ``phase_ps``.
    """

    period_ps: float
    phase_ps: float
    sigma_ps: float
    pulsed: float
    flat: float


@dataclass(frozen=True)
class Clicks:
    """Detector clicks sorted by time: detector number 0 (D1) or 1 (D2), tag time in ps after the start."""

    detector: npt.NDArray[np.uint8]
    time_ps: npt.NDArray[np.int64]

    def of(self, detector: int) -> npt.NDArray[np.int64]:
        """The tag times of one detector, 1-d int64 in ps since the start."""
        times: npt.NDArray[np.int64] = self.time_ps[self.detector == detector]
        return times
