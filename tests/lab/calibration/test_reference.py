"""One clock and a trigger that does not jump are told from time stamps; what is not so is refused."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from lab.calibration.errors import CalibrationRefusedError
from lab.calibration.reference import reference_of

SLOT_PS, RECORD_PS = 10_000.0, 5e10
Times = npt.NDArray[np.int64]


def records(
    ppm: float = 0.0, jitter_ps: float = 0.0, clicks: int = 40_000, pulsed: float = 0.95, count: int = 10
) -> list[Times]:
    """Pulses of 0.4 ns at 3150 ps in the slot by a clock ``ppm`` off, and clicks at any time; START jumps."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(count):
        slots = rng.integers(0, round(RECORD_PS / SLOT_PS), round(clicks * pulsed))
        pulses = (3150 + slots * SLOT_PS) * (1 + ppm * 1e-6) + rng.normal(0, 172, slots.size)
        flat = rng.uniform(0, RECORD_PS, clicks - slots.size)
        times = np.concatenate([pulses, flat]) + jitter_ps * rng.standard_normal()
        found.append(np.sort(times[(times >= 0) & (times < RECORD_PS)]).astype(np.int64))
    return found


@pytest.mark.parametrize("jitter_ps", [0.0, 15.0])
def test_one_clock_and_a_steady_trigger(jitter_ps: float) -> None:
    found = reference_of(records(jitter_ps=jitter_ps), SLOT_PS, RECORD_PS)
    ppm, sigma = found.offset_ppm.value, found.offset_ppm.uncertainty
    assert isinstance(ppm, float)
    assert isinstance(sigma, float)
    assert abs(ppm) < 5 * sigma < 2e-4
    assert found.jitter_ps.value == pytest.approx(jitter_ps, abs=6)
    assert found.places_ps % SLOT_PS == pytest.approx(np.full(10, 3150), abs=60)


@pytest.mark.parametrize("ppm", [0.01, -0.05, 1.9, -1.9])
def test_a_clock_of_its_own_is_refused_with_its_rate(ppm: float) -> None:
    with pytest.raises(CalibrationRefusedError, match="the carver's generator runs ") as refused:
        reference_of(records(ppm=ppm), SLOT_PS, RECORD_PS)
    assert float(str(refused.value).split(" runs ")[1].split()[0]) == pytest.approx(ppm, abs=3e-4)


def test_a_trigger_that_jumps_is_refused() -> None:
    with pytest.raises(CalibrationRefusedError, match="from record to record the pulses jump by"):
        reference_of(records(jitter_ps=250.0), SLOT_PS, RECORD_PS)


def test_what_says_nothing_is_refused() -> None:
    with pytest.raises(CalibrationRefusedError, match="no place in the slot"):
        reference_of(records(pulsed=0.05), SLOT_PS, RECORD_PS)
    with pytest.raises(CalibrationRefusedError, match="too few"):
        reference_of(records(clicks=500), SLOT_PS, RECORD_PS)
    with pytest.raises(CalibrationRefusedError, match="3 records"):
        reference_of(records(count=3), SLOT_PS, RECORD_PS)
