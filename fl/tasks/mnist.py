"""The larger task: MNIST, 60 000 training and 10 000 test images, averaged down to 14x14 pixels.

A network of two small convolutions and a linear layer has 2698 parameters - few, because every parameter
costs ring-width key bits per pair and round (26 980 bits at b = 10) - and still classifies 98 % of the test
images.  The published test half serves evaluation only; the training half is split evenly.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fl.data import PIXELS, Images, LabelledImages, load_mnist_test, load_mnist_training
from fl.tasks.base import Evaluation, Examples, Parameters, TaskDefaults, fingerprint_of, iid_shard
from fl.tasks.network import LocalTraining, evaluate, single_thread, small_cnn, train

SIDE = PIXELS // 2


def pooled(images: Images) -> npt.NDArray[np.float32]:
    """Means over 2x2 pixels, scaled to 0..1: shape (n, 1, 14, 14)."""
    blocks = images.reshape(-1, 1, SIDE, 2, SIDE, 2).astype(np.float32)
    return np.ascontiguousarray(blocks.mean(axis=(3, 5)) / np.float32(255))


def _examples(half: LabelledImages) -> Examples:
    return Examples(pooled(half.images), half.labels.astype(np.int64))


class MnistTask:
    """Task ``mnist``; ``folder`` holds the IDX files (default: where they are fetched to)."""

    name = "mnist"
    defaults = TaskDefaults(clip=1.0, levels=127, rounds=10)
    training = LocalTraining(learning_rate=0.05, momentum=0.9, epochs=1, batch_size=32)

    def __init__(self, folder: Path | None = None) -> None:
        single_thread()
        self._folder = folder
        self._network = small_cnn(SIDE, (8, 16), 10)

    @property
    def n_parameters(self) -> int:
        return self._network.n_parameters

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(self.name, self._network.shapes)

    @cached_property
    def _training(self) -> LabelledImages:
        return load_mnist_training(self._folder)

    @cached_property
    def _test(self) -> Examples:
        return _examples(load_mnist_test(self._folder))

    def initial_parameters(self, seed: int) -> Parameters:
        return self._network.initial(seed)

    def client_data(self, client_index: int, n_clients: int, seed: int) -> Examples:
        images, labels = self._training.images, self._training.labels
        shard = iid_shard(len(labels), client_index, n_clients, seed)
        return _examples(LabelledImages(images[shard], labels[shard]))

    def local_train(self, parameters: Parameters, data: Examples, seed: Sequence[int]) -> Parameters:
        return train(self._network, parameters, data, self.training, seed)

    def evaluate(self, parameters: Parameters) -> Evaluation:
        return evaluate(self._network, parameters, self._test)
