"""Quantisation: unbiased, bounded, exactly summable, and refused where the sum could wrap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl.rounds.quantise import (
    QuantisationError,
    Quantiser,
    RingWidthError,
    UpdateNotFiniteError,
    check_ring_width,
    largest_levels,
    quantisation_rng,
    smallest_ring_width,
)


@given(
    value=st.floats(-3, 3),
    clip=st.floats(0.01, 2),
    levels=st.integers(1, 255),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_rounding_is_unbiased(value: float, clip: float, levels: int, seed: int) -> None:
    draws = 4000
    quantised = Quantiser(clip, levels).quantise(
        np.full(draws, value), np.random.default_rng(seed), client="alice", round_number=1
    )
    exact = np.clip(value, -clip, clip) * levels / clip
    fraction = exact - np.floor(exact)
    sigma = np.sqrt(max(fraction * (1 - fraction), 1e-9) / draws)
    assert abs(quantised.mean() - exact) <= 6 * sigma + 2 / draws
    assert set(np.unique(quantised)) <= {int(np.floor(exact)), int(np.floor(exact)) + 1}


@given(
    values=st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=50),
    levels=st.integers(1, 2**15),
    clip=st.floats(1e-6, 1e6),
)
@settings(max_examples=100, deadline=None)
def test_values_stay_within_the_levels(values: list[float], levels: int, clip: float) -> None:
    update = np.array(values, np.float32)
    quantised = Quantiser(clip, levels).quantise(
        update, np.random.default_rng(0), client="alice", round_number=1
    )
    assert quantised.dtype == np.int32
    assert np.abs(quantised).max() <= levels


def test_the_clip_itself_becomes_the_top_level_without_overshoot() -> None:
    update = np.array([0.1, -0.1, 0.3, -0.3] * 5000, np.float32)
    for clip in (0.1, 0.3):
        for levels in (1, 3, 127):
            quantised = Quantiser(clip, levels).quantise(
                update, np.random.default_rng(1), client="alice", round_number=1
            )
            assert set(np.abs(quantised[np.abs(update) >= np.float32(clip)])) <= {levels - 1, levels}


@given(
    n_clients=st.integers(2, 12),
    levels=st.integers(1, 127),
    weights_seed=st.integers(0, 2**32),
    size=st.integers(1, 40),
)
@settings(max_examples=60, deadline=None)
def test_the_sum_read_from_the_accepted_ring_is_exact(
    n_clients: int, levels: int, weights_seed: int, size: int
) -> None:
    rng = np.random.default_rng(weights_seed)
    weights = [int(w) for w in rng.integers(1, 6, n_clients)]
    ring_width = smallest_ring_width(levels, sum(weights))
    check_ring_width(levels, weights, ring_width)
    extreme = rng.integers(0, 2, (n_clients, size)) * 2 - 1
    updates = (extreme * levels).astype(np.int64)
    updates[:, 0] = levels
    exact = (np.array(weights)[:, None] * updates).sum(axis=0)
    modular = exact % 2**ring_width
    signed = np.where(modular >= 2 ** (ring_width - 1), modular - 2**ring_width, modular)
    assert np.array_equal(signed, exact)


@given(levels=st.integers(1, 1000), weight_sum=st.integers(1, 1000))
@settings(max_examples=100, deadline=None)
def test_one_bit_less_than_the_smallest_ring_wraps(levels: int, weight_sum: int) -> None:
    needed = smallest_ring_width(levels, weight_sum)
    check_ring_width(levels, [weight_sum], needed)
    if needed > 2:
        with pytest.raises(RingWidthError):
            check_ring_width(levels, [weight_sum], needed - 1)


@pytest.mark.parametrize(
    ("n_clients", "needed_bits", "levels_in_8_bits"), [(4, 10, 31), (10, 12, 12), (50, 14, 2), (200, 16, 0)]
)
def test_the_published_table(n_clients: int, needed_bits: int, levels_in_8_bits: int) -> None:
    assert smallest_ring_width(127, n_clients) == needed_bits
    assert largest_levels(8, n_clients) == levels_in_8_bits


def test_the_refusal_names_every_number_and_what_would_work() -> None:
    with pytest.raises(RingWidthError) as caught:
        check_ring_width(127, [1] * 4, 8)
    text = str(caught.value)
    for part in ("N = 4", "L = 127", "b = 8", "b = 10", "L = 31"):
        assert part in text
    with pytest.raises(RingWidthError, match="no L fits b = 8"):
        check_ring_width(1, [1] * 200, 8)


@pytest.mark.parametrize(
    ("levels", "weights", "ring_width"),
    [(1, [], 8), (1, [0, 1], 8), (1, [1, -1], 8), (1, [1], 1), (1, [1], 33)],
)
def test_settings_without_sense_are_refused(levels: int, weights: list[int], ring_width: int) -> None:
    with pytest.raises(QuantisationError):
        check_ring_width(levels, weights, ring_width)


@pytest.mark.parametrize(
    ("clip", "levels"),
    [(0.0, 1), (-1.0, 1), (float("nan"), 1), (float("inf"), 1), (1e-320, 1), (1e39, 1), (1.0, 0)],
)
def test_a_quantiser_without_sense_is_refused(clip: float, levels: int) -> None:
    with pytest.raises(QuantisationError):
        Quantiser(clip, levels)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_refused_by_name(poison: float) -> None:
    update = np.zeros(10, np.float32)
    update[7] = poison
    with pytest.raises(UpdateNotFiniteError, match=r"client bob, round 3: parameter 7"):
        Quantiser(1.0, 127).quantise(update, np.random.default_rng(0), client="bob", round_number=3)


def test_the_mean_undoes_the_scale() -> None:
    quantiser = Quantiser(0.5, 100)
    total = np.array([400, -200, 0], np.int64)
    assert np.allclose(quantiser.mean(total, 4), [0.5, -0.25, 0.0])
    assert quantiser.mean(total, 4).dtype == np.float32


def test_rounding_noise_differs_between_rounds_and_clients() -> None:
    draws = {quantisation_rng(1, r, c).random() for r in range(5) for c in range(5)}
    assert len(draws) == 25
    assert quantisation_rng(1, 2, 3).random() == quantisation_rng(1, 2, 3).random()
