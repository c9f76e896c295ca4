"""The circuit in the hybrid head, written once in PennyLane.

Four angles, one per qubit, enter by rotations of |+>, so that <Z> = -sin(angle) grows with the angle around
zero.  Two layers of trained rotations follow with a ring of CZ gates between them; CZ and not CNOT because
with small rotations it leaves <Z> of every qubit as it is, and training starts where a linear head would.
The depth (one ring of entangling gates) is meant for present processors.

The training path compiles it (:mod:`fl.circuits.torch_circuit`); :mod:`fl.qpu` exports it to Qiskit.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import pennylane as qml

from fl.circuits.torch_circuit import TorchCircuit, compile_circuit

N_QUBITS = 4
N_INPUTS = N_QUBITS
N_LAYERS = 2
N_WEIGHTS = 2 * N_LAYERS * N_QUBITS


def head_circuit(inputs: Sequence[Any], weights: Sequence[Any]) -> None:
    """Queue the gates: ``inputs`` are N_INPUTS angles in radians, ``weights`` N_WEIGHTS of them."""
    for wire in range(N_QUBITS):
        qml.Hadamard(wire)
        qml.RY(inputs[wire], wires=wire)
    for layer in range(N_LAYERS):
        if layer:
            for wire in range(N_QUBITS):
                qml.CZ(wires=[wire, (wire + 1) % N_QUBITS])
        for wire in range(N_QUBITS):
            first = 2 * (layer * N_QUBITS + wire)
            qml.RZ(weights[first], wires=wire)
            qml.RY(weights[first + 1], wires=wire)


def observables() -> list[qml.operation.Operator]:
    """Z on each wire; their expectations feed the read-out."""
    return [qml.PauliZ(wire) for wire in range(N_QUBITS)]


@cache
def compiled_head() -> TorchCircuit:
    """The circuit as a torch program; one per process."""
    return compile_circuit(head_circuit, N_QUBITS, N_INPUTS, N_WEIGHTS, observables())
