"""The default task: 1797 real handwritten digits of 8x8 pixels that come with scikit-learn.

No download is needed.  A perceptron 64-24-10 (1810 parameters) reaches about 97 % on the 360 test digits.
The test digits are the same for every seed; the rest is split evenly over the clients.
Data: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI repository.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from sklearn.datasets import load_digits

from fl.workloads.base import Evaluation, Examples, Parameters, TaskDefaults, fingerprint_of, iid_shard
from fl.workloads.network import LocalTraining, evaluate, mlp, single_thread, train

N_TEST = 360
FULL_SCALE = 16.0
"""Grey levels of the data set run from 0 to 16."""


class Digits:
    """Task ``digits``."""

    name = "digits"
    defaults = TaskDefaults(clip=1.0, levels=127, rounds=10)
    training = LocalTraining(learning_rate=0.05, momentum=0.9, epochs=3, batch_size=16)

    def __init__(self) -> None:
        single_thread()
        self._network = mlp(64, 24, 10)

    @property
    def n_parameters(self) -> int:
        return self._network.n_parameters

    @property
    def array_sizes(self) -> dict[str, int]:
        return self._network.array_sizes

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(self.name, self._network.shapes)

    @cached_property
    def _split(self) -> tuple[Examples, Examples]:
        images, labels = load_digits(return_X_y=True)
        examples = Examples((images / FULL_SCALE).astype(np.float32), labels.astype(np.int64))
        order = np.random.default_rng(0).permutation(len(examples))
        return examples.take(order[N_TEST:]), examples.take(order[:N_TEST])

    def initial_parameters(self, seed: int) -> Parameters:
        return self._network.initial(seed)

    def client_data(self, client_index: int, n_clients: int, seed: int) -> Examples:
        training = self._split[0]
        return training.take(iid_shard(len(training), client_index, n_clients, seed))

    def local_train(self, parameters: Parameters, data: Examples, seed: Sequence[int]) -> Parameters:
        return train(self._network, parameters, data, self.training, seed)

    def evaluate(self, parameters: Parameters) -> Evaluation:
        return evaluate(self._network, parameters, self._split[1])
