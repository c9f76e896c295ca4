"""Many simulated clients in few processes: federated training of a cohort on one machine."""

from __future__ import annotations

from fl.cohort.results import (
    CohortError,
    CohortEvent,
    CohortPhase,
    CohortResult,
    CohortRound,
    InexactSumError,
)
from fl.cohort.run import run_cohort

__all__ = [
    "CohortError",
    "CohortEvent",
    "CohortPhase",
    "CohortResult",
    "CohortRound",
    "InexactSumError",
    "run_cohort",
]
