"""Levels of both users, watched by rounds of different bases."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from orchestrator.light.symbols import driven_phases
from orchestrator.light.tracking.levels import LevelsOff, LevelsOutOfBudget, LevelsWatch, require_in_budget
from orchestrator.protocols.four_phase.symbols import FourPhases

SYMBOLS = FourPhases(0.875)
VISIBILITY = 0.99
USERS = ("alice", "dave")


def block(
    rng: np.random.Generator,
    off: tuple[float, float] = (0.0, 0.0),
    left_rad: float = 0.0,
    offset_rad: float = 0.0,
    d2: float = 1.0,
    rounds: int = 60_000,
) -> npt.NDArray[np.int64]:
    """Clicks with levels too large by ``off``, and a second detector that sees ``d2`` of what the first does."""
    first, second = driven_phases(SYMBOLS, offset_rad) * (1 + off[0]), driven_phases(SYMBOLS) * (1 + off[1])
    counts = np.zeros((2, 4, 4), np.int64)
    for a in range(4):
        for b in range(4):
            if a // 2 != b // 2:
                in_d1 = (1 + VISIBILITY * math.cos(first[a] - second[b] - offset_rad + left_rad)) / 2
                each = rng.multinomial(rounds // 8, [in_d1, 1 - in_d1])
                counts[:, a, b] = each[0], rng.binomial(each[1], d2)
    return counts


def seen(watch: LevelsWatch, clicks: npt.NDArray[np.int64], offset_rad: float = 0.0) -> LevelsOff:
    found = watch.see(clicks, (driven_phases(SYMBOLS, offset_rad), driven_phases(SYMBOLS)), VISIBILITY)
    assert found is not None
    return found


@pytest.mark.parametrize("off", [(0.0, 0.0), (0.02, 0.0), (0.0, -0.02), (0.01, 0.01)])
def test_what_levels_are_off_by_is_told_from_the_loop_and_from_unlike_detectors(
    off: tuple[float, float],
) -> None:
    rng, pulls = np.random.default_rng(3), []
    for _ in range(30):
        found = seen(LevelsWatch(), block(rng, off, left_rad=0.03, d2=0.9))
        pulls += [(f - o) / s for f, o, s in zip(found.off, off, found.sigmas, strict=True)]
    assert abs(np.mean(pulls)) < 1.0
    assert np.std(pulls) < 1.4
    assert max(found.sigmas) < 0.003


def test_a_symbol_that_the_loops_phase_turned_around_is_as_it_is_driven() -> None:
    """With a phase of the loop the half turn is driven the other way around."""
    assert driven_phases(SYMBOLS, 0.2)[1] == pytest.approx(0.2 - math.pi)
    found = seen(LevelsWatch(), block(np.random.default_rng(4), (0.02, 0.0), offset_rad=0.2), 0.2)
    assert found.off == pytest.approx((0.02, 0.0), abs=0.01)
    require_in_budget(
        seen(LevelsWatch(), block(np.random.default_rng(5), offset_rad=0.2), 0.2), USERS, (0.02, 0.02)
    )


def test_blocks_are_averaged_and_old_ones_fade() -> None:
    rng, watch = np.random.default_rng(6), LevelsWatch()
    first = seen(watch, block(rng))
    for _ in range(40):
        last = seen(watch, block(rng))
    assert last.sigmas[0] < 0.4 * first.sigmas[0]
    for _ in range(40):
        last = seen(watch, block(rng, (0.02, 0.0)))
    assert last.off == pytest.approx((0.02, 0.0), abs=0.005)


@pytest.mark.parametrize(("off", "user"), [((0.03, 0.0), "alice"), ((0.0, -0.03), "dave")])
def test_levels_that_are_surely_beyond_what_is_charged_want_a_calibration(
    off: tuple[float, float], user: str
) -> None:
    found = seen(LevelsWatch(), block(np.random.default_rng(7), off))
    with pytest.raises(LevelsOutOfBudget, match=f"the phases of {user} are .*20 mrad are charged") as caught:
        require_in_budget(found, USERS, (0.02, 0.02))
    assert caught.value.steps
    require_in_budget(found, USERS, (0.2, 0.2))


def test_levels_as_calibrated_want_none_in_a_thousand_blocks() -> None:
    rng, watch = np.random.default_rng(8), LevelsWatch()
    for _ in range(1000):
        require_in_budget(seen(watch, block(rng, left_rad=0.02)), USERS, (0.008, 0.008))


def test_without_rounds_nothing_is_known() -> None:
    nothing = np.zeros((2, 4, 4), np.int64)
    assert LevelsWatch().see(nothing, (driven_phases(SYMBOLS), driven_phases(SYMBOLS)), VISIBILITY) is None
    require_in_budget(None, USERS, (0.0, 0.0))
