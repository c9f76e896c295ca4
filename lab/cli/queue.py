"""``qunetlab queue``: what operators ask of the queue of the running orchestrator, and how it is shown.

Everything goes through the control socket of the orchestrator on this machine, one way only; the history of one that
does not run is read from its file.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import combinations
from typing import Any

import msgspec

from lab.runs.following.view import ago, table
from lab.runs.shown import echo, shown
from lab.runs.testbeds.folder import FolderError
from lab.runs.testbeds.machine import Machine
from orchestrator.events.status import ORCHESTRATOR
from orchestrator.wire.queue_control import (
    HistoryRow,
    HistoryShown,
    QueueRequest,
    QueueRow,
    QueueShown,
    ShowHistory,
)

FACTORS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}
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
    from orchestrator.scheduling.queue_store import QUEUE_FILE, QueueStore
    from orchestrator.wire.control_socket import listens

    folder = machine.folder(ORCHESTRATOR)
    path = folder / QUEUE_FILE
    if listens(folder) or not path.exists():
        told: HistoryShown = ask_queue(machine, request)
        return told
    store = QueueStore(path)
    try:
        lines = store.history(request.number, request.limit)
    finally:
        store.close()
    return HistoryShown([HistoryRow(line.at, line.entry, line.who, line.what) for line in lines])


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
    head = ("", "what", "owner", "state", "prio", "due in", "made", "needs", "ready in", "why it waits, note")
    width = shutil.get_terminal_size((140, 24)).columns
    echo("\n".join(table(head, [_cells(row) for row in told.entries], width)))


def _cells(row: QueueRow) -> Sequence[str]:
    return (
        str(row.number),
        shown(row.what),
        shown(row.owner),
        row.state,
        str(row.priority),
        _in(row.due_in_s),
        f"{100 * row.made_bits / row.wanted_bits:.0f} %" if row.wanted_bits else "",
        _in(row.ring_s),
        _in(row.ready_in_s),
        shown("; ".join(text for text in (row.reason, row.note) if text)),
    )


def _in(seconds: float | None) -> str:
    return "" if seconds is None else ago(seconds) if seconds >= 0 else f"{ago(-seconds)} ago"


def show_history(told: HistoryShown, as_json: bool) -> None:
    """Print what happened."""
    if as_json:
        echo(json.dumps(msgspec.to_builtins(told)))
        return
    for line in told.lines:
        about = "the queue" if line.entry is None else f"entry {line.entry}"
        echo(shown(f"{clock(line.at)}  {about}: {line.what} ({line.who})"))


def clock(at: float | None) -> str:
    """A time of the wall clock in UTC."""
    return "" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
