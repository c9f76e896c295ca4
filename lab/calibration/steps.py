"""The calibrations of a ring: what each finds, whose values it finds, and which others it rests on.

A step that needs another one is refused while that one's values are missing or stale.  The order of the table is one in
which all of them can be done.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class Step(StrEnum):
    """One calibration, by the name that ``qunetlab calibrate`` takes."""

    REFERENCE = "reference"
    CARVER = "carver"
    DETECTORS = "detectors"
    PULSES = "pulses"
    DELAYS = "delays"
    SEPARATION = "separation"
    POLARIZATION = "polarization"
    INTENSITY = "intensity"
    PHASE = "phase"
    BACKSCATTER = "backscatter"
    ARM_LOSS = "arm-loss"
    VISIBILITY = "visibility"


@dataclass(frozen=True)
class StepFacts:
    """What is known of a step before it runs.

    ``owner``: who measures and keeps the values; ``valid_h`` is how long they hold on a ring that drifts as usual (chosen).
    """

    finds: str
    owner: Literal["relay", "user"]
    needs: tuple[Step, ...]
    valid_h: float


STEPS: dict[Step, StepFacts] = {
    Step.REFERENCE: StepFacts(
        "clocks on one reference, the trigger's latency and jitter", "relay", (), 24 * 7
    ),
    Step.CARVER: StepFacts(
        "the bias at which the carver is dark, and its extinction", "relay", (Step.REFERENCE,), 24
    ),
    Step.DETECTORS: StepFacts(
        "plateau, dark counts, latching and relative efficiency", "relay", (Step.REFERENCE,), 24 * 7
    ),
    Step.PULSES: StepFacts("when pulses reach the detectors", "relay", (Step.CARVER, Step.DETECTORS), 24),
    Step.DELAYS: StepFacts(
        "when pulses pass each user's modulator, in both directions", "user", (Step.PULSES,), 24
    ),
    Step.SEPARATION: StepFacts(
        "how far apart the two directions pass each station", "user", (Step.DELAYS,), 24
    ),
    Step.POLARIZATION: StepFacts(
        "the settings of the polarisation controllers with most counts", "relay", (Step.DETECTORS,), 24
    ),
    Step.INTENSITY: StepFacts(
        "sensor zeros, and what lies between a sensor and its user's output", "user", (), 24 * 7
    ),
    Step.PHASE: StepFacts(
        "the voltage of half a turn at each modulator, and the loop's phase", "user", (Step.DELAYS,), 8
    ),
    Step.BACKSCATTER: StepFacts(
        "what fibre and connectors send back, and how both detectors count it",
        "relay",
        (Step.DETECTORS,),
        24 * 7,
    ),
    Step.ARM_LOSS: StepFacts(
        "what light loses before the loop, and from a user's output to a click",
        "relay",
        (Step.INTENSITY, Step.DELAYS),
        24,
    ),
    Step.VISIBILITY: StepFacts(
        "how completely the two directions interfere", "relay", (Step.DELAYS, Step.POLARIZATION), 8
    ),
}

LEASED = frozenset(STEPS) - {Step.INTENSITY}
"""Steps that a lease can do; the others want hands at the fibres."""


def in_order(wanted: Collection[Step]) -> Iterator[Step]:
    """The wanted steps, each behind those of them that it needs."""
    return (step for step in STEPS if step in wanted)
