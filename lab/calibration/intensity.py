"""What lies between a user's sensors and its output, from one of the sensors at the far tap's free port and back.

Light of one direction meets a tap, the modulator, the attenuator and the other direction's tap.  The first tap feeds the
sensor of that direction; behind the second one goes on to the output, and as much of it, where the tap is a half, leaves
by the tap's fourth port, which is free.  So the sensor's fibre is moved there and back: the same sensor at both places,
and its scale, which nobody knows to better than 5 %, cancels.

The light is the relay's, who may brighten or dim it at any time.  So each reading comes with one of the other
direction's sensor, which stays where it is and sees the same laser, and only the ratio counts::

    10 log10(cw / ccw) = a                                        both at their taps
                       = a - L_cw - s (set - base)                clockwise sensor at its free port
                       = a + L_ccw + s (set - base)               counter-clockwise sensor at its free port

``set`` is one of several settings of the attenuator in an order that nobody else knows, ``s`` what it really takes per dB
that is set.  Both at their taps is read before, between and after: a connector that is mated again takes something else,
and what counts is how it stays.  So each loss is against the readings at the taps that follow.  What would still be
believed is light whose two directions change against each other just while a fibre is moved, which the relay does not see,
and by less than connectors do.

The station's polariser stands behind the first tap, which takes light of any polarisation.  What it takes of light that is
not aligned is no loss of the station, and a user cannot tell it from one: so polarisation is aligned before, and the relay
is believed to let it be.

Least squares, with the scatter of the readings as their sigma.  Beside it stand connectors, taps that are not quite a
half and the switch behind, which is as its order says (figures usual for such parts, chosen).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from lab.calibration.errors import CalibrationRefusedError
from lab.calibration.finding import Measured

Floats = npt.NDArray[np.float64]

TAP_DB = -10 * math.log10(0.5)
"""What a tap of a half takes."""
CONNECTOR_DB = 0.05
"""By which a connector that is mated again may differ (one sigma)."""
SPLIT_DB = 0.05
"""By which a tap's two outputs may differ beyond what was ordered (one sigma)."""
SWITCH_DB = 0.1
"""Of one pass of the switch (one sigma)."""
LEAST_READINGS = 12
WORST_SCATTER_DB = 0.05
WORST_MOVE_DB = 0.15
"""Between ratios read with both sensors at their taps, one connector mated anew."""
SLOPE_SIGMA = 5e-4
"""An attenuator that is set in steps of some hundredths of a dB over a staircase of 15 dB."""
LOSSES_DB = (3.0, 25.0)
SLOPES = (0.9, 1.1)

Moved = Literal["", "cw", "ccw"]
"""Which sensor is at its free port."""


@dataclass(frozen=True)
class TapReading:
    """Both sensors read at once, in watts, with the attenuator set so."""

    moved: Moved
    set_db: float
    cw_w: float
    ccw_w: float

    @property
    def ratio_db(self) -> float:
        """Clockwise over counter-clockwise; CalibrationRefusedError where a sensor sees nothing."""
        if not (self.cw_w > 0 and self.ccw_w > 0):
            raise CalibrationRefusedError(
                f"the sensors read {self.cw_w:.3g} W (cw) and {self.ccw_w:.3g} W (ccw)",
                "does light arrive from both sides, is the station taken in, are the fibres plugged in",
            )
        return 10 * math.log10(self.cw_w / self.ccw_w)


@dataclass(frozen=True)
class IntensityFit:
    """Losses from sensor to free port at the base setting, and what the attenuator takes per dB, each with one sigma.

    ``scatter_db`` of the readings; ``residuals_db`` of each, in their order.
    """

    losses_db: tuple[float, float]
    losses_sigma_db: tuple[float, float]
    slope: float
    slope_sigma: float
    scatter_db: float
    residuals_db: Floats

    def sensor_to_output(self, bypass_db: float) -> Measured:
        """Both directions; ``bypass_db`` is one pass of the switch."""
        sigma = [
            math.hypot(each, math.sqrt(2) * CONNECTOR_DB, SPLIT_DB, SWITCH_DB)
            for each in self.losses_sigma_db
        ]
        return Measured([each + bypass_db for each in self.losses_db], sigma, "dB")

    def station_loss(self, bypass_db: float) -> Measured:
        """From input to output: the mean of both directions, which pass the same parts."""
        mean_db = sum(self.losses_db) / 2 + TAP_DB + 2 * bypass_db
        statistical = math.hypot(*self.losses_sigma_db) / 2
        return Measured(mean_db, math.hypot(statistical, CONNECTOR_DB, SPLIT_DB, 2 * SWITCH_DB), "dB")


