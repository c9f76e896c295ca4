"""Made-up runs on a quantum processor and comparisons of mitigations, for the pages that show them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fl.qpu.analysis import Comparison, Deviation
from fl.qpu.cost import CostEstimate
from fl.qpu.evaluate import ARRAYS_FILE, QpuReport
from fl.qpu.mitigations import MitigationRow
from fl.qpu.options import RunOptions
from fl.qpu.request import QpuRequest
from lab.runs.pages.mitigation import PAGE_FILE, write_mitigation
from lab.runs.pages.qpu_report import write_page

EXAMPLES = 24


def _deviation(name: str) -> Deviation:
    return Deviation(name, 0.0712, 0.0156, 0.0695, 0.0551, 0.1903, -0.0204, 0.934)


def qpu_page(folder: Path) -> Path:
    """``report.html`` of a run of 24 examples on a simulated device, extrapolated to no noise."""
    rng = np.random.default_rng(3)
    exact = rng.uniform(-0.9, 0.9, (EXAMPLES, 2))
    errors = np.sqrt((1 - exact**2) / 4096)
    measured = 0.93 * exact + rng.normal(0, errors)
    np.savez(folder / ARRAYS_FILE, exact=exact, expectations=measured, standard_errors=errors)
    words = ("IIZI", "ZIII")
    comparison = Comparison(
        EXAMPLES,
        0.917,
        0.875,
        0.958,
        (0.798, 0.993),
        0.979,
        0.917,
        _deviation("all"),
        tuple(_deviation(word) for word in words),
    )
    options = RunOptions(mitigation="zne")
    outcome = QpuReport(
        "sentences:pqc, 4 qubits",
        "fake_manila <script>",
        local=True,
        options=options,
        unused_locally=("dynamical_decoupling",),
        qubits=(0, 1, 2, 3),
        circuit_depth=57,
        gates={"cx": 14, "sx": 33, "rz": 41, "measure": 4},
        export_deviation=3.2e-16,
        cost=CostEstimate(EXAMPLES, 1, 4096, "zne", 1, 72, 294_912, 9.1e-6, 2.5e-4, 78.0, True),
        comparison=comparison,
        at_own_noise=comparison,
        jobs=1,
        submitted=1,
        job_ids=("e5b1c0de-0000-4000-8000-000000000001",),
        qpu_s=None,
        wall_s=41.0,
    )
    return write_page(outcome, QpuRequest("fake_manila", model="trained here, 3 epochs"), folder)


def mitigation_page(folder: Path) -> Path:
    """``report.html`` of three mitigations on two simulated devices."""
    rows = [
        MitigationRow(
            backend, mitigation, EXAMPLES, 0.05 / (n + 1), 0.2, 0.07, 0.0156, 0.917, 24 * (n + 1), 98_304, 12.0
        )
        for backend in ("aer", "fake_manila")
        for n, mitigation in enumerate(("none", "trex", "zne"))
    ]  # fmt: skip
    write_mitigation(rows, "sentences:pqc, 4 qubits", "trained here, 3 epochs", folder)
    return folder / PAGE_FILE
