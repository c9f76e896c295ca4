"""How a value is told with its uncertainty."""

from __future__ import annotations

import pytest

from lab.calibration.finding import Measured


@pytest.mark.parametrize(
    ("measured", "told"),
    [
        (Measured(30386105.237, 6.31, "ps"), "30386105.2 +- 6.3 ps"),
        (Measured([4523770.515, 26558843.55], [6.31, 12.4], "ps"), "4523770.5 +- 6.3 and 26558844 +- 12 ps"),
        (Measured(1.05051e-07, 2.3e-9), "1.051e-07 +- 2.3e-09"),
        (Measured(-0.01234, 0.002, "rad"), "-0.0123 +- 0.002 rad"),
        (Measured(0.0003, 0.02), "0.0003 +- 0.02"),
        (Measured(0.0, 0.002), "0 +- 0.002"),
        (Measured(3e-06, 1.8e-05, "ppm"), "3e-06 +- 1.8e-05 ppm"),
        (Measured(3.97, 0.0025, "V"), "3.9700 +- 0.0025 V"),
        (Measured(1.4919, 0.0, "ns"), "1.492 ns"),
    ],
)
def test_a_value_is_told_to_two_digits_of_its_uncertainty(measured: Measured, told: str) -> None:
    assert measured.told() == told
