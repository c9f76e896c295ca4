"""The seam between one simulated instrument and the bench: what the builder of a twin gets and gives back.

A row of the catalogue names the module of its model's twin, which has

    def build(site: Site) -> Simulated

The :class:`Site` says where to serve and under which serial number, and connects the instrument to what is around it:
light, trigger line, reference clock.  What goes there is what the instrument really does, and what comes from there is
what really reaches it; a channel that serves no need of its role stands in the dark.  Building has no side effects:
ports and lines are opened by :attr:`Simulated.serve`.

    laser, carver and its bias, attenuators behind  ->  light that enters the loop
    switch, attenuator and modulator of a station   ->  light in both directions
    light on the tap of each direction              ->  that direction's sensor
    tagger -> trigger line -> generators that wait for it -> voltages on modulators
    light, detector bias -> clicks -> cables -> inputs of the tagger

Instruments meet at these objects only: no twin looks into another.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from lab.needs import (
    ATTENUATOR,
    CARVER,
    CARVER_BIAS,
    DETECTORS,
    LASER,
    LAUNCH,
    LAUNCH_SECOND,
    MODULATOR,
    POLARIZATION,
    SENSOR_CCW,
    SENSOR_CW,
    SWITCH,
    TAGGER,
)
from sim_backends.lines import Edge, Listener, ReferenceLine, TriggerLine
from sim_backends.optics_parts import Drive, gain
from sim_backends.optics_polarization import Jones
from sim_backends.optics_way import Direction

if TYPE_CHECKING:
    from sim_backends.optics import Ring

Tags = npt.NDArray[np.uint64]
"""1-d uint64: picoseconds since the reference pulse."""
Options: TypeAlias = dict[str, str | int]
"""Options of a driver, as the testbed file has them."""


class Twin(Protocol):
    """What every simulated instrument offers."""

    def close(self) -> None:
        """Stop serving; safe to call twice."""

    def state(self) -> dict[str, object]:
        """What an observer may see: no waveforms, no tag times."""

    def is_safe(self) -> bool:
        """No light, bias or output, and no secret left; judged at the far side of the wire, no driver is asked."""


@dataclass(frozen=True)
class Simulated:
    """A built twin.

    ``serve`` opens it and returns the address that a driver opens, or raises OSError; ``options``, asked afterwards,
    are what a driver needs besides: nothing where the instrument answers at its usual ports.
    """

    twin: Twin
    serve: Callable[[], str]
    options: Callable[[], Options] = dict


@dataclass(frozen=True)
class Plugged:
    """Where the fibre of a sensor is: at its tap or at the far tap's free port; and what its connector takes."""

    free: bool
    connector_db: float


@dataclass
class Surroundings:
    """What couples the instruments of one bench: light, trigger line and reference clock.

    ``tag_channels`` are the tagger's inputs that D1 and D2 are cabled to.
    """

    ring: Ring
    trigger: TriggerLine
    reference: ReferenceLine
    latency_ps: Mapping[str, float]
    seed: int
    tag_channels: Sequence[int]
    clock: Callable[[], float]
    free_ports: Callable[[int], int]
    ring_seed: int = 1
    """Seeds what the instruments became, as it does for the ring; ``spread`` is how far they are off, 0 for not at all."""
    spread: float = 1.0
    sensor_speed: float = 1.0
    carver_error: float = 0.0
    """Relative error of the clock that the pulses come at."""
    _moved: dict[tuple[str, Direction], Plugged] = field(default_factory=dict)
    _drives: dict[str, Drive] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def modulate(self, user: str, drive: Drive | None) -> None:
        """What a user's modulator gets from the present trigger on; None for 0 V."""
        with self._lock:
            if drive is None:
                self._drives.pop(user, None)
            else:
                self._drives[user] = drive

    def sensor_power_w(self, user: str, direction: Direction) -> float:
        """The light on one of the sensors of a station, where its fibre is."""
        plugged = self._moved.get((user, direction), Plugged(False, 0.0))
        at = self.ring.free_port_power_w if plugged.free else self.ring.sensor_power_w
        return at(user, direction) * gain(plugged.connector_db)

    def plug(self, user: str, direction: Direction, plugged: Plugged) -> None:
        """Somebody has moved the fibre of a sensor."""
        self._moved[user, direction] = plugged

    def record(self, duration_ps: int, record_index: int, tagger_error: float) -> dict[int, Tags]:
        """The clicks of ``duration_ps`` per input of the tagger, in its own time; the modulators rest afterwards."""
        with self._lock:
            drives, self._drives = self._drives, {}
        # Clocks that are not one run apart: the pulses then stand elsewhere in every record.
        apart_ps = (self.carver_error - tagger_error) * self.clock() * 1e12
        clicks = self.ring.expose(
            drives, duration_ps, seed=(self.seed << 32) + record_index, carver_shift_ps=apart_ps
        )
        return {
            channel: _in_time_of(clicks.of(detector), tagger_error)
            for detector, channel in enumerate(self.tag_channels)
        }


