"""A PennyLane circuit and its Qiskit export agree, whichever way bits and angles are written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pennylane as qml
import pytest

from fl.circuits.trace import CircuitError
from fl.qpu.errors import ModelError
from fl.qpu.export import export, pauli_words
from fl.qpu.model import common_basis, expectations_of, outcome_probabilities

ONE_ANGLE = ("RX", "RY", "RZ", "PhaseShift", "U1")
TWO_WIRES = ("CRX", "CRY", "CRZ", "ControlledPhaseShift", "IsingXX", "IsingYY", "IsingZZ")
FIXED = ("Hadamard", "PauliX", "PauliY", "PauliZ", "S", "T", "SX")
FIXED_PAIRS = ("CNOT", "CY", "CZ", "SWAP")


def pennylane_expectation(
    circuit: Callable[[Any, Any], object], word: str, inputs: Any, weights: Any
) -> float:
    def function() -> Any:
        circuit(inputs, weights)
        return qml.expval(qml.pauli.string_to_pauli_word(word, {w: w for w in range(len(word))}))

    return float(qml.QNode(function, qml.device("default.qubit", wires=len(word)))())


def agree(
    circuit: Callable[[Any, Any], object], n_wires: int, n_inputs: int, n_weights: int, *words: str
) -> None:
    rng = np.random.default_rng(5)
    inputs, weights = rng.normal(size=(3, n_inputs)) * 2, rng.normal(size=n_weights) * 2
    exported = export(circuit, n_wires=n_wires, n_inputs=n_inputs, n_weights=n_weights, observables=words)
    ours = exported.exact(inputs, weights)
    theirs = [[pennylane_expectation(circuit, word, row, weights) for word in words] for row in inputs]
    np.testing.assert_allclose(ours, theirs, atol=1e-9)


@pytest.mark.parametrize("name", ONE_ANGLE)
def test_gates_of_one_angle(name: str) -> None:
    gate = getattr(qml, name)

    def circuit(inputs: Any, weights: Any) -> None:
        qml.Hadamard(0)
        qml.RY(0.4, wires=1)
        gate(inputs[0], wires=0)
        gate(weights[0], wires=1)
        qml.CNOT(wires=[0, 1])

    agree(circuit, 2, 1, 1, "XI", "YI", "ZI", "XY", "YZ")


@pytest.mark.parametrize("name", TWO_WIRES)
def test_gates_of_one_angle_on_two_wires(name: str) -> None:
    gate = getattr(qml, name)

    def circuit(inputs: Any, weights: Any) -> None:
        for wire in range(3):
            qml.RY(0.5 + wire, wires=wire)
        gate(inputs[0], wires=[2, 0])
        gate(weights[0], wires=[0, 1])

    agree(circuit, 3, 1, 1, "XII", "IYI", "ZXY", "IIX", "YZI")


def test_gates_of_three_angles_keep_their_order() -> None:
    def circuit(inputs: Any, weights: Any) -> None:
        qml.Rot(weights[0], inputs[1], weights[2], wires=1)
        qml.U3(inputs[0], weights[1], weights[2], wires=0)
        qml.CRot(weights[2], weights[0], inputs[0], wires=[1, 0])

    agree(circuit, 2, 2, 3, "XI", "YI", "ZI", "IX", "IY", "IZ", "XZ")


def test_fixed_gates_and_matrices_without_a_name_in_qiskit() -> None:
    def circuit(inputs: Any, weights: Any) -> None:
        for name in FIXED:
            qml.RX(inputs[0], wires=0)
            getattr(qml, name)(wires=0)
        for name in FIXED_PAIRS:
            qml.RY(weights[0], wires=1)
            getattr(qml, name)(wires=[1, 2])
        qml.ISWAP(wires=[0, 2])
        qml.adjoint(qml.S(wires=1))
        qml.CZ(wires=[2, 0])
        qml.IsingXY(0.9, wires=[2, 1])
        qml.CH(wires=[2, 0])
        qml.CH(wires=[0, 1])
        qml.Toffoli(wires=[0, 2, 1])

    agree(circuit, 3, 1, 1, "XII", "IYI", "IIZ", "ZXY")


def test_the_same_input_in_several_gates_and_weights_that_are_not_used() -> None:
    def circuit(inputs: Any, weights: Any) -> None:
        for wire in range(3):
            qml.RY(inputs[0], wires=wire)
            qml.RZ(weights[11], wires=wire)
        qml.RX(weights[2], wires=2)

    agree(circuit, 3, 2, 12, "XII", "IYI", "IIZ")


def test_wire_zero_is_the_first_letter_of_an_observable() -> None:
    def circuit(inputs: Any, weights: Any) -> None:
        qml.RX(weights[0], wires=0)

    exported = export(circuit, n_wires=3, n_inputs=0, n_weights=1, observables=["ZII", "IZI", "IIZ"])
    values = exported.exact(np.zeros((1, 0)), np.array([1.1]))
    np.testing.assert_allclose(values, [[np.cos(1.1), 1.0, 1.0]], atol=1e-12)


def test_agrees_with_the_torch_executor() -> None:
    torch = pytest.importorskip("torch")
    from fl.circuits.torch_circuit import compile_circuit

    def circuit(inputs: Any, weights: Any) -> None:
        for wire in range(4):
            qml.RY(inputs[wire], wires=wire)
            qml.Rot(weights[3 * wire], weights[3 * wire + 1], weights[3 * wire + 2], wires=wire)
        for wire in range(4):
            qml.CNOT(wires=[wire, (wire + 1) % 4])

    rng = np.random.default_rng(2)
    inputs, weights = rng.normal(size=(5, 4)), rng.normal(size=12)
    observables = [qml.Z(wire) for wire in range(4)]
    fast = compile_circuit(circuit, 4, 4, 12, observables)(torch.tensor(inputs), torch.tensor(weights))
    words = pauli_words(observables, 4)
    assert words == ("ZIII", "IZII", "IIZI", "IIIZ")
    exported = export(circuit, n_wires=4, n_inputs=4, n_weights=12, observables=words)
    np.testing.assert_allclose(exported.exact(inputs, weights), fast.numpy(), atol=1e-6)
    exact = expectations_of(outcome_probabilities(circuit, 4, words, inputs, weights), words)
    np.testing.assert_allclose(exact, fast.numpy(), atol=1e-6)


def test_probabilities_are_taken_in_the_observables_basis() -> None:
    def circuit(inputs: Any, weights: Any) -> None:
        qml.RY(inputs[0], wires=0)
        qml.RX(weights[0], wires=1)

    words = ("XI", "IY", "XY")
    probabilities = outcome_probabilities(circuit, 2, words, np.array([[0.3], [1.2]]), np.array([0.8]))
    expected = [[np.sin(a), -np.sin(0.8), -np.sin(a) * np.sin(0.8)] for a in (0.3, 1.2)]
    np.testing.assert_allclose(expectations_of(probabilities, words), expected, atol=1e-12)
    with pytest.raises(ModelError, match="X and Z on wire 0"):
        common_basis(("XI", "ZI"), 2)


def test_what_cannot_be_exported_is_refused() -> None:
    def computes(inputs: Any, weights: Any) -> None:
        qml.RX(2 * inputs[0], wires=0)

    def outside(inputs: Any, weights: Any) -> None:
        qml.RX(inputs[0], wires=3)

    def unknown(inputs: Any, weights: Any) -> None:
        qml.SingleExcitation(weights[0], wires=[0, 1])

    for circuit, error, message in (
        (computes, CircuitError, "straight through"),
        (outside, ModelError, "wire 3"),
        (unknown, ModelError, "SingleExcitation"),
    ):
        with pytest.raises(error, match=message):
            export(circuit, n_wires=2, n_inputs=1, n_weights=1, observables=["ZI"])
    for word in ("Z", "ZQ"):
        with pytest.raises(ModelError, match="Pauli word"):
            export(computes, n_wires=2, n_inputs=1, n_weights=1, observables=[word])
    with pytest.raises(ModelError, match="single Pauli word"):
        pauli_words([2 * qml.Z(0)], 2)


def test_weights_know_the_gates_that_take_them() -> None:
    def circuit(inputs: Any, weights: Any) -> None:
        qml.RX(weights[1], wires=0)
        qml.CRX(weights[1], wires=[0, 1])

    exported = export(circuit, n_wires=2, n_inputs=0, n_weights=3, observables=["ZI"])
    assert exported.weight_gates == ((), ("RX", "CRX"), ())
