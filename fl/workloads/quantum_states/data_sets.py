"""The labelled quantum states: made once from seeds, cached with a checksum, verified whenever they are read.

Four generators with different circuits each make states of two classes.  A state's label is the class its
generator was trained for; its own measure is stored beside it.  What is in a data set is decided by its
:class:`DataSetSpec` alone: the same specification gives the same states on every machine up to rounding.

The cache is one ``.npz`` file (written to a temporary name and renamed) and a JSON file with its SHA-256 and
the specification.  Reading checks the checksum, the shapes, that a sample of states really has the measure
that is stored, and that each class has the mean measure that was asked for.  A cache that fails any check is
reported and made anew.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import logging
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from fl.workloads.data import DataError, Progress, data_folder
from fl.workloads.quantum_states.generators import (
    StateClass,
    generator_ansatz,
    product_states,
    train_generator,
)
from fl.workloads.quantum_states.measures import measure
from fl.workloads.quantum_states.sources import NAME
from orchestrator.durable import replace_file

log = logging.getLogger(__name__)

N_CLASSES = 2
SAMPLE = 64
"""States of every generator and class whose measure is recomputed when a data set is read."""
MEASURE_TOLERANCE = 1e-4
"""States are stored as complex64; their measures agree to about 1e-6."""


@dataclass(frozen=True)
class DataSetSpec:
    """Everything that decides what the states are; ``n_training`` and ``n_test`` per generator and class."""

    name: str
    classes: tuple[StateClass, StateClass]
    n_qubits: int = 4
    n_layers: tuple[int, ...] = (4, 4, 4, 4)
    n_training: int = 500
    n_test: int = 200
    seed: int = 2026
    version: int = 1

    @property
    def n_generators(self) -> int:
        """Number of generators, each with a circuit for either class."""
        return len(self.n_layers)

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the specification."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


ENTANGLEMENT = DataSetSpec(
    "entanglement",
    (
        StateClass("concentratable-entanglement", 0.10, 0.05, None),
        StateClass("concentratable-entanglement", 0.35, 0.05, None),
    ),
)
MAGIC = DataSetSpec(
    "magic",
    (
        StateClass("stabiliser-entropy", 0.5, 0.8, 0.7),
        StateClass("stabiliser-entropy", 2.0, 0.4, 0.7),
    ),
)
"""Magic needs four copies, so a network on two copies cannot measure it; on uniform inputs it tells the
classes apart only as far as they also differ in what is quadratic in the density matrix (about 0.7 to 0.76,
with an oracle threshold at 0.98).  Inputs clustered around |0...0> make the classes learnable from where each
generator puts its states.  That is knowledge of the generators met in training, not a measurement of magic: it
does not carry over to a generator that was never seen."""
DATA_SETS = {spec.name: spec for spec in (ENTANGLEMENT, MAGIC)}


@dataclass(frozen=True)
class StateDataSet:
    """States and measures by generator and class; the first ``n_training`` of each are for training.

    ``states`` complex64 of shape (generators, 2, n_training + n_test, 2^n_qubits); ``values`` float32 of shape
    (generators, 2, n_training + n_test): the measure of every state.
    """

    spec: DataSetSpec
    states: npt.NDArray[np.complex64]
    values: npt.NDArray[np.float32]

    @property
    def test_states(self) -> npt.NDArray[np.complex64]:
        """Test states of all generators and classes, shape (n, 2^n_qubits)."""
        part = self.states[:, :, self.spec.n_training :]
        return part.reshape(-1, part.shape[-1])

    @property
    def test_values(self) -> npt.NDArray[np.float32]:
        """Measures of the test states."""
        return self.values[:, :, self.spec.n_training :].reshape(-1)

    @property
    def test_labels(self) -> npt.NDArray[np.int64]:
        """Classes of the test states."""
        labels = np.arange(N_CLASSES)[None, :, None].repeat(self.spec.n_generators, 0)
        return labels.repeat(self.spec.n_test, 2).reshape(-1)


def make_data_set(spec: DataSetSpec, progress: Progress = log.info) -> StateDataSet:
    """Train the generators of ``spec`` and let them make the states; takes some ten seconds on one core."""
    count = spec.n_training + spec.n_test
    states = np.empty((spec.n_generators, N_CLASSES, count, 2**spec.n_qubits), np.complex64)
    values = np.empty(states.shape[:3], np.float32)
    for index, n_layers in enumerate(spec.n_layers):
        for label, wanted in enumerate(spec.classes):
            number = index * N_CLASSES + label + 1
            progress(
                f"{spec.name}: training generator circuit {number} of {spec.n_generators * N_CLASSES} "
                f"to {wanted.measure} {wanted.target}"
            )
            seed = (spec.seed, index, label)
            generator = train_generator(generator_ansatz(index), wanted, spec.n_qubits, n_layers, seed)
            rng = np.random.default_rng([*seed, 0xDA7A])
            made = generator.states(product_states(count, spec.n_qubits, wanted.polar_angle, rng))
            states[index, label] = made.numpy()
            values[index, label] = measure(wanted.measure, made).numpy()
    return StateDataSet(spec, states, values)


def check_data_set(data: StateDataSet) -> None:
    """Raise DataError unless the states have the stored measures and the classes the wanted means."""
    spec = data.spec
    shape = (spec.n_generators, N_CLASSES, spec.n_training + spec.n_test, 2**spec.n_qubits)
    if data.states.shape != shape or data.values.shape != shape[:3]:
        raise DataError(f"shapes {data.states.shape} and {data.values.shape} instead of {shape}")
    rng = np.random.default_rng([spec.seed, 0xC4EC])
    for index in range(spec.n_generators):
        for label, wanted in enumerate(spec.classes):
            chosen = rng.choice(shape[2], min(SAMPLE, shape[2]), replace=False)
            states = torch.from_numpy(data.states[index, label, chosen].astype(np.complex128))
            again = measure(wanted.measure, states).numpy()
            worst = float(np.abs(again - data.values[index, label, chosen]).max())
            if not worst <= MEASURE_TOLERANCE:
                raise DataError(
                    f"{wanted.measure} of states of generator {index}, class {label} differs by {worst:.3g} "
                    "from what is stored"
                )
            distance = abs(float(data.values[index, label].mean()) - wanted.target)
            if not distance <= wanted.tolerance:
                raise DataError(
                    f"generator {index}, class {label} has mean {wanted.measure} "
                    f"{data.values[index, label].mean():.3f}, wanted {wanted.target} within {wanted.tolerance}"
                )


def load_data_set(
    spec: DataSetSpec, folder: Path | None = None, progress: Progress | None = None
) -> StateDataSet:
    """The data set of ``spec`` from the cache in ``folder`` (default: the data folder), made if need be.

    Where it cannot be kept it is made for this process alone, which is told.
    """
    where = (data_folder() if folder is None else folder) / NAME
    path = where / f"{spec.name}-{spec.digest[:12]}.npz"
    warn = progress or log.warning
    data = _kept(spec, path, warn)
    if data is not None:
        return data
    try:
        where.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(where / f".{path.stem}.lock"):
            data = _kept(spec, path, warn)
            if data is None:
                data = _made(spec, progress)
                write_data_set(data, path)
    except OSError as error:
        warn(
            f"the quantum states cannot be kept ({error}) and are made anew by every process; set QUNETLAB_DATA "
            "to a folder that can be written"
        )
    return _made(spec, progress) if data is None else data


def _kept(spec: DataSetSpec, path: Path, warn: Progress) -> StateDataSet | None:
    """The data set in the cache file, None if it is not there or not usable."""
    if not path.exists():
        return None
    try:
        return read_data_set(spec, path)
    except DataError as error:
        warn(f"{path} is not usable and is made anew: {error}")
        return None


def _made(spec: DataSetSpec, progress: Progress | None) -> StateDataSet:
    data = make_data_set(spec, progress or log.info)
    check_data_set(data)
    return data


def kept_state() -> tuple[bool, str]:
    """Whether the caches can be used, with a short text on each; a missing one is made on first use."""
    found = []
    for path in sorted((data_folder() / NAME).glob("*.npz")):
        try:
            _verified_content(path)
            found.append((True, f"{path.name} verified"))
        except DataError as error:
            found.append((False, f"{path.name} not usable: {error}"))
    if not found:
        return False, "not here yet: made on first use, some ten seconds"
    return all(right for right, _ in found), "; ".join(text for _, text in found)


def write_data_set(data: StateDataSet, path: Path) -> None:
    """Write the cache file and its checksum; either appears whole or not at all."""
    buffer = io.BytesIO()
    np.savez(buffer, states=data.states, values=data.values)
    content = buffer.getvalue()
    note = {"sha256": hashlib.sha256(content).hexdigest(), "specification": asdict(data.spec)}
    replace_file(path, content)
    replace_file(_note_of(path), json.dumps(note, indent=1).encode())


def read_data_set(spec: DataSetSpec, path: Path) -> StateDataSet:
    """Read a cache file; raises DataError saying what is wrong with it."""
    content = _verified_content(path)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            data = StateDataSet(spec, arrays["states"], arrays["values"])
    except (ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"not a cache of states: {error}") from error
    check_data_set(data)
    return data


def _verified_content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        expected = json.loads(_note_of(path).read_text())["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"file or checksum cannot be read: {error}") from error
    if (found := hashlib.sha256(content).hexdigest()) != expected:
        raise DataError(f"SHA-256 {found[:16]}... instead of {str(expected)[:16]}...")
    return content


@cache
def cached_data_set(name: str, folder: Path | None = None) -> StateDataSet:
    """The data set called ``name``, read once per process."""
    return load_data_set(DATA_SETS[name], folder)


def oracle_accuracy(data: StateDataSet) -> float:
    """Best accuracy on the test states of a threshold on their true measure.

    This is what a classifier could reach that measures the quantity exactly, with the threshold chosen on
    the test states themselves; overlapping classes keep it below 1.
    """
    order = np.argsort(data.test_values)
    labels = data.test_labels[order]
    below = np.concatenate([[0], np.cumsum(1 - labels)])
    above = labels.sum() - np.concatenate([[0], np.cumsum(labels)])
    return float((below + above).max() / len(labels))


def _note_of(path: Path) -> Path:
    return path.with_suffix(".json")


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Hold a lock between processes, so that several of them do not make the same data set."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
