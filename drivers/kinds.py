"""Kinds of instruments: what one must be able to do to take a place in the ring, whoever made it.

Each kind is a Protocol for the type checker and a :class:`Kind` that names it at run time.  A row of the
catalogue *declares* which kinds its model offers and on which channels; nothing ever asks ``isinstance``, which
for Protocols looks at names only and differs between Python versions.

What can be set or read is a QCoDeS parameter with a unit in its name; the Protocols see of it how it is called.
Every method may raise an error of :mod:`drivers.links.errors`, and returns once the instrument has done it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, Protocol, TypeVar, overload

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


T = TypeVar("T")
Read = TypeVar("Read", covariant=True)


@dataclass(frozen=True)
class Kind(Generic[T]):
    """The name of a kind whose instruments are ``T`` for the type checker."""

    name: str


class Reading(Protocol[Read]):
    """A parameter that can be read."""

    def __call__(self) -> Read:
        """Ask the instrument."""


class Setting(Protocol[T]):
    """A parameter that can be read and set."""

    @overload
    def __call__(self) -> T: ...
    @overload
    def __call__(self, value: T) -> None: ...


class Laser(Protocol):
    """A continuous source of light."""

    @property
    def power_mw(self) -> Setting[float]:
        """Set point of the power."""

    @property
    def emission(self) -> Setting[bool]:
        """Whether light is asked for."""

    def check_emitting(self) -> None:
        """NotReadyError with the laser's own reason unless light comes out."""


class PulseCarver(Protocol):
    """A generator channel whose public pattern cuts the laser's light into pulses, again and again."""

    def carve(self, pattern: npt.NDArray[np.float32], sample_rate_hz: float, amplitude_vpp: float) -> None:
        """From the next trigger on repeat ``pattern`` (1-d float32 in [-1, 1] of amplitude/2) until ``stop``."""

    def check_carving(self) -> None:
        """NotReadyError unless the pattern runs."""

    def stop(self) -> None:
        """0 V, as before the first pattern."""


class Attenuator(Protocol):
    """One variable attenuator, with or without a shutter."""

    @property
    def attenuation_db(self) -> Setting[float]:
        """Attenuation of the light that is let through."""

    def tune(self, wavelength_nm: float) -> None:
        """Attenuate right at this wavelength; changes nothing else."""

    def let_through(self) -> None:
        """Attenuate by ``attenuation_db`` and no more: the shutter opens, where there is one."""

    def block(self) -> None:
        """Let as little through as the instrument can; ``attenuation_db`` is to be set before the next light."""


class PhaseModulator(Protocol):
    """A generator channel that plays secret frames into a modulator, each once per arming.

    Two buffers, 0 and 1: one plays while the other is loaded.
    """

    @property
    def frame_limits_samples(self) -> tuple[int, int]:
        """Fewest and most samples of a frame."""

    def configure(self, sample_rate_hz: float, amplitude_vpp: float, fine_delay_ps: float = 0.0) -> None:
        """Stop, and set clock and level; all samples come ``fine_delay_ps`` later, by less than a sample."""

    def prepare(self, slots: int, samples_per_slot: int = 1) -> None:
        """Make room for two frames of ``slots * samples_per_slot`` samples."""

    def upload(self, buffer: Literal[0, 1], samples: npt.NDArray[np.float32]) -> None:
        """Load a frame: contiguous little-endian float32 of shape (samples,), in [-1, 1] of amplitude/2."""

    def arm(self, buffer: Literal[0, 1]) -> None:
        """Wait for the trigger; an extra trigger must not play the frame again."""

    def extra_trigger_seen(self) -> bool:
        """After a frame: whether more than the one trigger came; NotReadyError where none did."""

    def erase_all(self) -> None:
        """Stop and forget both frames."""


class OpticalSwitch(Protocol):
    """A 2x2 switch of a station."""

    @property
    def crossed(self) -> Setting[bool]:
        """True in the cross state, which bypasses the station; False in the bar state, which takes it in."""


