"""What is run on a QPU: a trained circuit, the examples to show it, and the classical read-out behind it.

The QPU only measures expectation values; everything before (embedding a sentence, projecting it to angles) and after
(weighing the expectation values) is classical and the same for the exact simulation, so every difference between the
two is due to the QPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from fl.circuits.trace import QuantumFunction
from fl.qpu.errors import ModelError
from fl.qpu.extrapolate import Floats

Labels = npt.NDArray[np.int64]
"""1-d int64: class of every example."""


@dataclass(frozen=True)
class CircuitModel:
    """A trained circuit with its test examples.

    ``inputs`` float64 (n, n_inputs), ``weights`` float64 (n_weights,), ``labels`` int64 (n,); ``read_out`` turns
    expectation values (n, n_observables) into logits, (n,) for two classes or (n, classes).
    ``observables`` are Pauli words, first letter for wire 0.
    """

    name: str
    quantum_function: QuantumFunction
    n_wires: int
    observables: tuple[str, ...]
    inputs: Floats
    weights: Floats
    labels: Labels
    read_out: Callable[[Floats], Any]

    def __post_init__(self) -> None:
        if self.inputs.ndim != 2 or self.weights.ndim != 1 or self.labels.shape != (len(self.inputs),):
            raise ModelError(
                f"inputs {self.inputs.shape}, weights {self.weights.shape} and labels {self.labels.shape} do not "
                "belong to one model"
            )
        if not len(self.inputs) or not (np.isfinite(self.inputs).all() and np.isfinite(self.weights).all()):
            raise ModelError("a model needs at least one example, and finite inputs and weights")

    def take(self, count: int) -> CircuitModel:
        """The same model with its first ``count`` examples only."""
        return replace(self, inputs=self.inputs[:count], labels=self.labels[:count])

    def with_weights(self, weights: Floats) -> CircuitModel:
        """The same model with other weights in the circuit."""
        return replace(self, weights=weights)

    def logits(self, expectations: Floats) -> Floats:
        """Logits (n, classes) of the read-out; a single logit is that of class 1 against 0."""
        values = self.read_out(expectations)
        values = np.asarray(values.detach() if hasattr(values, "detach") else values, np.float64)
        if values.ndim == 1 or values.shape[1] == 1:
            flat = values.reshape(-1)
            return np.stack([np.zeros_like(flat), flat], axis=1)
        return values

    def predict(self, expectations: Floats) -> Labels:
        """The label of every example."""
        labels: Labels = np.argmax(self.logits(expectations), axis=1).astype(np.int64)
        return labels

    def exact(self) -> Floats:
        """Exact expectation values (n, n_observables)."""
        return expectations_of(self.probabilities(), self.observables)

    def probabilities(self) -> Floats:
        """Exact outcome probabilities (n, 2^n_wires) in the common basis of the observables, wire 0 most
        significant; calculated once."""
        return self._probabilities

    @cached_property
    def _probabilities(self) -> Floats:
        return outcome_probabilities(
            self.quantum_function, self.n_wires, self.observables, self.inputs, self.weights
        )


def outcome_probabilities(
    quantum_function: QuantumFunction,
    n_wires: int,
    observables: tuple[str, ...],
    inputs: Floats,
    weights: Floats,
) -> Floats:
    """Outcome probabilities of measuring every wire, by PennyLane's exact simulator; float64 (n, 2^n_wires).

    Raises ModelError when the observables cannot be measured together wire by wire.
    """
    import pennylane as qml

    basis = common_basis(observables, n_wires)

    def circuit(angles: Any) -> Any:
        quantum_function(angles, weights)
        for wire, letter in enumerate(basis):
            if letter == "X":
                qml.Hadamard(wire)
            elif letter == "Y":
                qml.adjoint(qml.S(wire))
                qml.Hadamard(wire)
        return qml.probs(wires=range(n_wires))

    node = qml.QNode(circuit, qml.device("default.qubit", wires=n_wires))
    result = np.asarray(node(inputs.T), np.float64)
    return np.broadcast_to(result, (len(inputs), 2**n_wires))


def common_basis(observables: tuple[str, ...], n_wires: int) -> str:
    """The Pauli letter to measure on every wire so that all ``observables`` are read at once."""
    basis = []
    for wire in range(n_wires):
        letters = {word[wire] for word in observables} - {"I"}
        if len(letters) > 1:
            raise ModelError(
                f"observables ask for {' and '.join(sorted(letters))} on wire {wire}; one basis is needed"
            )
        basis.append(letters.pop() if letters else "Z")
    return "".join(basis)


def expectations_of(probabilities: Floats, observables: tuple[str, ...]) -> Floats:
    """Expectation values (n, n_observables) of Pauli words from outcome probabilities in their common basis."""
    n_wires = len(observables[0])
    outcomes = np.arange(2**n_wires)
    signs = np.ones((2**n_wires, len(observables)))
    for column, word in enumerate(observables):
        for wire, letter in enumerate(word):
            if letter != "I":
                signs[:, column] *= 1 - 2 * ((outcomes >> (n_wires - 1 - wire)) & 1)
    return probabilities @ signs
