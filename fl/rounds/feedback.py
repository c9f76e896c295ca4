"""A client's error feedback across rounds and restarts: nothing that was uploaded once is ever sent again.

:class:`fl.rounds.compression.ErrorFeedback` keeps what a round left over.  Here it is told, when the next round
begins, what became of the last one; and what it keeps is saved so that a restarted client goes on with it. Before an
update is uploaded, the file holds what would be left if the round gave no sum, so a client that is killed at any
moment forgets a little and repeats nothing.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fl.rounds.clipping import Losses
from fl.rounds.compression import Compression, ErrorFeedback
from fl.rounds.config import FLConfig
from fl.workloads.base import Parameters
from orchestrator.durable import replace_file

_log = logging.getLogger(__name__)


@dataclass
class _Last:
    round_number: int
    uploaded: bool = False
    in_sum: bool = False


class Feedback:
    """The client ``name`` in the run ``config``; ``folder`` (None: memory only) is private to the client.

    :meth:`ended` may be called from any thread, the rest from one.
    """

    def __init__(self, name: str, config: FLConfig, n_parameters: int, folder: Path | None) -> None:
        self._name = name
        self._config = config
        self._n_parameters = n_parameters
        self._compression = Compression.from_config(config)
        run = hashlib.sha256(config.run_id.encode()).hexdigest()[:16]
        keep = folder is not None and config.error_feedback
        self._path = folder / f"residual-{run}.npy" if folder is not None and keep else None
        self._feedback = self._fresh(self._load())
        self._last: _Last | None = None

    def losses(self, round_number: int) -> Losses | None:
        """What clip and rounding took in this round, if it was this process that compressed its update."""
        known = self._last is not None and self._last.round_number == round_number
        return self._feedback.losses if known else None

    def _fresh(self, residual: Parameters | None) -> ErrorFeedback:
        return ErrorFeedback(self._compression, self._config.seed, self._n_parameters, residual)

    def compress(
        self, update: Parameters, round_number: int, rng: np.random.Generator
    ) -> npt.NDArray[np.int64]:
        """The integers of this round's update, 1-d int64; the last round is settled first."""
        self._settle()
        values = self._feedback.compress(update, round_number, rng, client=self._name)
        self._last = _Last(round_number)
        return values

    def uploading(self, round_number: int) -> None:
        """From here on this round's update may leave the client; durable on return.

        It may stem from before a restart; what it left over is then unknown, and forgotten.
        """
        forgotten = self._feedback.residual.copy()
        forgotten[self._compression.coordinates(self._config.seed, round_number, self._n_parameters)] = 0
        if self._path is not None:
            self._save(forgotten)
        if self._last is not None and self._last.round_number == round_number:
            self._last.uploaded = True
        elif self._config.error_feedback:
            self._settle()
            self._feedback = self._fresh(forgotten)

    def ended(self, round_number: int, in_sum: bool) -> None:
        """The round is over, with this client's update in the sum or not."""
        if self._last is not None and self._last.round_number == round_number:
            self._last.in_sum = in_sum

    def _settle(self) -> None:
        last, self._last = self._last, None
        if last is None:
            return
        if last.in_sum:
            self._feedback.commit()
        else:
            self._feedback.discard(uploaded=last.uploaded)
        if self._path is not None:
            self._save(self._feedback.residual)

    def _load(self) -> Parameters | None:
        if self._path is None or not self._path.exists():
            return None
        try:
            residual = np.load(self._path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            _log.warning("the residual in %s is forgotten: %s", self._path, error)
            return None
        return np.asarray(residual, np.float32) if residual.shape == (self._n_parameters,) else None

    def _save(self, residual: Parameters) -> None:
        assert self._path is not None
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        buffer = BytesIO()
        np.save(buffer, residual, allow_pickle=False)
        replace_file(self._path, buffer.getvalue(), 0o600)
