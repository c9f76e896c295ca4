"""A user's instruments in memory, and the light that its sensors see: for tests of what is done with them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from drivers.links.errors import NotReadyError
from lab.light_budget import photons_per_slot
from lab.light_of import ring_light
from lab.testbed import Testbed
from orchestrator.light.own_station import OWN_DIRECTION, Direction, StationInstruments
from orchestrator.light.timing import frame_timing

PAIR_DIRECTIONS = OWN_DIRECTION


class Generator:
    """Plays each armed frame once, like the AWG70002A; further triggers give nothing and are remembered."""

    frame_limits_samples = (1, 1 << 30)

    def __init__(self) -> None:
        self.waveforms: dict[int, npt.NDArray[np.float32]] = {}
        self.armed: int | None = None
        self.triggers = 0
        self.frames_armed = 0
        self.settings: dict[str, float] = {}

    def configure(self, **settings: float) -> None:
        self.settings = settings

    def prepare(self, slots: int, samples_per_slot: int = 1) -> None:
        self.waveforms.clear()

    def upload(self, buffer: Literal[0, 1], samples: npt.NDArray[np.float32]) -> None:
        self.waveforms[buffer] = samples.copy()

    def arm(self, buffer: Literal[0, 1]) -> None:
        self.armed, self.triggers = buffer, 0
        self.frames_armed += 1

    def trigger(self) -> npt.NDArray[np.float32] | None:
        self.triggers += 1
        return self.waveforms.get(self.armed or 0) if self.triggers == 1 else None

    def extra_trigger_seen(self) -> bool:
        if not self.triggers:
            raise NotReadyError("no trigger came", instrument="awg", address="memory")
        return self.triggers > 1

    def erase_all(self) -> None:
        self.waveforms.clear()
        self.armed = None

    @property
    def holds_symbols(self) -> bool:
        return bool(self.waveforms)


class Switch:
    """In bypass until told otherwise; ``log`` notes what it was told and when attenuators were moved."""

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.in_bypass = True

    def crossed(self, value: bool | None = None) -> bool:
        if value is not None:
            self.log.append("bypass" if value else "in")
            self.in_bypass = value
        return self.in_bypass


class Attenuator:
    """With a shutter, shut until told otherwise."""

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.value_db = 60.0
        self.shut = True

    def tune(self, wavelength_nm: float) -> None: ...

    def attenuation_db(self, value: float | None = None) -> float:
        self.value_db = self.value_db if value is None else value
        return self.value_db

    def let_through(self) -> None:
        self.log.append("let through")
        self.shut = False

    def block(self) -> None:
        self.log.append("block")
        self.shut = True


class Sensor:
    """Reads whatever its ``source`` gives."""

    def __init__(self) -> None:
        self.source: Callable[[], float] = lambda: 0.0
        self.reads = 0
        self.zeroed = 0
        self.set_nm = 1550.12

    def wavelength_nm(self, value: float | None = None) -> float:
        self.set_nm = self.set_nm if value is None else value
        return self.set_nm

    def zero(self) -> None:
        self.zeroed += 1

    def floor_w(self) -> float:
        return 1e-14

    def glance_w(self) -> float:
        return self.power_w()

    def power_w(self) -> float:
        value = self.source()
        self.reads += 1
        return value


@dataclass
class StationInMemory:
    """One user's generator, switch, attenuator and sensors; ``log`` is the order in which light could change."""

    log: list[str] = field(default_factory=list)
    generator: Generator = field(default_factory=Generator)
    sensor_cw: Sensor = field(default_factory=Sensor)
    sensor_ccw: Sensor = field(default_factory=Sensor)

    def __post_init__(self) -> None:
        self.switch, self.attenuator = Switch(self.log), Attenuator(self.log)

    @property
    def owned(self) -> StationInstruments:
        parts: tuple[Any, ...] = (self.switch, self.attenuator, self.sensor_cw, self.sensor_ccw)
        return StationInstruments(*parts)

    def sensor(self, direction: Direction) -> Sensor:
        return self.sensor_cw if direction == "cw" else self.sensor_ccw

    def shine(self, power_w: float) -> None:
        """The same light on both sensors."""
        self.sensor_cw.source = self.sensor_ccw.source = lambda: power_w

    def output_photons(self, testbed: Testbed, user: str, direction: Direction) -> float:
        """What really leaves it now per slot, if all its calibrated values are right."""
        arriving = photons_per_slot(
            self.sensor(direction).source(), testbed.ring.wavelength_nm, testbed.protocol.clock_hz
        )
        settings = testbed.user(user)
        between_db = settings.sensor_to_output_db[0 if direction == "cw" else 1]
        lost_db = between_db + self.attenuator.value_db - settings.attenuation_db
        return arriving * 10 ** (-lost_db / 10)


def sensor_w(testbed: Testbed, user: str, direction: Direction, photons: float) -> float:
    """What the sensor of one direction reads where so many photons per slot leave the station."""
    between_db = testbed.user(user).sensor_to_output_db[0 if direction == "cw" else 1]
    return ring_light(testbed).watts(photons) * 10 ** (between_db / 10)


def slot_phases(
    testbed: Testbed, user: str, direction: Direction, samples: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """The phase (float64, of shape (slots,)) that a waveform gives the own pulse of each slot."""
    settings, protocol = testbed.user(user), testbed.protocol
    lead = frame_timing(testbed, user, direction).lead_samples
    full_scale_rad = math.pi * settings.rf_gain * settings.awg_amplitude_vpp / 2 / settings.v_pi_v
    return full_scale_rad * samples[lead :: protocol.samples_per_slot].astype(np.float64)
