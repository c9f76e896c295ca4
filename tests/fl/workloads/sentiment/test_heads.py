"""Heads of stated size; the hybrid one is what PennyLane computes."""

from __future__ import annotations

import numpy as np
import pennylane as qml
import pytest
import torch

from fl.workloads.sentiment.circuit import (
    N_INPUTS,
    N_QUBITS,
    N_WEIGHTS,
    compiled_head,
    head_circuit,
    observables,
)
from fl.workloads.sentiment.heads import angles, head_named


def test_hybrid_and_control_are_of_equal_size() -> None:
    sizes = {
        name: len(head_named(name, 384).initial(np.random.default_rng(0)))
        for name in ("hybrid", "classical", "linear")
    }
    assert sizes == {"hybrid": 1566, "classical": 1566, "linear": 770}
    with pytest.raises(ValueError, match="no head is called 'cubic'"):
        head_named("cubic", 384)


def test_the_compiled_circuit_is_the_pennylane_one() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.uniform(-np.pi / 2, np.pi / 2, (3, N_INPUTS))
    weights = rng.uniform(-np.pi, np.pi, N_WEIGHTS)

    @qml.qnode(qml.device("default.qubit", wires=N_QUBITS))
    def node(row: np.ndarray) -> object:
        head_circuit(row, weights)
        return [qml.expval(observable) for observable in observables()]

    found = compiled_head()(torch.from_numpy(inputs), torch.from_numpy(weights))
    np.testing.assert_allclose(found, [node(row) for row in inputs], atol=1e-6)


def test_without_rotations_each_qubit_carries_minus_the_sine_of_its_angle() -> None:
    inputs = torch.tensor([[0.3, -0.7, 1.2, 0.0]], dtype=torch.float64)
    found = compiled_head()(inputs, torch.zeros(N_WEIGHTS, dtype=torch.float64))
    np.testing.assert_allclose(found, -torch.sin(inputs), atol=1e-9)


def test_qubits_are_entangled_by_generic_weights() -> None:
    """Turning qubit 0's input changes <Z> of its neighbours on the ring."""
    weights = torch.from_numpy(np.random.default_rng(2).uniform(0.4, 1.2, N_WEIGHTS))
    before = compiled_head()(torch.zeros(1, 4, dtype=torch.float64), weights)
    after = compiled_head()(torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64), weights)
    assert (after - before).abs()[0, [1, 3]].min() > 0.02


@pytest.mark.parametrize("name", ["hybrid", "classical"])
def test_every_value_of_a_head_matters(name: str) -> None:
    head = head_named(name, 12)
    rng = np.random.default_rng(4)
    layers = [
        torch.from_numpy(0.5 * rng.standard_normal(shape)).requires_grad_(True) for shape in head.shapes
    ]
    features = torch.from_numpy(rng.standard_normal((5, 12)))
    assert angles(layers, 100 * features).abs().max() <= np.pi / 2
    head.forward(layers, features)[:, 0].square().sum().backward()
    for layer in layers[:4]:
        assert layer.grad is not None
        assert (layer.grad[0] if layer is layers[3] else layer.grad).abs().min() > 0
