"""Calibrated values for the pages, from the book beside the testbed file and the findings that it was made of.

A user's own values (voltages, delays, losses of its station) stay on that user's machine: whoever can read the book reads
them here, so they are shown where only this machine can reach the dashboard, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from lab.calibration.book import Book, read_book, why_stale
from lab.calibration.finding import FORMAT, Finding
from lab.calibration.keeping import FINDINGS
from lab.calibration.steps import STEPS, Step
from lab.runs.pages.calibration_page import PAGE_FILE
from lab.testbed import read_testbed
from orchestrator.durable import read_kept
from orchestrator.events.status import RELAY

OWN = "a user's own value, shown on that user's machine only"


def calibrated_values(testbed: Path, at: datetime, *, alone: bool) -> dict[tuple[str, str], dict[str, Any]]:
    """Every value of the book by owner and name.  Raises BookError, TestbedError, OSError.

    ``alone``: nobody but this machine can reach the dashboard.
    """
    book = read_book(testbed, read_testbed(testbed))
    owners = {RELAY: book.relay, **book.users}
    findings: dict[tuple[Step, str], Finding | None] = {}
    rows = {}
    for owner, part in owners.items():
        for name, value in part.items():
            source = value.step, owner
            if source not in findings:
                findings[source] = newest_finding(testbed, *source)
            shown = alone or owner == RELAY
            rows[owner, name] = {
                "value": value.value if shown else None,
                "uncertainty": value.uncertainty if shown else None,
                "unit": _unit(findings[source], name),
                "step": str(value.step),
                "finds": STEPS[value.step].finds,
                "measured": value.measured.isoformat(),
                "valid_h": STEPS[value.step].valid_h,
                "stale": why_stale(book, value.step, owner, at),
                "withheld": "" if shown else OWN,
            }
    return rows


def missing_steps(testbed: Path) -> list[dict[str, str]]:
    """Steps whose values no book has: those of the testbed file stand, which nobody dates.  Raises as above."""
    data = read_testbed(testbed)
    book = read_book(testbed, data)
    users = [str(user["name"]) for user in data["users"]]
    return [
        {"step": str(step), "owner": owner, "finds": STEPS[step].finds}
        for step, owner in _steps_and_owners(users)
        if not _found(book, step, owner)
    ]


def _steps_and_owners(users: list[str]) -> Iterator[tuple[Step, str]]:
    for step, facts in STEPS.items():
        yield from ((step, owner) for owner in (users if facts.owner == "user" else [RELAY]))


def _found(book: Book, step: Step, owner: str) -> bool:
    return book.measured(step, owner) is not None


def newest_finding(testbed: Path, step: Step, owner: str) -> Finding | None:
    """The latest finding of a step and owner that can be read; None where there is none."""
    for path in sorted((testbed.parent / FINDINGS).glob(f"*-{step}-{owner}.json"), reverse=True):
        try:
            found = read_kept(path, Finding, FORMAT)
        except ValueError:
            continue  # `qunetlab calibrate` says what is wrong with it; an older one still has the unit
        if (found.step, found.owner) == (step, owner):
            return found
    return None


def finding_shown(found: Finding) -> dict[str, Any]:
    """A finding for a page, its raw counts left out."""
    told: dict[str, Any] = msgspec.to_builtins(found)
    del told["counts"]
    return told


def calibration_page(testbed: Path) -> Path | None:
    """The page that calibrations wrote of all findings, where there is one."""
    path = testbed.parent / FINDINGS / PAGE_FILE
    return path if path.is_file() else None


def _unit(found: Finding | None, name: str) -> str:
    if found is None:
        return ""
    measured = found.values.get(name) or found.figures.get(name)
    return measured.unit if measured else ""
