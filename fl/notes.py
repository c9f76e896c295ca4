"""What must be said of the protection of a run wherever it is shown: on the terminal, in results and reports."""

from __future__ import annotations

from fl.config import FLConfig

OS_RANDOM_NOTE = (
    "LightSecAgg's masks are drawn from the operating system's generator: computational in that respect, "
    "the transport of shares and answers is information-theoretic"
)
TWO_CLIENTS_NOTE = (
    "two clients: each learns the other's update, which is the sum less its own, whatever the mode; only the server "
    "does not"
)


def notes_for(config: FLConfig) -> tuple[str, ...]:
    """What holds of a run of ``config``, wherever its keys come from."""
    notes = (OS_RANDOM_NOTE,) if config.mode == "lightsecagg" else ()
    return (*notes, TWO_CLIENTS_NOTE) if config.n_clients == 2 and config.mode != "plain" else notes
