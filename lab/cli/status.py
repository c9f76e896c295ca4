"""``qunetlab status``: what the running orchestrator knows, seen as one of its observers.

The first line is the verdict (:mod:`lab.runs.following.verdict`).  ``--check`` prints that line alone and ends with 0 where
all is well (running or idle), 1 where something is degraded, 3 where the ring stands still or nobody answers; 2 is
wrong usage.  ``--watch`` goes on until Ctrl-C: it survives a hub that is started again, says how old everything is,
and ends with an error where the hub refuses it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
from rich.console import Console
from rich.live import Live
from rich.text import Text

from lab.runs.attacks.seen import AttackSeen, AttackWatch
from lab.runs.following import view
from lab.runs.following.document import ItemLine, Said, VerdictLine, document_of
from lab.runs.following.observer import Heard, Observer, verdict_on
from lab.runs.following.terminal import can_redraw, columns
from lab.runs.following.verdict import Verdict, verdict
from lab.runs.shown import echo, shown
from lab.runs.testbeds.folder import SECRETS, STATE, find_testbed, own_testbed
from lab.runs.testbeds.machine import Machine
from lab.testbed import load_testbed
from orchestrator.events.status import LightNow, Readings, RingStatus

CONNECT_TIMEOUT_S = 5.0
SNAPSHOT_PATIENCE_S = 5.0
REDRAW_S = 0.25


def show_status(
    path: Path, secrets: Path | None, as_json: bool, *, watch: bool = False, check: bool = False
) -> int:
    """Print one snapshot, its verdict alone (``check``), or every change until Ctrl-C (``watch``)."""
    if watch and check:
        raise ValueError("--check tells once how things are, and --watch goes on: give one of them")
    testbed_path = find_testbed(path) if secrets else own_testbed(path)
    testbed = load_testbed(testbed_path)
    keys = secrets or testbed_path.parent / SECRETS
    if check:
        said = verdict_on(testbed, keys, CONNECT_TIMEOUT_S)
        echo(line_of(said, as_json))
        return said.exit_code
    with Observer.connect(testbed, keys, CONNECT_TIMEOUT_S) as observer:
        observer.wait_for_snapshot(SNAPSHOT_PATIENCE_S)
        attack = AttackWatch(Machine(testbed_path, testbed_path.parent / STATE))
        if watch:
            show_changes(observer, as_json, attack=attack.now)
        echo(json_of(document_of(observer, attack.now())) if as_json else page(observer, attack.now()))
    return 0


def line_of(said: Verdict, as_json: bool) -> str:
    """The verdict alone, of one shape whether or not anybody answers."""
    return json_of(VerdictLine(verdict=Said.of(said))) if as_json else shown(said.line)


def json_of(document: msgspec.Struct) -> str:
    """A document as one line, ASCII throughout: whatever others wrote, a terminal shows it as it is here."""
    return json.dumps(msgspec.to_builtins(document))


def page(observer: Observer, attack: AttackSeen | None = None) -> str:
    """The page for people, as wide as the terminal; 120 characters where there is none."""
    return view.text(document_of(observer, attack), columns())


def show_changes(
    observer: Observer,
    as_json: bool,
    going_on: Callable[[], bool] = lambda: True,
    attack: Callable[[], AttackSeen | None] = lambda: None,
) -> None:
    """Until ``going_on`` says no or Ctrl-C: a page that redraws itself on a terminal, lines elsewhere.

    ``attack`` gives the one that is on.
    """
    if not as_json and can_redraw():
        with Live(console=Console(), auto_refresh=False) as live:
            while going_on():
                observer.poll(REDRAW_S)
                live.update(Text(page(observer, attack())), refresh=True)
        return
    said: Verdict | None = None
    attacked = ""
    news = [*observer.heard.values()]
    while going_on():
        told = verdict(observer.facts())
        if said is None or (told.state, told.text) != (said.state, said.text):
            echo(line_of(told, as_json))
            said = told
        on = attack()
        if not as_json and (on.told if on else "") != attacked:
            echo(view.attack_words(on))
            attacked = on.told if on else ""
        for heard in news:
            _tell(heard, observer, as_json)
        news = observer.poll(REDRAW_S)


def _tell(heard: Heard, observer: Observer, as_json: bool) -> None:
    """One line; what comes every second, to be looked at and not to be read, is left out for people."""
    if as_json:
        echo(json_of(ItemLine.of(heard, observer.clock())))
    elif not isinstance(heard.item, RingStatus | LightNow | Readings):
        echo(view.change(heard))
