"""Blocks of a simulated day on which everything drifts: followed the error rate stays, left alone it does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from drifting_day import BlockSeen, DriftingDay

pytestmark = pytest.mark.early

LIMIT = 0.01


def day(
    folder: Path, hours: list[float], *, is_tracked: bool, slots: int, ring_seed: int = 1
) -> list[BlockSeen]:
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        drifting = DriftingDay(ring_seed, folder, patch, is_tracked=is_tracked, slots=slots)
        try:
            return [drifting.block(hour) for hour in hours]
        finally:
            drifting.close()


@pytest.mark.timeout(120)
def test_a_few_blocks_of_the_morning(tmp_path: Path) -> None:
    followed = day(tmp_path / "followed", [0.0, 0.3, 0.6], is_tracked=True, slots=1 << 18)
    (alone,) = day(tmp_path / "alone", [2.0], is_tracked=False, slots=1 << 18)
    assert max(each.qber - 2 * each.sigma for each in followed) < LIMIT
    assert alone.qber - 3 * alone.sigma > max(each.qber for each in followed)
    what = {each.what for block in followed for each in block.corrections}
    assert {"gate of D1", "loop phase"} <= what


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("ring_seed", [1, 2])
def test_a_day_followed_and_left_alone(ring_seed: int, tmp_path: Path) -> None:
    hours = [n / 3 for n in range(73)]
    sizes = {"slots": 1 << 20, "ring_seed": ring_seed}
    followed = day(tmp_path / "followed", hours, is_tracked=True, **sizes)
    alone = day(tmp_path / "alone", hours[::6], is_tracked=False, **sizes)
    lit = [each for each in followed if each.rounds]
    assert max(each.qber - 2 * each.sigma for each in lit) < LIMIT
    assert sum(bool(each.secret_bits) for each in followed) > 0.8 * len(followed)
    assert max(each.qber for each in alone if each.rounds) > 1.5 * LIMIT
    assert not any(each.secret_bits for each in alone[3:])
