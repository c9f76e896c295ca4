"""MNIST, 60 000 training and 10 000 test images, shared out over a few clients or hundreds.

Three models, small first because every parameter costs key: ``small-cnn`` on images averaged down to 14x14
pixels (2698 parameters, 98 % of the test images right), ``mlp`` 784-128-10 (101 770) and ``cnn`` on the full
images (20 466); the perceptron sees the cosine transform of an image.  Two splits of the training half: ``iid``, shuffled and even, and ``two-shard``, the
pathological one of McMahan et al. (arXiv 1602.05629, section 3): sorted by label, cut into 2N shards, two
for each of N clients, so that most clients know only two digits.  The published test half serves evaluation
only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fl.workloads.base import Evaluation, Examples, Parameters, TaskDefaults, fingerprint_of, iid_shard
from fl.workloads.data import DataSource
from fl.workloads.images import LabelledImages
from fl.workloads.mnist.data import PIXELS, MnistImages
from fl.workloads.mnist.perceptron import perceptron, train_perceptron
from fl.workloads.network import (
    LocalTraining,
    Network,
    evaluate,
    single_thread,
    small_cnn,
    strided_cnn,
    train,
    train_together,
)

Images = npt.NDArray[np.uint8]
"""uint8 of shape (n, 28, 28), 0 white to 255 black."""

SIDE = PIXELS // 2
CNN_CLIENTS_TOGETHER = 20


def pooled(images: Images) -> npt.NDArray[np.float32]:
    """Means over 2x2 pixels, scaled to 0..1: float32 of shape (n, 1, 14, 14)."""
    blocks = images.reshape(-1, 1, SIDE, 2, SIDE, 2).astype(np.float32)
    return np.ascontiguousarray(blocks.mean(axis=(3, 5)) / np.float32(255))


MEAN, DEVIATION = 0.1307, 0.3081
"""Mean and standard deviation of all training pixels on the scale 0..1."""


def whole(images: Images) -> npt.NDArray[np.float32]:
    """Pixels with mean 0 and deviation 1 over the training images: float32 of shape (n, 1, 28, 28).

    At the same learning rate this is worth two points after 40 rounds of 200 clients.
    """
    scaled = images.reshape(-1, 1, PIXELS, PIXELS).astype(np.float32) * np.float32(1 / (255 * DEVIATION))
    scaled -= np.float32(MEAN / DEVIATION)
    return scaled


def frequencies(images: Images) -> npt.NDArray[np.float32]:
    """The two-dimensional cosine transform of :func:`whole`, highest frequencies first: float32, shape (n, 784).

    An orthogonal transform changes nothing in how a perceptron learns, but gathers what images have in common
    at low frequencies: the weights that move most lie at the end of its first matrix.
    """
    cosines, order = _cosine_transform()
    pixels = whole(images).reshape(-1, PIXELS, PIXELS)
    return np.ascontiguousarray((cosines @ pixels @ cosines.T).reshape(len(pixels), -1)[:, order])


@cache
def _cosine_transform() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """The orthonormal DCT-II (Ahmed, Natarajan and Rao, IEEE Trans. Comput. C-23, 90 (1974)) of a row of
    pixels, and the order of the coefficients by falling sum of both frequencies."""
    index = np.arange(PIXELS)
    cosines = np.sqrt(2 / PIXELS) * np.cos(np.pi * np.outer(index, 2 * index + 1) / (2 * PIXELS))
    cosines[0] /= np.sqrt(2)
    order = np.argsort(-np.add.outer(index, index).ravel(), kind="stable")
    return cosines.astype(np.float32), order.astype(np.int64)


@dataclass(frozen=True)
class Model:
    """A network, what it sees of the images, how a client trains it, and settings that suit it."""

    network: Network
    view: Callable[[Images], npt.NDArray[np.float32]]
    training: LocalTraining
    defaults: TaskDefaults


SMALL_STEPS = LocalTraining(learning_rate=0.1, momentum=0.0, epochs=1, batch_size=10, falling=False)
"""One epoch in batches of ten: with 200 clients of 300 images, 30 steps a round."""


def model_named(name: str) -> Model:
    """``small-cnn``, ``mlp`` or ``cnn``."""
    if name == "small-cnn":
        falling = LocalTraining(learning_rate=0.05, momentum=0.9, epochs=1, batch_size=32)
        return Model(small_cnn(SIDE, (8, 16), 10), pooled, falling, TaskDefaults(1.0, 127, 10))
    if name == "mlp":
        crowds = TaskDefaults(0.2, 5, 40, keep=0.29)
        defaults = TaskDefaults(1.0, 127, 40, for_crowds=crowds)
        return Model(perceptron(PIXELS * PIXELS, 128, 10), frequencies, SMALL_STEPS, defaults)
    if name == "cnn":
        crowds = TaskDefaults(0.3, 5, 40, keep=0.29)
        defaults = TaskDefaults(1.0, 127, 40, for_crowds=crowds)
        return Model(strided_cnn(PIXELS, (8, 16), 24, 10), whole, SMALL_STEPS, defaults)
    raise ValueError(f"MNIST has no model {name!r}")


def two_shards(
    labels: npt.NDArray[np.uint8], client_index: int, n_clients: int, seed: int
) -> npt.NDArray[np.int64]:
    """Indices (1-d int64) of one client's two shards of the examples sorted by ``labels`` (1-d uint8).

    The 2N shards differ in size by at most one example; which two a client gets is drawn from ``seed``.
    """
    if not 0 <= client_index < n_clients:
        raise ValueError(f"client {client_index} does not exist among {n_clients}")
    if len(labels) < 2 * n_clients:
        raise ValueError(f"{len(labels)} examples are too few for two shards for each of {n_clients} clients")
    bounds = np.arange(2 * n_clients + 1) * len(labels) // (2 * n_clients)
    drawn = np.random.default_rng([seed, 0x25A4]).permutation(2 * n_clients)
    order = np.argsort(labels, kind="stable").astype(np.int64)
    mine = drawn[2 * client_index : 2 * client_index + 2]
    return np.concatenate([order[bounds[shard] : bounds[shard + 1]] for shard in mine])


class MnistTask:
    """Task ``mnist:MODEL@SPLIT``; ``folder`` holds the images (:mod:`fl.workloads.mnist.data`)."""

    def __init__(self, folder: Path | None = None, model: str = "small-cnn", split: str = "iid") -> None:
        single_thread()
        self.name = f"mnist:{model}@{split}"
        self._images = MnistImages(folder)
        self._split = split
        self._model = model_named(model)
        self._model_name = model

    @property
    def defaults(self) -> TaskDefaults:
        return self._model.defaults

    @property
    def n_parameters(self) -> int:
        return self._model.network.n_parameters

    @property
    def array_sizes(self) -> dict[str, int]:
        return self._model.network.array_sizes

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(self.name, self._model.view.__name__, self._model.network.shapes)

    @property
    def sources(self) -> tuple[DataSource, ...]:
        return self._images.sources

    @cached_property
    def _training(self) -> LabelledImages:
        return self._images.training

    @cached_property
    def _test(self) -> Examples:
        return self._examples(self._images.test)

    def _examples(self, half: LabelledImages) -> Examples:
        return Examples(self._model.view(half.images), half.labels.astype(np.int64))

    def initial_parameters(self, seed: int) -> Parameters:
        return self._model.network.initial(seed)

    def client_data(self, client_index: int, n_clients: int, seed: int) -> Examples:
        labels = self._training.labels
        if self._split == "two-shard":
            mine = two_shards(labels, client_index, n_clients, seed)
        else:
            mine = iid_shard(len(labels), client_index, n_clients, seed)
        return self._examples(self._training.take(mine))

    def local_train(self, parameters: Parameters, data: Examples, seed: Sequence[int]) -> Parameters:
        work = train_perceptron if self._model_name == "mlp" else train
        return work(self._model.network, parameters, data, self._model.training, seed)

    @property
    def clients_together(self) -> int:
        return CNN_CLIENTS_TOGETHER if self._model_name == "cnn" else 1

    def local_train_together(
        self, parameters: Parameters, data: Sequence[Examples], seeds: Sequence[Sequence[int]]
    ) -> list[Parameters]:
        return train_together(self._model.network, parameters, data, self._model.training, seeds)

    def evaluate(self, parameters: Parameters) -> Evaluation:
        return evaluate(self._model.network, parameters, self._test)
