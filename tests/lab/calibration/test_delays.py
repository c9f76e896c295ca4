"""When pulses pass a modulator, from a scan of turns: right within what is said, wherever the file has them."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from lab.calibration.delays import FLOOR_PS, Played, check_delays, fit_delays
from lab.calibration.errors import CalibrationRefusedError
from lab.calibration.separation import separation

SLOT_PS, SYMBOLS, STARTS = 10_000.0, 1 << 16, 20
TAU_PS, ORDERED_TAU_PS = 683.0, 700.0
FILE_PS = (4_531_862.0, 26_566_958.0)
FIRST_PS = 4_400_000.0


def reached(since_ps: float) -> float:
    """Of a driven half slot's phase, on a pulse so long after it began."""
    if since_ps < 0:
        return 0.0
    half_ps = SLOT_PS / 2
    if since_ps < half_ps:
        return -math.expm1(-since_ps / TAU_PS)
    return -math.expm1(-half_ps / TAU_PS) * math.exp(-(since_ps - half_ps) / TAU_PS)


def frame(
    rng: np.random.Generator,
    start_ps: float,
    delays_ps: tuple[float, float],
    clicks: float,
    *,
    turn: float = 2.3,
    phase: float = 0.02,
    visibility: float = 0.97,
    d2_late_slots: int = 0,
    honest: bool = True,
) -> Played:
    """One frame as an honest relay announces it, unless told otherwise."""
    bits = rng.random(SYMBOLS) < 0.25
    phases = np.full(SYMBOLS, phase)
    for delay_ps, sign in zip(delays_ps, (-1, 1), strict=True):
        first = math.floor((delay_ps - start_ps) / SLOT_PS)
        since_ps = delay_ps - start_ps - first * SLOT_PS
        for back in (0, 1):
            numbers = np.arange(SYMBOLS) + first - back
            inside = (numbers >= 0) & (numbers < SYMBOLS)
            driven = np.zeros(SYMBOLS)
            driven[inside] = bits[numbers[inside]]
            phases += sign * turn * reached(since_ps + back * SLOT_PS) * driven
    swing = visibility * np.cos(phases)
    d1, d2 = 1.1 * (1 + swing), 1 - swing
    clicked = np.flatnonzero(rng.random(SYMBOLS) < clicks / SYMBOLS * (d1 + d2) / 2.1)
    outcomes = np.where(rng.random(clicked.size) * (d1 + d2)[clicked] < d1[clicked], 1, 2)
    if not honest:
        outcomes = rng.integers(1, 3, clicked.size)
    slots = clicked + d2_late_slots * (outcomes == 2)
    order = np.argsort(slots, kind="stable")
    order = order[slots[order] < SYMBOLS]
    return Played(
        start_ps,
        slots[order].astype(np.uint32),
        outcomes[order].astype(np.uint8),
        np.packbits(bits),
        SYMBOLS,
    )


def scan(
    seed: int,
    delays_ps: tuple[float, float],
    *,
    first_ps: float = FIRST_PS,
    clicks: float = 2000.0,
    **how: float,
) -> list[Played]:
    """A frame of about so many clicks at each of twenty starts in a slot, in any order."""
    rng = np.random.default_rng(seed)
    starts = first_ps + rng.permutation(STARTS) * SLOT_PS / STARTS
    return [frame(rng, float(start), delays_ps, clicks, **how) for start in starts]  # type: ignore[arg-type]


def drawn(seed: int) -> tuple[float, float]:
    """Delays off the file's by a cable of 200 m, and by metres from each other."""
    rng = np.random.default_rng(1000 + seed)
    shift, apart = rng.uniform(-180_000, 180_000), rng.uniform(-15_000, 15_000)
    return FILE_PS[0] + shift, FILE_PS[1] + shift + apart


def test_forty_thousand_clicks_find_both_passages() -> None:
    pulls: list[float] = []
    for seed in range(10):
        true = drawn(seed)
        fit = fit_delays(scan(seed, true, phase=0.3 * (seed % 3 - 1)), FILE_PS, SLOT_PS, ORDERED_TAU_PS)
        pulls += [(f - t) / s for f, t, s in zip(fit.delays_ps, true, fit.sigma_ps, strict=True)]
        assert max(fit.sigma_ps) < 60
        assert fit.turn_rad == pytest.approx(2.3, abs=0.2)
    assert np.abs(pulls).max() < 5
    assert np.mean(np.abs(pulls) < 2) >= 0.9
    assert np.std(pulls) > 0.5, "the errors are no larger than they must be"


def test_pulses_that_pass_just_after_a_start() -> None:
    """The coarse search has them before it: it takes another fit to see which symbol they really met."""
    for seed in range(6):
        off = np.random.default_rng(seed).uniform(200, 500, 2)
        true = FIRST_PS + 133_000 + off[0], FIRST_PS + 22_177_500 + off[1]
        fit = fit_delays(scan(seed, true, clicks=8000.0), FILE_PS, SLOT_PS, ORDERED_TAU_PS)
        assert np.abs(np.subtract(fit.delays_ps, true) / fit.sigma_ps).max() < 4


