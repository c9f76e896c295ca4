"""``qunetlab keys events``: what became of key at the nodes on this machine, latest last, and with ``--follow`` what comes.

Blocks, rounds and starts are read from the records that nodes write as they go; what applications were given and refused is told
by the nodes that run, each of which keeps its latest in memory.  Counts, names and times; never key, nor the id of one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from lab.cli.keys import no_node_here
from lab.runs.following.terminal import columns
from lab.runs.following.view import table
from lab.runs.records.key_history import KeyEvent, KeyHistory, KeyRecords, delivered
from lab.runs.shown import echo, shown
from lab.runs.testbeds.folder import SECRETS, FolderError
from lab.runs.testbeds.machine import Machine
from orchestrator.wire.control_socket import ControlError, ControlRefusedError, ask, listens
from orchestrator.wire.key_control import Deliveries, ShowDeliveries

LOOK_S = 1.0
PATIENCE_S = 5.0


class KeyEvents:
    """The events of the nodes on a machine, as they come."""

    def __init__(self, machine: Machine, pair: tuple[str, str] | None) -> None:
        """``pair``: of these two users alone; else of everybody."""
        self._machine, self._pair = machine, pair
        self._users = machine.testbed.user_names()
        self._records = KeyRecords(machine.state, self._users)
        self._told = dict.fromkeys(self._users, 0)

    def new(self, *, whole: bool = False) -> KeyHistory:
        """What is new since the last call, oldest first; ``whole``: without deliveries of this very second."""
        found = self._records.new()
        events, unread = [*found.events], [*found.unread]
        for user in self._users:
            folder = self._machine.folder(user)
            if not listens(folder):
                self._told[user] = 0  # its next process counts anew
                continue
            try:
                told: Deliveries = ask(folder, ShowDeliveries(self._told[user], whole), PATIENCE_S)
            except (ControlError, ControlRefusedError) as error:
                unread.append(f"what applications of {user} were given: {error}")
                continue
            if told.rows:
                self._told[user] = told.rows[-1].number
            events += delivered(told)
        return KeyHistory([*self._chosen(sorted(events, key=lambda each: each.at))], unread)

    def silent(self) -> list[str]:
        """Users of this machine with applications whose nodes do not run, and tell of no delivery."""
        testbed = self._machine.testbed
        return [
            user
            for user in self._users
            if testbed.applications_of(user)
            and self._machine.folder(user).is_dir()
            and not listens(self._machine.folder(user))
        ]

    def _chosen(self, events: list[KeyEvent]) -> Iterator[KeyEvent]:
        for each in events:
            of_all = not each.peer and each.what != "refused"
            if self._pair is None or of_all or {each.node, each.peer} == set(self._pair):
                yield each


def show_events(
    path: Path,
    pair: str | None,
    last: int,
    as_json: bool,
    *,
    follow: bool = False,
    pause: Callable[[float], None] = time.sleep,
) -> int:
    """The latest, oldest first; 1 where something could not be read.  ``follow``: then what comes, until Ctrl-C."""
    machine = Machine(path, None)
    events = KeyEvents(machine, None if pair is None else machine.pair(pair))
    found = events.new(whole=follow)
    if not found.events and not found.unread and not follow:
        secrets = machine.path.parent / SECRETS
        raise FolderError(
            no_node_here(
                machine.testbed.user_names(), secrets, f"no node has records under {machine.state} yet"
            )
        )
    _show(KeyHistory(found.events[-last:], found.unread), as_json, head=True)
    if not as_json:
        if len(found.events) > last:
            echo(f"{len(found.events) - last} before these; --last N shows more")
        if silent := events.silent():
            echo(
                f"what applications were given is told by nodes that run alone: {', '.join(silent)} not"
                " (`qunetlab keys use` has the sums)"
            )
    known = found.unread
    while follow:
        pause(LOOK_S)
        found = events.new(whole=True)
        fresh, known = [each for each in found.unread if each not in known], found.unread
        if found.events or fresh:
            _show(KeyHistory(found.events, fresh), as_json, head=False)
    return 1 if found.unread else 0


def _show(history: KeyHistory, as_json: bool, *, head: bool) -> None:
    if as_json:
        echo(msgspec.json.encode(history).decode())
        return
    if head:
        names = ("when (UTC)", "node", "peer", "application", "what", "bits", "")
        echo("\n".join(table(names, [tuple(_cells(each)) for each in history.events], columns(100))))
    else:
        for each in history.events:
            echo("  ".join(filter(None, _cells(each))))
    for why in history.unread:
        echo(f"not read: {why}", err=True)


def _cells(each: KeyEvent) -> Iterator[str]:
    yield f"{each.at:%Y-%m-%d %H:%M:%S}"
    yield from (each.node, each.peer, shown(each.sae), each.what)
    yield "" if each.bits is None else f"{each.bits:,}"
    yield shown(each.about)
