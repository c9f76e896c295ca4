"""When each direction's pulses pass a user's modulator, from steps of the own phase, scanned across the slot.

In every slot the user drives half a slot of its waveform with three eighths of a turn, or leaves it at 0 V, as drawn
privately; the waveform begins at one of many starts spread over a slot, in an order that nobody else knows.  From the relay's
announcement it learns which slots clicked where, and never does the relay learn a level before.

*Coarse.*  A symbol that begins ``x`` after the trigger acts on a pulse that passes between ``x`` and half a slot later, and
on no other.  Starts and whole slots together make one scan of ``x`` without gaps, over as many slots as the delays may
be wrong by.  At each ``x``, and for each detector alone, the part of its clicks whose symbol was driven is compared with
the part of all symbols that were (a quarter: with a half, the two directions would hide each other).  Each direction
gives a stretch, half a slot long, that ends where its pulse passes.  Both share cables and the generator's latency, so
they are looked for together first, as far from each other as the file has them.

*Fine.*  With the symbols known that meet a pulse each way, its phase follows a single pole (amplifier and modulator)::

    phase = turn (b h(t_ccw) - a h(t_cw)),   h(s) = 1 - exp(-s / tau)      in the driven half slot, falling after it
    P(D1 | a click) = A (1 + V cos(phase + phase_0)) / (A (1 + V cos(phase + phase_0)) + 1 - V cos(phase + phase_0))

with a and b being 0 or 1.  Both passages, the pole, the turn, loop phase, contrast and the detectors' ratio are fitted to
the clicks by start and symbols: a maximum of the likelihood, whose sigma is made larger where the fit is worse than
chance (Wilks, Ann. Math. Stat. 9, 60 (1938), for the deviance).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import numpy.typing as npt

from lab.calibration.errors import CalibrationRefusedError

Floats = npt.NDArray[np.float64]

DRIVEN = 0.25
"""Part of the symbols that are driven."""
TURN_RAD = 0.75 * math.pi
"""What they are driven with: at half a turn, where the counts hardly change, its size would hide behind the contrast."""
SEARCHED_NS = 200.0
"""How far the delays of both directions together may be from what the file says."""
APART_NS = 25.0
"""How far each of them may be off beyond that: five metres of fibre."""
STEP_NS = 0.1
WRONG_SLOTS = 3
"""By which two detectors may count differently, to be told of."""
EDGE_NS = 0.5
"""Of a driven stretch, left out of the search: the waveform still rises there."""
LEAST_SCORE = 8.0
"""Mean of the squared deviations over a stretch, in units of chance, that is no chance."""
LEAST_CLICKS = 5_000
LEAST_CONTRAST = 0.3
WORST_FIT = 2.0
"""Deviance per degree of freedom: beyond it the waveform or the interference is another."""
ALLOWED_OFF, ALLOWED_SIGMAS = 0.05, 4.0
"""How far a frame laid out by the delays found may be from what is expected of it: parts of D1, beyond chance."""
FLOOR_PS = 5.0
"""What fibre that warms by some 20 mK (40 ps per km and kelvin) leaves open, however much is counted."""
ROUNDS = 3
"""Fits in turn, each with the symbols sorted by the passages of the one before: where these fall next to a slot's beginning,
the first ones put some symbols on the wrong side."""
BEGINS_PS = (0.0, 500.0, 1000.0)
"""Where the fit begins, after the end of the stretch that the coarse search found: it ends at a wrong place from too far."""


@dataclass(frozen=True)
class Played:
    """One frame as it was played, and what clicked of it.

    ``start_ps``: of the first symbol, from the trigger as the generator's output has it; ``slots`` uint32 and ``outcomes``
    uint8 (1: D1 alone, 2: D2 alone) of shape (n,); ``driven``: a bit per symbol, uint8 as by numpy.packbits, of ``symbols``.
    """

    start_ps: float
    slots: npt.NDArray[np.uint32]
    outcomes: npt.NDArray[np.uint8]
    driven: npt.NDArray[np.uint8]
    symbols: int

    def __repr__(self) -> str:
        return f"<Played: {self.slots.size} clicks of {self.symbols} symbols>"

    def bits(self) -> npt.NDArray[np.bool_]:
        """Whether each symbol was driven, bool of shape (symbols,)."""
        return np.unpackbits(self.driven, count=self.symbols).view(np.bool_)


@dataclass(frozen=True)
class Counts:
    """Clicks by start, detector and the symbols that met the pulse: float64 of shape (starts, 2, 2, 2), cw before ccw.

    ``since_ps``: from the start of its symbol to the pulse of either direction if it passed at ``assumed_ps``, shape
    (starts, 2).
    """

    clicks: Floats
    since_ps: Floats
    assumed_ps: tuple[float, float]


@dataclass(frozen=True)
class DelayFit:
    """``delays_ps``: when slot 0 passes the modulator, clockwise and counter-clockwise, with one sigma of each.

    ``chi2`` over ``degrees``; ``expected`` part of D1 as fitted and ``counts``, by start and symbols.
    """

    delays_ps: tuple[float, float]
    sigma_ps: tuple[float, float]
    tau_ps: float
    turn_rad: float
    phase_rad: float
    contrast: float
    ratio: float
    chi2: float
    degrees: int
    counts: Counts
    expected: Floats

    @property
    def found(self) -> Floats:
        """What was fitted, with the passages counted from where they are."""
        return np.array([0.0, 0.0, self.tau_ps, self.turn_rad, self.phase_rad, self.contrast, self.ratio])


def check_delays(fit: DelayFit, played: Sequence[Played], slot_ps: float) -> Counts:
    """Whether frames laid out by these delays meet their pulses as the fit says.

    Raises CalibrationRefusedError, as where half of the symbols would meet a pulse of another slot.
    """
    counts = sort_clicks(played, fit.delays_ps, slot_ps)
    expected = _part_of_d1(counts, slot_ps / 2, fit.found)
    n = counts.clicks.sum(axis=1)
    part = counts.clicks[:, 0] / np.maximum(n, 1.0)
    off = np.abs(part - expected) - ALLOWED_SIGMAS * np.sqrt(expected * (1 - expected) / np.maximum(n, 1.0))
    if n.sum() < LEAST_CLICKS / 10 or np.any(off[n > 0] > ALLOWED_OFF):
        worst = np.unravel_index(int(np.argmax(np.where(n > 0, off, -1.0))), off.shape)
        raise CalibrationRefusedError(
            f"frames laid out by the delays found do not meet their pulses: D1 has {part[worst]:.3f} of {n[worst]:.0f} clicks, and "
            f"{expected[worst]:.3f} were expected",
            "the light moved meanwhile, or the generator's delay is not what it is set to",
        )
    return counts


def fit_delays(
    played: Sequence[Played], expected_ps: tuple[float, float], slot_ps: float, tau_ps: float
) -> DelayFit:
    """Find both passages.  ``tau_ps`` is what the pole is expected to be.  Raises CalibrationRefusedError."""
    total = sum(each.slots.size for each in played)
    if total < LEAST_CLICKS:
        raise CalibrationRefusedError(
            f"{total} clicks are too few to scan with, at least {LEAST_CLICKS} are needed",
            "play more frames, or look for the light",
        )
    delays = _coarse(played, expected_ps, slot_ps)
    begins: Sequence[float] = BEGINS_PS
    for _ in range(ROUNDS):
        counts = sort_clicks(played, delays, slot_ps)
        tried = (_fine(counts, slot_ps, tau_ps, begin) for begin in product(begins, begins))
        fit = min(tried, key=lambda each: each.chi2)
        begins = (0.0,)
        delays = fit.delays_ps
    if fit.contrast < LEAST_CONTRAST:
        raise CalibrationRefusedError(
            f"the clicks follow the levels with a contrast of {fit.contrast:.2f}, at least {LEAST_CONTRAST:g} is needed",
            "polarisation, or the loop's phase near a quarter turn",
        )
    if fit.chi2 > WORST_FIT * fit.degrees:
        raise CalibrationRefusedError(
            f"the clicks are no edge of a single pole: chi2 is {fit.chi2:.0f} for {fit.degrees} degrees of freedom",
            "the amplifier rings, the light moved while it was measured, or what is announced is not what clicked",
        )
    return fit


# Coarse


def _coarse(
    played: Sequence[Played], expected_ps: tuple[float, float], slot_ps: float
) -> tuple[float, float]:
    """Where both directions pass, to a part of a nanosecond; both detectors must tell the same."""
    begins, deviations = _scan(played, expected_ps, slot_ps)
    of_both = partial(_score, begins, deviations.mean(axis=0), slot_ps / 2)
    shifts = 1e3 * np.arange(-SEARCHED_NS, SEARCHED_NS + STEP_NS, STEP_NS)
    together = of_both(expected_ps[0] + shifts) + of_both(expected_ps[1] + shifts)
    shift_ps = float(shifts[np.argmax(together)])
    reach_ns = min(APART_NS, abs(expected_ps[1] - expected_ps[0]) / 2e3)
    near = shift_ps + 1e3 * np.arange(-reach_ns, reach_ns + STEP_NS, STEP_NS)
    delays = []
    for name, expected in zip(("clockwise", "counter-clockwise"), expected_ps, strict=True):
        score = of_both(expected + near)
        best = int(np.argmax(score))
        if score[best] < LEAST_SCORE:
            raise CalibrationRefusedError(
                f"no click follows the own levels {name}, within {SEARCHED_NS:g} ns of what the file says",
                "position_km and modulator_delays_ps of the file, the trigger cable, the amplifier; and whether what is "
                "announced is what clicked",
            )
        delays.append(expected + float(near[best]))
    by_slots = np.array([delays[0] + slot_ps * late for late in range(-WRONG_SLOTS, WRONG_SLOTS + 1)])
    first, second = (int(np.argmax(_score(begins, each, slot_ps / 2, by_slots))) for each in deviations)
    if slots := first - second:
        raise CalibrationRefusedError(
            f"the clicks of D2 are announced {slots:+d} slots later than those of D1",
            "the detectors' cables differ by more than half a slot: add as many slots to the second of the relay's "
            "detector_delays_ps",
        )
    return delays[0], delays[1]


def _scan(
    played: Sequence[Played], expected_ps: tuple[float, float], slot_ps: float
) -> tuple[Floats, Floats]:
    """How far the clicks of each detector follow symbols, by when these begin.

    Begins (n,), rising, and squared deviations from chance in units of chance (2, n).
    """
    reach_ps = (SEARCHED_NS + APART_NS) * 1e3
    begins, deviations = [], []
    for start_ps, frames in _by_start(played).items():
        windows = [
            np.arange(
                math.floor((expected - reach_ps - start_ps) / slot_ps) - 1,
                math.floor((expected + reach_ps - start_ps) / slot_ps) + 1,
            )
            for expected in expected_ps
        ]
        lags = np.unique(np.concatenate(windows))
        begins.append(start_ps + lags * slot_ps)
        deviations.append(np.stack([_followed(frames, outcome, lags) for outcome in (1, 2)]))
    order = np.argsort(np.concatenate(begins))
    return np.concatenate(begins)[order], np.concatenate(deviations, axis=1)[:, order]


def _followed(frames: Sequence[Played], outcome: int, lags: npt.NDArray[np.int64]) -> Floats:
    """Squared deviation of the driven part of the symbols that stand ``lags`` after a click, in units of chance; (n,)."""
    hits, clicks = np.zeros(lags.size), np.zeros(lags.size)
    for frame in frames:
        slots, bits = frame.slots[frame.outcomes == outcome].astype(np.int64), frame.bits()
        for index, lag in enumerate(lags):
            numbers = slots + lag
            inside = numbers[(numbers >= 0) & (numbers < frame.symbols)]
            hits[index] += np.count_nonzero(bits[inside])
            clicks[index] += inside.size
    squared: Floats = (hits - clicks * DRIVEN) ** 2 / (np.maximum(clicks, 1.0) * DRIVEN * (1 - DRIVEN))
    return squared


def _score(begins: Floats, deviations: Floats, half_ps: float, passages_ps: Floats) -> Floats:
    """Mean deviation over the symbols that would act on pulses that pass then: float64 of the shape of the passages."""
    sums = np.concatenate([[0.0], np.cumsum(deviations)])
    low = np.searchsorted(begins, passages_ps - half_ps)
    high = np.searchsorted(begins, passages_ps - EDGE_NS * 1e3)
    mean: Floats = (sums[high] - sums[low]) / np.maximum(high - low, 1)
    return mean


def _by_start(played: Sequence[Played]) -> dict[float, list[Played]]:
    starts: dict[float, list[Played]] = {}
    for each in played:
        starts.setdefault(each.start_ps, []).append(each)
    return dict(sorted(starts.items()))


# Fine


def _symbol_numbers(
    played: Sequence[Played], delays_ps: tuple[float, float], slot_ps: float
) -> npt.NDArray[np.int64]:
    """By start and direction: which symbol's slot a pulse falls into, counted from its own number; shape (starts, 2)."""
    starts = np.array(list(_by_start(played)))
    numbers: npt.NDArray[np.int64] = np.floor((np.array(delays_ps) - starts[:, None]) / slot_ps).astype(
        np.int64
    )
    return numbers


