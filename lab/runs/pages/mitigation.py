"""The page of ``qunetlab qpu mitigation``: what each mitigation takes away, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lab.runs.pages.page import Table, render
from orchestrator.durable import replace_file

if TYPE_CHECKING:
    from fl.qpu.mitigations import MitigationRow

PAGE_FILE = "report.html"
HEADINGS = (
    "backend",
    "mitigation",
    "mean |error|",
    "largest",
    "RMS",
    "standard error",
    "agreement",
    "circuits",
    "shots",
)


def write_mitigation(rows: Sequence[MitigationRow], name: str, origin: str, folder: Path) -> None:
    """``report.html`` with the table."""
    content = render(
        "mitigation.html",
        name=name,
        origin=origin,
        examples=rows[0].examples,
        rows=Table(HEADINGS, [cells(row) for row in rows]),
    )
    replace_file(folder / PAGE_FILE, content.encode())


def cells(row: MitigationRow) -> tuple[str, ...]:
    """One line of the table."""
    numbers = (row.mean_error, row.largest_error, row.rms_error, row.standard_error)
    return (
        row.backend,
        row.mitigation,
        *(f"{number:.4f}" for number in numbers),
        f"{row.agreement:.3f}",
        f"{row.circuits:,}",
        f"{row.shots:,}",
    )
