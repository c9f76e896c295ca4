"""What an FL server remembers across a crash: how far the run is, and which round numbers are spent.

One folder per run.  ``run.json`` is replaced atomically; a round number is in it *before* the round is
announced, so no restart announces it again.  Model and aggregate of a completed round lie beside it as
``model-00001.npy`` (float32) and ``aggregate-00001.npy`` (int64, the exact weighted sum of the quantised
updates); the model before the first round is ``model-00000.npy``.  A round in progress at a crash is lost and put on record as aborted: its updates are never asked for again.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from fl.rounds.config import FLConfig
from fl.workloads.base import Parameters
from orchestrator.durable import read_kept, replace_file, write_kept
from orchestrator.events.learning import AbortRecord, RoundRecord

STATE_FILE = "run.json"
FORMAT = 2


class RunStateError(Exception):
    """The folder of a run is unreadable or belongs to another run."""


class RunState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of ``run.json``.

    ``last_announced`` is the highest round number ever announced, ``open_round`` who took part in it.
    """

    format: int
    config: FLConfig
    last_announced: int = 0
    rounds: tuple[RoundRecord, ...] = ()
    aborted: tuple[AbortRecord, ...] = ()
    open_round: tuple[str, ...] = ()


class RunFolder:
    """The durable state of one run in ``folder``."""

    def __init__(self, folder: Path, config: FLConfig) -> None:
        """Open the folder of a run, or start one.

        Raises RunStateError if the folder holds a run with other settings or cannot be read.
        """
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / STATE_FILE).exists():
            self.state = read_state(folder)
            if self.state.config != config:
                raise RunStateError(
                    f"{folder} holds run {self.state.config.run_id} with other settings; resume it with the same "
                    "settings or choose another folder"
                )
            self._close_open_round()
        else:
            self.state = RunState(FORMAT, config)
            self._save()

    def latest_model(self) -> Parameters | None:
        """The model after the last completed round, or None before the first."""
        if not self.state.rounds:
            return None
        return load_array(self.folder, "model", self.state.rounds[-1].round).astype(np.float32)

    def keep_initial(self, model: Parameters) -> Path:
        """Keep the model before the first round, which is the result of a run without any sum."""
        path = self.folder / _array_name("model", 0)
        replace_file(path, _npy(model))
        return path

    def _close_open_round(self) -> None:
        """A server that was killed left a round without a record; what it cost is for the clients to say."""
        number, kept = self.state.last_announced, self.state
        recorded = {each.round for each in kept.rounds} | {each.round for each in kept.aborted}
        if number and number not in recorded:
            self.abort(AbortRecord(number, "the server ended before the round did", 0, self.state.open_round))

    def announce(self, participants: tuple[str, ...]) -> int:
        """Spend the next round number: durable when this returns it."""
        number = self.state.last_announced + 1
        self.state = msgspec.structs.replace(self.state, last_announced=number, open_round=participants)
        self._save()
        return number

    def complete(self, record: RoundRecord, model: Parameters, aggregate: npt.NDArray[np.int64]) -> None:
        """Keep the outcome of a round: the new model and the sum, int64 of shape (n_values,)."""
        replace_file(self.folder / _array_name("model", record.round), _npy(model))
        replace_file(self.folder / _array_name("aggregate", record.round), _npy(aggregate))
        self.state = msgspec.structs.replace(self.state, rounds=(*self.state.rounds, record))
        self._save()

    def abort(self, record: AbortRecord) -> None:
        """Keep the record of a round that gave no sum."""
        self.state = msgspec.structs.replace(self.state, aborted=(*self.state.aborted, record))
        self._save()

    def add_cost(self, round_number: int, key_bits: int) -> None:
        """Record that an aborted round cost ``key_bits`` in all, if that is more than was known."""
        aborted = tuple(
            msgspec.structs.replace(each, key_bits_burnt=max(each.key_bits_burnt, key_bits))
            if each.round == round_number
            else each
            for each in self.state.aborted
        )
        if aborted != self.state.aborted:
            self.state = msgspec.structs.replace(self.state, aborted=aborted)
            self._save()

    def _save(self) -> None:
        write_kept(self.folder / STATE_FILE, self.state)


def read_state(folder: Path) -> RunState:
    """The state in ``folder``; raises RunStateError."""
    path = folder / STATE_FILE
    try:
        return read_kept(path, RunState, FORMAT)
    except (OSError, ValueError) as error:
        raise RunStateError(f"cannot read {path}: {error}") from error


def load_array(folder: Path, kind: str, round_number: int) -> npt.NDArray[np.generic]:
    """``model`` (1-d float32) or ``aggregate`` (1-d int64) of a completed round; raises RunStateError."""
    path = folder / _array_name(kind, round_number)
    try:
        array: npt.NDArray[np.generic] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise RunStateError(f"cannot read {path}: {error}") from error
    return array


def _array_name(kind: str, round_number: int) -> str:
    return f"{kind}-{round_number:05d}.npy"


def _npy(array: npt.NDArray[np.generic]) -> bytes:
    buffer = BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
