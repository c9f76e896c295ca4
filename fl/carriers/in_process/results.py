"""What a cohort reports while it runs and hands back at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import msgspec

from fl.modes.table import Security
from fl.workloads.base import Parameters
from orchestrator.events.learning import Clipping

Phase: TypeAlias = Literal["starting", "training", "protecting", "aggregating", "evaluating"]


class CohortRound(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One completed round.

    ``upload_bytes_per_client`` and ``key_bits`` (of all pairs together) are what the round would take between
    real nodes.  Bytes count everything a client sends to the server: the packed update at its
    ring width, and in ``lightsecagg`` its sealed shares, its confirmations and its answer.  Key includes that of the
    tags on shares and confirmations, which simulated clients do not make.  ``dropped`` clients vanished before their upload or before their answer.  ``exact``: the
    sum that the server read equals the plain sum of the included clients' integers.  ``clipping`` is what clip and
    rounding took (None for float32).
    """

    round: int
    accuracy: float
    loss: float
    upload_bytes_per_client: int
    key_bits: int
    dropped: int
    exact: bool
    train_s: float
    protect_s: float
    aggregate_s: float
    evaluate_s: float
    clipping: Clipping | None = None

    @property
    def duration_s(self) -> float:
        """Wall seconds of the round, evaluation included."""
        return self.train_s + self.protect_s + self.aggregate_s + self.evaluate_s


@dataclass(frozen=True)
class CohortPhase:
    """What the cohort is doing: ``done`` of ``of`` clients."""

    round: int
    phase: Phase
    done: int
    of: int


CohortEvent: TypeAlias = CohortPhase | CohortRound


@dataclass(frozen=True)
class CohortResult:
    """All completed rounds, those before a resumption included, and the model after the last.

    ``stopped``: the run was told to stop before its last round.  ``key_bits_spent`` covers interrupted attempts as
    well; ``interrupted`` holds their rounds.
    """

    rounds: tuple[CohortRound, ...]
    parameters: Parameters
    stopped: bool
    key_bits_spent: int
    key_supply: Literal["simulated"]
    security: Security
    interrupted: tuple[int, ...] = ()

    @property
    def accuracy(self) -> float:
        """Accuracy after the last round."""
        return self.rounds[-1].accuracy if self.rounds else float("nan")


class CohortError(Exception):
    """A cohort cannot be run with these settings, or one of its processes failed."""


class InexactSumError(CohortError):
    """The sum that the server read differs from the plain sum: a mask did not cancel."""
