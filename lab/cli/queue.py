"""``qunetlab queue``: what operators ask of the queue of the running orchestrator, and how it is shown.

Everything goes through the control socket of the orchestrator on this machine, one way only; the history of one that
does not run is read from its file.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import combinations
from typing import Any

import msgspec

from lab.runs.following.terminal import columns
from lab.runs.following.view import ago, table
from lab.runs.shown import echo, shown
from lab.runs.testbeds.folder import FolderError
from lab.runs.testbeds.machine import Machine
from orchestrator.events.status import ORCHESTRATOR
from orchestrator.wire.queue_control import (
    HistoryShown,
    QueueRequest,
    QueueRow,
    QueueShown,
    ShowHistory,
)

FACTORS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}
HEAD = ("", "what", "owner", "state", "prio", "due in", "done", "needs", "ready in")
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def ask_queue(machine: Machine, request: QueueRequest) -> Any:
    """The answer of the running orchestrator; FolderError where none runs on this machine."""
    from orchestrator.wire.control_socket import ask, listens

    folder = machine.folder(ORCHESTRATOR)
    if not listens(folder):
        raise FolderError(
            f"no orchestrator runs on this machine ({folder}): start it with `qunetlab orchestrator"
            f" {machine.path}`, or give the command where it runs"
        )
    return ask(folder, request)


def history(machine: Machine, request: ShowHistory) -> HistoryShown:
    """What happened: from the running orchestrator, or from the file of one that does not run."""
    from orchestrator.processes.queue_desk import history_shown
    from orchestrator.scheduling.queue_store import QUEUE_FILE, QueueStore
    from orchestrator.wire.control_socket import listens

    folder = machine.folder(ORCHESTRATOR)
    path = folder / QUEUE_FILE
    if listens(folder) or not path.exists():
        told: HistoryShown = ask_queue(machine, request)
        return told
    store = QueueStore(path)
    try:
        return history_shown(store.history(request.number, request.limit), store.forgotten())
    finally:
        store.close()


def bits_of(text: str) -> int:
    """``1000000``, ``1M`` or ``250k``; raises ValueError for what is no amount."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kMG]?)", text.strip())
    if found is None or (bits := round(float(found[1]) * FACTORS[found[2]])) < 1:
        raise ValueError(f"--bits: {text!r} is no number of bits; write such as 250k or 1000000")
    return bits


def seconds_of(text: str) -> float:
    """``90s``, ``30m``, ``2h`` or ``1d``; raises ValueError for what is no duration."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if found is None:
        raise ValueError(f"--due-in: {text!r} is no duration; write such as 90s, 30m, 2h or 1d")
    return float(found[1]) * SECONDS[found[2]]


def pairs_of(machine: Machine, users: str) -> tuple[tuple[str, str], ...]:
    """Every pair of some users, ``alice,bob,carol``, in ring order; raises ValueError for who is no user."""
    known = machine.testbed.user_names()
    named = [name.strip() for name in users.split(",") if name.strip()]
    if strange := [name for name in named if name not in known]:
        raise ValueError(f"{', '.join(strange)}: no users of {machine.path}; users are {', '.join(known)}")
    if len(set(named)) < 2:
        raise ValueError("a run has two users or more: name them, such as alice,bob,carol")
    return tuple(combinations(sorted(set(named), key=known.index), 2))


def show_rows(told: QueueShown, as_json: bool) -> None:
    """Print the queue."""
    if as_json:
        echo(json.dumps(msgspec.to_builtins(told)))
        return
    if told.held_by:
        echo(
            shown(f"HELD by {told.held_by} since {clock(told.held_at)}: nothing is begun until it is resumed")
        )
    if not told.entries:
        echo("the queue is empty")
        return
    width = columns(80)
    echo(
        "\n".join([*table(HEAD, [_cells(row) for row in told.entries], width), *_notes(told.entries, width)])
    )


def _cells(row: QueueRow) -> Sequence[str]:
    return (
        str(row.number),
        shown(row.what),
        shown(row.owner),
        row.state,
        str(row.priority),
        _in(row.due_in_s),
        _progress(row),
        "unknown" if row.unmeasured_steps else _in(row.ring_s),
        _in(row.ready_in_s),
    )


def _progress(row: QueueRow) -> str:
    if row.steps:
        return f"{row.steps_done} of {len(row.steps)}"
    return f"{100 * row.made_bits / row.wanted_bits:.0f} %" if row.wanted_bits else ""


def _notes(rows: Sequence[QueueRow], width: int) -> list[str]:
    """A paragraph for each entry of which there is more to say."""
    lines: list[str] = []
    for row in rows:
        told = [row.reason, row.note]
        if row.unmeasured_steps:
            told.append(f"how long {', '.join(row.unmeasured_steps)} takes is unknown until it was done once")
        elif row.estimated_at is not None:
            told.append(f"needs: as measured until {clock(row.estimated_at)}")
        if text := "; ".join(filter(None, told)):
            lines += textwrap.wrap(shown(f"{row.number}: {text}"), width, subsequent_indent="   ")
    return ["", *lines] if lines else []


def stale_steps(machine: Machine, pair: tuple[str, str]) -> tuple[list[str], list[str]]:
    """Calibrations of a pair that are missing or stale: those that a lease can do, and those that want hands."""
    from lab.calibration.book import now, read_book
    from lab.calibration.steps import LEASED
    from lab.runs.calibrating.runner import plan
    from lab.testbed import read_testbed

    testbed = machine.testbed
    book = read_book(machine.path, read_testbed(machine.path))
    due = plan(testbed.user_names(), testbed.pairs(), book, now(), steps=(), asked=[pair])
    steps = dict.fromkeys(each.step for each in due)
    return [each for each in steps if each in LEASED], [each for each in steps if each not in LEASED]


def _in(seconds: float | None) -> str:
    return "" if seconds is None else ago(seconds) if seconds >= 0 else f"{ago(-seconds)} ago"


def show_history(told: HistoryShown, as_json: bool) -> None:
    """Print what happened."""
    if as_json:
        echo(json.dumps(msgspec.to_builtins(told)))
        return
    if told.forgotten_lines:
        echo(
            f"({told.forgotten_lines:,} lines up to {clock(told.forgotten_until)} and"
            f" {told.forgotten_entries:,} entries are not here any more)"
        )
    for line in told.lines:
        about = "the queue" if line.entry is None else f"entry {line.entry}"
        echo(shown(f"{clock(line.at)}  {about}: {line.what} ({line.who})"))
    echo(f"({told.kept})")


def clock(at: float | None) -> str:
    """A time of the wall clock in UTC."""
    return "" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
