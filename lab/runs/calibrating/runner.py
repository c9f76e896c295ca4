"""Calibrations one after the other: which are due, what each rests on, and where its findings go.

A finding is kept as a file of its own, with raw counts and curves, and its values go into the book beside the testbed
file; its owner's database has it as a data set (:mod:`lab.datasets`).  Nothing of a step that was refused is kept.  A
session that ends early has done what it has done: the same command goes on with what is missing or stale.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from lab.calibration.book import Book, now, read_book, stale, why_stale
from lab.calibration.errors import CalibrationRefusedError
from lab.calibration.finding import Finding
from lab.calibration.keeping import check_keeping, keep
from lab.calibration.steps import STEPS, Step, in_order
from lab.datasets.calibrations import Origin, database_of, write_calibration
from lab.datasets.database import DatabaseError
from lab.datasets.snapshots import snapshot_of
from lab.runs.calibrating.intensity import intensity
from lab.runs.calibrating.rig import Rig
from lab.runs.software import commit
from lab.runs.supervising.signals import held_back
from lab.testbed import read_testbed
from orchestrator.light.calibration.procedures import RELAY_PROCEDURES
from orchestrator.light.messages import LightAborted


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
    """What became of one step: a finding, or why there is none; ``unrecorded`` says why it has no data set."""

    due: Due
    finding: Finding | None = None
    refused: str = ""
    unrecorded: str = ""


Progress = Callable[[Due, float], None]
"""Called with the part of a step that is done, 0 to 1."""


def plan(
    users: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    book: Book,
    at: datetime,
    *,
    steps: Collection[Step],
    asked: Sequence[tuple[str, str]] = (),
    controlled: Collection[str] = (),
) -> list[Due]:
    """What is to be done: the ``steps`` asked for, or those whose values are missing or stale, in their order.

    For the pairs ``asked`` for, by default for all.  What several pairs share is done once: a user's own values in the
    light of the first pair that it stands in, the relay's in that of the first of all, arms in as few pairs as have them;
    polarisation is aligned in every pair with somebody ``controlled``, who has a controller.
    """
    chosen = list(steps) or list(STEPS)
    covering = list(asked) or _covering(users, pairs)
    arms = _with_new_arms(asked or pairs)
    due: list[Due] = []
    for step in in_order(chosen):
        if STEPS[step].owner == "user":
            turns: dict[str, tuple[str, str]] = {}
            for each in covering:
                turns = dict.fromkeys(each, each) | turns
            wanted = sorted(turns.items(), key=lambda turn: users.index(turn[0]))
        elif step is Step.POLARIZATION:
            wanted = [
                ("relay", each)
                for each in asked or pairs
                if steps or not set(controlled).isdisjoint(("relay", *each))
            ]
        else:
            wanted = [("relay", each) for each in (arms if step is Step.ARM_LOSS else covering[:1])]
        due += [Due(step, owner, each) for owner, each in wanted if steps or _is_due(book, step, owner, at)]
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


def _with_new_arms(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Pairs in which every user stands as first where it does in any, and as second."""
    chosen: list[tuple[str, str]] = []

    def fresh(pair: tuple[str, str]) -> int:
        return sum(all(pair[place] != other[place] for other in chosen) for place in (0, 1))

    while fresh(best := max(pairs, key=fresh)):
        chosen.append(best)
    return chosen


def run(rig: Rig, testbed_path: Path, due: Sequence[Due], *, progress: Progress) -> Iterator[Outcome]:
    """Do them in turn; every value is in the book when its outcome comes.

    Raises what instruments raise; a step that is refused, or whose light somebody ended, is an outcome, and everything is
    dark before the next one.
    """
    for each in due:
        book = read_book(testbed_path, read_testbed(testbed_path))
        if grounds := list(stale(book, each.step, each.pair, now())):
            yield Outcome(each, refused=f"{'; '.join(grounds)}: calibrate that first")
            continue
        origin, began = Origin.of(rig.testbed.name, testbed_path, commit()), now()
        try:
            check_keeping(testbed_path)
            finding = _find(rig, each, partial(progress, each))
            with held_back():  # what stands in the book has its finding
                book = keep(testbed_path, finding, now())
            rig.recalibrated(book)
        except CalibrationRefusedError as error:
            yield Outcome(each, refused=str(error))
            continue
        except LightAborted as error:
            rig.set_up()
            yield Outcome(each, refused=str(error))
            continue
        yield Outcome(each, finding, unrecorded=_record(rig, testbed_path, finding, origin, began))


def _record(rig: Rig, testbed_path: Path, finding: Finding, origin: Origin, began: datetime) -> str:
    """Write the data set of what is in the book; returns why that failed: the calibration holds without it."""
    ended = now()
    snapshot = snapshot_of(rig.station_of(finding.owner))
    try:
        write_calibration(database_of(testbed_path, finding.owner), finding, origin, snapshot, began, ended)
    except DatabaseError as error:
        return str(error)
    return ""


def _find(rig: Rig, due: Due, part: Callable[[float], None]) -> Finding:
    if due.step is Step.INTENSITY:  # the only one that needs hands
        return intensity(rig, due.owner, due.pair, part)
    if due.step in RELAY_PROCEDURES:
        return RELAY_PROCEDURES[due.step](rig.relay_means(), due.owner, due.pair, part)
    return rig.of_user(due.step, due.owner, due.pair, part)