def fit_intensity(readings: Sequence[TapReading], base_db: float) -> IntensityFit:
    """Both losses and the attenuator's slope.  Raises CalibrationRefusedError with what to look at."""
    if len(readings) < LEAST_READINGS:
        raise CalibrationRefusedError(
            f"{len(readings)} readings are too few, at least {LEAST_READINGS} are needed", "read again"
        )
    ratios = np.array([each.ratio_db for each in readings])
    cw, ccw = (np.array([each.moved == name for each in readings], float) for name in ("cw", "ccw"))
    beyond = np.array([each.set_db - base_db for each in readings])
    blocks = _blocks(readings)
    _check_taps(readings, ratios, blocks)
    at_taps = (blocks[:, None] == np.arange(blocks[-1] + 1)).astype(float)
    design = np.column_stack([-cw, ccw, (ccw - cw) * beyond, at_taps])
    found, *_ = np.linalg.lstsq(design, ratios, rcond=None)
    residuals = ratios - design @ found
    scatter_db = math.sqrt(float(residuals @ residuals) / (ratios.size - found.size))
    loss_cw, loss_ccw, slope = (float(each) for each in found[:3])
    _check_plausible(loss_cw, loss_ccw, slope)
    if scatter_db > WORST_SCATTER_DB:
        raise CalibrationRefusedError(
            f"the readings scatter by {scatter_db:.3f} dB around the best line, at most {WORST_SCATTER_DB:g} is allowed",
            "the light flickers faster than both sensors can be read, or the attenuator does not come to rest",
        )
    covariance = np.linalg.pinv(design.T @ design) * scatter_db**2
    sigma = np.sqrt(np.diag(covariance))
    return IntensityFit(
        (loss_cw, loss_ccw),
        (float(sigma[0]), float(sigma[1])),
        slope,
        math.hypot(float(sigma[2]), SLOPE_SIGMA),
        scatter_db,
        residuals,
    )


def _blocks(readings: Sequence[TapReading]) -> npt.NDArray[np.int64]:
    """Number of the stay at the taps that each reading belongs to or comes before: int64 of shape (n,)."""
    number, before, blocks = 0, "", []
    for reading in readings:
        if reading.moved and not before:
            number += 1
        before = reading.moved
        blocks.append(number)
    return np.array(blocks)


def _check_taps(readings: Sequence[TapReading], ratios_db: Floats, blocks: npt.NDArray[np.int64]) -> None:
    """With both sensors at their taps the ratio stays what it is, but for a connector."""
    at_taps = np.array([not each.moved for each in readings])
    stays = [ratios_db[at_taps & (blocks == number)] for number in range(int(blocks[-1]) + 1)]
    if len(stays) != 3 or not all(stay.size for stay in stays):
        raise CalibrationRefusedError(
            "both sensors at their taps were not read before, between and after", "measure again"
        )
    moved_db = float(np.abs(np.diff([stay.mean() for stay in stays])).max())
    if moved_db > WORST_MOVE_DB:
        raise CalibrationRefusedError(
            f"with both sensors at their taps their ratio changed by {moved_db:.3f} dB, at most {WORST_MOVE_DB:g} is allowed",
            "clean the connectors; polarisation; or light whose two directions are changed against each other",
        )


def _check_plausible(loss_cw: float, loss_ccw: float, slope: float) -> None:
    for name, loss in (("clockwise", loss_cw), ("counter-clockwise", loss_ccw)):
        if not LOSSES_DB[0] <= loss <= LOSSES_DB[1]:
            raise CalibrationRefusedError(
                f"from tap to free port {name} light loses {loss:.2f} dB, {LOSSES_DB[0]:g} to {LOSSES_DB[1]:g} dB can be",
                "was the fibre of the right sensor moved to the free port of the far tap, and back",
            )
    if not SLOPES[0] <= slope <= SLOPES[1]:
        raise CalibrationRefusedError(
            f"the attenuator takes {slope:.3f} dB per dB that is set, {SLOPES[0]:g} to {SLOPES[1]:g} can be",
            "was the fibre of the right sensor moved to the free port of the far tap, and back; the attenuator's wavelength",
        )
