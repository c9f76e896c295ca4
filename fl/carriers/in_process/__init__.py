"""Many simulated clients in few processes: federated training of a cohort on one machine."""

from __future__ import annotations

from fl.carriers.in_process.results import (
    CohortError,
    CohortEvent,
    CohortPhase,
    CohortResult,
    CohortRound,
    InexactSumError,
)
from fl.carriers.in_process.run import run_cohort

__all__ = [
    "CohortError",
    "CohortEvent",
    "CohortPhase",
    "CohortResult",
    "CohortRound",
    "InexactSumError",
    "run_cohort",
]
