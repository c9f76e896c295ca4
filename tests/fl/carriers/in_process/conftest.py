"""A task of a few numbers that trains in no time, and settings for small cohorts of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from fl.rounds.config import FLConfig
from fl.rounds.quantise import smallest_ring_width
from fl.workloads.base import Evaluation, Examples, Parameters, TaskDefaults


class TargetsTask:
    """Every client pulls the parameters towards its own target, with a little noise of its own."""

    name = "targets"
    defaults = TaskDefaults(clip=0.5, levels=7, rounds=4)
    fingerprint = "00"

    def __init__(self, n_parameters: int = 53, poison: tuple[int, int] | None = None) -> None:
        """``poison``: the (round, client) whose update holds NaN."""
        self.n_parameters = n_parameters
        self._poison = poison

    def initial_parameters(self, seed: int) -> Parameters:
        return np.zeros(self.n_parameters, np.float32)

    def client_data(self, client_index: int, n_clients: int, seed: int) -> Examples:
        target = np.random.default_rng([seed, client_index]).normal(0, 1, (1, self.n_parameters))
        return Examples(target.astype(np.float32), np.array([client_index]))

    def local_train(self, parameters: Parameters, data: Examples, seed: Sequence[int]) -> Parameters:
        noise = np.random.default_rng(list(seed)).normal(0, 0.01, self.n_parameters)
        update = (0.3 * (data.inputs[0] - parameters) + noise).astype(np.float32)
        if self._poison == (seed[1], int(data.labels[0])):
            update[3] = np.nan
        return update

    def evaluate(self, parameters: Parameters) -> Evaluation:
        return Evaluation(0.5, float(np.square(parameters).sum()))


@pytest.fixture
def targets() -> Callable[..., TargetsTask]:
    return TargetsTask


@pytest.fixture
def settings() -> Callable[..., FLConfig]:
    """Called with the number of clients and settings; the ring is the smallest that does not wrap."""

    def make(n_clients: int, **chosen: Any) -> FLConfig:
        names = tuple(f"c{index}" for index in range(n_clients))
        levels = chosen.setdefault("levels", 7)
        weight_sum = sum(chosen.get("weights", ())) or n_clients
        chosen.setdefault("ring_width", smallest_ring_width(levels, weight_sum))
        chosen = {"run_id": "run", "task": "digits", "rounds": 4, "clip": 0.5} | chosen
        return FLConfig(clients=names, **chosen)

    return make
