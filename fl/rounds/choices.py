"""What a client decides for itself in a round: how its data is shuffled and how its update is rounded.

Were these drawn from a seed that the server knows, it could repeat a client's training from the same model and
compare.  So they come from the client's own operating system (:class:`OwnChoices`), and the seed of a run
reaches only what is public: the first model, the shards of a public data set, the coordinates of a round.
Simulations that must give the same bits twice draw them from a stated seed instead (:class:`SeededChoices`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fl.rounds.quantise import quantisation_rng
from fl.workloads.base import training_seed
from orchestrator.randomness import local_generator, random_below

SEED_LIMIT = 1 << 62


class LocalChoices(Protocol):
    """Where a client's own randomness comes from."""

    def training(self, round_number: int, client_index: int) -> tuple[int, int, int]:
        """The seed of one local training: order of the examples, dropout, sampling."""

    def rounding(self, round_number: int, client_index: int) -> np.random.Generator:
        """The noise by which one update is rounded to whole levels."""


@dataclass(frozen=True)
class OwnChoices:
    """Drawn afresh in every round, and never sent."""

    def training(self, round_number: int, client_index: int) -> tuple[int, int, int]:
        """62 random bits, and the round and client that every training seed names."""
        return training_seed(random_below(SEED_LIMIT), round_number, client_index)

    def rounding(self, round_number: int, client_index: int) -> np.random.Generator:
        """A generator under 256 random bits."""
        return local_generator()


@dataclass(frozen=True)
class SeededChoices:
    """Repeatable, for simulations only: whoever knows ``seed`` knows every choice."""

    seed: int

    def training(self, round_number: int, client_index: int) -> tuple[int, int, int]:
        """A function of seed, round and client."""
        return training_seed(self.seed, round_number, client_index)

    def rounding(self, round_number: int, client_index: int) -> np.random.Generator:
        """A function of seed, round and client."""
        return quantisation_rng(self.seed, round_number, client_index)


OWN_CHOICES = OwnChoices()
