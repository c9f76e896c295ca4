"""What the server publishes of a run: its description, its first model, and the sum of every round.

Each client works the model out itself from these (:mod:`fl.rounds.following`), and gives nothing to a round that starts
from another.  A client that was away gets what it missed with the next announcement.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fl.carriers.flower.records import Bytes, CatchUp, SumOf
from fl.modes.base import Aggregation
from fl.rounds.config import FLConfig
from fl.rounds.following import next_model, packed_sum
from fl.workloads.base import Parameters
from orchestrator.bits import PackedBits


@dataclass
class PublishedRun:
    """One run at the server; ``first`` is the model before round 1, ``model`` the present one (float32, flat)."""

    config: FLConfig
    aggregation: Aggregation
    first: Parameters
    model: Parameters
    handed: bytes
    settings: bytes
    _sums: list[tuple[SumOf, PackedBits]] = field(default_factory=list)
    _followed: dict[str, int] = field(default_factory=dict)
    """How many sums each user is known to have; a user without an entry may lack even the first model."""

    def complete(self, number: int, survivors: tuple[str, ...], total: npt.NDArray[np.int64]) -> Parameters:
        """Publish a round's sum; returns the model after it."""
        self.model = next_model(self.config, self.model, total, survivors, number)
        self._sums.append((SumOf(number, survivors), packed_sum(self.config, total)))
        return self.model

    def catch_up(self, user: str) -> tuple[CatchUp, Bytes]:
        """What ``user`` may be missing, and the bytes of it."""
        known = self._followed.get(user, 0)
        missing = self._sums[known:]
        first = user not in self._followed and bool(missing)
        parts: list[Bytes] = [np.frombuffer(self.first.astype("<f4").tobytes(), np.uint8)] if first else []
        parts += [packed for _, packed in missing]
        payload = np.concatenate(parts) if parts else np.zeros(0, np.uint8)
        return CatchUp(first, tuple(head for head, _ in missing)), payload

    def followed(self, users: Iterable[str]) -> None:
        """These users have taken in all that is published so far."""
        self._followed.update(dict.fromkeys(users, len(self._sums)))
