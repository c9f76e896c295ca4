"""Readout errors measured beside the circuit and taken out of its expectation values.

A qubit in |0> is read as 1 with probability e0, one in |1> as 0 with probability e1.  Whatever the circuit
did, the mean read is then an affine function of the true one,

    m = (z0 + z1) / 2 + (z0 - z1) / 2 <Z>,    z0 = 1 - 2 e0,  z1 = -(1 - 2 e1)

(Bravyi et al., Phys. Rev. A 103, 042605 (2021), sec. III, for errors that are independent from qubit to
qubit).  Every job therefore carries two more circuits, all qubits in |0> and all in |1>, whose means are z0
and z1.  That is readout mitigation where the service's own (``resilience_level`` 1) does not exist: in
local testing mode.  It holds for observables on one qubit each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from qiskit import QuantumCircuit
from qiskit.quantum_info import SparsePauliOp
from qiskit.transpiler import generate_preset_pass_manager

from fl.qpu.errors import JobFailedError

Floats = npt.NDArray[np.float64]

LEAST_CONTRAST = 0.2
CIRCUITS = 2


def can_calibrate(observables: Sequence[str]) -> bool:
    """Whether every observable (a Pauli word) is on one qubit."""
    return all(len(word) - word.count("I") == 1 for word in observables)


def calibration_circuits(
    n_qubits: int, used: Sequence[int], backend: Any
) -> tuple[QuantumCircuit, QuantumCircuit]:
    """``used`` physical qubits in |0> and in |1>, in the backend's instructions."""
    zeros, ones = QuantumCircuit(n_qubits), QuantumCircuit(n_qubits)
    ones.x(list(used))
    manager = generate_preset_pass_manager(
        optimization_level=0, backend=backend
    )  # level 0 keeps qubits in place
    return manager.run(zeros), manager.run(ones)


def calibration_operators(
    observables: Sequence[str], qubits: Sequence[int], n_qubits: int
) -> list[SparsePauliOp]:
    """Z on the physical qubit of every observable; ``qubits`` are those of wires 0, 1, ..."""
    operators = []
    for word in observables:
        (wire,) = [wire for wire, letter in enumerate(word) if letter != "I"]
        operators.append(SparsePauliOp.from_sparse_list([("Z", [qubits[wire]], 1.0)], num_qubits=n_qubits))
    return operators


def correct(
    expectations: Floats, standard_errors: Floats, means: Floats, mean_errors: Floats
) -> tuple[Floats, Floats]:
    """Take readout errors out of (n, observables) arrays; ``means`` and ``mean_errors`` (2, observables) are
    those of the calibration circuits.

    Standard errors follow from first-order propagation.  Raises JobFailedError where |0> and |1> are hardly
    told apart.
    """
    zeros, ones = means
    contrast = (zeros - ones) / 2
    if contrast.min() < LEAST_CONTRAST:
        raise JobFailedError(
            f"readout tells |0> and |1> apart with a contrast of {contrast.min():.2f} only (observable "
            f"{int(contrast.argmin())}); the backend is out of order or the wrong qubits were chosen"
        )
    corrected = (expectations - (zeros + ones) / 2) / contrast
    variance = (
        standard_errors**2
        + ((1 + corrected) / 2 * mean_errors[0]) ** 2
        + ((1 - corrected) / 2 * mean_errors[1]) ** 2
    ) / contrast**2
    return corrected, np.sqrt(variance)