def sort_clicks(played: Sequence[Played], delays_ps: tuple[float, float], slot_ps: float) -> Counts:
    """Clicks by the symbols that met their pulses, if these passed at ``delays_ps``."""
    by_start = _by_start(played)
    lags = _symbol_numbers(played, delays_ps, slot_ps)
    clicks = np.zeros((len(by_start), 2, 2, 2))
    for index, frames in enumerate(by_start.values()):
        for frame in frames:
            bits = frame.bits()
            numbers = frame.slots.astype(np.int64) + lags[index][:, None]
            kept = np.all((numbers >= 0) & (numbers < frame.symbols), axis=0)
            kept &= (frame.outcomes == 1) | (frame.outcomes == 2)
            a, b = bits[numbers[:, kept]].astype(np.int64)
            np.add.at(clicks[index], (frame.outcomes[kept] - 1, a, b), 1)
    starts = np.array(list(by_start))
    return Counts(clicks, np.array(delays_ps) - starts[:, None] - lags * slot_ps, delays_ps)


def _rise(since_ps: Floats, tau_ps: float, half_ps: float) -> Floats:
    """What a driven half slot has brought a pulse that passes so long after it began: 0 to 1, of any shape."""
    up = -np.expm1(-np.maximum(since_ps, 0.0) / tau_ps)
    held = -math.expm1(-half_ps / tau_ps) * np.exp(-np.maximum(since_ps - half_ps, 0.0) / tau_ps)
    return np.where(since_ps < half_ps, up, held)


