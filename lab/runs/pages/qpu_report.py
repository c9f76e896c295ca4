"""``report.html`` of ``qunetlab qpu run``: measured against exact expectation values, and what the run was."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from fl.qpu.analysis import Comparison
from fl.qpu.evaluate import ARRAYS_FILE, QpuReport
from fl.qpu.request import QpuRequest
from lab.runs.pages.page import Table, render
from lab.runs.pages.style import SOFT, plot, series
from orchestrator.durable import replace_file

PAGE_FILE = "report.html"
PACKAGES = ("qiskit", "qiskit-ibm-runtime", "qiskit-aer", "pennylane", "qunetlab")


def write_page(outcome: QpuReport, request: QpuRequest, folder: Path) -> Path:
    """Write the page into the folder of the run; returns its path."""
    with np.load(folder / ARRAYS_FILE, allow_pickle=False) as arrays:
        content = _page(outcome, request, {name: arrays[name] for name in arrays.files})
    replace_file(folder / PAGE_FILE, content.encode())
    return folder / PAGE_FILE


def _page(outcome: QpuReport, request: QpuRequest, arrays: dict[str, Any]) -> str:
    notes = []
    if outcome.local:
        notes.append("Local testing mode: no quantum processor took part.")
    if outcome.unused_locally:
        notes.append(f"Not available in local testing mode: {', '.join(outcome.unused_locally)}.")
    return render(
        "qpu.html",
        title=f"{outcome.model} on {outcome.backend}",
        where="simulated on this machine" if outcome.local else "a real backend",
        comparison=outcome.comparison,
        shots=outcome.options.shots,
        origin=request.model,
        notes=notes,
        labels=_labels(outcome),
        drawn=_plots(outcome, arrays),
        deviations=_deviations(outcome.comparison),
        about=_about(outcome, request),
    )


def _labels(outcome: QpuReport) -> Table:
    comparison = outcome.comparison
    rows = [
        ["exact simulation", *_pair(comparison.accuracy_exact, 1.0)],
        [
            "exact, with the same number of shots",
            *_pair(comparison.shot_noise_accuracy, comparison.shot_noise_agreement),
        ],
        [outcome.backend, *_pair(comparison.accuracy_backend, comparison.agreement)],
    ]
    if outcome.at_own_noise is not None:
        own = outcome.at_own_noise
        name = f"{outcome.backend}, not extrapolated"
        rows.append([name, *_pair(own.accuracy_backend, own.agreement)])
    return Table(["", "accuracy", "agreement with exact"], rows)


def _pair(accuracy: float, agreement: float) -> list[str]:
    return [f"{accuracy:.3f}", f"{agreement:.3f}"]


def _deviations(comparison: Comparison) -> Table:
    rows = [
        [
            row.observable,
            f"{row.rms:.4f}",
            f"{row.shot_noise:.4f}",
            f"{row.rest:.4f}",
            f"{row.absolute:.4f}",
            f"{row.largest:.4f}",
            f"{row.mean:+.4f}",
            f"{row.contrast:.3f}",
        ]
        for row in (*comparison.observables, comparison.deviation)
    ]
    return Table(
        [
            "observable",
            "RMS",
            "shot noise",
            "device noise",
            "mean size",
            "largest",
            "mean offset",
            "contrast",
        ],
        rows,
    )


def _plots(outcome: QpuReport, arrays: dict[str, Any]) -> list[Markup]:
    """Measured against exact values, and their differences over the standard errors."""
    exact, measured, errors = arrays["exact"], arrays["expectations"], arrays["standard_errors"]
    span = [float(min(exact.min(), measured.min())), float(max(exact.max(), measured.max()))]
    pulls = ((measured - exact) / np.maximum(errors, 1e-12)).ravel()

    def scatter(axes: Any) -> None:
        axes.plot(span, span, color=str(SOFT), linewidth=1)
        for column, row in enumerate(outcome.comparison.observables):
            look = series(column)
            axes.errorbar(
                exact[:, column],
                measured[:, column],
                yerr=errors[:, column],
                fmt=look.marker,
                markersize=2.5,
                elinewidth=0.6,
                capsize=0,
                color=look.color,
                label=row.observable,
            )

    def histogram(axes: Any) -> None:
        bins = np.linspace(-6, 6, 49)
        axes.hist(np.clip(pulls, -6, 6), bins=bins, density=True, color=series(0).color, label="measured")
        normal = np.exp(-(bins**2) / 2) / np.sqrt(2 * np.pi)
        axes.plot(bins, normal, color=series(1).color, label="shot noise alone")

    return [
        plot("Measured against exact expectation values", "exact", "measured", scatter),
        plot("Differences", "(measured - exact) / standard error", "density", histogram),
    ]


def _about(outcome: QpuReport, request: QpuRequest) -> Table:
    options = outcome.options
    charged = "none" if outcome.local else f"{outcome.qpu_s or 0:.0f} s"
    gates = ", ".join(f"{count} {name}" for name, count in sorted(outcome.gates.items()))
    rows = [
        ["task", request.task],
        ["physical qubits of wires 0, 1, ...", ", ".join(map(str, outcome.qubits))],
        ["gates", f"{gates}; depth {outcome.circuit_depth}"],
        ["export against PennyLane", f"largest difference {outcome.export_deviation:.1e}"],
        ["mitigation", options.mitigation],
        ["execution, seed", f"{options.execution}, {options.seed}"],
        ["estimated before", outcome.cost.text()],
        ["QPU time charged", charged],
        ["jobs", ", ".join(outcome.job_ids)],
        ["software", ", ".join(f"{name} {version(name)}" for name in PACKAGES)],
    ]
    return Table(["", ""], rows, "text")
