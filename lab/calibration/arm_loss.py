"""The relay's loss from the rate of a pair's clicks against the light that its users measured at their outputs.

Both users' light arrives equally bright; of a pulse of ``mu`` photons at an output ``mu eta`` is counted, eta being the
loss of that arm.  What counts to make key is ``mu`` as that user reads it: with a sensor whose scale is wrong by 5 % the
arm is by 5 % another one, and plans made with it are right all the same.  So every arm, a user and a direction, has a loss
of its own.  Their mean beyond fibre and bypassed stations is what lies between loop end and click, the relay's loss with the
detectors' efficiency, which nobody can tell apart; what an arm is off it, is its *offset*, most of it the scale of a sensor.
An arm does not depend on the partner: light passes the same fibre and the same bypassed stations on its way home.

What light loses before the loop follows from the same counts: they say what both losses are together.

A relay may lie about the rate: the loss chooses the light that is planned, and users verify that themselves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lab.calibration.errors import CalibrationRefusedError
from lab.calibration.finding import Measured
from lab.calibration.gates import GateCounts

LARGEST_DISAGREEMENT_DB = 1.0

Floats = npt.NDArray[np.float64]
Arm = tuple[int, int]
"""A user's place in the ring, and 0 for its clockwise, 1 for its counter-clockwise light."""


@dataclass(frozen=True)
class OutputLight:
    """What one user measured at its output, in photons per slot, and what its arm is thought to lose in dB."""

    mu: float
    mu_sigma: float
    arm_db: float


@dataclass(frozen=True)
class ArmLosses:
    """The relay's loss, and by what each arm of the ring loses more, clockwise and counter-clockwise light, in ring order."""

    relay_db: Measured
    offsets_cw_db: Measured
    offsets_ccw_db: Measured


def arm_losses(
    counts: GateCounts,
    users: tuple[OutputLight, OutputLight],
    arms: tuple[Arm, Arm],
    relay_loss_db: float,
    offsets_db: Floats,
    scale_db: float,
) -> ArmLosses:
    """From a pair's light; its ``arms`` are of the ones in ``offsets_db``, which stand beside ``relay_loss_db`` so far.

    ``offsets_db``: float64 of shape (users, 2), clockwise and counter-clockwise, 0 where nobody has measured an arm;
    ``scale_db``: what a sensor's scale may be wrong by, either way.  Raises CalibrationRefusedError where the two users' light
    disagrees, or none is counted.
    """
    more_db, sigma_db = _more(counts, users)
    totals = relay_loss_db + offsets_db
    for arm, more in zip(arms, more_db, strict=True):
        totals[arm] += more
    measured = offsets_db != 0
    measured[tuple(zip(*arms, strict=True))] = True
    relay_db, scatter_db = float(totals[measured].mean()), float(totals[measured].std())
    # Few arms may agree by chance; anything within a scale's bounds is as likely.
    relay_sigma_db = math.hypot(sigma_db, max(scatter_db, scale_db / math.sqrt(3))) / math.sqrt(
        measured.sum()
    )
    offsets = np.where(measured, totals - relay_db, 0.0)
    sigmas = np.where(measured, sigma_db, scale_db)
    cw, ccw = (Measured(offsets[:, way].tolist(), sigmas[:, way].tolist(), "dB") for way in (0, 1))
    return ArmLosses(Measured(relay_db, relay_sigma_db, "dB"), cw, ccw)


def launch_loss(
    counts: GateCounts, planned: float, relay_db: Measured, thought_db: tuple[float, float]
) -> Measured:
    """What laser light loses until it is in the loop, in dB.

    ``planned`` counts per slot of the light of either direction; for the plan launch and relay were thought to lose
    ``thought_db``.  What is missing of them, and is not the relay's, is lost before the loop.  So every arm that was ever
    measured has its say, and not only the two sensors that read this light, each of which may be wrong by its scale.
    Stations and fibre are taken to lose what is known of them.
    """
    launch_db, relay_thought_db = thought_db
    assert isinstance(relay_db.value, float)
    missing_db = 10 * math.log10(planned / counts.arriving)
    return Measured(launch_db + missing_db - (relay_db.value - relay_thought_db), relay_db.uncertainty, "dB")


def _more(counts: GateCounts, users: tuple[OutputLight, OutputLight]) -> tuple[tuple[float, float], float]:
    """By how much each arm loses more than thought, and one sigma of either."""
    counted = float(counts.pulsed.sum())
    if counted <= 0:
        raise CalibrationRefusedError(
            "no pulse is counted", "is there light, do the gates stand on the pulses (delays)?"
        )
    for user in users:
        if not user.mu > 0:
            raise CalibrationRefusedError("a user measures no light", "its sensors, its switch")
    first, second = (10 * math.log10(user.mu / counts.arriving) - user.arm_db for user in users)
    if abs(first - second) > LARGEST_DISAGREEMENT_DB:
        raise CalibrationRefusedError(
            f"by the first user's light the relay loses {first:+.2f} dB more and by the second's {second:+.2f} dB more",
            "the two users' sensors (calibrate intensity), or fibre and stations between them",
        )
    counting = math.hypot(*counts.pulsed_sigma) / counted
    measuring = math.sqrt(sum((user.mu_sigma / user.mu) ** 2 for user in users) / len(users))
    return (first, second), 10 / math.log(10) * math.hypot(counting, measuring)
