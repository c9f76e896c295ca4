"""A dashboard beside a run: a process of its own that ends with it, and that the run does not depend on.

It has a supervisor to itself, so nothing that becomes of it is an event of the run; one that does not start is told, and the
run goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from lab.runs.shown import echo, shown
from lab.runs.supervising.supervised import START_TIMEOUT_S, Run
from lab.runs.supervising.supervisor import ChildError, Supervisor
from orchestrator.events.process import DashboardServing

ANY_PORT = "127.0.0.1:0"
NAME = "dashboard"
Tell: TypeAlias = Callable[[str, str], object]
"""Is given the address of a dashboard and the token that its actions ask for."""


@contextmanager
def dashboard_beside(run: Run, tell: Tell | None) -> Iterator[None]:
    """A dashboard of the run's testbed until the end; without ``tell`` there is none."""
    if tell is None:
        yield
        return
    supervisor = Supervisor(run.folder)
    places = ("--secrets", str(run.secrets), "--state", str(run.state))
    try:
        supervisor.start(NAME, NAME, str(run.testbed_path), *places, "--listen", ANY_PORT, "--json")
        try:
            serving = supervisor.ready([NAME], START_TIMEOUT_S)[NAME]
            assert isinstance(serving, DashboardServing)
            token = run.state / NAME / "token"
            tell(serving.url, token.read_text(encoding="ascii").strip() if token.exists() else "")
        except ChildError as error:
            echo(f"no dashboard: {shown(str(error))}", err=True)
        yield
    finally:
        supervisor.stop([NAME])
