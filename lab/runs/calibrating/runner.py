"""Calibrations one after the other: which are due, what each rests on, and where its findings go.

A finding is kept as a file of its own, with raw counts and curves, and its values go into the book beside the testbed
file.  Nothing of a step that was refused is kept.  A session that ends early has done what it has done: the same command
goes on with what is missing or stale.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from msgspec import structs

from lab.calibration.book import Book, Value, now, read_book, stale, why_stale, write_book
from lab.calibration.errors import CalibrationRefusedError
from lab.calibration.finding import FORMAT, Finding
from lab.calibration.steps import STEPS, Step, in_order
from lab.runs.calibrating.procedures import PROCEDURES
from lab.runs.calibrating.rig import Rig
from lab.testbed import read_testbed
from orchestrator.durable import make_folder, read_kept, write_kept

FINDINGS = "calibrations"
"""Folder of findings beside the testbed file."""


@dataclass(frozen=True)
class Due:
    """One step for one owner, with the pair in whose light it is done."""

    step: Step
    owner: str
    pair: tuple[str, str]

    def __str__(self) -> str:
        return f"{self.step} of {self.owner}"


@dataclass(frozen=True)
class Outcome:
    """What became of one step: a finding, or why there is none."""

    due: Due
    finding: Finding | None = None
    refused: str = ""


Progress = Callable[[Due, float], None]
"""Called with the part of a step that is done, 0 to 1."""


def plan(
    users: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    book: Book,
    at: datetime,
    *,
    steps: Collection[Step],
    pair: tuple[str, str] | None,
) -> list[Due]:
    """What is to be done: the ``steps`` asked for, or those whose values are missing or stale, in their order."""
    chosen = list(steps) or list(STEPS)
    covering = [pair] if pair else _covering(users, pairs)
    due: list[Due] = []
    for step in in_order(chosen):
        if step not in PROCEDURES:
            continue
        owners = [(name, each) for each in covering for name in each]
        for owner, each in owners if STEPS[step].owner == "user" else [("relay", covering[0])]:
            if (steps or _is_due(book, step, owner, at)) and not any(
                other.step is step and other.owner == owner for other in due
            ):
                due.append(Due(step, owner, each))
    return due


def _is_due(book: Book, step: Step, owner: str, at: datetime) -> bool:
    return book.measured(step, owner) is None or bool(why_stale(book, step, owner, at))


def _covering(users: Sequence[str], pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Pairs in which every user stands at least once."""
    chosen: list[tuple[str, str]] = []
    for user in users:
        if not any(user in pair for pair in chosen):
            free = [pair for pair in pairs if user in pair and not any(u in p for p in chosen for u in pair)]
            chosen.append(free[0] if free else next(pair for pair in pairs if user in pair))
    return chosen


def run(rig: Rig, testbed_path: Path, due: Sequence[Due], *, progress: Progress) -> Iterator[Outcome]:
    """Do them in turn; every value is in the book when its outcome comes.

    Raises what instruments and light raise; a step that is refused is an outcome.
    """
    for each in due:
        book = read_book(testbed_path, read_testbed(testbed_path))
        if grounds := list(stale(book, each.step, each.pair, now())):
            yield Outcome(each, refused=f"{'; '.join(grounds)}: calibrate that first")
            continue
        try:
            finding = PROCEDURES[each.step](rig, each.owner, each.pair, partial(progress, each))
        except CalibrationRefusedError as error:
            yield Outcome(each, refused=str(error))
            continue
        rig.recalibrated(keep(testbed_path, finding, now()))
        yield Outcome(each, finding)


def keep(testbed_path: Path, finding: Finding, at: datetime) -> Book:
    """Keep a finding and put its values into the book, which is returned.  BookError for the book of another ring."""
    folder = testbed_path.parent / FINDINGS
    make_folder(folder)
    stamp = at.strftime("%Y%m%dT%H%M%SZ")
    write_kept(folder / f"{stamp}-{finding.step}-{finding.owner}.json", structs.replace(finding, measured=at))
    values = {
        name: Value(value=each.value, uncertainty=each.uncertainty, step=finding.step, measured=at)
        for name, each in finding.values.items()
    }
    book = read_book(testbed_path, read_testbed(testbed_path))
    book = book.with_values(finding.owner, values)
    write_book(testbed_path, book)
    return book


def kept_findings(testbed_path: Path) -> list[Finding]:
    """Everything that was found of a ring, oldest first.  Raises OSError, and ValueError naming a file that is none."""
    found = []
    for path in sorted((testbed_path.parent / FINDINGS).glob("*.json")):
        try:
            found.append(read_kept(path, Finding, FORMAT))
        except ValueError as error:
            raise ValueError(f"{path} is no finding of a calibration: {error}") from error
    return found
