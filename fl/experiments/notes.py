"""What must be said of the protection of a run wherever it is shown: on the terminal, in results and reports."""

from __future__ import annotations

from collections.abc import Sequence

from fl.rounds.config import FLConfig
from orchestrator.delivery.consent import LEAK
from orchestrator.randomness import CLAIM

TWO_CLIENTS_NOTE = (
    "two clients: each learns the other's update, which is the sum less its own, whatever the mode; only the server "
    "does not"
)

COHORT_NOTE = (
    "simulated clients in one process: no operator is asked for consent, and their choices are drawn from the seed so "
    "that the run can be repeated"
)


def consent_notes(users: Sequence[str]) -> tuple[str, ...]:
    """The note that ``users`` are simulated, so that the run consented for them."""
    return (f"consent to the run was given for its simulated users {', '.join(users)}",) if users else ()


def notes_for(config: FLConfig) -> tuple[str, ...]:
    """Notes on a run of ``config`` that hold wherever its keys come from."""
    mode = config.protection
    if mode.cipher is None:
        return ()
    notes: tuple[str, ...] = (f"mode {mode.name}: {mode.security}; {CLAIM}",)
    if mode.note:
        notes = (*notes, mode.note.format(leak=LEAK))
    return (*notes, TWO_CLIENTS_NOTE) if config.n_clients == 2 else notes
