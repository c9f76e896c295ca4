"""The part of a simulated device that a circuit touches.

Local testing mode hands a circuit of as many qubits as the device has to a simulator of state vectors, and
127 qubits do not fit any machine.  Qubits that no gate and no observable touches change nothing - the noise
of a snapshot acts on the qubits of a gate only - so circuit, observables and noise are carried over to a
device of just those that are used.  Errors are the snapshot's own, built by Aer from its target.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qiskit import QuantumCircuit
from qiskit.quantum_info import SparsePauliOp
from qiskit.transpiler import Target


def narrowed(
    circuit: QuantumCircuit, operators: Sequence[SparsePauliOp], backend: Any
) -> tuple[QuantumCircuit, list[SparsePauliOp], Any]:
    """``circuit`` and ``operators`` on the qubits they use, in order, and a simulator of these with their noise.

    A backend without noise, ``AerSimulator``, has no qubits of its own and is returned as it is.
    """
    from qiskit_aer import AerSimulator

    used = used_qubits(circuit, operators)
    place = {qubit: index for index, qubit in enumerate(used)}
    narrow = QuantumCircuit(len(used), global_phase=circuit.global_phase)
    for step in circuit.data:
        narrow.append(step.operation, [place[circuit.find_bit(qubit).index] for qubit in step.qubits])
    moved = [
        SparsePauliOp.from_sparse_list(
            [
                (word, [place[qubit] for qubit in on], factor)
                for word, on, factor in operator.to_sparse_list()
            ],
            num_qubits=len(used),
        )
        for operator in operators
    ]
    if isinstance(backend, AerSimulator):
        return narrow, moved, backend
    target = _part_of(backend.target, place)
    return narrow, moved, AerSimulator(noise_model=noise_of(target), basis_gates=list(target.operation_names))


def used_qubits(circuit: QuantumCircuit, operators: Sequence[SparsePauliOp]) -> list[int]:
    """Indices of the qubits in a gate or an observable, ascending."""
    in_gates = {circuit.find_bit(qubit).index for step in circuit.data for qubit in step.qubits}
    read = {int(qubit) for operator in operators for _, on, _ in operator.to_sparse_list() for qubit in on}
    return sorted(in_gates | read)


def noise_of(target: Target) -> Any:
    """Aer's noise model of a device with this target: gate errors, relaxation and readout errors."""
    from qiskit_aer.noise import NoiseModel
    from qiskit_aer.noise.device import basic_device_gate_errors, basic_device_readout_errors

    noise = NoiseModel(basis_gates=list(target.operation_names))
    for qubits, error in basic_device_readout_errors(target=target):
        noise.add_readout_error(error, qubits)
    for name, qubits, error in basic_device_gate_errors(target=target):
        noise.add_quantum_error(error, name, qubits)
    return noise


def _part_of(target: Target, place: dict[int, int]) -> Target:
    """The instructions of ``target`` on the qubits of ``place`` alone, under their numbers there."""
    qubits = target.qubit_properties
    part = Target(
        num_qubits=len(place),
        dt=target.dt,
        qubit_properties=None if qubits is None else [qubits[qubit] for qubit in place],
    )
    for name in target.operation_names:
        everywhere = target[name]
        if everywhere is None or None in everywhere:
            continue
        here = {
            tuple(place[qubit] for qubit in on): properties
            for on, properties in everywhere.items()
            if all(qubit in place for qubit in on)
        }
        if here:
            part.add_instruction(target.operation_from_name(name), here, name=name)
    return part
