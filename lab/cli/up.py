"""``qunetlab up`` and ``qunetlab down``: all roles of this machine at once."""

from __future__ import annotations

import threading
from typing import Annotated

import typer

from lab.cli.options import Json, TestbedPath, show
from lab.runs.shown import echo


def up(
    testbed: TestbedPath,
    detached: Annotated[
        bool, typer.Option("--detach", help="Return when all are ready; `qunetlab down` ends them.")
    ] = False,
) -> None:
    """Start the roles of this machine, whose secrets are in the testbed folder, and watch them until Ctrl-C: simulator
    (of a simulated ring), orchestrator, relay, nodes.  At the end it says what was made safe."""
    from lab.runs.here import detach, home_of, run_here
    from lab.runs.supervising.signals import stopping_on_signals
    from lab.runs.supervising.supervisor import watch_parent

    home = home_of(testbed)
    if detached:
        echo(detach(home))
        return
    stop = threading.Event()
    watch_parent(stop.set)
    with stopping_on_signals(stop):
        words = run_here(home, stop, echo)
    echo("\n".join(words))


def down(testbed: TestbedPath, as_json: Json = False) -> None:
    """End what `qunetlab up` runs on this machine, instruments made safe first; says what was made safe."""
    from lab.runs.here import end_here, home_of

    words = end_here(home_of(testbed))
    show({"ended": words}, as_json, "\n".join(words))
