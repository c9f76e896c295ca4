"""Zero-noise extrapolation: exact on its own models, honest about its error."""

from __future__ import annotations

import numpy as np
import pytest

from fl.qpu.extrapolate import to_zero_noise

FACTORS = (1, 3, 5)
X = np.array(FACTORS, float)


def test_an_exponential_decay_is_followed_back_exactly() -> None:
    start = np.array([[0.9, -0.7], [0.5, -0.2]])
    values = start * np.exp(-0.07 * X)[:, None, None]
    found, errors = to_zero_noise(values, np.full((3, 2, 2), 1e-3), FACTORS, 4096)
    np.testing.assert_allclose(found, start, atol=1e-12)
    assert errors.shape == (2, 2)


@pytest.mark.filterwarnings("error")
def test_a_line_is_taken_where_values_are_not_clear_of_zero_or_grow() -> None:
    near = 0.01 - 0.004 * X
    growing = 0.3 + 0.02 * X
    values = np.stack([near, growing, 0 * X], axis=1)
    found, _ = to_zero_noise(values, np.full((3, 3), 0.01), FACTORS, 4096)
    np.testing.assert_allclose(found, [0.01, 0.3, 0.0], atol=1e-12)


@pytest.mark.parametrize("start", [0.9, 0.3, 0.02, -0.6])
def test_the_standard_error_is_the_spread_of_repeated_measurements(start: float) -> None:
    rng = np.random.default_rng(5)
    errors = np.array([0.010, 0.012, 0.015])
    true = start * np.exp(-0.05 * X)
    values = true[:, None] + errors[:, None] * rng.normal(size=(3, 4000))
    found, told = to_zero_noise(values, np.tile(errors[:, None], 4000), FACTORS, 4096)
    assert np.std(found) == pytest.approx(np.mean(told), rel=0.05)
    assert np.mean(found) == pytest.approx(start, abs=0.003)


def test_three_points_that_lie_on_a_curve_by_chance_are_no_more_certain() -> None:
    values = 0.8 * np.exp(-0.05 * X)
    _, exact = to_zero_noise(values[:, None], np.full((3, 1), 0.02), FACTORS, 4096)
    _, scattered = to_zero_noise(
        (values + np.array([0.01, -0.02, 0.01]))[:, None], np.full((3, 1), 0.02), FACTORS, 4096
    )
    assert exact[0] == pytest.approx(scattered[0], rel=0.1)
    assert exact[0] > 0.02


def test_outcomes_that_were_all_alike_do_not_count_as_certain() -> None:
    found, errors = to_zero_noise(np.ones((3, 1)), np.zeros((3, 1)), FACTORS, 100)
    assert found == pytest.approx(1.0)
    assert errors[0] > 0.01


@pytest.mark.parametrize("rows", [1, 2])
def test_rows_must_match_the_noise_factors(rows: int) -> None:
    with pytest.raises(ValueError, match=f"{rows} rows of values for 3 noise factors"):
        to_zero_noise(np.ones((rows, 4)), np.ones((rows, 4)), FACTORS, 100)
