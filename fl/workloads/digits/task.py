"""The default task: 1797 real handwritten digits of 8x8 pixels that come with scikit-learn.

No download is needed.  A perceptron 64-24-10 (1810 parameters) reaches about 97 % on the 360 test digits.
The test digits are the same for every seed; the rest is split evenly over the clients.  Images of one's own
(:mod:`fl.workloads.images`) bring their own test half.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from fl.workloads.base import Evaluation, Examples, Parameters, TaskDefaults, fingerprint_of, iid_shard
from fl.workloads.data import DataError, DataSource
from fl.workloads.digits.sources import DATA, SHA256
from fl.workloads.images import ImageHalves, LabelledImages, Layout, own_images
from fl.workloads.network import LocalTraining, evaluate, mlp, single_thread, train

N_TEST = 360
TABLE = Path("datasets", "data", "digits.csv.gz")
"""In the folder of scikit-learn: 64 grey levels and the class of a digit in each line."""
LAYOUT = Layout(side=8, brightest=16)


class Digits:
    """Task ``digits``; ``data`` are files of the user's own in the place of the bundled digits."""

    name = "digits"
    defaults = TaskDefaults(clip=1.0, levels=127, rounds=10)
    training = LocalTraining(learning_rate=0.05, momentum=0.9, epochs=3, batch_size=16)

    def __init__(self, data: Path | None = None) -> None:
        single_thread()
        self._own = data
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
    def _images(self) -> ImageHalves:
        return bundled() if self._own is None else own_images(self._own, LAYOUT)

    @property
    def sources(self) -> tuple[DataSource, ...]:
        return self._images.sources

    @cached_property
    def _split(self) -> tuple[Examples, Examples]:
        return _examples(self._images.training), _examples(self._images.test)

    def initial_parameters(self, seed: int) -> Parameters:
        return self._network.initial(seed)

    def client_data(self, client_index: int, n_clients: int, seed: int) -> Examples:
        training = self._split[0]
        return training.take(iid_shard(len(training), client_index, n_clients, seed))

    def local_train(self, parameters: Parameters, data: Examples, seed: Sequence[int]) -> Parameters:
        return train(self._network, parameters, data, self.training, seed)

    def evaluate(self, parameters: Parameters) -> Evaluation:
        return evaluate(self._network, parameters, self._split[1])


def bundled() -> ImageHalves:
    """The digits of scikit-learn; raises DataError if they are not the published ones.

    Their file is read as it lies there: importing the package takes a second of every process that learns.
    """
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")
    table = np.loadtxt(Path(package.origin).parent / TABLE, np.uint8, delimiter=",")
    images, labels = table[:, :-1].copy(), table[:, -1].copy()
    found = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    if found != SHA256:
        raise DataError(
            f"the digits of the installed scikit-learn are others than registered (SHA-256 {found}, expected {SHA256}); "
            "install a release of scikit-learn that has them"
        )
    everything = LabelledImages(images.reshape(-1, LAYOUT.side, LAYOUT.side), labels)
    order = np.random.default_rng(0).permutation(len(labels))
    return ImageHalves(
        everything.take(order[N_TEST:]),
        everything.take(order[:N_TEST]),
        (DataSource("digits bundled with scikit-learn", SHA256, DATA.source, DATA.licence),),
    )


def _examples(digits: LabelledImages) -> Examples:
    """Grey levels on the scale 0..1, shape (n, 64)."""
    images = digits.images.reshape(len(digits.images), -1) / LAYOUT.brightest
    return Examples(images.astype(np.float32), digits.labels.astype(np.int64))