def test_a_station_in_the_middle_of_the_loop() -> None:
    """Both directions pass within the same slot, and one fit ends at a wrong place."""
    file_ps = (15_000_000.0, 15_005_000.0)
    for seed in (0, 2, 14):
        rng = np.random.default_rng(seed)
        cw_ps = file_ps[0] + rng.uniform(-30_000, 30_000)
        true = cw_ps, cw_ps + rng.uniform(3_500, 6_500)
        fit = fit_delays(scan(seed, true, first_ps=14_900_000.0), file_ps, SLOT_PS, ORDERED_TAU_PS)
        assert np.abs(np.subtract(fit.delays_ps, true) / fit.sigma_ps).max() < 4


def test_frames_laid_out_by_the_fit_meet_their_pulses() -> None:
    true = drawn(5)
    fit = fit_delays(scan(5, true), FILE_PS, SLOT_PS, ORDERED_TAU_PS)
    rng = np.random.default_rng(6)
    starts = [each - 4000.0 for each in fit.delays_ps]
    good = [frame(rng, start, true, 4000.0) for start in starts]
    check_delays(fit, good, SLOT_PS)
    for moved in (SLOT_PS, 2_000.0):
        bad = [frame(rng, start, (true[0] + moved, true[1]), 4000.0) for start in starts]
        with pytest.raises(CalibrationRefusedError, match="do not meet their pulses"):
            check_delays(fit, bad, SLOT_PS)


@pytest.mark.parametrize("late", [1, 2])
def test_detectors_that_count_slots_differently_are_told(late: int) -> None:
    with pytest.raises(CalibrationRefusedError, match=rf"D2 are announced \+{late} slots later"):
        fit_delays(scan(1, FILE_PS, d2_late_slots=late), FILE_PS, SLOT_PS, ORDERED_TAU_PS)


def test_what_follows_nothing_is_refused() -> None:
    with pytest.raises(CalibrationRefusedError, match="no click follows the own levels clockwise"):
        fit_delays(scan(1, FILE_PS, honest=False), FILE_PS, SLOT_PS, ORDERED_TAU_PS)
    with pytest.raises(CalibrationRefusedError, match="no click follows"):
        fit_delays(scan(1, FILE_PS, turn=0.0), FILE_PS, SLOT_PS, ORDERED_TAU_PS)
    far = FILE_PS[0] + 400_000, FILE_PS[1] + 400_000
    with pytest.raises(CalibrationRefusedError, match="within 200 ns"):
        fit_delays(scan(1, far), FILE_PS, SLOT_PS, ORDERED_TAU_PS)
    with pytest.raises(CalibrationRefusedError, match="too few"):
        fit_delays(scan(1, FILE_PS)[:1], FILE_PS, SLOT_PS, ORDERED_TAU_PS)


def test_light_that_moves_meanwhile_is_refused() -> None:
    """Half of the starts are played 1.5 ns off: no edge fits."""
    moved = scan(1, (FILE_PS[0] + 1500, FILE_PS[1] + 1500))[::2] + scan(2, FILE_PS)[1::2]
    with pytest.raises(CalibrationRefusedError, match="no edge of a single pole"):
        fit_delays(moved, FILE_PS, SLOT_PS, ORDERED_TAU_PS)


def test_a_relay_that_lies_at_times_moves_nothing_far() -> None:
    """It does not know which start a frame has: what it does is the same to both sides of an edge."""
    true, rng = drawn(2), np.random.default_rng(7)
    played = scan(2, true)
    lied = [played[k] if k % 5 else spoilt(played[k], rng) for k in range(len(played))]
    try:
        fit = fit_delays(lied, FILE_PS, SLOT_PS, ORDERED_TAU_PS)
    except CalibrationRefusedError:
        return
    assert np.abs(np.subtract(fit.delays_ps, true)).max() < 200


def spoilt(played: Played, rng: np.random.Generator) -> Played:
    """A fifth of its outcomes the other way round."""
    lies = rng.random(played.outcomes.size) < 0.2
    outcomes: npt.NDArray[np.uint8] = np.where(lies, 3 - played.outcomes, played.outcomes).astype(np.uint8)
    return Played(played.start_ps, played.slots, outcomes, played.driven, played.symbols)


def test_separation_is_told_or_the_fibre_to_trim() -> None:
    good = separation((4_000_000.0, 26_004_800.0), (3.0, 4.0), 10.0)
    assert good.value == pytest.approx(4.8)
    assert good.uncertainty == pytest.approx(0.005)
    with pytest.raises(
        CalibrationRefusedError, match=r"2\.00 ns apart .* add 0\.61 m of fibre .*counter-clockwise"
    ):
        separation((4_000_000.0, 26_002_000.0), (FLOOR_PS, FLOOR_PS), 10.0)
    with pytest.raises(CalibrationRefusedError, match=r"8\.50 ns apart .* add 0\.71 m of fibre .*clockwise"):
        separation((4_000_000.0, 26_008_500.0), (FLOOR_PS, FLOOR_PS), 10.0)
