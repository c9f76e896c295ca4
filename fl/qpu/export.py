"""A PennyLane quantum function as a Qiskit circuit: same gates, same angles, same expectation values.

The function is traced once (``fl.circuits.trace``) and written down gate by gate with two parameter vectors,
``inputs`` and ``weights``.  Wire i becomes qubit i.  What differs between the libraries is only how bits are
written: PennyLane's first wire is the most significant one, Qiskit's qubit 0 the least significant, so a
Pauli word is reversed on the way and a matrix is put on its wires in reverse order.  Sign conventions of the
rotations agree (both are ``exp(-i t P / 2)``); ``Rot(a, b, c) = RZ(c) RY(b) RZ(a)`` is written out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector
from qiskit.circuit.library import UnitaryGate
from qiskit.quantum_info import SparsePauliOp, Statevector

from fl.circuits.trace import Input, QuantumFunction, TracedGate, Weight, trace
from fl.qpu.errors import ModelError
from fl.qpu.extrapolate import Floats

_ROTATIONS: dict[str, Callable[..., object]] = {
    "RX": QuantumCircuit.rx,
    "RY": QuantumCircuit.ry,
    "RZ": QuantumCircuit.rz,
    "PhaseShift": QuantumCircuit.p,
    "U1": QuantumCircuit.p,
    "CRX": QuantumCircuit.crx,
    "CRY": QuantumCircuit.cry,
    "CRZ": QuantumCircuit.crz,
    "ControlledPhaseShift": QuantumCircuit.cp,
    "IsingXX": QuantumCircuit.rxx,
    "IsingYY": QuantumCircuit.ryy,
    "IsingZZ": QuantumCircuit.rzz,
}
"""Gates of one angle: PennyLane's name -> method ``(angle, *qubits)``."""

_FIXED: dict[str, Callable[..., object]] = {
    "Hadamard": QuantumCircuit.h,
    "PauliX": QuantumCircuit.x,
    "PauliY": QuantumCircuit.y,
    "PauliZ": QuantumCircuit.z,
    "S": QuantumCircuit.s,
    "T": QuantumCircuit.t,
    "SX": QuantumCircuit.sx,
    "CNOT": QuantumCircuit.cx,
    "CY": QuantumCircuit.cy,
    "CZ": QuantumCircuit.cz,
    "SWAP": QuantumCircuit.swap,
}

SHIFT_RULE_GATES = frozenset({"RX", "RY", "RZ", "Rot", "PhaseShift", "U1", "IsingXX", "IsingYY", "IsingZZ"})
"""Gates whose generator has two eigenvalues one apart, so that the two-term shift rule holds exactly."""


@dataclass(frozen=True)
class ExportedCircuit:
    """A parametrised Qiskit circuit with its observables (Pauli words, first letter for wire 0)."""

    circuit: QuantumCircuit
    n_wires: int
    n_inputs: int
    n_weights: int
    observables: tuple[str, ...]
    weight_gates: tuple[tuple[str, ...], ...]
    """For every weight the gates that take it."""

    def parameter_values(self, inputs: Floats, weights: Floats) -> Floats:
        """One row per example in the order of ``circuit.parameters``: inputs (n, n_inputs), weights (n_weights,)
        or (n, n_weights) -> float64 (n, parameters)."""
        inputs = np.asarray(inputs, np.float64)
        weights = np.asarray(weights, np.float64)
        if inputs.ndim != 2 or inputs.shape[1] != self.n_inputs or weights.shape[-1] != self.n_weights:
            raise ModelError(
                f"circuit takes {self.n_inputs} inputs and {self.n_weights} weights, "
                f"got arrays of shape {inputs.shape} and {weights.shape}"
            )
        weights = np.broadcast_to(weights, (len(inputs), self.n_weights))
        columns = []
        for parameter in self.circuit.parameters:
            source = inputs if parameter.vector.name == "inputs" else weights
            columns.append(source[:, parameter.index])
        return np.stack(columns, axis=1) if columns else np.empty((len(inputs), 0))

    def operators(self) -> list[SparsePauliOp]:
        """The observables as Qiskit operators."""
        return [SparsePauliOp(word[::-1]) for word in self.observables]

    def exact(self, inputs: Floats, weights: Floats) -> Floats:
        """Expectation values (n, n_observables) by Qiskit's statevector, one example after the other."""
        rows = []
        for values in self.parameter_values(inputs, weights):
            state = Statevector(self.circuit.assign_parameters(values))
            rows.append([state.expectation_value(operator).real for operator in self.operators()])
        return np.array(rows)


def pauli_words(observables: Sequence[Any], n_wires: int) -> tuple[str, ...]:
    """PennyLane observables, each one Pauli word with coefficient 1, as words such as ``ZIII``."""
    words = []
    for observable in observables:
        terms = list((observable.pauli_rep or {}).items())
        if len(terms) != 1 or terms[0][1] != 1:
            raise ModelError(f"observable {observable} is not a single Pauli word")
        letters = terms[0][0]
        words.append("".join(letters.get(wire, "I") for wire in range(n_wires)))
    return tuple(words)


def export(
    quantum_function: QuantumFunction,
    *,
    n_wires: int,
    n_inputs: int,
    n_weights: int,
    observables: Sequence[str],
) -> ExportedCircuit:
    """Write ``quantum_function`` as a Qiskit circuit.

    Raises CircuitError for a function that cannot be traced, ModelError for a gate or an observable that has
    no counterpart.
    """
    for word in observables:
        if len(word) != n_wires or set(word) - set("IXYZ"):
            raise ModelError(f"observable {word!r} is not a Pauli word on {n_wires} wires, such as 'ZIII'")
    circuit = QuantumCircuit(n_wires)
    inputs, weights = ParameterVector("inputs", n_inputs), ParameterVector("weights", n_weights)
    taken: list[list[str]] = [[] for _ in range(n_weights)]
    for gate in trace(quantum_function, n_inputs, n_weights):
        angles: list[Any] = []
        for argument in gate.arguments:
            if isinstance(argument, Input):
                angles.append(inputs[argument.index])
            elif isinstance(argument, Weight):
                angles.append(weights[argument.index])
                taken[argument.index].append(gate.name)
            else:
                angles.append(argument)
        if gate.wires and max(gate.wires) >= n_wires:
            raise ModelError(
                f"gate {gate.name} acts on wire {max(gate.wires)}; the circuit has {n_wires} wires"
            )
        _append(circuit, gate, angles)
    return ExportedCircuit(
        circuit, n_wires, n_inputs, n_weights, tuple(observables), tuple(tuple(gates) for gates in taken)
    )


def _append(circuit: QuantumCircuit, gate: TracedGate, angles: list[Any]) -> None:
    if gate.name in _ROTATIONS:
        _ROTATIONS[gate.name](circuit, angles[0], *gate.wires)
    elif gate.name == "Rot":
        (wire,) = gate.wires
        circuit.rz(angles[0], wire)
        circuit.ry(angles[1], wire)
        circuit.rz(angles[2], wire)
    elif gate.name == "U3":
        circuit.u(*angles, *gate.wires)
    elif gate.name == "CRot":
        control, target = gate.wires
        circuit.crz(angles[0], control, target)
        circuit.cry(angles[1], control, target)
        circuit.crz(angles[2], control, target)
    elif gate.name in _FIXED:
        _FIXED[gate.name](circuit, *gate.wires)
    elif gate.matrix is not None:
        circuit.append(UnitaryGate(gate.matrix), list(reversed(gate.wires)))
    else:
        raise ModelError(f"gate {gate.name} cannot take inputs or weights on a QPU")
