"""The model as a client works it out itself: model r+1 is model r and the published sum of round r.

A server that may send any model it likes gets more than sums: from two models one unit in the last place
apart it learns what two rounds differ by.  So it publishes the sum of every round, and whoever takes part
computes the next model with the same function as the server (:func:`next_model`), bit for bit: multiplications
and additions of IEEE numbers in a fixed order, no library function whose last digit may differ.

:class:`FollowedModel` keeps the result in the client's consent book, so that a client that was away is caught
up with the sums it missed, and takes part again only when its own model is the one that is announced.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fl.modes.base import Aggregation, model_digest
from fl.rounds.compression import Compression
from fl.rounds.config import FLConfig
from fl.workloads.base import Parameters
from orchestrator.bits import PackedBits
from orchestrator.delivery.consent import RunPosition
from orchestrator.delivery.consent_book import ConsentBook
from orchestrator.delivery.masking import pack_values, unpack_values


class SumRefusedError(Exception):
    """A published sum that is impossible, or that does not come next."""


def next_model(
    config: FLConfig,
    model: Parameters,
    total: npt.NDArray[np.int64],
    survivors: tuple[str, ...],
    round_number: int,
) -> Parameters:
    """The model (float32, 1-d) after a round whose weighted integers add up to ``total``, shape (n_values,)."""
    compression = Compression.from_config(config)
    coordinates = compression.coordinates(config.seed, round_number, model.size)
    weight_sum = sum(config.weights_of(survivors))
    return model + compression.mean(total, weight_sum, coordinates, round_number, model.size)


def packed_sum(config: FLConfig, total: npt.NDArray[np.int64]) -> PackedBits:
    """A sum (int64, shape (n_values,)) as it is published: ``ring_width`` bits per value, in which no sum of the run wraps."""
    return pack_values(total, config.ring_width)


class FollowedModel:
    """The model of one run at one client; ``book`` (None: memory only, mode plain) outlives the process.

    Use from one thread.
    """

    def __init__(
        self,
        config: FLConfig,
        aggregation: Aggregation,
        first_model: Parameters | None,
        book: ConsentBook | None,
    ) -> None:
        """``first_model`` is the client's own, or None where ``book`` has it or a later one.

        Raises SumRefusedError where the run begins with another model, or with one that is not there.
        """
        self._aggregation = aggregation
        self._config = config
        self._book = book
        if first_model is None:
            if book is None or book.position(aggregation.run) is None:
                raise SumRefusedError(f"the first model of run {self._config.run_id} is not here")
            first_model = np.zeros(aggregation.description.n_parameters, np.float32)
        elif model_digest(first_model).hex() != aggregation.description.first_model:
            raise SumRefusedError(f"run {self._config.run_id} does not begin with this client's first model")
        self.model = first_model
        self.round = 0
        """The last round whose sum is in the model."""
        self.completed = 0
        position = None if book is None else book.position(aggregation.run)
        if position is not None:
            self._take(position)

    def _take(self, position: RunPosition) -> None:
        model = np.frombuffer(position.model, "<f4").astype(np.float32)
        if model.shape != self.model.shape:
            raise SumRefusedError(f"the model kept of run {self._config.run_id} has {model.size} parameters")
        self.model, self.round, self.completed = model, position.round, position.completed

    @property
    def digest(self) -> bytes:
        """SHA-256 of the model from which the next round starts."""
        return model_digest(self.model)

    def follow(self, round_number: int, survivors: tuple[str, ...], packed: PackedBits) -> bool:
        """Add a published sum; False if it is in the model already.

        Raises SumRefusedError for a sum that is impossible or out of its turn, ConsentError where it cannot be kept.
        """
        if round_number <= self.round:
            return False
        self._check(round_number, survivors)
        try:
            total = unpack_values(packed, self._aggregation.n_values, self._config.ring_width)
        except ValueError as error:
            raise SumRefusedError(
                f"the sum of round {round_number} is no array of values: {error}"
            ) from error
        bound = self._config.levels * sum(self._config.weights_of(survivors))
        if int(np.abs(total).max(initial=0)) > bound:
            raise SumRefusedError(
                f"the sum of round {round_number} exceeds {bound}, which no clients' sum does"
            )
        model = next_model(self._config, self.model, total, survivors, round_number)
        if self._book is None:
            self.model, self.round, self.completed = model, round_number, self.completed + 1
        else:
            content = np.ascontiguousarray(model, "<f4").tobytes()
            self._take(self._book.advance(self._aggregation.run, round_number, content))
        return True

    def _check(self, round_number: int, survivors: tuple[str, ...]) -> None:
        described = self._aggregation.description
        if self.completed >= described.rounds or round_number > described.attempts:
            raise SumRefusedError(
                f"round {round_number} is beyond the {described.rounds} rounds of run {described.run_id}"
            )
        if survivors != tuple(name for name in described.participants if name in survivors):
            raise SumRefusedError(
                f"the sum of round {round_number} is said to hold updates of clients outside it"
            )
        fewest = described.survivors or described.smallest_set
        if len(survivors) < fewest:
            raise SumRefusedError(
                f"the sum of round {round_number} is said to be of {len(survivors)} clients, not of {fewest} or more"
            )
