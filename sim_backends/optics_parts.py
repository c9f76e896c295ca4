"""The parts of the ring as configured, and what goes into and comes out of an exposure.

Frozen values only; :class:`sim_backends.optics.Ring` gives them a state.  Every value that makes no sense is
refused here, with its name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


def require(condition: bool, what: str, value: object) -> None:
    """Raise ValueError naming the rule and the value that breaks it."""
    if not condition:
        raise ValueError(f"{what}; got {value}")


@dataclass(frozen=True)
class StationOptics:
    """One user's station: where it sits, its phase modulator and its power monitor."""

    name: str
    position_km: float
    """Fibre from the relay to the station, clockwise."""
    v_pi_v: float
    rf_gain: float
    """Voltage gain of the driver amplifier between waveform generator and modulator."""
    monitor_ratio: float
    """Power at the attenuator's input over power at the monitor: 99 for a 1 % tap."""
    extinction_db: float = math.inf
    """Modulated light over the residue in the polarisation that the phase modulator does not act on."""


@dataclass(frozen=True)
class RingOptics:
    """The loop, the relay's splitter and what spoils the interference."""

    clock_hz: float
    samples_per_slot: int
    users: tuple[StationOptics, ...]
    """In ring order, positions rising."""
    length_km: float
    fibre_loss_db_per_km: float
    station_pass_loss_db: float
    relay_loss_db: float
    visibility: float = 1.0
    """Amplitude overlap of the two returning modes."""
    splitter_ratio: float = 0.5
    """Power fraction that the splitter transmits."""
    phase_noise_rad: float = 0.0
    """Standard deviation of a phase drawn for every slot."""
    phase_offset_rad: float = 0.0
    thinning_margin: float = 1.0
    """The bound used for thinning over the least possible one; the statistics do not depend on it."""

    def __post_init__(self) -> None:
        positions = [user.position_km for user in self.users]
        names = [user.name for user in self.users]
        require(self.clock_hz > 0, "clock_hz must be positive", self.clock_hz)
        require(
            self.samples_per_slot >= 2,
            "samples_per_slot must be at least 2: the directions are told apart by their half of the slot",
            self.samples_per_slot,
        )
        require(len(self.users) >= 2, "the ring needs at least two users", names)
        require(len(set(names)) == len(names), "the users need distinct names", names)
        require(
            positions == sorted(set(positions)) and positions[0] > 0 and positions[-1] < self.length_km,
            f"the users must be listed in ring order, strictly between 0 and {self.length_km} km",
            positions,
        )
        for name in ("fibre_loss_db_per_km", "station_pass_loss_db", "relay_loss_db", "phase_noise_rad"):
            require(getattr(self, name) >= 0, f"{name} must not be negative", getattr(self, name))
        require(0 <= self.visibility <= 1, "visibility must lie in 0..1", self.visibility)
        require(0 < self.splitter_ratio < 1, "splitter_ratio must lie between 0 and 1", self.splitter_ratio)
        require(self.thinning_margin >= 1, "thinning_margin must be at least 1", self.thinning_margin)
        for user in self.users:
            require(user.v_pi_v > 0 and user.rf_gain > 0, f"{user.name}: v_pi_v, rf_gain > 0", user)
            require(user.monitor_ratio > 0, f"{user.name}: monitor_ratio must be positive", user)


@dataclass(frozen=True)
class DetectorOptics:
    """One superconducting nanowire detector with its discriminator."""

    efficiency_max: float
    dark_count_probability: float
    """Per gate; dark counts come at the rate that gives it, inside and outside the gates alike."""
    gate_ns: float
    dead_time_ns: float = 0.0
    jitter_ps: float = 0.0
    """Standard deviation of the tag time."""
    delay_ps: float = 0.0
    """From the slot's start to the tag of a photon of its pulse: fibre and cables."""
    afterpulse_probability: float = 0.0
    afterpulse_decay_ns: float = 100.0
    bias_half_ua: float = 12.0
    """Bias current of half the plateau efficiency."""
    bias_width_ua: float = 2.0

    def __post_init__(self) -> None:
        require(0 <= self.efficiency_max <= 1, "efficiency_max must lie in 0..1", self.efficiency_max)
        require(
            0 <= self.dark_count_probability < 1,
            "dark_count_probability must lie in 0..1",
            self.dark_count_probability,
        )
        require(
            0 <= self.afterpulse_probability < 1,
            "afterpulse_probability must lie in 0..1",
            self.afterpulse_probability,
        )
        require(self.gate_ns > 0, "gate_ns must be positive", self.gate_ns)
        require(self.dead_time_ns >= 0, "dead_time_ns must not be negative", self.dead_time_ns)
        require(self.jitter_ps >= 0, "jitter_ps must not be negative", self.jitter_ps)
        require(
            self.afterpulse_decay_ns > 0, "afterpulse_decay_ns must be positive", self.afterpulse_decay_ns
        )
        require(self.bias_width_ua > 0, "bias_width_ua must be positive", self.bias_width_ua)

    def efficiency(self, bias_ua: float) -> float:
        """Detection efficiency at a bias current: an error function that saturates at the plateau.

        The usual shape of the internal efficiency of nanowires (e.g. Natarajan et al., Supercond. Sci.
        Technol. 25, 063001 (2012), figure 4); half and width are chosen, not measured.
        """
        if bias_ua <= 0:
            return 0.0
        return self.efficiency_max * 0.5 * (1 + math.erf((bias_ua - self.bias_half_ua) / self.bias_width_ua))

    def dark_rate_per_s(self) -> float:
        """The Poisson rate whose probability within one gate is ``dark_count_probability``."""
        return -math.log1p(-self.dark_count_probability) / (self.gate_ns * 1e-9)


@dataclass(frozen=True)
class Drive:
    """What a waveform generator plays during one exposure, from the trigger on."""

    samples: npt.NDArray[np.float32]
    """Normalised to +-1 of half the peak-to-peak amplitude; 0 V after the last one."""
    sample_rate_hz: float
    amplitude_vpp: float

    def __repr__(self) -> str:
        return f"Drive({self.samples.size} samples, {self.sample_rate_hz:g} Hz, {self.amplitude_vpp:g} Vpp)"


@dataclass(frozen=True)
class Clicks:
    """Detector clicks sorted by time: detector number 0 (D1) or 1 (D2), tag time in ps after the trigger."""

    detector: npt.NDArray[np.uint8]
    time_ps: npt.NDArray[np.int64]

    def of(self, detector: int) -> npt.NDArray[np.int64]:
        """The tag times of one detector, 1-d int64 in ps since the reference pulse."""
        times: npt.NDArray[np.int64] = self.time_ps[self.detector == detector]
        return times
