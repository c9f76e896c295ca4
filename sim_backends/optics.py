"""The light in the ring: from the laser through launch, fibre, stations and relay to the clicks.

One pulse per slot leaves the launch attenuator, is split at the relay and runs around the loop both ways.
Of a pair of users (in ring order) the *first* sets the intensity and phase of the counter-clockwise pulse and
the *second* those of the clockwise pulse: each is the last of the two that its pulse meets, so both pulses
take the short way home and the two arms share no fibre.  A station passes the other direction through, and
its phase modulator acts on both; only the timing keeps them apart: with S samples per slot the clockwise
pulse meets sample 0 of its slot and the counter-clockwise one sample S//2.

Attenuator and power monitor of a station meet one direction only.  A switch that nobody drives chooses it:
it follows the armed waveform generators (:meth:`Ring.set_armed`), keeps its position when they stop, and
starts in the direction whose way home is the shorter one.  A direction in which no user is armed carries the
launched light unattenuated; the detectors then saturate at their dead time.

Powers become photons per slot through the photon energy h c / wavelength; what the beam splitter makes of the
amplitudes and how photons become clicks is :mod:`sim_backends.optics_kernel`.  :class:`Ring` is thread-safe:
simulated instruments set its state from their own threads.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Mapping, Sequence
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from sim_backends import optics_kernel as kernel
from sim_backends.optics_parts import Clicks, DetectorOptics, Drive, RingOptics, StationOptics, require

__all__ = ["Clicks", "DetectorOptics", "Direction", "Drive", "Ring", "RingOptics", "StationOptics"]

Direction = Literal["cw", "ccw"]

PLANCK_J_S: Final = 6.62607015e-34
LIGHT_SPEED_M_S: Final = 299_792_458.0
DETECTORS: Final = 2


class Ring:
    """The state of the light, set by the simulated instruments, and the clicks that follow from it.

    At first the laser is off, the launch shutter closed, every user's attenuator at 0 dB and the detectors
    unbiased.
    """

    def __init__(self, optics: RingOptics, detectors: tuple[DetectorOptics, DetectorOptics]) -> None:
        self.optics = optics
        self.detectors = detectors
        self._index = {user.name: k for k, user in enumerate(optics.users)}
        self._lock = threading.Lock()
        self._laser_w = 0.0
        self._wavelength_m = 1550e-9
        self._launch_db = 0.0
        self._launch_open = False
        self._attenuation_db = dict.fromkeys(self._index, 0.0)
        self._efficiency = (0.0, 0.0)
        self._biased = (False, False)
        self._armed: tuple[str, ...] = ()
        half_km = optics.length_km / 2
        self._switch: dict[str, Direction] = {
            user.name: "ccw" if user.position_km <= half_km else "cw" for user in optics.users
        }

    # State, set by the instruments

    def set_laser(self, power_w: float, wavelength_nm: float) -> None:
        """Emitted power (0 = off) and wavelength of the laser."""
        require(power_w >= 0 and wavelength_nm > 0, "laser power and wavelength", (power_w, wavelength_nm))
        with self._lock:
            self._laser_w, self._wavelength_m = power_w, wavelength_nm * 1e-9

    def set_launch(self, attenuation_db: float, is_open: bool) -> None:
        """The attenuator and shutter between laser and splitter."""
        with self._lock:
            self._launch_db, self._launch_open = attenuation_db, is_open

    def set_user_attenuation(self, user: str, attenuation_db: float) -> None:
        """The attenuator that sets the user's intensity."""
        self._known(user)
        with self._lock:
            self._attenuation_db[user] = attenuation_db

    def set_detectors(self, bias_ua: Sequence[float], enabled: bool) -> None:
        """Bias currents of D1 and D2; a detector without bias sees nothing and has no dark counts."""
        require(len(bias_ua) >= DETECTORS, "two bias currents needed", list(bias_ua))
        pairs = list(zip(self.detectors, bias_ua[:DETECTORS], strict=True))
        efficiency = [detector.efficiency(bias) if enabled else 0.0 for detector, bias in pairs]
        with self._lock:
            self._efficiency = (efficiency[0], efficiency[1])
            self._biased = (enabled and bias_ua[0] > 0, enabled and bias_ua[1] > 0)

    def set_armed(self, users: Collection[str]) -> None:
        """Tell the direction switches which users' waveform generators are armed.

        The first of them in ring order turns to the counter-clockwise, the last to the clockwise pulse; a
        single one stays as it was.
        """
        with self._lock:
            self._armed = self._turn(users)

    def set_direction(self, user: str, direction: Direction) -> None:
        """Turn one station's switch by hand."""
        self._known(user)
        with self._lock:
            self._switch[user] = direction

    # Read-outs

    def monitor_power_w(self, user: str, direction: Direction | None = None) -> float:
        """Average power on the user's monitor; times ``monitor_ratio`` it is that at the attenuator's input.

        ``direction`` None means the one that the station's switch is set to.
        """
        with self._lock:
            return self._input_w(user, direction) / self._station(user).monitor_ratio

    def mean_photon_number(self, user: str, direction: Direction | None = None) -> float:
        """Photons per slot that leave the user's station behind its attenuator: what no instrument shows."""
        with self._lock:
            return self._photons(self._input_w(user, direction) * _gain(self._attenuation_db[user]))

    def arm_loss_db(self, first: str, second: str) -> tuple[float, float]:
        """Loss from the output of each user of a pair to a detector, present mean efficiency included.

        Raises ValueError unless ``first`` comes before ``second`` in ring order; infinite without bias.
        """
        if self._known(first) >= self._known(second):
            raise ValueError(f"{first!r} does not come before {second!r} in the ring; swap the two")
        with self._lock:
            efficiency = sum(self._efficiency) / DETECTORS
        detector_db = -10 * math.log10(efficiency) if efficiency > 0 else math.inf
        return self._home_db(first, "ccw") + detector_db, self._home_db(second, "cw") + detector_db

    def detector_count_rates(self) -> list[float]:
        """Expected clicks per second of D1 and D2 in the present light, with all modulators at 0 V."""
        with self._lock:
            fields, receiver = self._fields(self._armed), self._receiver()
        optics = self.optics
        # Phase noise scales the interference term, and so does this phase: cos(p) = cos(offset) e^{-s^2/2}.
        phase = math.acos(math.cos(optics.phase_offset_rad) * math.exp(-(optics.phase_noise_rad**2) / 2))
        light = kernel.split(fields, phase, phase)
        rates = []
        for d in range(DETECTORS):
            rate = -math.expm1(-light[d] * receiver.efficiency[d]) * optics.clock_hz
            rate = (rate + receiver.dark_per_ps[d] * 1e12) * (1 + receiver.afterpulse_probability[d])
            rates.append(float(rate / (1 + rate * receiver.dead_ps[d] * 1e-12)))
        return rates

    # Clicks

    def expose(self, drives: Mapping[str, Drive], duration_ps: int, seed: int) -> Clicks:
        """Play the users' waveforms on the light for ``duration_ps`` and return every click.

        Users in ``drives`` count as armed even if :meth:`set_armed` does not know of them.  The same seed in
        the same state gives the same clicks.  Tags outside ``0 <= time < duration_ps`` are dropped.
        """
        require(duration_ps >= 0, "an exposure cannot last", duration_ps)
        with self._lock:
            fields, receiver = self._fields(self._turn({*self._armed, *drives})), self._receiver()
        optics = self.optics
        slot_ps = 1e12 / optics.clock_hz
        incoming = sum(amplitude * amplitude for amplitude in fields[:-1])
        exposure = kernel.Exposure(
            first_slot=-math.ceil(max(0.0, *receiver.delay_ps) / slot_ps),
            n_slots=math.ceil((duration_ps - min(receiver.delay_ps)) / slot_ps),
            slot_ps=slot_ps,
            duration_ps=float(duration_ps),
            bright=float(incoming * max(receiver.efficiency) * (1 + 1e-12) * optics.thinning_margin),
            phase_offset_rad=float(optics.phase_offset_rad),
            phase_noise_rad=float(optics.phase_noise_rad),
        )
        return _draw(fields, self._waveforms(drives), receiver, exposure, seed)

    # Inside (with the lock held where state is read)

    def _known(self, user: str) -> int:
        if user not in self._index:
            raise ValueError(f"no user {user!r} in the ring; there are {', '.join(self._index)}")
        return self._index[user]

    def _turn(self, users: Collection[str]) -> tuple[str, ...]:
        """Turn the switches of the armed users; returns these in ring order."""
        order = self._ring_order(users)
        if len(order) >= 2:
            self._switch[order[0]], self._switch[order[-1]] = "ccw", "cw"
        return order

    def _station(self, user: str) -> StationOptics:
        return self.optics.users[self._known(user)]

    def _ring_order(self, users: Collection[str]) -> tuple[str, ...]:
        return tuple(sorted(users, key=self._known))

    def _home_db(self, user: str, direction: Direction) -> float:
        """From a station's output to the splitter's output ports, without the detector."""
        position = self._station(user).position_km
        index, count = self._index[user], len(self._index)
        km = position if direction == "ccw" else self.optics.length_km - position
        idle = index if direction == "ccw" else count - 1 - index
        return self._path_db(km, idle) + self.optics.relay_loss_db

    def _path_db(self, km: float, stations: int) -> float:
        return km * self.optics.fibre_loss_db_per_km + stations * self.optics.station_pass_loss_db

    def _launched_w(self, direction: Direction) -> float:
        if not self._launch_open:
            return 0.0
        share = self.optics.splitter_ratio if direction == "cw" else 1 - self.optics.splitter_ratio
        return self._laser_w * _gain(self._launch_db) * share

    def _input_w(self, user: str, direction: Direction | None) -> float:
        """Power at the input of the user's attenuator, behind the monitor's tap."""
        station = self._station(user)
        direction = direction or self._switch[user]
        index, count = self._index[user], len(self._index)
        if direction == "cw":
            loss_db = self._path_db(station.position_km, index)
        else:
            loss_db = self._path_db(self.optics.length_km - station.position_km, count - 1 - index)
        through = station.monitor_ratio / (1 + station.monitor_ratio)
        return self._launched_w(direction) * _gain(loss_db) * through

    def _photons(self, power_w: float) -> float:
        return power_w * self._wavelength_m / (PLANCK_J_S * LIGHT_SPEED_M_S * self.optics.clock_hz)

    def _returning(self, direction: Direction, order: tuple[str, ...]) -> tuple[float, float]:
        """Photons per slot back at the splitter, and their fraction that modulators do not act on."""
        user = None
        if len(order) >= 2:
            user = order[0] if direction == "ccw" else order[-1]
        elif len(order) == 1 and self._switch[order[0]] == direction:
            user = order[0]
        if user is None:
            loop_db = self._path_db(self.optics.length_km, len(self._index)) + self.optics.relay_loss_db
            return self._photons(self._launched_w(direction) * _gain(loop_db)), 0.0
        power_w = self._input_w(user, direction) * _gain(self._attenuation_db[user])
        station = self._station(user)
        photons = self._photons(power_w * _gain(self._home_db(user, direction)))
        return photons, 1 / (1 + 10 ** (station.extinction_db / 10))

    def _fields(self, order: tuple[str, ...]) -> kernel.Fields:
        """Amplitudes back at the splitter for the armed users in ring order."""
        cw, cw_residue = self._returning("cw", order)
        ccw, ccw_residue = self._returning("ccw", order)
        parallel = self.optics.visibility
        orthogonal = math.sqrt(1 - parallel**2)
        modulated, residue = math.sqrt(ccw * (1 - ccw_residue)), math.sqrt(ccw * ccw_residue)
        return kernel.Fields(
            cw=math.sqrt(cw * (1 - cw_residue)),
            ccw_parallel=modulated * parallel,
            ccw_orthogonal=modulated * orthogonal,
            cw_residue=math.sqrt(cw * cw_residue),
            ccw_residue_parallel=residue * parallel,
            ccw_residue_orthogonal=residue * orthogonal,
            transmission=math.sqrt(self.optics.splitter_ratio),
        )

    def _receiver(self) -> kernel.Receiver:
        d1, d2 = self.detectors
        live1, live2 = self._biased
        return kernel.Receiver(
            efficiency=self._efficiency,
            dark_per_ps=(d1.dark_rate_per_s() * 1e-12 * live1, d2.dark_rate_per_s() * 1e-12 * live2),
            dead_ps=(d1.dead_time_ns * 1e3, d2.dead_time_ns * 1e3),
            jitter_ps=(float(d1.jitter_ps), float(d2.jitter_ps)),
            delay_ps=(float(d1.delay_ps), float(d2.delay_ps)),
            afterpulse_probability=(float(d1.afterpulse_probability), float(d2.afterpulse_probability)),
            afterpulse_ps=(d1.afterpulse_decay_ns * 1e3, d2.afterpulse_decay_ns * 1e3),
        )

    def _waveforms(self, drives: Mapping[str, Drive]) -> kernel.Drives:
        """The waveforms as the kernel takes them; from three on, the surplus ones are added up beforehand."""
        order = self._ring_order(drives.keys())
        scaled = [(drives[user], self._radians_per_unit(user, drives[user])) for user in order]
        if len(scaled) > 2:
            scaled = [_sum_of(scaled[:-1]), scaled[-1]]
        scaled += [(Drive(np.empty(0, np.float32), self.optics.clock_hz, 0.0), 0.0)] * (2 - len(scaled))
        (first, first_rad), (second, second_rad) = scaled
        samples = self.optics.samples_per_slot
        return kernel.Drives(
            first=_read_only(first.samples),
            second=_read_only(second.samples),
            first_rad=first_rad,
            second_rad=second_rad,
            first_per_slot=first.sample_rate_hz / self.optics.clock_hz,
            second_per_slot=second.sample_rate_hz / self.optics.clock_hz,
            cw_offset=0.5 / samples,
            ccw_offset=(samples // 2 + 0.5) / samples,
        )

    def _radians_per_unit(self, user: str, drive: Drive) -> float:
        """Phase of a full-scale sample: theta = pi gain v / v_pi with v = sample * amplitude / 2."""
        station = self._station(user)
        return math.pi * station.rf_gain * drive.amplitude_vpp / 2 / station.v_pi_v


def _draw(
    fields: kernel.Fields,
    drives: kernel.Drives,
    receiver: kernel.Receiver,
    exposure: kernel.Exposure,
    seed: int,
) -> Clicks:
    """Run the kernel with buffers of the expected size, again with larger ones if chance wants more."""
    noise = sum(receiver.dark_per_ps) * exposure.duration_ps
    n_slots = exposure.n_slots - exposure.first_slot
    expected = -math.expm1(-exposure.bright) * n_slots * 2 + noise
    if min(receiver.dead_ps) > 0:
        expected = min(expected, DETECTORS * n_slots * exposure.slot_ps / min(receiver.dead_ps))
    expected *= 1 + max(receiver.afterpulse_probability)
    capacity = int(expected + 8 * math.sqrt(expected)) + 64
    while True:
        buffer = kernel.ClickBuffer(np.empty(capacity, np.uint8), np.empty(capacity, np.int64))
        count = kernel.draw(fields, drives, receiver, exposure, kernel.seeded_state(seed), buffer)
        if count <= capacity:
            break
        capacity = count
    order = np.argsort(buffer.time_ps[:count], kind="stable")
    return Clicks(buffer.detector[:count][order], buffer.time_ps[:count][order])


def _sum_of(scaled: Sequence[tuple[Drive, float]]) -> tuple[Drive, float]:
    """One drive whose samples are the sum of the phases of several, which must share their sample rate."""
    rates = {drive.sample_rate_hz for drive, _ in scaled}
    require(len(rates) == 1, "three or more armed generators must share one sample rate", rates)
    total = np.zeros(max(drive.samples.size for drive, _ in scaled), np.float32)
    for drive, radians in scaled:
        total[: drive.samples.size] += np.float32(radians) * drive.samples
    return Drive(total, rates.pop(), 0.0), 1.0


def _read_only(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A read-only view, so that the kernel is compiled for one type of array only."""
    if samples.dtype != np.float32 or samples.ndim != 1 or not samples.flags.c_contiguous:
        raise ValueError("a drive needs a 1-d contiguous float32 array of samples")
    view = samples.view()
    view.flags.writeable = False
    return view


def _gain(loss_db: float) -> float:
    return 10 ** (-loss_db / 10)
