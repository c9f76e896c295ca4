"""The seam between one simulated instrument and the bench: what the builder of a twin gets and gives back.

A row of the catalogue names the module of its model's twin, which has

    def build(site: Site) -> Simulated

The :class:`Site` says where to serve and under which serial number, and connects the instrument to what is around it:
light, trigger line and clock.  What goes there is what the instrument really does to the light, and what comes from
there is what really reaches it; a channel that serves no need of its role stands in the dark.  Building has no side
effects: ports and lines are opened by :attr:`Simulated.serve`.

    laser, launch attenuator, users' attenuators, detector bias  ->  state of the light
    light at a user's station                                    ->  power monitor
    record of the time tagger -> trigger line -> waveform generators that play -> clicks -> tags per input

The stations' direction switches follow the waveform generators: a loaded waveform that drives one half of the slots
turns its user's switch, a pair of armed generators settles it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from lab.needs import ATTENUATOR, DETECTORS, LASER, LAUNCH, MODULATOR, MONITOR, TAGGER
from sim_backends.optics_parts import Drive

if TYPE_CHECKING:
    from sim_backends.optics import Direction, Ring

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


class Output(Protocol):
    """A channel of a waveform generator, as trigger line and light know it."""

    def direction(self, samples_per_slot: int) -> Direction | None:
        """The direction that the loaded waveforms drive; None if they drive both, neither, or disagree."""

    def armed(self) -> bool:
        """Whether it plays or waits for its trigger, with the output on."""

    def fire(self) -> Drive | None:
        """The trigger arrives: what plays, None for 0 V."""


@dataclass
class Surroundings:
    """What couples the instruments of one bench: the ring of light and the trigger line.

    ``tag_channels`` are the tagger's inputs of D1 and D2; ``outputs`` the generators on the trigger line by user;
    ``crossed`` whether a user's optical switch bypasses the station; ``carver_power_w`` the light behind the pulse
    carver at a bias, ``carver_bias_v`` its bias, and ``carver_follows`` whether that follows a point of its curve.
    """

    ring: Ring
    seed: int
    samples_per_slot: int
    tag_channels: Sequence[int]
    clock: Callable[[], float]
    free_ports: Callable[[int], int]
    outputs: dict[str, Output] = field(default_factory=dict)
    crossed: dict[str, bool] = field(default_factory=dict)
    carver_power_w: Callable[[float], float] = lambda bias_v: 0.0
    carver_bias_v: float = 0.0
    carver_follows: bool = False

    def follow(self) -> None:
        """Turn the direction switches as the waveform generators stand."""
        for user, output in self.outputs.items():
            direction = output.direction(self.samples_per_slot)
            if direction is not None:
                self.ring.set_direction(user, direction)
        self.ring.set_armed([user for user, output in self.outputs.items() if output.armed()])

    def record(self, duration_ps: int, record_index: int) -> dict[int, Tags]:
        """Fire the trigger line and collect the clicks of ``duration_ps`` per tagger input."""
        self.follow()
        fired = {user: output.fire() for user, output in self.outputs.items()}
        drives = {user: drive for user, drive in fired.items() if drive is not None}
        clicks = self.ring.expose(drives, duration_ps, seed=(self.seed << 32) + record_index)
        return {
            channel: clicks.of(detector).astype(np.uint64)
            for detector, channel in enumerate(self.tag_channels)
        }


@dataclass(frozen=True)
class Site:
    """Where one simulated instrument stands.

    ``serves``: its channel by need of its owner (:mod:`lab.needs`), empty for the instrument as a whole;
    ``triggered``: whether it is on the trigger line; ``host`` and ``ports`` are where to serve, with one port for each
    of its catalogue row, 0 for any free one; ``number`` counts the instruments of the bench from 1.
    """

    owner: str
    serves: Mapping[str, str]
    triggered: bool
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
    def clock(self) -> Callable[[], float]:
        """Seconds of the bench, never set back: what warm-up, motion and settling are timed by."""
        return self.around.clock

    def free_ports(self, count: int) -> int:
        """A loopback port that is free together with the ``count - 1`` that follow."""
        return self.around.free_ports(count)

    def set_laser(self, power_w: float, wavelength_nm: float) -> None:
        """The laser emits this, 0 W for dark."""
        if LASER.name in self.serves:
            self.around.ring.set_laser(power_w, wavelength_nm)

    def set_attenuation(self, channel: str, attenuation_db: float, is_open: bool) -> None:
        """An attenuator has come to rest; ``is_open`` is its shutter, True where it has none."""
        if self.serves.get(LAUNCH.name) == channel:
            self.around.ring.set_launch(attenuation_db, is_open)
        if self.serves.get(ATTENUATOR.name) == channel:
            self.around.ring.set_user_attenuation(self.owner, attenuation_db if is_open else math.inf)

    def set_switch(self, crossed: bool) -> None:
        """The owner's optical switch has come to rest, in cross (bypass) or in bar."""
        self.around.crossed[self.owner] = crossed

    def carver_power_w(self, bias_v: float) -> float:
        """The mean light behind the relay's pulse carver, if it were at this bias."""
        return self.around.carver_power_w(bias_v)

    def set_carver_bias(self, bias_v: float, follows: bool) -> None:
        """The bias of the pulse carver, and whether it follows a point of the carver's curve."""
        self.around.carver_bias_v, self.around.carver_follows = bias_v, follows

    def power_w(self, channel: str) -> float:
        """The light on a power sensor."""
        if self.serves.get(MONITOR.name) != channel:
            return 0.0
        self.around.follow()
        return self.around.ring.monitor_power_w(self.owner)

    def set_bias(self, bias_ua: Sequence[float], enabled: bool) -> None:
        """Bias currents of D1 and D2, and whether they are on."""
        if DETECTORS.name in self.serves:
            self.around.ring.set_detectors(bias_ua, enabled)

    def count_rates(self) -> Sequence[float]:
        """Mean counts per second of D1 and D2; none for detectors outside the ring."""
        if DETECTORS.name not in self.serves:
            return []
        self.around.follow()
        return self.around.ring.detector_count_rates()

    def record(self, duration_ps: int, record_index: int) -> Mapping[int, Tags]:
        """A record of the tagger runs: clicks by tagger input, sorted."""
        return self.around.record(duration_ps, record_index) if TAGGER.name in self.serves else {}

    def input_rates(self) -> Mapping[int, float]:
        """Mean counts per second of D1 and D2 by tagger input, outside records too."""
        if TAGGER.name not in self.serves:
            return {}
        self.around.follow()
        return dict(zip(self.around.tag_channels, self.around.ring.detector_count_rates(), strict=True))

    def drive(self, channel: str, output: Output) -> None:
        """Connect a generator's channel to its owner's modulator, and to the trigger line."""
        if self.triggered and self.serves.get(MODULATOR.name) == channel:
            self.around.outputs[self.owner] = output
