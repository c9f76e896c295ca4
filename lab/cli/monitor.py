"""``qunetlab monitor``: the meter of :mod:`lab.runs.following.meter`, live."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from lab.cli.status import CONNECT_TIMEOUT_S, REDRAW_S, SNAPSHOT_PATIENCE_S, json_of
from lab.runs.following.document import ItemLine, document_of
from lab.runs.following.meter import meter
from lab.runs.following.observer import Observer
from lab.runs.following.terminal import can_redraw, columns
from lab.runs.shown import echo
from lab.runs.testbeds.folder import SECRETS, find_testbed
from lab.testbed import UnknownNameError, load_testbed
from orchestrator.events.status import RELAY, BlockReport, LightNow, Readings


def show_meter(path: Path, secrets: Path | None, role: str, as_json: bool) -> None:
    """On a terminal until Ctrl-C; elsewhere once, and with ``as_json`` line by line until Ctrl-C.

    Raises UnknownNameError for a role without instruments, ObserverError if no hub takes us.
    """
    file = find_testbed(path)
    testbed = load_testbed(file)
    roles = (RELAY, *testbed.user_names())
    if role and role not in roles:
        raise UnknownNameError(f"{role!r} has no instruments here; roles are {', '.join(roles)}")
    with Observer.connect(testbed, secrets or file.parent / SECRETS, CONNECT_TIMEOUT_S) as observer:
        observer.wait_for_snapshot(SNAPSHOT_PATIENCE_S)
        if as_json:
            tell_lines(observer, role)
        elif can_redraw():
            with Live(console=Console(), auto_refresh=False, screen=True) as live:
                while True:
                    live.update(Text(page(observer, role)), refresh=True)
                    observer.poll(REDRAW_S)
        else:
            echo(page(observer, role))


def page(observer: Observer, role: str) -> str:
    """As wide as the terminal; 120 characters where there is none."""
    return meter(document_of(observer), role, columns())


def tell_lines(observer: Observer, role: str, going_on: Callable[[], bool] = lambda: True) -> None:
    """Every word that the meter shows, as a line of ``docs/status.schema.json``."""
    news = [*observer.heard.values()]
    while going_on():
        for heard in news:
            shows = isinstance(heard.item, LightNow | BlockReport) or (
                isinstance(heard.item, Readings) and role in ("", heard.role)
            )
            if shows:
                echo(json_of(ItemLine.of(heard, observer.clock())))
        news = observer.poll(REDRAW_S)
