"""``qunetlab runs``: what was done on a ring, for people and for pandas."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from lab.calibration.book import now
from lab.cli.queue import SECONDS, ask_queue
from lab.runs.following.terminal import columns
from lab.runs.following.view import table
from lab.runs.records.listing import KINDS, Found, Listed, found_in
from lab.runs.shown import echo, shown
from lab.runs.testbeds.folder import STATE, TESTBED_FILE, FolderError
from lab.runs.testbeds.machine import Machine
from orchestrator.events.status import ORCHESTRATOR
from orchestrator.scheduling.entries import Entry, in_words
from orchestrator.wire.control_socket import listens
from orchestrator.wire.queue_control import QueueRow, ShowQueue

ORDERS = 1000


def list_runs(testbed: Path, pair: str | None, kind: str | None, since: str | None, as_json: bool) -> int:
    """Print them; 1 if something could not be read."""
    if kind is not None and kind not in KINDS:
        raise ValueError(f"--kind: there is no {kind!r}; kinds are {', '.join(KINDS)}")
    after = None if since is None else moment(since, now())
    found = _found(testbed)
    chosen = [
        each
        for each in found.listed
        if (pair is None or pair in each.pair.split() or _turned(pair) in each.pair.split())
        and (kind is None or each.kind == kind)
        and (after is None or each.when >= after)
    ]
    if as_json:
        echo(msgspec.json.encode(chosen).decode())
    elif chosen:
        echo(
            "\n".join(
                table(
                    ("id", "when (UTC)", "pair", "what became of it", "testbed"), _rows(chosen), columns(100)
                )
            )
        )
    else:
        echo(f"none of the {len(found.listed)} on record is meant: look at --pair, --kind and --since")
    return _tell_unread(found)


def show_run(testbed: Path, name: str, as_json: bool) -> int:
    """Print all that is on record about one of them; 1 if something could not be read."""
    found = _found(testbed)
    if name not in found.whole:
        alike = [each.id for each in found.listed if each.kind == name.partition("/")[0]] or [
            each.id for each in found.listed
        ]
        told = ", ".join(alike[-5:])
        raise FolderError(
            f"nothing on record is called {name}; `qunetlab runs` lists all, the latest: {told}"
        )
    whole = found.whole[name]
    listed = next(each for each in found.listed if each.id == name)
    if as_json:
        echo(json.dumps(whole))
    else:
        echo(shown(f"{listed.id}, {listed.when:%Y-%m-%d %H:%M:%S} UTC {listed.pair}: {listed.result}"))
        echo(json.dumps(whole, indent=1))
    return _tell_unread(found)


def moment(text: str, at: datetime) -> datetime:
    """What ``--since`` means at a moment.  Raises ValueError for what is neither a duration nor a date."""
    if found := re.fullmatch(r"(\d+)([smhd])", text.strip()):
        return at - timedelta(seconds=int(found[1]) * SECONDS[found[2]])
    try:
        given = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(f"--since: {text!r}; write such as 30m, 2h, 3d or 2026-03-01") from None
    return given if given.tzinfo else given.replace(tzinfo=UTC)


def _found(testbed: Path) -> Found:
    folder = testbed.parent if testbed.is_file() else testbed
    if not folder.is_dir():
        raise FolderError(f"{testbed} is no testbed folder and no folder of a run: name one with --testbed")
    unread: list[str] = []
    found = found_in(folder, _orders(folder, unread))
    found.unread += unread
    if not found.listed and not found.unread:
        raise FolderError(
            f"there are no records in {folder.resolve()} yet: the first block, calibration or order makes one; those of "
            "another ring are in its folder (--testbed)"
        )
    return found


def _orders(folder: Path, unread: list[str]) -> list[QueueRow]:
    """The queue: of the orchestrator that runs, or from the file of one that does not."""
    from orchestrator.keystore.errors import StoreError
    from orchestrator.scheduling.queue_store import QUEUE_FILE, QueueStore

    home = folder / STATE / ORCHESTRATOR
    if not (home / QUEUE_FILE).exists():
        return []
    if listens(home.absolute()):
        return list(ask_queue(Machine(folder / TESTBED_FILE, None), ShowQueue(ORDERS)).entries)
    try:
        store = QueueStore(home / QUEUE_FILE)
        try:
            entries = [*store.open_entries(), *store.closed_entries(ORDERS)]
        finally:
            store.close()
    except StoreError as error:
        unread.append(str(error))
        return []
    return [_row(entry) for entry in entries]


def _row(entry: Entry) -> QueueRow:
    work = entry.work
    wanted = work.bits * len(work.pairs)
    return QueueRow(
        entry.number, work.kind, in_words(work), work.owner, work.note, entry.state, entry.reason, entry.priority,
        None, sum(entry.made), wanted, None, None, entry.added_at, entry.began_at, entry.ended_at, pairs=work.pairs,
    )  # fmt: skip


def _turned(pair: str) -> str:
    return "-".join(reversed(pair.split("-")))


def _rows(chosen: list[Listed]) -> list[tuple[str, ...]]:
    return [
        (
            shown(each.id),
            f"{each.when:%m-%d %H:%M:%S}",
            shown(each.pair.replace(" ", ", ")),
            shown(each.result),
            each.testbed[:8],
        )
        for each in chosen
    ]


def _tell_unread(found: Found) -> int:
    for text in found.unread:
        echo(f"not read: {shown(text)}", err=True)
    return 1 if found.unread else 0
