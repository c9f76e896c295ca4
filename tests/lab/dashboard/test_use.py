"""How long a stock lasts: what was stored, less what the stock grew by, over time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.dashboard.use import LEAST_S, POINTS, WINDOW_S, Use


@given(st.lists(st.tuples(st.integers(0, 50_000), st.integers(0, 50_000)), min_size=3, max_size=400))
def test_use_is_what_was_taken_over_the_window(steps: list[tuple[int, int]]) -> None:
    use, stock, taken = Use(), 10_000_000, 0
    history = []
    for second, (stored, used) in enumerate(steps):
        at_s = 10.0 * second
        stock, taken = stock + stored - used, taken + used
        use.stored(stored)
        use.stock(stock, at_s)
        history.append((at_s, taken))
    now_s = history[-1][0]
    inside = [each for each in history if now_s - each[0] <= WINDOW_S][-POINTS:]
    if now_s - inside[0][0] < LEAST_S:
        assert use.used_bps(now_s) is None
    else:
        assert use.used_bps(now_s) == pytest.approx((taken - inside[0][1]) / (now_s - inside[0][0]))
    assert len(use.points) <= POINTS


def test_a_stock_that_nobody_takes_from_lasts_for_ever() -> None:
    use = Use()
    use.stock(1000, 0.0)
    use.stored(500)
    use.stock(1500, 30.0)
    assert use.used_bps(30.0) == 0.0
    assert use.lasts_s(30.0) is None


def test_a_stock_lasts_as_long_as_its_use_takes() -> None:
    use = Use()
    use.stock(1000, 0.0)
    use.stock(400, 30.0)
    assert use.lasts_s(30.0) == pytest.approx(20.0)


def test_a_stock_falls_when_more_than_a_block_of_it_is_not_made_again() -> None:
    use = Use()
    assert not use.falls()
    use.stock(60_000, 0.0)
    use.stored(50_000)
    use.stock(110_000, 10.0)
    use.stock(11_000, 20.0)
    assert not use.falls(), "the next block brings it back"
    use.stock(9_000, 30.0)
    assert use.falls()
