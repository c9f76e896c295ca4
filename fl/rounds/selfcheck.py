"""Is the server's sum the exact sum?  For simulations only.

With ``--self-check`` every client also writes its *unmasked* values of a round to a private folder; the sum
must be that of the survivors' values, times their weights, whatever the mode and the compression.  That
undoes the secrecy of the training and exists only so that a demonstration can show, from outside, that
masks cancel exactly.  The check runs beside server and clients (in the supervisor): the server never sees
the folder, and no process on a real bench writes one unless told to.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fl.rounds.run_state import RunStateError, load_array, read_state

LABEL = "unmasked model updates of a simulated run, written because self-check was asked for; do not share\n"
LABEL_FILE = "PRIVATE-SELF-CHECK.txt"


@dataclass(frozen=True)
class RoundCheck:
    """Whether the aggregate of one completed round is exact, None where there was nothing to compare it with.

    ``detail`` says what is wrong.
    """

    round: int
    exact: bool | None
    detail: str = ""


def keep_private_update(
    folder: Path, client: str, run_id: str, round_number: int, values: npt.NDArray[np.int64]
) -> None:
    """Write one client's values of a round (1-d int64: compressed, quantised, not weighted) below ``folder`` (mode 0700/0600)."""
    home = folder / client
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    (home / LABEL_FILE).write_text(LABEL)
    descriptor = os.open(
        home / _file_name(run_id, round_number), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600
    )
    with os.fdopen(descriptor, "wb") as file:
        np.save(file, values, allow_pickle=False)


def check_run(run_folder: Path, self_check_folder: Path) -> tuple[RoundCheck, ...]:
    """Compare every completed round of the run with the sum of what its survivors kept.

    ``run_folder`` is the server's ``out_dir``.  Raises RunStateError if there is no run to read.
    """
    state = read_state(run_folder)
    checks = []
    for record in state.rounds:
        try:
            aggregate = load_array(run_folder, "aggregate", record.round)
            expected = np.zeros(aggregate.shape, np.int64)
            weights = state.config.weights_of(record.survivors)
            for client, weight in zip(record.survivors, weights, strict=True):
                path = self_check_folder / client / _file_name(state.config.run_id, record.round)
                expected += weight * np.load(path, allow_pickle=False).astype(np.int64)
        except (RunStateError, OSError, ValueError, EOFError) as error:
            checks.append(RoundCheck(record.round, None, f"cannot compare: {error}"))
            continue
        wrong = int(np.count_nonzero(expected != aggregate))
        detail = f"{wrong} of {aggregate.size} values differ from the plain sum" if wrong else ""
        checks.append(RoundCheck(record.round, wrong == 0, detail))
    return tuple(checks)


def _file_name(run_id: str, round_number: int) -> str:
    return f"{run_id}-{round_number:05d}.npy"
