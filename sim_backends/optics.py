"""The light in the ring: from the laser through carver, launch, fibre and stations back to the clicks.

The relay's coupler sends half of every pulse around the loop each way.  All stations that are taken in act on both
directions, at different times; what one modulates for the other's direction, and what none does, follows from times
and voltages alone.  Nothing here knows which users form a pair.

:class:`Ring` keeps what the simulated instruments set, and is thread-safe, as they do so from their own threads.  Every
exposure and read-out takes the light of its moment (:mod:`sim_backends.optics_light`): the parts as they have drifted by
then (:mod:`sim_backends.optics_drift`), polarisers and controllers between them (:mod:`sim_backends.optics_polarization`).
How photons become clicks is :mod:`sim_backends.optics_kernel`.  Times of clicks count from the start of an exposure, during
which nothing drifts.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from sim_backends import optics_kernel as kernel
from sim_backends.attacks.light import NOBODY, Eavesdropper
from sim_backends.optics_carver import carved, levels_of, mean_transmission
from sim_backends.optics_drift import STEP_S, Drift, Drifted
from sim_backends.optics_light import DETECTORS, Light
from sim_backends.optics_parts import (
    PS_PER_KM,
    CarverOptics,
    Clicks,
    DetectorOptics,
    Drive,
    PulseTrain,
    RingOptics,
    StationOptics,
    gain,
    require,
)
from sim_backends.optics_polarization import RELAY, Jones, checked, gap_transmissions
from sim_backends.optics_way import Direction, StationSetting

__all__ = [
    "CarverOptics",
    "Clicks",
    "DetectorOptics",
    "Direction",
    "Drive",
    "Ring",
    "RingOptics",
    "StationOptics",
]


class Ring:
    """The state of the light, set by the simulated instruments, and the clicks that follow from it.

    ``optics`` and ``detectors`` are what they are at time 0 of ``physics``, a clock in seconds; later they are what
    ``drift`` makes of them.  At first the laser is off, nothing plays into the carver, whose bias is 0 V, every station is
    bypassed with its attenuator at 0 dB, controllers turn no polarisation, and the detectors have no bias.
    """

    def __init__(
        self,
        optics: RingOptics,
        detectors: tuple[DetectorOptics, DetectorOptics],
        drift: Drift | None = None,
        physics: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.optics = optics
        self.detectors = detectors
        self._drift = drift or Drift()
        self._drifted: Drifted | None = None
        self._seen: tuple[float, Light] | None = None
        """The light as it was looked at last, and when: whatever changes it has it looked at."""
        self._physics = physics
        self._lock = threading.Lock()
        self._laser_w = 0.0
        self._wavelength_m = 1550e-9
        self._launch_db: dict[str, float] = {}
        self._carver_drive: Drive | None = None
        self._carver_levels = levels_of(optics.carver, None)
        self._carver_bias_v = 0.0
        self._follows_since_s: float | None = None
        self._carver_train: tuple[float, PulseTrain] | None = None
        self._settings = {user.name: StationSetting() for user in optics.users}
        self._controllers: dict[str, Jones] = {}
        self._bias_ua = (0.0, 0.0)
        self._latched = [False, False]
        self._eve = NOBODY

    # State, set by the instruments

    def set_laser(self, power_w: float, wavelength_nm: float) -> None:
        """Emitted power (0 = off) and wavelength of the laser."""
        require(power_w >= 0 and wavelength_nm > 0, "laser power and wavelength", (power_w, wavelength_nm))
        with self._lock:
            self._laser_w, self._wavelength_m = power_w, wavelength_nm * 1e-9
            self._look()

    def set_launch(self, part: str, attenuation_db: float) -> None:
        """One of the attenuators between laser and loop, which stand in series; infinite behind a closed shutter."""
        with self._lock:
            self._launch_db[part] = attenuation_db
            self._look()

    def set_carver_drive(self, drive: Drive | None) -> None:
        """One period of the pattern that repeats on the carver; ``start_ps`` is its phase.  None: 0 V."""
        with self._lock:
            self._carver_drive = drive
            self._carver_levels = levels_of(self.optics.carver, drive)
            self._carver_train = None
            self._look()

    def set_carver_bias(self, bias_v: float, follows: bool = False) -> None:
        """The voltage on the carver's bias electrode; ``follows``: from here on it keeps its distance from the null."""
        with self._lock:
            self._carver_bias_v = bias_v
            self._follows_since_s = self._now_s() if follows else None
            self._look()

    def set_polarization(self, place: str, jones: Jones) -> None:
        """The polarisation controller of the relay or of a user: its Jones matrix for clockwise light.

        Complex128 of shape (2, 2), unitary, the axis of the polarisers first; ValueError for anything else.
        """
        require(
            place == RELAY or place in self._settings, "a controller stands at the relay or a user", place
        )
        matrix = checked(jones)
        with self._lock:
            self._controllers[place] = matrix
            self._look()

    def set_switch(self, user: str, crossed: bool) -> None:
        """Take a station in (False, bar) or bypass it (True, cross)."""
        self._change(user, lambda setting: replace(setting, crossed=crossed))

    def set_user_attenuation(self, user: str, attenuation_db: float) -> None:
        """The attenuator of a station, infinite behind a closed shutter."""
        self._change(user, lambda setting: replace(setting, attenuation_db=attenuation_db))

    def set_detectors(self, bias_ua: Sequence[float], enabled: bool) -> None:
        """Bias currents of D1 and D2; a detector without bias sees nothing, has no dark counts, and unlatches."""
        require(len(bias_ua) >= DETECTORS, "two bias currents needed", list(bias_ua))
        with self._lock:
            self._bias_ua = (float(bias_ua[0]), float(bias_ua[1])) if enabled else (0.0, 0.0)
            for d, bias in enumerate(self._bias_ua):
                self._latched[d] &= bias > 0
            self._look()

    def eavesdrop(self, eve: Eavesdropper) -> None:
        """Somebody at the fibre does this from here on; :data:`~sim_backends.attacks.light.NOBODY` ends it."""
        with self._lock:
            self._eve = eve
            self._look()

    # Read-outs

    def light(self) -> Light:
        """Everything about the light as it is: what no instrument shows."""
        with self._lock:
            if self._seen is not None and self._seen[0] == self._now_s():
                return self._seen[1]
            return self._look()

    def carver_power_w(self, bias_v: float) -> float:
        """Mean light behind the carver, if it were at this bias: the launch attenuators come after it."""
        with self._lock:
            null_v = self._drift.null_bias_v(self.optics.carver, self._now_s())
            return self._laser_w * mean_transmission(self.optics.carver, self._carver_levels, bias_v - null_v)

    def sensor_power_w(self, user: str, direction: Direction) -> float:
        """Average power on one of the two sensors of a station."""
        self._known(user)
        light = self.light()
        return sum(light.entering_w(direction)) * light.at(user, direction).sensor

    def free_port_power_w(self, user: str, direction: Direction) -> float:
        """Average power at the free port of the tap that light of a direction passes last."""
        self._known(user)
        light = self.light()
        return sum(light.entering_w(direction)) * light.at(user, direction).free

    def mean_photon_number(self, user: str, direction: Direction) -> float:
        """Photons per pulse that leave the user's station in one direction: what no instrument shows."""
        self._known(user)
        light = self.light()
        pulsed_w, _ = light.entering_w(direction)
        return light.photons(pulsed_w * light.at(user, direction).output, light.train.period_ps)

    def home_transmission(self, user: str, direction: Direction) -> float:
        """From a station's output to the detectors, both ports together and their efficiency left out."""
        self._known(user)
        light = self.light()
        return light.home() / light.at(user, direction).output

    def detector_count_rates(self) -> list[float]:
        """Expected clicks per second of D1 and D2 in the present light, with all modulators at 0 V."""
        return self.light().count_rates()

    def latched(self) -> tuple[bool, bool]:
        """Which detectors are stuck in the normal state: what only a rate of zero shows."""
        with self._lock:
            return self._latched[0], self._latched[1]

    # Clicks

    def expose(
        self, drives: Mapping[str, Drive], duration_ps: int, seed: int, *, carver_shift_ps: float = 0.0
    ) -> Clicks:
        """Play the users' waveforms on the light for ``duration_ps`` and return every click.

        ``carver_shift_ps`` moves the pulses in time.  The same seed in the same state gives the same clicks.  Tags
        outside ``0 <= time < duration_ps`` are dropped.
        """
        require(duration_ps >= 0, "an exposure cannot last", duration_ps)
        for user in drives:
            self._known(user)
        light = self.light()
        if carver_shift_ps:
            light = light.shifted(carver_shift_ps)
        train, optics = light.train, light.optics
        fields, receiver = light.fields, light.receiver()
        origin_ps = train.phase_ps + optics.length_km * PS_PER_KM
        first = math.ceil((-max(receiver.delay_ps) - origin_ps) / train.period_ps)
        end = math.ceil((duration_ps - min(receiver.delay_ps) - origin_ps) / train.period_ps)
        incoming = fields.cw**2 + fields.ccw_parallel**2 + fields.ccw_orthogonal**2
        exposure = kernel.Exposure(
            origin_ps=float(origin_ps),
            first_slot=first,
            n_slots=max(end, first),
            slot_ps=float(train.period_ps),
            duration_ps=float(duration_ps),
            bright=float(incoming * max(receiver.efficiency) * (1 + 1e-12) * optics.thinning_margin),
            phase_offset_rad=float(optics.loop_phase_rad),
            phase_noise_rad=float(optics.phase_noise_rad),
            turned=float(light.eve.turned),
        )
        return _draw(fields, light.modulators(drives), receiver, exposure, seed)

    # Inside (with the lock held where state is read)

    def _known(self, user: str) -> None:
        if user not in self._settings:
            raise ValueError(f"no user {user!r} in the ring; there are {', '.join(self._settings)}")

    def _change(self, user: str, change: Callable[[StationSetting], StationSetting]) -> None:
        self._known(user)
        with self._lock:
            self._settings[user] = change(self._settings[user])
            self._look()

    def _look(self) -> Light:
        """The light of this moment, which latches the detectors that it heats too much."""
        t_s = self._now_s()
        if self._drifted is None or self._drifted.t_s != t_s:
            self._drifted = self._drift.at(self.optics, self.detectors, t_s)
        light = Light(
            optics=replace(self._drifted.optics, tap_db=self._eve.tap_db)
            if self._eve.tapped
            else self._drifted.optics,
            detectors=self._drifted.detectors,
            settings=dict(self._settings),
            gaps=self._gaps(self._drifted.stretches),
            train=self._train(t_s),
            launched_w=self._laser_w * gain(sum(self._launch_db.values())),
            wavelength_m=self._wavelength_m,
            bias_ua=self._live_bias_ua(),
            eve=self._eve,
        )
        hot = light.too_hot()
        if any(hot):
            self._latched = [was or now for was, now in zip(self._latched, hot, strict=True)]
            light = replace(light, bias_ua=self._live_bias_ua())
        self._seen = t_s, light
        return light

    def _live_bias_ua(self) -> tuple[float, float]:
        """A latched detector sees as little as one without bias."""
        first, second = (
            0.0 if latched else bias for latched, bias in zip(self._latched, self._bias_ua, strict=True)
        )
        return first, second

    def _now_s(self) -> float:
        return math.floor(self._physics() / STEP_S) * STEP_S

    def _gaps(self, stretches: Sequence[Jones]) -> tuple[float, ...]:
        return gap_transmissions(
            stretches,
            list(self._settings),
            [not setting.crossed for setting in self._settings.values()],
            self._controllers,
        )

    def _train(self, t_s: float) -> PulseTrain:
        """The launched light; carved anew where pattern, bias or null have changed."""
        null_s = t_s if self._follows_since_s is None else self._follows_since_s
        from_null_v = self._carver_bias_v - self._drift.null_bias_v(self.optics.carver, null_s)
        if self._carver_train is None or self._carver_train[0] != from_null_v:
            train = carved(self.optics.carver, self._carver_drive, from_null_v)
            self._carver_train = (from_null_v, train)
        return self._carver_train[1]


def _draw(
    fields: kernel.Fields,
    modulators: tuple[kernel.Modulator, kernel.Modulator],
    receiver: kernel.Receiver,
    exposure: kernel.Exposure,
    seed: int,
) -> Clicks:
    """Run the kernel with buffers of the expected size, again with larger ones if chance wants more."""
    noise = sum(receiver.flat_per_ps) * exposure.duration_ps
    n_slots = exposure.n_slots - exposure.first_slot
    expected = (-math.expm1(-exposure.bright) * 2 + sum(receiver.leak_per_slot)) * n_slots + noise
    if min(receiver.dead_ps) > 0:
        expected = min(expected, DETECTORS * n_slots * exposure.slot_ps / min(receiver.dead_ps))
    expected *= 1 + max(receiver.afterpulse_probability)
    capacity = int(expected + 8 * math.sqrt(expected)) + 64
    while True:
        buffer = kernel.ClickBuffer(np.empty(capacity, np.uint8), np.empty(capacity, np.int64))
        count = kernel.draw(fields, *modulators, receiver, exposure, kernel.seeded_state(seed), buffer)
        if count <= capacity:
            break
        capacity = count
    return Clicks(buffer.detector[:count], buffer.time_ps[:count])
