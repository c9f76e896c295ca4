"""From a circuit to a backend's own instructions on its best qubits.

Transpilation is random, and qubits of one device differ tenfold in quality.  The circuit is transpiled with
several seeds, with its measurements in place so that bad readout counts, and the result with the smallest
estimated error is kept: the product of the fidelities that the backend reports for every gate and
measurement (Nation and Treinish, PRX Quantum 4, 010327 (2023), eq. 1).
"""

from __future__ import annotations

import math
from typing import Any

from qiskit import QuantumCircuit
from qiskit.transpiler import generate_preset_pass_manager


def best_layout(
    circuit: QuantumCircuit, backend: Any, *, optimization_level: int, trials: int, seed: int
) -> QuantumCircuit:
    """``circuit`` for ``backend``, without measurements, on the qubits where the least is lost in ``trials`` transpilations."""
    measured = circuit.copy()
    measured.measure_all()
    target = getattr(backend, "target", None)
    if target is None or not _reports_errors(target):
        trials = 1
    best: tuple[float, QuantumCircuit] | None = None
    for trial in range(trials):
        manager = generate_preset_pass_manager(
            optimization_level=optimization_level, backend=backend, seed_transpiler=seed + trial
        )
        candidate = manager.run(measured)
        loss = estimated_loss(candidate, target) if trials > 1 else 0.0
        if best is None or loss < best[0] - 1e-12:
            best = loss, candidate
    assert best is not None
    chosen = best[1]
    chosen.remove_final_measurements()
    return chosen


def estimated_loss(circuit: QuantumCircuit, target: Any) -> float:
    """Minus the logarithm of the product of the reported fidelities of all instructions of ``circuit``."""
    loss = 0.0
    for instruction in circuit.data:
        name = instruction.operation.name
        if name not in target.operation_names:
            continue
        properties = target[name].get(tuple(circuit.find_bit(qubit).index for qubit in instruction.qubits))
        error = getattr(properties, "error", None)
        if error:
            loss -= math.log1p(-min(float(error), 0.999))
    return loss


def _reports_errors(target: Any) -> bool:
    return "measure" in target.operation_names and any(
        getattr(properties, "error", None) for properties in target["measure"].values()
    )
