"""A trained circuit on a backend, from export to report.

Prepare the circuit, estimate the cost, run the jobs, compare.  The same steps for a real QPU and for its simulated stand-in.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from fl.qpu.analysis import Comparison, compare
from fl.qpu.backends import Device
from fl.qpu.cost import CostEstimate, estimate_cost
from fl.qpu.errors import QpuFolderError, UnconfirmedCostError
from fl.qpu.journal import QpuFolder, RunPlan, digest_of
from fl.qpu.model import CircuitModel
from fl.qpu.options import RunOptions
from fl.qpu.prepare import Prepared, prepare
from fl.qpu.runner import Measured, Report, Runner
from orchestrator.durable import replace_file, write_kept

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
    export_deviation: float
    cost: CostEstimate
    comparison: Comparison
    at_own_noise: Comparison | None
    """With zero-noise extrapolation: the values at noise factor 1, of which it made ``comparison``."""
    jobs: int
    submitted: int
    job_ids: tuple[str, ...]
    qpu_s: float | None
    wall_s: float


class QpuRun(QpuReport, frozen=True, kw_only=True):
    """The outcome, the folder that it is in, and where the parameters came from."""

    folder: str
    origin: str


def cost_of(prepared: Prepared, device: Device, options: RunOptions) -> CostEstimate:
    """What running ``prepared`` costs."""
    return estimate_cost(
        prepared.circuit,
        device.backend,
        options,
        parameter_sets=len(prepared.values),
        bases=prepared.bases,
        local=device.local,
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
        instance=device.instance,
    )
    plan = folder.start(plan)
    runner = Runner(
        device,
        folder,
        plan,
        prepared.circuit,
        prepared.operators,
        prepared.values,
        retry_failed=retry_failed,
        report=report,
        **runner_options,
    )
    return runner.run()


def evaluate(
    model: CircuitModel,
    device: Device,
    options: RunOptions,
    folder: QpuFolder,
    *,
    resume: bool = False,
    retry_failed: bool = False,
    agree: Callable[[CostEstimate], bool] = lambda cost: cost.free,
    report: Report = lambda event: None,
    **runner_options: Any,
) -> QpuReport:
    """Run ``model`` on ``device`` and write ``qpu.json`` and the expectation values to ``folder``, which is open.

    ``resume`` lets a run go on that is in there.  ``agree`` is asked before a run is started; what is free needs
    no consent.  Raises UnconfirmedCostError,
    QpuFolderError, ModelError, JobFailedError, ServiceError.
    """
    started = time.monotonic()
    if folder.started and not resume:
        raise QpuFolderError(f"{folder.folder} already holds a run; resume it or choose another folder")
    prepared = prepare(model, device, options, folder.circuit() if folder.started else None)
    cost = cost_of(prepared, device, options)
    if not agree(cost):
        raise UnconfirmedCostError(f"not started without consent: {cost.text()}; confirm with --yes")
    measured = measure(
        prepared, device, options, folder, retry_failed=retry_failed, report=report, **runner_options
    )
    comparison = compare(
        model, measured.expectations, measured.standard_errors, shots=options.shots, seed=options.seed
    )
    at_own_noise = (
        compare(model, measured.raw, measured.raw_errors, shots=options.shots, seed=options.seed)
        if len(options.noise_factors) > 1
        else None
    )
    usage = [record.qpu_s for record in measured.records if record.qpu_s is not None]
    outcome = QpuReport(
        model=model.name,
        backend=device.name,
        local=device.local,
        options=options,
        unused_locally=options.unused_locally if device.local else (),
        qubits=prepared.qubits,
        circuit_depth=prepared.circuit.depth(),
        gates={str(name): int(count) for name, count in prepared.circuit.count_ops().items()},
        export_deviation=prepared.export_deviation,
        cost=cost,
        comparison=comparison,
        at_own_noise=at_own_noise,
        jobs=len(measured.records),
        submitted=measured.submitted,
        job_ids=tuple(record.job_id for record in measured.records),
        qpu_s=sum(usage) if usage else None,
        wall_s=time.monotonic() - started,
    )
    _write_arrays(folder.folder / ARRAYS_FILE, model, measured)
    write_kept(folder.folder / REPORT_FILE, outcome)
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