def _in_time_of(times_ps: npt.NDArray[np.int64], clock_error: float) -> Tags:
    """True times as a clock with this relative error counts them."""
    if clock_error == 0.0:
        return times_ps.astype(np.uint64)
    counted: Tags = np.rint(times_ps * (1 + clock_error)).astype(np.uint64)
    return counted


@dataclass(frozen=True)
class Site:
    """Where one simulated instrument stands.

    ``serves``: its channel by need of its owner (:mod:`lab.needs`), empty for the instrument as a whole; ``host`` and
    ``ports`` are where to serve, with one port for each of its catalogue row, 0 for any free one; ``number`` counts the
    instruments of the bench from 1.
    """

    name: str
    owner: str
    serves: Mapping[str, str]
    options: Mapping[str, object]
    number: int
    host: str
    ports: tuple[int, ...]
    wavelength_nm: float
    around: Surroundings

    @property
    def serial(self) -> str:
        """A serial number of its own, for instruments whose numbers may hold letters."""
        return f"SIM{self.number:05d}"

    @property
    def seed(self) -> int:
        """The bench's seed, for a generator of the twin's own."""
        return self.around.seed

    @property
    def made(self) -> np.random.Generator:
        """Draws what this instrument became, from the ring's own seed."""
        return np.random.default_rng([self.around.ring_seed, self.number])

    @property
    def spread(self) -> float:
        """How far it is off what was ordered, in the usual tolerances of such instruments."""
        return self.around.spread

    @property
    def sensor_speed(self) -> float:
        """Averaging power sensors take their time divided by this."""
        return self.around.sensor_speed

    @property
    def clock(self) -> Callable[[], float]:
        """Seconds of the bench, never set back: what warm-up, motion and settling are timed by."""
        return self.around.clock

    def free_ports(self, count: int) -> int:
        """A loopback port that is free together with the ``count - 1`` that follow."""
        return self.around.free_ports(count)

    # Lines

    def has_reference(self) -> bool:
        """Whether 10 MHz arrive at the instrument's reference input."""
        return self.around.reference.reaches(self.name)

    def clock_error(self, *, external: bool) -> float:
        """Relative error of the instrument's clock, which follows the reference or does not."""
        return self.around.reference.rate_error(self.name, external=external)

    @property
    def latency_ps(self) -> float:
        """From an edge at a generator's trigger input to its output."""
        return self.around.latency_ps.get(self.name, 0.0)

    def on_trigger(self, listener: Listener) -> None:
        """Have edges of the trigger line told, if a cable leads here."""
        self.around.trigger.listen(self.name, listener)

    def fire(self, edge: Edge) -> None:
        """An edge leaves this instrument's trigger output."""
        self.around.trigger.send(self.name, edge)

    # Light

    def set_laser(self, power_w: float, wavelength_nm: float) -> None:
        """The laser emits this, 0 W for dark."""
        if LASER.name in self.serves:
            self.around.ring.set_laser(power_w, wavelength_nm)

    def carver_power_w(self, bias_v: float) -> float:
        """The mean light behind the relay's pulse carver, if it were at this bias."""
        return self.around.ring.carver_power_w(bias_v) if CARVER_BIAS.name in self.serves else 0.0

    def set_carver_bias(self, bias_v: float, follows: bool) -> None:
        """The bias of the pulse carver, and whether it follows a point of the carver's curve."""
        if CARVER_BIAS.name in self.serves:
            self.around.ring.set_carver_bias(bias_v, follows)

    def set_behind_carver(self, channel: str, attenuation_db: float) -> None:
        """An attenuator inside a bias controller: all light behind the carver passes it, whatever need it serves."""
        if CARVER_BIAS.name in self.serves:
            self.around.ring.set_launch(self.name, attenuation_db)
        else:
            self.set_attenuation(channel, attenuation_db, True)

    def set_attenuation(self, channel: str, attenuation_db: float, is_open: bool) -> None:
        """An attenuator has come to rest; ``is_open`` is its shutter, True where it has none."""
        true_db = attenuation_db if is_open else math.inf
        for need in (LAUNCH, LAUNCH_SECOND):
            if self.serves.get(need.name) == channel:
                self.around.ring.set_launch(need.name, true_db)
        if self.serves.get(ATTENUATOR.name) == channel:
            self.around.ring.set_user_attenuation(self.owner, true_db)

    def set_switch(self, crossed: bool) -> None:
        """The owner's optical switch has come to rest, in cross (bypass) or in bar."""
        if SWITCH.name in self.serves:
            self.around.ring.set_switch(self.owner, crossed)

    def set_polarization(self, jones: Jones) -> None:
        """The owner's polarisation controller turns clockwise light so: a Jones matrix, unitary, of shape (2, 2)."""
        if POLARIZATION.name in self.serves:
            self.around.ring.set_polarization(self.owner, jones)

    def power_w(self, channel: str) -> float:
        """The light on a power sensor."""
        if self.serves.get(SENSOR_CW.name) == channel:
            return self.around.sensor_power_w(self.owner, "cw")
        if self.serves.get(SENSOR_CCW.name) == channel:
            return self.around.sensor_power_w(self.owner, "ccw")
        return 0.0

    def drive(self, channel: str, drive: Drive | None, *, clock_error: float = 0.0) -> None:
        """What a generator's channel puts out: frames into a modulator, a pattern without end into the carver."""
        if self.serves.get(MODULATOR.name) == channel:
            self.around.modulate(self.owner, drive)
        if self.serves.get(CARVER.name) == channel:
            self.around.carver_error = clock_error
            self.around.ring.set_carver_drive(drive)

    # Detectors and tagger

    def set_bias(self, bias_ua: Sequence[float], enabled: bool) -> None:
        """Bias currents of D1 and D2, and whether they are on."""
        if DETECTORS.name in self.serves:
            self.around.ring.set_detectors(bias_ua, enabled)

    def count_rates(self) -> Sequence[float]:
        """Mean counts per second of D1 and D2; none for detectors outside the ring."""
        return self.around.ring.detector_count_rates() if DETECTORS.name in self.serves else []

    def record(self, duration_ps: int, record_index: int, *, clock_error: float = 0.0) -> Mapping[int, Tags]:
        """A record of the tagger runs: clicks by tagger input, sorted, counted by a clock with this error."""
        if TAGGER.name not in self.serves:
            return {}
        return self.around.record(duration_ps, record_index, clock_error)

    def input_rates(self) -> Mapping[int, float]:
        """Mean counts per second of D1 and D2 by tagger input, outside records too."""
        if TAGGER.name not in self.serves:
            return {}
        return dict(zip(self.around.tag_channels, self.around.ring.detector_count_rates(), strict=True))
