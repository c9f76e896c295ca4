"""What polarisation controllers make of light, each against formulas written here."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sim_backends.polarization.fibre import (
    AXIS_PER_PADDLE,
    HALF_WAVE_V,
    LOOP_RETARDANCE_RAD,
    PaddledFibre,
    SqueezedFibre,
    retarder,
)

X = np.array([1.0, 0.0], complex)
PAULI = [np.array(each, complex) for each in ([[1, 0], [0, -1]], [[0, 1], [1, 0]], [[0, -1j], [1j, 0]])]


def stokes(field: np.ndarray) -> np.ndarray:
    return np.array([(field.conj() @ each @ field).real for each in PAULI])


def test_plates_do_what_plates_do() -> None:
    """A half-wave plate at an angle turns linear light by twice the angle; a quarter-wave plate at 45 degrees makes it round."""
    turned = retarder(math.pi, math.radians(20)) @ X
    assert stokes(turned) == pytest.approx(
        [math.cos(math.radians(80)), math.sin(math.radians(80)), 0], abs=1e-12
    )
    assert abs(stokes(retarder(math.pi / 2, math.pi / 4) @ X)[2]) == pytest.approx(1)


def test_a_squeezer_turns_the_state_about_its_axis_in_proportion_to_its_voltage() -> None:
    fibre = SqueezedFibre.made(np.random.default_rng(0), 0.0)
    assert np.abs(fibre.jones([0.0] * 4) - np.eye(2)).max() < 1e-12
    for volt in (-5.0, -1.3, 0.7, 4.9):
        assert abs(fibre.jones([volt, 0, volt, 0])[0, 0]) == pytest.approx(1)  # its axis is that of the light
        through = abs(fibre.jones([0, volt, 0, 0])[0, 0]) ** 2
        assert through == pytest.approx(math.cos(math.pi * volt / HALF_WAVE_V / 2) ** 2)


def test_paddles_at_rest_pass_light_along_x_and_turn_it_when_they_are_turned() -> None:
    fibre = PaddledFibre.made(np.random.default_rng(0), 0.0)
    assert abs(fibre.jones([0.0, 0.0, 0.0])[0, 0]) == pytest.approx(1)
    retardance, axis = 2 * LOOP_RETARDANCE_RAD, AXIS_PER_PADDLE * math.radians(30)
    by_hand = 1 - math.sin(2 * axis) ** 2 * math.sin(retardance / 2) ** 2
    assert abs(fibre.jones([0.0, 30.0, 0.0])[0, 0]) ** 2 == pytest.approx(by_hand)


@pytest.mark.parametrize("kind", [SqueezedFibre, PaddledFibre])
def test_what_a_unit_became_is_unitary_its_own_and_the_same_again(
    kind: type[SqueezedFibre] | type[PaddledFibre],
) -> None:
    settings = [1.0, 0.5, 2.0, 0.1][: 4 if kind is SqueezedFibre else 3]
    made = [kind.made(np.random.default_rng(seed), 1.0).jones(settings) for seed in (1, 2, 1)]
    for each in made:
        assert np.abs(each @ each.conj().T - np.eye(2)).max() < 1e-12
    assert np.abs(made[0] - made[1]).max() > 0.1
    assert np.array_equal(made[0], made[2])


def test_a_piezo_lags_behind_its_voltage_by_its_hysteresis() -> None:
    fibre = SqueezedFibre.made(np.random.default_rng(3), 1.0)

    def at(*volts: float) -> np.ndarray:
        for volt in volts:
            jones = fibre.jones([volt, 0, 0, 0])
        return jones

    up, down = at(-5.0, 1.0), at(5.0, 1.0)
    assert np.abs(up - down).max() > 1e-3
    assert np.allclose(at(-5.0, 1.0), up)
    assert np.allclose(down, at(-5.0, 1.0 + 2 * fibre.hysteresis_v))
