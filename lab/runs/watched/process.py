"""The metrics of one process, from its start to its end: a book that is told events, and the page that shows it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lab.runs.addresses import ALONE, METRICS_OPTION, OFF, host_and_port
from lab.runs.watched.to_come import to_come
from orchestrator.events.inside import Disk, Loop
from orchestrator.metrics.book import Metrics
from orchestrator.metrics.rows import Names

if TYPE_CHECKING:
    from lab.runs.watched.page import MetricsPage
    from lab.testbed import Testbed


def names_of(testbed: Testbed) -> Names:
    """What may stand in labels on this testbed."""
    from orchestrator.keystore.lanes import Lane

    users = tuple(testbed.user_names())
    roles = {"orchestrator", "relay", "fl-server", "observer", "dashboard", "simulator", *users}
    return Names(
        users,
        frozenset(roles | {f"fl-{user}" for user in users}),
        frozenset(map(str, Lane)),
        frozenset(entry.name for entry in testbed.instruments),
    )


def metrics_of(role: str, testbed: Testbed, state: Path | None) -> Metrics:
    """The book of a role whose state is kept in the folder ``state``."""
    metrics = Metrics(role, names_of(testbed))
    metrics.begin(*to_come(role, testbed))
    if state is not None:
        metrics.ask(lambda: disk_of(state))
    return metrics


def disk_of(folder: Path) -> Iterator[Disk]:
    """Room where the role writes; raises OSError."""
    found = os.statvfs(folder)
    yield Disk(found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize)


def page_of(metrics: Metrics, listen: str, loop: Callable[[], Loop] | None = None) -> MetricsPage | None:
    """The page of a book, which begins to serve when it is entered; None for ``off``.

    ``loop`` says how the control loop of the process stands, which is looked at once the role serves.
    Raises ValueError for what is no address, ListenError for one that cannot be had.
    """
    if listen == OFF:
        return None
    from lab.runs.watched.page import MetricsPage
    from orchestrator.metrics.exposition import Exposition
    from orchestrator.metrics.readiness import hanging, unready

    def dead() -> tuple[str, ...]:
        return () if loop is None or metrics.serving is None else hanging(loop())

    if loop is not None:
        metrics.ask(lambda: () if metrics.serving is None else (loop(),))
    host, port = host_and_port(listen, METRICS_OPTION, f"{ALONE}, nor `{OFF}`")
    return MetricsPage(Exposition(metrics).page, lambda: unready(metrics), host, port, dead=dead)
