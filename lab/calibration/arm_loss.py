"""The relay's loss from the rate of a pair's clicks against the light that its users measured at their outputs.

Both users' light arrives equally bright; of a pulse of ``mu`` photons at an output ``mu eta`` is counted, eta being the
loss of that arm.  Fibre and bypassed stations are taken as the file has them, so that one number is left for what lies
between loop end and click: the relay's loss with the detectors' efficiency, which nobody can tell apart.

A relay may lie about the rate: the loss chooses the light that is planned, and users verify that themselves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lab.calibration.errors import CalibrationRefusedError
from lab.calibration.finding import Measured
from lab.calibration.gates import GateCounts

LARGEST_DISAGREEMENT_DB = 1.0


@dataclass(frozen=True)
class OutputLight:
    """What one user measured at its output, in photons per slot, and what its arm is thought to lose in dB."""

    mu: float
    mu_sigma: float
    arm_db: float


def launch_loss(
    users: tuple[OutputLight, OutputLight], planned: tuple[float, float], loss_db: float
) -> Measured:
    """What laser light loses until it is in the loop, in dB, thought to be ``loss_db`` when the users' light was planned.

    Both users' light is dimmer than planned by what more is lost; what they differ by lies in their stations.
    """
    more_db = [10 * math.log10(plan / user.mu) for plan, user in zip(planned, users, strict=True)]
    sigmas = [10 / math.log(10) * user.mu_sigma / user.mu for user in users]
    apart_db = abs(more_db[0] - more_db[1]) / 2
    return Measured(loss_db + sum(more_db) / 2, math.hypot(*(s / 2 for s in sigmas), apart_db), "dB")


def relay_loss(counts: GateCounts, users: tuple[OutputLight, OutputLight], relay_loss_db: float) -> Measured:
    """The relay's loss in dB, which is thought to be ``relay_loss_db``.

    Raises CalibrationRefusedError where the two users' light disagrees, or none is counted.
    """
    counted = float(counts.pulsed.sum())
    if counted <= 0:
        raise CalibrationRefusedError(
            "no pulse is counted", "is there light, do the gates stand on the pulses (delays)?"
        )
    found, sigmas = [], []
    for user in users:
        if not user.mu > 0:
            raise CalibrationRefusedError("a user measures no light", "its sensors, its switch")
        arm_db = 10 * math.log10(user.mu / counts.arriving)
        found.append(relay_loss_db + arm_db - user.arm_db)
        sigmas.append(10 / math.log(10) * user.mu_sigma / user.mu)
    if abs(found[0] - found[1]) > LARGEST_DISAGREEMENT_DB:
        raise CalibrationRefusedError(
            f"by the first user's light the relay loses {found[0]:.2f} dB and by the second's {found[1]:.2f} dB",
            "the two users' sensors (calibrate intensity), or fibre and stations between them",
        )
    counting_db = 10 / math.log(10) * math.hypot(*counts.pulsed_sigma) / counted
    # What the fibre's loss is wrong by goes half to each.
    apart_db = abs(found[0] - found[1]) / 2
    return Measured(sum(found) / 2, math.hypot(counting_db, *(s / 2 for s in sigmas), apart_db), "dB")
