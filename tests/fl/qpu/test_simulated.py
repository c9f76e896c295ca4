"""A simulated device cut down to the qubits that are used behaves as the whole one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.quantum_info import SparsePauliOp, Statevector
from qiskit_aer import AerSimulator
from qiskit_aer.noise import NoiseModel

from fl.qpu.backends import open_device
from fl.qpu.simulated import narrowed, used_qubits


def on_qubits(size: int, first: int, second: int) -> QuantumCircuit:
    angle = Parameter("angle")
    circuit = QuantumCircuit(size, global_phase=0.3)
    circuit.rz(angle, first)
    circuit.sx(first)
    circuit.cx(first, second)
    return circuit


def word(size: int, letters: dict[int, str]) -> SparsePauliOp:
    return SparsePauliOp.from_sparse_list([("".join(letters.values()), list(letters), 1.0)], num_qubits=size)


def test_circuit_and_observables_keep_their_meaning() -> None:
    circuit = on_qubits(5, 4, 1).assign_parameters([0.7])
    operators = [word(5, {4: "Y"}), word(5, {1: "Z", 3: "Z"})]
    narrow, moved, backend = narrowed(circuit, operators, open_device("aer").backend)
    assert (narrow.num_qubits, used_qubits(circuit, operators)) == (3, [1, 3, 4])
    assert isinstance(backend, AerSimulator)
    np.testing.assert_allclose(
        [Statevector(narrow).expectation_value(each) for each in moved],
        [Statevector(circuit).expectation_value(each) for each in operators],
    )


@pytest.mark.parametrize(("name", "used"), [("fake_manila", (3, 2)), ("fake_jakarta", (5, 3))])
def test_the_noise_of_the_qubits_used_is_that_of_the_whole_device(name: str, used: tuple[int, int]) -> None:
    device = open_device(name).backend
    circuit = on_qubits(device.num_qubits, *used)
    _, _, simulator = narrowed(circuit, [], device)
    place = {qubit: index for index, qubit in enumerate(sorted(used))}
    whole = NoiseModel.from_backend(device).to_dict()["errors"]
    expected = [
        {**error, "gate_qubits": [tuple(place[qubit] for qubit in on) for on in error["gate_qubits"]]}
        for error in whole
        if all(qubit in place for on in error["gate_qubits"] for qubit in on)
    ]
    found = simulator.options.noise_model.to_dict()["errors"]
    assert sorted(map(_text, found)) == sorted(map(_text, expected))
    assert len(found) > 8


def _text(error: dict[str, Any]) -> str:
    return str(sorted((name, str(value)) for name, value in error.items() if name != "id"))
