"""What a federated task is: a model of fixed size, data for each client, and a test set.

Parameters travel as one flat float32 array, so that nothing outside a task knows what the model looks
like.  Everything is a function of its seeds: two runs of the same task with the same seeds give the same
bits, which is what lets a masked run be compared with training without masking.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from fl.workloads.data import DataSource

Parameters = npt.NDArray[np.float32]
"""1-d float32, C-contiguous: all trainable values of a model."""


@dataclass(frozen=True)
class Examples:
    """Labelled examples: ``inputs`` float32 of shape (n, ...), ``labels`` int64 of shape (n,)."""

    inputs: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: npt.NDArray[np.int64]) -> Examples:
        """The examples at ``indices``, in that order."""
        return Examples(self.inputs[indices], self.labels[indices])


@dataclass(frozen=True)
class Evaluation:
    """How good a model is on the test set: share of right answers, and mean cross-entropy in nats."""

    accuracy: float
    loss: float


class TaskError(Exception):
    """A workload failed, or handed over something of the wrong kind."""


CROWD = 50
"""From this many clients on, ``for_crowds`` applies."""


@dataclass(frozen=True)
class TaskDefaults:
    """Settings with which a task is known to train well; ``keep`` and those below it: :mod:`fl.rounds.compression`.

    ``for_crowds`` holds where there are at least ``CROWD`` clients: their rounding noise averages out, so that few
    levels suffice, and every bit is paid by many pairs.
    """

    clip: float
    levels: int
    rounds: int
    keep: float = 1.0
    error_feedback: bool = False
    clip_decay: float = 1.0
    for_crowds: TaskDefaults | None = None

    def suited(self, n_clients: int) -> TaskDefaults:
        """The settings for so many clients."""
        return self.for_crowds if self.for_crowds and n_clients >= CROWD else self


class Learnable(Protocol):
    """What the settings of a run depend on."""

    @property
    def name(self) -> str:
        """The name under which ``load_task`` finds it."""

    @property
    def fingerprint(self) -> str:
        """Hex digest of everything that server and clients must have in common: model, inputs, vocabulary."""

    @property
    def defaults(self) -> TaskDefaults:
        """Quantisation and length of a run that suit the task."""


@runtime_checkable
class NamesSources(Protocol):
    """A task that says what it learns from, so that all clients of a run can be held to the same."""

    @property
    def sources(self) -> tuple[DataSource, ...]:
        """Its data with their checksums."""


def told_sources(task: object) -> tuple[DataSource, ...]:
    """What the task says that it learns from; empty where it says nothing."""
    return task.sources if isinstance(task, NamesSources) else ()


@runtime_checkable
class NamesArrays(Protocol):
    """A task that says of which arrays its flat parameters consist, so that each can have a clip of its own."""

    @property
    def array_sizes(self) -> Mapping[str, int]:
        """Name and number of values of every array, in the order of the flat parameters."""


class Task(Learnable, Protocol):
    """A learning problem that clients can share."""

    @property
    def n_parameters(self) -> int:
        """Length of the flat parameter array."""

    def initial_parameters(self, seed: int) -> Parameters:
        """The model before the first round."""

    def client_data(self, client_index: int, n_clients: int, seed: int) -> Examples:
        """The training examples of one client: the shards of all clients are disjoint."""

    def local_train(self, parameters: Parameters, data: Examples, seed: Sequence[int]) -> Parameters:
        """Train from ``parameters`` on ``data``; returns the change of the parameters."""

    def evaluate(self, parameters: Parameters) -> Evaluation:
        """Accuracy and loss on the test set, which only the evaluating side loads."""


@runtime_checkable
class TrainsTogether(Protocol):
    """A task that trains several simulated clients at once, faster than one after the other."""

    @property
    def clients_together(self) -> int:
        """How many clients to hand over at a time; 1 where it does not help."""

    def local_train_together(
        self, parameters: Parameters, data: Sequence[Examples], seeds: Sequence[Sequence[int]]
    ) -> list[Parameters]:
        """:meth:`Task.local_train` for every one of the clients, up to the rounding of float32."""


@dataclass(frozen=True)
class Circuit:
    """A circuit in a model: queues its gates on ``n_wires`` from (inputs, weights); what is measured, as PennyLane has it."""

    quantum_function: Callable[[Sequence[Any], Sequence[Any]], None]
    n_wires: int
    observables: Sequence[Any]


class CircuitTask(Task, Protocol):
    """A task with a circuit in it that a QPU can run: that of a model which its record names among ``circuit_models``."""

    @property
    def circuit(self) -> Circuit:
        """The circuit itself."""

    @property
    def test_examples(self) -> Examples:
        """The examples that :meth:`Task.evaluate` judges on."""

    def circuit_inputs(
        self, parameters: Parameters, inputs: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float64]:
        """Angles in radians that enter the circuit, float64 of shape (n, inputs), for ``Examples.inputs``."""

    def circuit_weights(self, parameters: Parameters) -> npt.NDArray[np.float64]:
        """The trained angles in radians, float64 of shape (weights,)."""

    def read_out(
        self, parameters: Parameters, expectations: npt.NDArray[np.floating]
    ) -> npt.NDArray[np.float64]:
        """Logits, float64 of shape (n, classes), from expectation values of shape (n, observables)."""


def fingerprint_of(*parts: object) -> str:
    """Hex SHA-256 over the texts of ``parts``: names, shapes, checksums of vocabularies and encoders."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def training_seed(run_seed: int, round_number: int, client_index: int) -> tuple[int, int, int]:
    """The seed of one client's local training in one round.

    The round number is part of it so that a client which trains again after an aborted round draws
    different batches: the same update is never masked for two participant sets.
    """
    return (run_seed, round_number, client_index)


def iid_shard(n_examples: int, client_index: int, n_clients: int, seed: int) -> npt.NDArray[np.int64]:
    """Indices of client ``client_index``'s share of ``n_examples`` shuffled examples: 1-d int64.

    Shares differ in size by at most one example.
    """
    if not 0 <= client_index < n_clients:
        raise ValueError(f"client {client_index} does not exist among {n_clients}")
    if n_examples < n_clients:
        raise ValueError(f"{n_examples} examples cannot be split over {n_clients} clients")
    order = np.random.default_rng([seed, 0x5A4D]).permutation(n_examples)
    return np.array_split(order, n_clients)[client_index].astype(np.int64)
