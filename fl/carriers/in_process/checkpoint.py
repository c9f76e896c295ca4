"""What a cohort remembers across a crash: its completed rounds, and how many attempts it has made.

One folder per run.  ``cohort.json`` is replaced atomically and is durable before an attempt draws its first
key, so an attempt number - and with it a stretch of key - is never used twice: the ledger only goes forward,
also when a round is tried again.  Model and residuals of the last completed round lie beside it as
``model-00012.npy`` and ``residuals-00012.npy`` (one row per client, only with error feedback).
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from fl.carriers.in_process.plan import CohortPlan
from fl.carriers.in_process.results import CohortError, CohortRound
from fl.rounds.config import FLConfig
from fl.workloads.base import Parameters
from orchestrator.durable import read_kept, sync_path, write_kept

STATE_FILE = "cohort.json"
FORMAT = 2


class CohortState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of ``cohort.json``; ``interrupted`` names the round of every attempt that gave no sum."""

    format: int
    config: FLConfig
    float32: bool
    drop_outs: int
    attempts: int = 0
    key_bits_spent: int = 0
    rounds: tuple[CohortRound, ...] = ()
    interrupted: tuple[int, ...] = ()


class CohortFolder:
    """The durable state of one run; without a ``folder`` it is kept in memory only."""

    def __init__(self, folder: Path | None, plan: CohortPlan) -> None:
        """Open the folder of a run, or start one; raises CohortError if it holds another run."""
        self._folder = folder
        self.state = CohortState(FORMAT, plan.config, plan.float32, plan.drop_outs)
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / STATE_FILE).exists():
            self._save()
            return
        kept = _read(folder / STATE_FILE)
        if (kept.config, kept.float32, kept.drop_outs) != (plan.config, plan.float32, plan.drop_outs):
            raise CohortError(
                f"{folder} holds run {kept.config.run_id} with other settings; resume it with the same settings "
                "or choose another folder"
            )
        self.state = kept

    @property
    def completed(self) -> int:
        """The number of the last completed round."""
        return len(self.state.rounds)

    def begin_attempt(self, key_bits: int) -> int:
        """The number of the next attempt at a round; spent, with its key, when this returns."""
        state = self.state
        lost = state.attempts - self.completed - len(state.interrupted)
        self.state = msgspec.structs.replace(
            state,
            attempts=state.attempts + 1,
            key_bits_spent=state.key_bits_spent + key_bits,
            interrupted=state.interrupted + (self.completed + 1,) * lost,
        )
        self._save()
        return self.state.attempts

    def residuals_file(self, round_number: int, shape: tuple[int, int]) -> Path | None:
        """A file of zeros for the residuals of a round, or None if nothing is kept on disk."""
        if self._folder is None:
            return None
        path = self._path("residuals", round_number)
        np.lib.format.open_memmap(path, "w+", np.float32, shape).flush()
        return path

    def complete(self, record: CohortRound, model: Parameters) -> None:
        """Keep the outcome of a round; its residuals are already in their file."""
        if self._folder is not None:
            with open(self._path("model", record.round), "wb") as file:
                np.save(file, model, allow_pickle=False)
            for path in (self._path("model", record.round), self._path("residuals", record.round)):
                if path.exists():
                    sync_path(path)
        self.state = msgspec.structs.replace(self.state, rounds=(*self.state.rounds, record))
        self._save()
        if self._folder is not None:
            for kind in ("model", "residuals"):
                self._path(kind, record.round - 1).unlink(missing_ok=True)

    def latest(self) -> tuple[Parameters, Path | None] | None:
        """Model and residuals file after the last completed round, or None before the first."""
        if self._folder is None or not self.completed:
            return None
        path, residuals = self._path("model", self.completed), self._path("residuals", self.completed)
        try:
            model = np.load(path, allow_pickle=False).astype(np.float32)
        except (OSError, ValueError, EOFError) as error:
            raise CohortError(f"cannot read {path}: {error}") from error
        return model, residuals if residuals.exists() else None

    def _path(self, kind: str, round_number: int) -> Path:
        assert self._folder is not None
        return self._folder / f"{kind}-{round_number:05d}.npy"

    def _save(self) -> None:
        if self._folder is None:
            return
        write_kept(self._folder / STATE_FILE, self.state)


def _read(path: Path) -> CohortState:
    try:
        return read_kept(path, CohortState, FORMAT)
    except (OSError, ValueError) as error:
        raise CohortError(f"cannot read {path}: {error}") from error