def _part_of_d1(counts: Counts, half_ps: float, found: Floats) -> Floats:
    """Expected part of D1 among single clicks: float64 of shape (starts, 2, 2)."""
    cw_ps, ccw_ps, tau_ps, turn, offset, contrast, ratio = found
    reached = turn * _rise(counts.since_ps + np.array([cw_ps, ccw_ps]), tau_ps, half_ps)
    driven = np.arange(2)
    phase = (
        reached[:, 1, None, None] * driven[None, None, :] - reached[:, 0, None, None] * driven[None, :, None]
    )
    swing = contrast * np.cos(phase + offset)
    d1, d2 = ratio * (1 + swing), 1 - swing
    part: Floats = np.clip(d1 / (d1 + d2), 1e-9, 1 - 1e-9)
    return part


def _deviations(counts: Counts, half_ps: float, found: Floats) -> Floats:
    """Signed roots of the deviance, flat."""
    from scipy.special import xlogy

    part = _part_of_d1(counts, half_ps, found)
    n1, n2 = counts.clicks[:, 0], counts.clicks[:, 1]
    n = np.maximum(n1 + n2, 1.0)
    deviance = 2 * (xlogy(n1, n1 / (n * part)) + xlogy(n2, n2 / (n * (1 - part))))
    signed: Floats = np.sign(n1 - n * part) * np.sqrt(np.maximum(deviance, 0.0))
    return signed.ravel()


