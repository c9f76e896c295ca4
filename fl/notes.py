"""What must be said of the protection of a run wherever it is shown: on the terminal, in results and reports."""

from __future__ import annotations

from fl.config import FLConfig
from fl.results import SECURITY
from orchestrator.randomness import CLAIM

TWO_CLIENTS_NOTE = (
    "two clients: each learns the other's update, which is the sum less its own, whatever the mode; only the server "
    "does not"
)


def notes_for(config: FLConfig) -> tuple[str, ...]:
    """What holds of a run of ``config``, wherever its keys come from."""
    if config.mode == "plain":
        return ()
    notes = (f"mode {config.mode}: {SECURITY[config.mode]}; {CLAIM}",)
    return (*notes, TWO_CLIENTS_NOTE) if config.n_clients == 2 else notes
