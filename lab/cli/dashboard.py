"""``qunetlab dashboard``: the control room of a testbed, in a browser, until Ctrl-C."""

from __future__ import annotations

import signal
import threading
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from lab.cli.options import Json, MetricsListen, SecretsPath, StatePath, TestbedPath
from lab.runs.addresses import LOOPBACK
from lab.runs.shown import echo

if TYPE_CHECKING:
    from orchestrator.events.process import DashboardServing

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
    metrics: MetricsListen = LOOPBACK,
    as_json: Json = False,
) -> None:
    """The control room in a browser: what the ring does, with every value's age; stopping it; its queue."""
    from lab.dashboard.serving import serve
    from lab.runs.roles.logs import set_up_logging
    from lab.runs.supervising.supervisor import watch_parent
    from lab.runs.testbeds.machine import Machine
    from lab.runs.watched.process import metrics_of, page_of
    from orchestrator.events.process import line_of

    set_up_logging("dashboard", for_people=not as_json)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    watch_parent(stop.set)
    machine = Machine(testbed, state)

    book = metrics_of("dashboard", machine.testbed, None)
    with page_of(book, metrics) or nullcontext() as page:

        def ready(url: str, text: str) -> None:
            serving = _serving(url, page.url if page else "")
            book.tell(serving)
            echo(line_of(serving) if as_json else text)

        raise typer.Exit(serve(machine, secrets, listen, stop, ready))


def tell_dashboard(url: str, token: str, *, as_json: bool) -> None:
    """Say where the dashboard beside a run serves, to people in words and to programs as the process's own line."""
    from orchestrator.events.process import line_of

    words = f"dashboard: {url} (its actions ask for this token: {token})"
    echo(line_of(_serving(url)) if as_json else words)


def _serving(url: str, metrics: str = "") -> DashboardServing:
    from importlib.metadata import version

    from orchestrator.events.process import DashboardServing

    return DashboardServing(url=url, role="dashboard", version=version("qunetlab"), metrics=metrics)
