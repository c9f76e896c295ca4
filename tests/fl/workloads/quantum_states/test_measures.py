"""Measures of pure states against their definitions, computed the slow way."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fl.workloads.quantum_states.measures import (
    concentratable_entanglement,
    squared_pauli_expectations,
    stabiliser_entropy,
)

PAULIS = [
    np.eye(2),
    np.array([[0, 1], [1, 0]]),
    np.array([[0, -1j], [1j, 0]]),
    np.diag([1, -1]),
]


def basis(n: int, *indices: int) -> Tensor:
    state = torch.zeros(1, 2**n, dtype=torch.complex128)
    state[0, list(indices)] = 1 / math.sqrt(len(indices))
    return state


def random_states(n: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(3, 2**n, dtype=torch.complex128, generator=generator)
    return states / states.norm(dim=1, keepdim=True)


def entanglement_by_partial_traces(state: np.ndarray) -> float:
    n = state.size.bit_length() - 1
    purities = 0.0
    for size in range(n + 1):
        for kept in itertools.combinations(range(n), size):
            rest = [qubit for qubit in range(n) if qubit not in kept]
            matrix = state.reshape((2,) * n).transpose([*kept, *rest]).reshape(2**size, -1)
            rho = matrix @ matrix.conj().T
            purities += float(np.trace(rho @ rho).real)
    return 1 - purities / 2**n


def entropy_by_pauli_words(state: np.ndarray) -> float:
    n = state.size.bit_length() - 1
    total = 0.0
    for letters in itertools.product(PAULIS, repeat=n):
        word = np.eye(1)
        for letter in letters:
            word = np.kron(word, letter)
        total += float((state.conj() @ word @ state).real) ** 4
    return -math.log2(total / 2**n)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_measures_are_what_they_are_defined_to_be(n: int) -> None:
    states = random_states(n)
    slow_c = [entanglement_by_partial_traces(state) for state in states.numpy()]
    slow_m = [entropy_by_pauli_words(state) for state in states.numpy()]
    assert concentratable_entanglement(states).tolist() == pytest.approx(slow_c, abs=1e-12)
    assert stabiliser_entropy(states).tolist() == pytest.approx(slow_m, abs=1e-10)


def test_entanglement_of_states_known_from_the_paper() -> None:
    assert concentratable_entanglement(basis(4, 0, 15)).item() == pytest.approx(0.4375)
    assert concentratable_entanglement(basis(4, 1, 2, 4, 8)).item() == pytest.approx(0.375)
    assert concentratable_entanglement(basis(4, 5)).item() == pytest.approx(0)


def test_magic_of_known_states() -> None:
    t_state = torch.tensor([[1, np.exp(1j * math.pi / 4)]], dtype=torch.complex128) / math.sqrt(2)
    two_t_states = (t_state[:, :, None] * t_state[:, None, :]).reshape(1, 4)
    assert stabiliser_entropy(t_state).item() == pytest.approx(math.log2(4 / 3))
    assert stabiliser_entropy(two_t_states).item() == pytest.approx(2 * math.log2(4 / 3))
    assert stabiliser_entropy(basis(4, 0, 15)).item() == pytest.approx(0, abs=1e-12)


def test_entanglement_ignores_local_rotations_and_magic_ignores_clifford_gates() -> None:
    states = random_states(2)
    hadamard = np.array([[1, 1], [1, -1]]) / math.sqrt(2)
    rotation = np.diag([1, np.exp(0.7j)]) @ hadamard
    local = torch.from_numpy(np.kron(rotation, hadamard).astype(complex))
    torch.testing.assert_close(
        concentratable_entanglement(states @ local.T), concentratable_entanglement(states)
    )
    cnot = torch.eye(4, dtype=torch.complex128)[[0, 1, 3, 2]]
    torch.testing.assert_close(stabiliser_entropy(states @ cnot.T), stabiliser_entropy(states))
    assert (stabiliser_entropy(states @ local.T) - stabiliser_entropy(states)).abs().max() > 1e-3


def test_pauli_expectations_of_a_pure_state_have_the_right_total() -> None:
    """``2^-n sum_P <P>^2`` is the purity."""
    assert (squared_pauli_expectations(random_states(3)).sum(1) / 8).tolist() == pytest.approx([1, 1, 1])


def test_measures_refuse_what_is_not_a_batch_of_qubits() -> None:
    with pytest.raises(ValueError, match=r"\(batch, 2\^n\)"):
        concentratable_entanglement(torch.zeros(2, 3, dtype=torch.complex128))
