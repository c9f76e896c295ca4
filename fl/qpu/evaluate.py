"""A trained circuit on a backend, from export to report.

Export, check the export against exact simulation, transpile once for the backend, estimate the cost, run
the jobs, compare.  The same steps for a real QPU and for its simulated stand-in.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from qiskit import QuantumCircuit
from qiskit.quantum_info import PauliList, SparsePauliOp

from fl.qpu.analysis import Comparison, compare
from fl.qpu.backends import Device
from fl.qpu.cost import CostEstimate, estimate_cost
from fl.qpu.errors import ConsentError, ModelError, QpuFolderError
from fl.qpu.export import ExportedCircuit, export
from fl.qpu.journal import QpuFolder, RunPlan, digest_of
from fl.qpu.layout import best_layout
from fl.qpu.model import CircuitModel
from fl.qpu.options import RunOptions
from fl.qpu.readout import CIRCUITS, calibration_circuits, calibration_operators
from fl.qpu.runner import Measured, Report, Runner
from orchestrator.durable import replace_file

Floats = npt.NDArray[np.float64]

EXPORT_TOLERANCE = 1e-6
EXAMPLES_CHECKED = 3
REPORT_FILE, ARRAYS_FILE = "qpu.json", "expectations.npz"


class QpuReport(msgspec.Struct, frozen=True):
    """The outcome of a run, as written to ``qpu.json``."""

    model: str
    backend: str
    local: bool
    options: RunOptions
    unused_locally: tuple[str, ...]
    qubits: tuple[int, ...]
    circuit_depth: int
    gates: dict[str, int]
    readout_calibrated: bool
    export_deviation: float
    cost: CostEstimate
    comparison: Comparison
    unmitigated: Comparison | None
    jobs: int
    submitted: int
    job_ids: tuple[str, ...]
    qpu_s: float | None
    wall_s: float


@dataclass(frozen=True)
class Prepared:
    """A circuit ready for a backend: ``circuit`` transpiled, ``operators`` laid out, ``values`` per example."""

    exported: ExportedCircuit
    circuit: QuantumCircuit
    operators: list[SparsePauliOp]
    values: Floats
    calibration: tuple[tuple[QuantumCircuit, list[SparsePauliOp]], ...]
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
    calibration: tuple[tuple[QuantumCircuit, list[SparsePauliOp]], ...] = ()
    if options.calibrates(model.observables, local=device.local):
        used = physical_qubits(circuit, model.n_wires)
        reading = calibration_operators(model.observables, used, circuit.num_qubits)
        calibration = tuple(
            (each, reading) for each in calibration_circuits(circuit.num_qubits, used, device.backend)
        )
    return Prepared(exported, circuit, operators, values, calibration, deviation)


def physical_qubits(circuit: QuantumCircuit, n_wires: int) -> tuple[int, ...]:
    """Where wires 0, 1, ... are at the end of a transpiled circuit."""
    if circuit.layout is None:
        return tuple(range(n_wires))
    return tuple(circuit.layout.final_index_layout(filter_ancillas=True))


def export_deviation(model: CircuitModel, exported: ExportedCircuit) -> float:
    """Largest difference between Qiskit's and PennyLane's exact expectation values over a few examples."""
    few = model.take(EXAMPLES_CHECKED)
    return float(np.max(np.abs(exported.exact(few.inputs, few.weights) - few.exact())))


def cost_of(prepared: Prepared, device: Device, options: RunOptions) -> CostEstimate:
    """What running ``prepared`` costs."""
    return estimate_cost(
        prepared.circuit,
        device.backend,
        options,
        parameter_sets=len(prepared.values),
        bases=prepared.bases,
        local=device.local,
        extra_circuits=CIRCUITS if prepared.calibration else 0,
    )


def measure(
    prepared: Prepared,
    device: Device,
    options: RunOptions,
    folder: QpuFolder,
    *,
    retry_failed: bool = False,
    report: Report = lambda event: None,
    **runner_options: Any,
) -> Measured:
    """Measure all parameter sets of ``prepared``, resuming what ``folder`` has; the folder is open."""
    if not folder.started:
        folder.keep_circuit(prepared.circuit)
    digest = digest_of(
        device.name,
        msgspec.json.encode(options),
        folder.circuit_bytes(),
        prepared.exported.observables,
        prepared.values,
    )
    plan = RunPlan(
        digest=digest,
        backend=device.name,
        local=device.local,
        options=options,
        parameter_sets=len(prepared.values),
        observables=prepared.exported.observables,
        jobs=-(-len(prepared.values) // options.sets_per_job),
    )
    folder.start(plan)
    runner = Runner(
        device,
        folder,
        plan,
        prepared.circuit,
        prepared.operators,
        prepared.values,
        prepared.calibration,
        retry_failed=retry_failed,
        report=report,
        **runner_options,
    )
    return runner.run()


def evaluate(
    model: CircuitModel,
    device: Device,
    options: RunOptions,
    path: Path,
    *,
    resume: bool = False,
    retry_failed: bool = False,
    agree: Callable[[CostEstimate], bool] = lambda cost: cost.free,
    report: Report = lambda event: None,
    **runner_options: Any,
) -> QpuReport:
    """Run ``model`` on ``device`` and write ``qpu.json`` and the expectation values to the folder ``path``.

    ``agree`` is asked before a run is started; what is free needs no consent.  Raises ConsentError,
    QpuFolderError, ModelError, JobFailedError, ServiceError.
    """
    started = time.monotonic()
    with QpuFolder(path) as folder:
        if resume and not folder.started:
            raise QpuFolderError(f"{path} holds no run to resume")
        if folder.started and not resume:
            raise QpuFolderError(f"{path} already holds a run; resume it or choose another folder")
        prepared = prepare(model, device, options, folder.circuit() if folder.started else None)
        cost = cost_of(prepared, device, options)
        if not agree(cost):
            raise ConsentError(f"not started without consent: {cost.text()}; confirm with --yes")
        measured = measure(
            prepared, device, options, folder, retry_failed=retry_failed, report=report, **runner_options
        )
        comparison = compare(
            model, measured.expectations, measured.standard_errors, shots=options.shots, seed=options.seed
        )
        unmitigated = (
            compare(model, measured.raw, measured.raw_errors, shots=options.shots, seed=options.seed)
            if prepared.calibration
            else None
        )
        usage = [record.qpu_s for record in measured.records if record.qpu_s is not None]
        outcome = QpuReport(
            model=model.name,
            backend=device.name,
            local=device.local,
            options=options,
            unused_locally=options.unused_locally(model.observables) if device.local else (),
            qubits=prepared.qubits,
            circuit_depth=prepared.circuit.depth(),
            gates={str(name): int(count) for name, count in prepared.circuit.count_ops().items()},
            readout_calibrated=bool(prepared.calibration),
            export_deviation=prepared.export_deviation,
            cost=cost,
            comparison=comparison,
            unmitigated=unmitigated,
            jobs=len(measured.records),
            submitted=measured.submitted,
            job_ids=tuple(record.job_id for record in measured.records),
            qpu_s=sum(usage) if usage else None,
            wall_s=time.monotonic() - started,
        )
        _write_arrays(path / ARRAYS_FILE, model, measured)
        replace_file(path / REPORT_FILE, msgspec.json.format(msgspec.json.encode(outcome), indent=1))
    return outcome


def _write_arrays(path: Path, model: CircuitModel, measured: Measured) -> None:
    """Exact and measured expectation values with standard errors and labels, for plots and further analysis."""
    buffer = BytesIO()
    np.savez(
        buffer,
        exact=model.exact(),
        expectations=measured.expectations,
        standard_errors=measured.standard_errors,
        raw=measured.raw,
        raw_errors=measured.raw_errors,
        labels=model.labels,
    )
    replace_file(path, buffer.getvalue())
