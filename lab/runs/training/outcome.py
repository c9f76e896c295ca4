"""How a training run ended, what it leaves in its folder, and its summary in a few lines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fl.experiments.results import Results, write_results
from fl.keys.budget import counted, quantity
from lab.runs.records.ending import Ending
from lab.runs.training.words import accuracy, against_float32, exactness, points, supply

INTERRUPTED = "interrupted"
REPORT_FILE = "report.html"
PACKAGES = (
    "qunetlab",
    "torch",
    "numpy",
    "scipy",
    "pennylane",
    "transformers",
    "cryptography",
    "scikit-learn",
)
"""What the numbers of a run depend on."""


@dataclass(frozen=True)
class RunOutcome:
    """The results so far, if there are any to show; why the run ended early, or ""; whether all went well."""

    results: Results | None
    reason: str = ""
    healthy: bool = False


def keep_results(results: Results, folder: Path) -> None:
    """Write ``results.json`` and the report."""
    from lab.runs.pages.run_report import write_report

    write_results(results, folder)
    write_report(results, folder / REPORT_FILE)


def ending_of(ending: Ending, reason: str) -> None:
    """Tell the record of a run why it ended early; nothing without a ``reason``."""
    if reason == INTERRUPTED:
        ending.interrupted("by Ctrl-C or SIGTERM")
    elif reason:
        ending.failed(reason)


def summary(results: Results, folder: Path) -> str:
    """The run in a few lines."""
    compression, rounds = results.compression, counted(len(results.rounds), "round")
    lines = [
        *results.warnings,
        f"{results.title}: {accuracy(results.final.accuracy_mean, results.final.accuracy_ci95)} after {rounds}, "
        f"{results.clients} clients, {counted(results.final.seeds, 'seed')}",
    ]
    lines += [
        f"  {arm.title}: {accuracy(arm.final.accuracy_mean, arm.final.accuracy_ci95)}"
        for arm in results.baselines.values()
    ]
    lines += [
        f"  {each.title}: {points(each.difference_mean, each.difference_ci95)}"
        for each in results.comparisons.values()
    ]
    saving = f"{against_float32(compression.saving_vs_float32)} than float32"
    lines.append(
        f"upload {compression.upload_bytes_per_client:,.0f} bytes per client and round, {saving}; "
        f"{key_used(results)}"
    )
    lines.append(
        f"mode {results.mode}: {results.security}; key supply {supply(results)}; sum exact: {exactness(results)}"
    )
    lines += [f"note: {note}" for note in results.notes]
    lines.append(f"{results.wall_s:.0f} s; report in {folder / REPORT_FILE}")
    return "\n".join(lines)


def key_used(results: Results) -> str:
    """The key of the run over all pairs; every seed is a run of its own and uses as much."""
    used_bits = results.key_budget.record.used_bits if results.key_budget.record else 0
    if not used_bits:
        return "no key"
    return (
        f"key {quantity(used_bits)} over all pairs{' and rounds of a seed' if len(results.runs) > 1 else ''}"
    )
