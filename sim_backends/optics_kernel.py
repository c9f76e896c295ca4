"""Clicks of two threshold detectors behind one coupler, drawn only where light can click.

A slot holds one pulse in each direction of the ring.  Their complex amplitudes meet on the relay's coupler, whose
matrix is unitary: whatever the phases are, the two outputs together carry the light that came in.  ``bright`` = that
sum times the better detector efficiency bounds the mean number of detected photons in every slot, so the slots that
can click at all form a Bernoulli process with probability ``1 - exp(-bright)``.  The kernel jumps from one such
*candidate* to the next with geometric steps (thinning), looks up the phases there and nowhere else, and rejects what
the real intensities do not support.  Its cost follows the candidates; of the waveforms it reads the samples around
candidates only, a batch at a time, so that the cache misses of many candidates overlap.

Every pulse passes every modulator that stands in its way, clockwise and counter-clockwise at different times.  The
phase it gets is the modulator's voltage at its passage: the generator's steps through a single pole, of which the last
two samples are told apart and what was before is settled to less than ``exp(-2 sample / tau)``.

Light that is flat in time (dark counts, back-scatter, what the carver lets through between pulses) is Poisson in time,
leaked pulses come once a slot, afterpulses follow a click after dead time plus an exponential wait.  One dead time per
detector (not prolonged by light, Knoll "Radiation Detection and Measurement", ch. 4) filters all of them in order of
time, and the efficiency returns gradually after it.  A dead time is over for what arrives at its very end: one of
exactly two slots blocks one pulse, in every slot alike (:data:`EDGE_PS`).  Randomness is xoshiro256++ (Blackman and
Vigna, 2021, public domain reference code) seeded with splitmix64, so one integer seed fixes every click on every
machine.

All kernels release the GIL.  Arrays must be C-contiguous; waveforms are passed read-only.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from orchestrator.kernels import kernel

FloatArray = npt.NDArray[np.float64]
"""1-d float64."""
State = npt.NDArray[np.uint64]
"""uint64 of shape (4,): the 256 bits of one xoshiro256++ generator; drawing changes them."""
Pair = tuple[float, float]
WaveArray = npt.NDArray[np.float32]
"""1-d float32: one sample of a waveform per element, full scale -1 to 1."""

BATCH = 64
"""Candidates looked up at once."""
NEVER = 1e300
"""A time in ps that no exposure reaches."""
LONG = 40.0
"""Time constants after which nothing is left of an exponential in double precision."""
AGE_STEP = 1e-6
"""Ages of an edge that differ by less, in samples, count as one: rounding, a millionth of a radian at most."""
EDGE_PS = 0.5
"""What arrives this much before the end of a dead time is seen: half the resolution of tags, and far above the
rounding of times, which would otherwise decide slot by slot where slots are no whole number of ps."""


class Fields(NamedTuple):
    """Amplitudes in sqrt(photons per slot) where the pulses meet the coupler on their way back.

    The counter-clockwise field is split into the part in the mode of the clockwise one and the part
    orthogonal to it (mode overlap, the cause of finite visibility).
    """

    cw: float
    ccw_parallel: float
    ccw_orthogonal: float
    transmission: float
    """Amplitude transmission of the coupler; the reflected amplitude is i sqrt(1 - transmission^2)."""


class Place(NamedTuple):
    """Where the pulses of one direction meet a waveform, in samples from its beginning; ``step`` samples a slot."""

    start: float
    """Of pulse 0."""
    step: float


class Modulator(NamedTuple):
    """A waveform on a modulator in the way of the light; before its first sample and past its end stand 0 V."""

    samples: WaveArray
    full_scale_rad: float
    """Phase of a full-scale sample."""
    poles: float
    """Duration of a sample over the time constant of what filters the waveform; infinite for nothing."""
    cw: Place
    ccw: Place


class Receiver(NamedTuple):
    """Both detectors, D1 first; times in ps, rates per ps."""

    efficiency: Pair
    flat_per_ps: Pair
    """Clicks that any time is equally good for."""
    leak_per_slot: Pair
    """Clicks by light that comes once a slot without interfering."""
    leak_ps: float
    """When that light arrives, after the interfering pulse."""
    dead_ps: Pair
    recovery_ps: Pair
    jitter_ps: Pair
    delay_ps: Pair
    afterpulse_probability: Pair
    afterpulse_ps: Pair


class ClickBuffer(NamedTuple):
    """Where clicks are written, two arrays of one length: detector 0 or 1, and tag time in ps."""

    detector: npt.NDArray[np.uint8]
    time_ps: npt.NDArray[np.int64]


class Exposure(NamedTuple):
    """How long, how bright, how noisy.  The light is there before the start."""

    origin_ps: float
    """When pulse 0 is back at the coupler, from the start."""
    first_slot: int
    """The first slot whose light can reach a detector after the start."""
    n_slots: int
    """The slots end before this number."""
    slot_ps: float
    duration_ps: float
    bright: float
    """Upper bound of the mean number of detected photons per slot."""
    phase_offset_rad: float
    phase_noise_rad: float
    turned: float
    """Share of the slots whose phase is a quarter turn off, either way."""


class Ahead(NamedTuple):
    """A batch of candidate slots, rising, with the phases between their pulses; and room to work these out."""

    slot: npt.NDArray[np.int64]
    phase_rad: FloatArray
    at_rest: FloatArray
    """The level that a waveform settles to at a place."""
    away: FloatArray
    """How far the level was from that at the last edge, and how long ago the edge is in samples."""
    age: FloatArray


@kernel
def split(fields: Fields, phase_rad: float) -> tuple[float, float]:
    """Photons per slot in (D1, D2) for a relative phase (ccw minus cw).

    Launch: clockwise is transmitted (t), counter-clockwise reflected (i r).  Return: D1 sits at the port the
    light came from (behind a circulator) and sees i r of the clockwise and t of the counter-clockwise field;
    D2 sees t and i r.  Without phase D1 is bright and, for t = r, D2 is dark: the Sagnac loop.
    """
    t2 = fields.transmission * fields.transmission
    r2 = 1.0 - t2
    cw = fields.cw * fields.cw
    ccw = fields.ccw_parallel * fields.ccw_parallel
    alone = fields.ccw_orthogonal * fields.ccw_orthogonal
    cross = 2.0 * np.sqrt(t2 * r2) * fields.cw * fields.ccw_parallel * np.cos(phase_rad)
    return r2 * cw + t2 * (ccw + alone) + cross, t2 * cw + r2 * (ccw + alone) - cross


@kernel
def _rotl(x: np.uint64, k: int) -> np.uint64:
    return np.uint64((x << np.uint64(k)) | (x >> np.uint64(64 - k)))


@kernel
def _next(state: State) -> np.uint64:
    """One step of xoshiro256++: 64 random bits."""
    result = _rotl(state[0] + state[3], 23) + state[0]
    t = state[1] << np.uint64(17)
    state[2] ^= state[0]
    state[3] ^= state[1]
    state[1] ^= state[2]
    state[0] ^= state[3]
    state[2] ^= t
    state[3] = _rotl(state[3], 45)
    return np.uint64(result)


@kernel
def _uniform(state: State) -> float:
    """Uniform in the open interval (0, 1): 53 random bits and a half."""
    return float((np.float64(_next(state) >> np.uint64(11)) + 0.5) * (1.0 / 9007199254740992.0))


@kernel
def _exponential(state: State) -> float:
    return float(-np.log(_uniform(state)))


@kernel
def _gauss(state: State) -> float:
    """A standard normal value (Box and Muller)."""
    return float(np.sqrt(-2.0 * np.log(_uniform(state))) * np.cos(2.0 * np.pi * _uniform(state)))


@kernel
def turn(modulator: Modulator, place: Place, sign: float, ahead: Ahead) -> None:
    """Add ``sign`` times the phases that one modulator gives the pulses of a batch in one direction.

    The samples are fetched in a loop that does little else, so that its cache misses overlap.  Where clocks agree,
    every pulse comes equally long after its sample's edge, and one exponential serves them all.
    """
    wave, slots, phases = modulator.samples, ahead.slot, ahead.phase_rad
    at_rest, away, ages = ahead.at_rest, ahead.away, ahead.age
    settled = np.exp(-modulator.poles)
    size = wave.size
    for k in range(slots.size):
        at = place.start + slots[k] * place.step
        index = int(at) if 0.0 <= at < size + 3.0 else -1
        # No function: handing it the array would count a reference up and down for every sample.
        now = wave[index] if 0 <= index < size else 0.0
        before = wave[index - 1] if 0 < index <= size else 0.0
        earlier = wave[index - 2] if 1 < index <= size + 1 else 0.0
        at_rest[k] = now
        away[k] = before + (earlier - before) * settled - now
        ages[k] = at - index if index >= 0 else 0.0
    age = kept = 0.0
    full_scale_rad = sign * modulator.full_scale_rad
    for k in range(slots.size):
        if k == 0 or abs(ages[k] - age) > AGE_STEP:
            age = ages[k]
            kept = np.exp(-age * modulator.poles) if modulator.poles < NEVER else 0.0
        phases[k] += full_scale_rad * (at_rest[k] + away[k] * kept)


@kernel
def _click(mean: float) -> float:
    """``1 - exp(-mean)``; a series where it is as good (to 1e-10), since most slots are weak."""
    if mean < 0.01:
        return mean * (1.0 - mean / 2.0 * (1.0 - mean / 3.0 * (1.0 - mean / 4.0)))
    return float(-np.expm1(-mean))


@kernel
def _outcome(
    fields: Fields,
    efficiency: Pair,
    exposure: Exposure,
    phase_rad: float,
    ceiling: float,
    state: State,
) -> int:
    """Which detectors see photons in a candidate slot: bit 0 = D1, bit 1 = D2, 0 = rejected candidate.

    A candidate stands for an event of probability ``ceiling``; of that, the real intensities fill
    ``1 - exp(-(i1 + i2))``, shared between D1 alone, D2 alone and both.
    """
    drift = exposure.phase_offset_rad
    if exposure.phase_noise_rad > 0.0:
        drift += exposure.phase_noise_rad * _gauss(state)
    if exposure.turned > 0.0:
        which = _uniform(state) / exposure.turned
        if which < 1.0:
            drift += np.pi / 2 if which < 0.5 else -np.pi / 2
    light_1, light_2 = split(fields, phase_rad + drift)
    click_1 = _click(light_1 * efficiency[0])
    click_2 = _click(light_2 * efficiency[1])
    u = _uniform(state) * ceiling - click_1 * (1.0 - click_2)
    if u < 0.0:
        return 1
    u -= click_2 * (1.0 - click_1)
    if u < 0.0:
        return 2
    return 3 if u < click_1 * click_2 else 0


@kernel
def _look_ahead(
    exposure: Exposure, first: Modulator, second: Modulator, earliest: int, state: State, ahead: Ahead
) -> None:
    """Fill ``ahead`` with the candidate slots from ``earliest`` on; ``n_slots`` stands for "no more"."""
    for k in range(ahead.slot.size):
        step = _exponential(state) / exposure.bright if exposure.bright > 0.0 else NEVER
        earliest = earliest + int(step) if step < exposure.n_slots - earliest else exposure.n_slots
        ahead.slot[k] = earliest
        earliest = min(earliest + 1, exposure.n_slots)
    ahead.phase_rad[:] = 0.0
    for modulator in (first, second):
        if modulator.samples.size:
            turn(modulator, modulator.ccw, 1.0, ahead)
            turn(modulator, modulator.cw, -1.0, ahead)


@kernel
def _next_flat(d: int, after: float, receiver: Receiver, exposure: Exposure, state: State) -> float:
    """When detector ``d`` next fires by what is flat in time: arrival (tag time minus delay), ps."""
    if receiver.flat_per_ps[d] <= 0.0:
        return NEVER
    t = after + _exponential(state) / receiver.flat_per_ps[d]
    return t if t + receiver.delay_ps[d] < exposure.duration_ps else NEVER


@kernel
def _next_leak(d: int, earliest: int, receiver: Receiver, exposure: Exposure, state: State) -> int:
    """The next slot, from ``earliest`` on, whose leaked pulse fires detector ``d``; ``n_slots`` for none."""
    if receiver.leak_per_slot[d] <= 0.0:
        return exposure.n_slots
    step = _exponential(state) / receiver.leak_per_slot[d]
    return earliest + int(step) if step < exposure.n_slots - earliest else exposure.n_slots


@kernel
def _record(
    d: int,
    t: float,
    receiver: Receiver,
    exposure: Exposure,
    dead_until: FloatArray,
    afterpulse: FloatArray,
    state: State,
    clicks: ClickBuffer,
    n: int,
) -> int:
    """Let detector ``d`` fire at ``t`` (arrival time, ps) unless it is dead; returns the count of clicks.

    Cables and jitter change the order of a few: a click moves ahead of those with later tags.  The count goes past
    the capacity of ``clicks`` without writing there: the caller then makes room.
    """
    if t < dead_until[d]:
        return n
    dead_until[d] = t + receiver.dead_ps[d] - EDGE_PS
    if receiver.afterpulse_probability[d] > 0.0 and _uniform(state) < receiver.afterpulse_probability[d]:
        afterpulse[d] = dead_until[d] + receiver.afterpulse_ps[d] * _exponential(state)
    tag = t + receiver.delay_ps[d]
    if receiver.jitter_ps[d] > 0.0:
        tag += receiver.jitter_ps[d] * _gauss(state)
    tag = np.floor(tag + 0.5)
    if tag < 0.0 or tag >= exposure.duration_ps:
        return n
    if n < clicks.time_ps.size:
        k, at = n, np.int64(tag)
        while k > 0 and clicks.time_ps[k - 1] > at:
            clicks.time_ps[k] = clicks.time_ps[k - 1]
            clicks.detector[k] = clicks.detector[k - 1]
            k -= 1
        clicks.detector[k] = d
        clicks.time_ps[k] = at
    return n + 1


@kernel
def _recovered(receiver: Receiver, d: int, since_ps: float) -> float:
    """Share of its efficiency that detector ``d`` has this long after the end of its dead time."""
    if since_ps < 0.0:
        return 0.0
    recovery_ps = receiver.recovery_ps[d]
    return -float(np.expm1(-since_ps / recovery_ps)) if since_ps < LONG * recovery_ps else 1.0


@kernel
def draw(
    fields: Fields,
    first: Modulator,
    second: Modulator,
    receiver: Receiver,
    exposure: Exposure,
    state: State,
    clicks: ClickBuffer,
) -> int:
    """Fill ``clicks`` in order of their tags; returns how many clicks there are.

    A result above the size of ``clicks`` means that the buffers were too small and hold only the beginning.
    """
    ceiling = -np.expm1(-exposure.bright)
    dead_until = np.full(2, -NEVER)
    afterpulse = np.full(2, NEVER)
    flat = np.full(2, NEVER)
    leaks = np.empty(2, np.int64)
    leak = np.full(2, NEVER)
    for d in range(2):
        flat[d] = _next_flat(d, -receiver.delay_ps[d], receiver, exposure, state)
        leaks[d] = _next_leak(d, exposure.first_slot, receiver, exposure, state)
        if leaks[d] < exposure.n_slots:
            leak[d] = exposure.origin_ps + leaks[d] * exposure.slot_ps + receiver.leak_ps
    ahead = Ahead(
        np.empty(BATCH, np.int64), np.empty(BATCH), np.empty(BATCH), np.empty(BATCH), np.empty(BATCH)
    )
    _look_ahead(exposure, first, second, exposure.first_slot, state, ahead)
    k = n = 0
    while True:
        slot = ahead.slot[k]
        t = exposure.origin_ps + slot * exposure.slot_ps if slot < exposure.n_slots else NEVER
        noise = -1
        for d in range(2):
            earliest = min(flat[d], afterpulse[d], leak[d])
            if earliest < t:
                t, noise = earliest, d
        if t >= NEVER:
            return n
        if noise >= 0:
            if flat[noise] == t:
                flat[noise] = _next_flat(noise, t, receiver, exposure, state)
            elif leak[noise] == t:
                leaks[noise] = _next_leak(noise, leaks[noise] + 1, receiver, exposure, state)
                there = exposure.origin_ps + leaks[noise] * exposure.slot_ps + receiver.leak_ps
                leak[noise] = there if leaks[noise] < exposure.n_slots else NEVER
            else:
                afterpulse[noise] = NEVER
            n = _record(noise, t, receiver, exposure, dead_until, afterpulse, state, clicks, n)
            if flat[noise] < dead_until[noise]:
                # Nothing of a dead time is remembered; in bright light its events would take for ever.
                flat[noise] = _next_flat(noise, dead_until[noise], receiver, exposure, state)
            continue
        alive_ps = min(dead_until[0], dead_until[1])
        if t >= alive_ps:
            efficiency = (
                receiver.efficiency[0] * _recovered(receiver, 0, t - dead_until[0]),
                receiver.efficiency[1] * _recovered(receiver, 1, t - dead_until[1]),
            )
            seen = _outcome(fields, efficiency, exposure, ahead.phase_rad[k], ceiling, state)
            for d in range(2):
                if seen & (1 << d):
                    n = _record(d, t, receiver, exposure, dead_until, afterpulse, state, clicks, n)
        k += 1
        if k == BATCH:
            # Slots in which both detectors are dead cannot click, however bright they are.
            alive = (alive_ps - exposure.origin_ps) / exposure.slot_ps
            alive = min(max(alive, float(slot)), float(exposure.n_slots))
            _look_ahead(exposure, first, second, max(slot + 1, int(np.ceil(alive))), state, ahead)
            k = 0


def seeded_state(seed: int) -> State:
    """Generator state from a 64-bit seed through splitmix64, as the xoshiro authors recommend."""
    mask = (1 << 64) - 1
    words = []
    x = seed & mask
    for _ in range(4):
        x = (x + 0x9E3779B97F4A7C15) & mask
        z = x
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        words.append(z ^ (z >> 31))
    return np.array(words, dtype=np.uint64)
