"""A data set of two-qubit states made without training: product states against rotated Bell states."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from fl.workloads.quantum_states.data_sets import DataSetSpec, StateDataSet
from fl.workloads.quantum_states.generators import StateClass, product_states
from fl.workloads.quantum_states.measures import concentratable_entanglement

TINY = DataSetSpec(
    "tiny",
    (
        StateClass("concentratable-entanglement", 0.0, 0.01, None),
        StateClass("concentratable-entanglement", 0.25, 0.01, None),
    ),
    n_qubits=2,
    n_layers=(2, 2),
    n_training=64,
    n_test=40,
)


def random_unitaries(count: int, rng: np.random.Generator) -> np.ndarray:
    """Uniformly random single-qubit unitaries, shape (count, 2, 2)."""
    matrices = rng.normal(size=(count, 2, 2)) + 1j * rng.normal(size=(count, 2, 2))
    q, r = np.linalg.qr(matrices)
    phases = np.diagonal(r, axis1=1, axis2=2)
    return q * (phases / np.abs(phases))[:, None, :]


def make_tiny_states(label: int, count: int, rng: np.random.Generator) -> torch.Tensor:
    """Product states (class 0) or Bell states under random local rotations (class 1)."""
    if label == 0:
        return product_states(count, 2, None, rng)
    return torch.from_numpy(random_unitaries(count, rng).reshape(count, 4) / np.sqrt(2))


@pytest.fixture
def tiny_states() -> Callable[[int, int, np.random.Generator], torch.Tensor]:
    """Function (class, count, generator of random numbers) -> states."""
    return make_tiny_states


@pytest.fixture(scope="session")
def tiny() -> StateDataSet:
    rng = np.random.default_rng(8)
    count = TINY.n_training + TINY.n_test
    made = [[make_tiny_states(label, count, rng) for label in range(2)] for _ in range(TINY.n_generators)]
    states = np.array([[part.numpy() for part in parts] for parts in made], np.complex64)
    values = [[concentratable_entanglement(part).numpy() for part in parts] for parts in made]
    return StateDataSet(TINY, states, np.array(values, np.float32))