class PowerSensor(Protocol):
    """One sensor of optical power."""

    @property
    def power_w(self) -> Reading[float]:
        """The power of this moment."""

    @property
    def wavelength_nm(self) -> Setting[float]:
        """The wavelength for which the reading is right."""

    @property
    def floor_w(self) -> Reading[float]:
        """The least power that it tells from none; NoReadingError where nobody knows.

        ``power_w`` is given below it too, so that noise averages out: this is for plans, which must not rest on less.
        """

    def glance_w(self) -> float:
        """The power of this moment as quickly as may be, and as noisy as that leaves it: for telling much from little."""

    def zero(self) -> None:
        """Take what reaches the sensor as zero, for seconds or tens of them: the caller has made it dark."""


class PhotonDetectors(Protocol):
    """Single-photon detectors behind one controller; lists hold one number per detector."""

    @property
    def bias_current_ua(self) -> Setting[list[float]]:
        """Bias currents."""

    @property
    def trigger_level_mv(self) -> Setting[list[float]]:
        """Levels at which a pulse counts."""

    @property
    def enabled(self) -> Setting[bool]:
        """Whether the detectors are biased."""

    @property
    def count_rates(self) -> Reading[npt.NDArray[np.float64]]:
        """Counts per second of each (1-d float64), from a measurement that begins after the call."""

    def check_biased(self) -> None:
        """NotReadyError unless the detectors are biased."""


class TimeTagger(Protocol):
    """Fires the trigger line and tags the clicks of one record at a time."""

    @property
    def inputs(self) -> Sequence[int]:
        """The numbers of its inputs."""

    @property
    def threshold_limits_v(self) -> tuple[float, float]:
        """Least and greatest threshold of an input."""

    def configure(self, channels: Sequence[int], threshold_v: float) -> None:
        """Enable these inputs and set up single records."""

    def start_streams(self, channels: Sequence[int]) -> None:
        """Have the tags of these inputs sent to us."""

    def restart_streams(self) -> None:
        """Stop any record and forget every tag not read yet."""

    def play_record(self, duration_ps: int) -> None:
        """Start one record; returns at once."""

    def record_playing(self) -> bool:
        """Whether the record runs."""

    def read_tags(self, channel: int) -> npt.NDArray[np.uint64]:
        """All tags of the records played since the last call, uint64 of shape (n, 2): time in ps, index of the reference."""


@dataclass(frozen=True)
class PolarizationAxes:
    """What the actuators of a polarisation controller are like, one as the other.

    ``count`` of them take settings from ``low`` to ``high`` in ``unit``, in steps of ``step``.  A change by ``half_turn``
    turns the state of polarisation about half around the Poincare sphere at the most: how far a search must look, and how
    little it may step over.  ``settle_s`` is how long a change takes at the most, all of them together.
    """

    count: int
    unit: str
    low: float
    high: float
    step: float
    half_turn: float
    settle_s: float


class PolarizationController(Protocol):
    """Turns polarisation with a few actuators: piezos that squeeze the fibre, or paddles that it is wound on."""

    @property
    def axes(self) -> PolarizationAxes:
        """What its actuators are like; known before it is asked anything."""

    @property
    def actuators(self) -> Setting[list[float]]:
        """Setting of every actuator, as it really is; setting returns when all are at rest."""


class BiasController(Protocol):
    """Holds a Mach-Zehnder modulator at a point of its curve."""

    def hold(self, point: Literal["null", "peak", "quad+", "quad-"], *, anew: bool = False) -> None:
        """Find the point and follow it; ``anew``: find it again though it is said to be held."""

    @property
    def locked(self) -> Reading[bool]:
        """Whether the point is held."""

    @property
    def attenuator(self) -> Attenuator | None:
        """The attenuator inside, which all light behind the modulator passes; None where there is none."""


LASER = Kind[Laser]("laser")
PULSE_CARVER = Kind[PulseCarver]("pulse-carver")
ATTENUATOR = Kind[Attenuator]("attenuator")
PHASE_MODULATOR = Kind[PhaseModulator]("phase-modulator")
OPTICAL_SWITCH = Kind[OpticalSwitch]("optical-switch")
POWER_SENSOR = Kind[PowerSensor]("power-sensor")
PHOTON_DETECTORS = Kind[PhotonDetectors]("photon-detectors")
TIME_TAGGER = Kind[TimeTagger]("time-tagger")
POLARIZATION_CONTROLLER = Kind[PolarizationController]("polarization-controller")
BIAS_CONTROLLER = Kind[BiasController]("bias-controller")
