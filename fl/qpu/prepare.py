"""From a trained model to a circuit in a backend's own instructions, on its best qubits, checked on the way.

The export is compared with PennyLane's exact expectation values before anything else.  Transpilation is
random, and qubits of one device differ tenfold in quality: the circuit is transpiled with several seeds, with
its measurements in place so that bad readout counts, and the result with the smallest estimated error is
kept: the product of the fidelities that the backend reports for every gate and measurement (Nation and
Treinish, PRX Quantum 4, 010327 (2023), eq. 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from qiskit import QuantumCircuit
from qiskit.quantum_info import PauliList, SparsePauliOp
from qiskit.transpiler import generate_preset_pass_manager

from fl.qpu.backends import Device
from fl.qpu.errors import ModelError
from fl.qpu.export import ExportedCircuit, export
from fl.qpu.extrapolate import Floats
from fl.qpu.model import CircuitModel
from fl.qpu.options import RunOptions

EXPORT_TOLERANCE = 1e-6
EXAMPLES_CHECKED = 3


@dataclass(frozen=True)
class Prepared:
    """A circuit ready for a backend: ``circuit`` transpiled, ``operators`` laid out, ``values`` per example."""

    exported: ExportedCircuit
    circuit: QuantumCircuit
    operators: list[SparsePauliOp]
    values: Floats
    export_deviation: float

    @property
    def bases(self) -> int:
        """Measurement bases needed: groups of observables that are read together qubit by qubit."""
        return len(
            PauliList([word[::-1] for word in self.exported.observables]).group_commuting(qubit_wise=True)
        )

    @property
    def qubits(self) -> tuple[int, ...]:
        """Physical qubits of wires 0, 1, ..."""
        return physical_qubits(self.circuit, self.exported.n_wires)


def prepare(
    model: CircuitModel, device: Device, options: RunOptions, kept: QuantumCircuit | None = None
) -> Prepared:
    """Export and transpile ``model``; ``kept`` is the transpiled circuit of a run that is resumed.

    Raises ModelError if the exported circuit does not give PennyLane's expectation values, or if the backend
    is too small.
    """
    exported = export(
        model.quantum_function,
        n_wires=model.n_wires,
        n_inputs=model.inputs.shape[1],
        n_weights=len(model.weights),
        observables=model.observables,
    )
    deviation = export_deviation(model, exported)
    if deviation > EXPORT_TOLERANCE:
        raise ModelError(
            f"the exported circuit deviates by {deviation:.1e} from PennyLane, more than {EXPORT_TOLERANCE:.0e}"
        )
    size = device.backend.num_qubits
    if size is not None and size < model.n_wires:
        raise ModelError(f"backend {device.name} has {size} qubits, the circuit needs {model.n_wires}")
    circuit = kept or best_layout(
        exported.circuit,
        device.backend,
        optimization_level=options.optimization_level,
        trials=options.layout_trials,
        seed=options.seed,
    )
    layout = circuit.layout
    operators = [operator.apply_layout(layout) if layout else operator for operator in exported.operators()]
    by_name = {parameter.name: column for column, parameter in enumerate(exported.circuit.parameters)}
    order = [by_name[parameter.name] for parameter in circuit.parameters]
    values = exported.parameter_values(model.inputs, model.weights)[:, order]
    return Prepared(exported, circuit, operators, values, deviation)


def physical_qubits(circuit: QuantumCircuit, n_wires: int) -> tuple[int, ...]:
    """Where wires 0, 1, ... are at the end of a transpiled circuit."""
    if circuit.layout is None:
        return tuple(range(n_wires))
    return tuple(circuit.layout.final_index_layout(filter_ancillas=True))


def export_deviation(model: CircuitModel, exported: ExportedCircuit) -> float:
    """Largest difference between Qiskit's and PennyLane's exact expectation values over a few examples."""
    few = model.take(EXAMPLES_CHECKED)
    return float(np.max(np.abs(exported.exact(few.inputs, few.weights) - few.exact())))


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