def _fine(counts: Counts, slot_ps: float, tau_ps: float, begin_ps: tuple[float, ...]) -> DelayFit:
    from scipy.optimize import least_squares  # a third of a second, not for processes that never calibrate

    half_ps = slot_ps / 2
    ratio = counts.clicks[:, 0].sum() / max(counts.clicks[:, 1].sum(), 1.0)
    low = [-2e3, -2e3, tau_ps / 5, 0.75 * TURN_RAD, -math.pi / 2, 0.0, 0.1]
    high = [2e3, 2e3, tau_ps * 5, 1.25 * TURN_RAD, math.pi / 2, 1.0, 10.0]
    begin = [*begin_ps, tau_ps, TURN_RAD, 0.0, 0.9, min(max(ratio / 3, 0.2), 5.0)]
    scale = [100.0, 100.0, 100.0, 0.1, 0.1, 0.1, 0.1]
    solved = least_squares(
        partial(_deviations, counts, half_ps), begin, bounds=(low, high), x_scale=scale, method="trf"
    )
    found = np.asarray(solved.x, np.float64)
    part = _part_of_d1(counts, half_ps, found)
    n = counts.clicks.sum(axis=1)
    degrees = int(np.count_nonzero(n)) - found.size
    chi2 = float(np.sum(solved.fun**2))
    slopes = np.stack([_slope(counts, half_ps, found, index, step) for index, step in enumerate(scale)])
    weighted = slopes * np.sqrt(n / (part * (1 - part)))
    fisher = np.einsum("ixyz,jxyz->ij", weighted, weighted)
    covariance = np.linalg.pinv(fisher) * max(1.0, chi2 / max(degrees, 1))
    return DelayFit(
        delays_ps=(float(counts.assumed_ps[0] + found[0]), float(counts.assumed_ps[1] + found[1])),
        sigma_ps=(
            math.hypot(math.sqrt(covariance[0, 0]), FLOOR_PS),
            math.hypot(math.sqrt(covariance[1, 1]), FLOOR_PS),
        ),
        tau_ps=float(found[2]),
        turn_rad=float(found[3]),
        phase_rad=float(found[4]),
        contrast=float(found[5]),
        ratio=float(found[6]),
        chi2=chi2,
        degrees=degrees,
        counts=counts,
        expected=part,
    )


def _slope(counts: Counts, half_ps: float, found: Floats, index: int, scale: float) -> Floats:
    """Derivative of the expected parts by one of what is fitted: shape (starts, 2, 2)."""
    step = np.zeros_like(found)
    step[index] = 1e-4 * scale
    ahead, behind = (_part_of_d1(counts, half_ps, found + sign * step) for sign in (1, -1))
    slope: Floats = (ahead - behind) / (2e-4 * scale)
    return slope
