"""``qunetlab dashboard``: the control room of a testbed, in a browser, until Ctrl-C."""

from __future__ import annotations

import signal
import threading
from typing import Annotated

import typer

from lab.cli.options import Json, SecretsPath, StatePath, TestbedPath
from lab.runs.shown import echo

DEFAULT_LISTEN = "127.0.0.1:8642"


def dashboard(
    testbed: TestbedPath,
    secrets: SecretsPath = None,
    state: StatePath = None,
    listen: Annotated[
        str,
        typer.Option(
            help="HOST:PORT; everybody who reaches it may look and stop, so this machine by default."
        ),
    ] = DEFAULT_LISTEN,
    as_json: Json = False,
) -> None:
    """The control room in a browser: what the ring does, with every value's age; stopping it; its queue."""
    from lab.dashboard.serving import serve
    from lab.runs.supervising.supervisor import watch_parent
    from lab.runs.testbeds.machine import Machine

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    watch_parent(stop.set)
    machine = Machine(testbed, state)

    def ready(url: str, text: str) -> None:
        echo(_line(url) if as_json else text)

    raise typer.Exit(serve(machine, secrets, listen, stop, ready))


def tell_dashboard(url: str, token: str, *, as_json: bool) -> None:
    """Say where the dashboard beside a run serves, to people in words and to programs as the process's own line."""
    echo(_line(url) if as_json else f"dashboard: {url} (its actions ask for this token: {token})")


def _line(url: str) -> str:
    from importlib.metadata import version

    from orchestrator.events.process import DashboardServing, line_of

    return line_of(DashboardServing(url=url, role="dashboard", version=version("qunetlab")))
