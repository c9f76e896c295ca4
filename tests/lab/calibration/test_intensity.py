"""Losses from sensors to outputs: right whatever the relay's light does, refused where it could matter."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from lab.calibration.errors import CalibrationRefusedError
from lab.calibration.intensity import Moved, TapReading, fit_intensity

BASE_DB, BYPASS_DB = 1.0, 0.6
LOSSES_DB, SLOPE = (7.9, 8.3), 1.008
COURSE: tuple[Moved, ...] = ("", "cw", "", "ccw", "")

Light = Callable[[int, np.random.Generator], tuple[float, float]]


def steady(index: int, rng: np.random.Generator) -> tuple[float, float]:
    return 1e-7, 1.3e-7


def dishonest(index: int, rng: np.random.Generator) -> tuple[float, float]:
    """Brightens and dims by a factor of ten, both directions alike, from reading to reading."""
    power = 10 ** rng.uniform(-0.5, 0.5)
    return 1e-7 * power, 1.3e-7 * power


def readings(seed: int, light: Light = steady) -> list[TapReading]:
    return read_all(seed, light)[0]


def read_all(
    seed: int, light: Light = steady, *, noise: float = 5e-4, connector_db: float = 0.0
) -> tuple[list[TapReading], tuple[float, float]]:
    """What sensors of wrong scales read of it, in the order of a calibration; and what the connectors at the taps take then."""
    rng = np.random.default_rng(seed)
    scale = {"cw": 1 + rng.uniform(-0.05, 0.05), "ccw": 1 + rng.uniform(-0.05, 0.05)}
    mated = {"cw": 0.0, "ccw": 0.0}
    found: list[TapReading] = []
    for before, moved in zip(("", *COURSE), COURSE, strict=False):
        for name in {before, moved} - {""}:
            mated[name] = rng.uniform(0, connector_db)
        settings = [BASE_DB] * 3
        if moved:
            settings = [BASE_DB + each for each in rng.permutation([0, 1, 2, 4, 7, 10, 15] * 2)]
        for set_db in settings:
            powers = dict(zip(("cw", "ccw"), light(len(found), rng), strict=True))
            read = {}
            for name, loss_db in zip(("cw", "ccw"), LOSSES_DB, strict=True):
                lost_db = loss_db + SLOPE * (set_db - BASE_DB) if moved == name else 0.0
                through = 10 ** (-(lost_db + mated[name]) / 10)
                read[name] = powers[name] * scale[name] * through * (1 + noise * rng.standard_normal())
            found.append(TapReading(moved, set_db, read["cw"], read["ccw"]))
    return found, (mated["cw"], mated["ccw"])


@pytest.mark.parametrize("light", [steady, dishonest])
def test_losses_are_right_whatever_both_directions_do_together(light: Light) -> None:
    pulls = []
    for seed in range(40):
        fit = fit_intensity(readings(seed, light), BASE_DB)
        pulls += [(f - t) / s for f, t, s in zip(fit.losses_db, LOSSES_DB, fit.losses_sigma_db, strict=True)]
        assert abs(fit.slope - SLOPE) < 5 * fit.slope_sigma
        assert fit.slope_sigma < 0.002
    assert np.abs(pulls).max() < 5
    assert np.mean(np.abs(pulls) < 2) >= 0.9
    assert max(fit.losses_sigma_db) < 0.01


def test_a_connector_counts_as_it_stays() -> None:
    """Mated again it takes up to a tenth of a dB more or less; what is said allows for it."""
    for seed in range(40):
        found, mated_db = read_all(seed, connector_db=0.1)
        output = fit_intensity(found, BASE_DB).sensor_to_output(BYPASS_DB)
        error = np.subtract(output.value, np.add(LOSSES_DB, BYPASS_DB)) + mated_db
        assert error.min() > -0.01
        assert error.max() < 0.11, "only the connector at the free port is not known"
        assert np.all(np.abs(error) < 2 * np.array(output.uncertainty))


def test_the_station_takes_both_taps_and_the_switch_twice() -> None:
    fit = fit_intensity(readings(1), BASE_DB)
    mean_db = sum(LOSSES_DB) / 2
    assert fit.station_loss(BYPASS_DB).value == pytest.approx(mean_db + 10 * math.log10(2) + 1.2, abs=0.01)


def test_directions_that_change_against_each_other_are_refused() -> None:
    """A relay that turns one direction up by 5 % while the other stays."""

    def lopsided(index: int, rng: np.random.Generator) -> tuple[float, float]:
        return (1e-7, 1.3e-7) if index < 12 else (1.05e-7, 1.3e-7)

    with pytest.raises(CalibrationRefusedError, match=r"ratio changed by 0\.2|scatter"):
        fit_intensity(readings(1, lopsided), BASE_DB)

    def flickering(index: int, rng: np.random.Generator) -> tuple[float, float]:
        return 1e-7 * 10 ** rng.uniform(-0.02, 0.02), 1.3e-7

    with pytest.raises(CalibrationRefusedError, match="scatter"):
        fit_intensity(readings(1, flickering), BASE_DB)


def test_a_fibre_that_was_not_moved_is_told() -> None:
    tap_w = {"cw": 1e-7, "ccw": 1.3e-7}
    good = readings(1)
    for left in (("cw",), ("ccw",), ("cw", "ccw")):
        stayed = [
            replace(each, **{f"{each.moved}_w": tap_w[each.moved]}) if each.moved in left else each
            for each in good
        ]
        with pytest.raises(CalibrationRefusedError, match="fibre of the right sensor"):
            fit_intensity(stayed, BASE_DB)


def test_too_little_is_refused() -> None:
    good = readings(1)
    with pytest.raises(CalibrationRefusedError, match="too few"):
        fit_intensity(good[:5], BASE_DB)
    with pytest.raises(CalibrationRefusedError, match="before, between and after"):
        fit_intensity(good[:20], BASE_DB)
    dark = [replace(good[0], ccw_w=0.0), *good[1:]]
    with pytest.raises(CalibrationRefusedError, match="does light arrive from both sides"):
        fit_intensity(dark, BASE_DB)
