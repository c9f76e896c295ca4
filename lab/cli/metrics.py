"""``qunetlab metrics``: one process beside the orchestrator that serves the status of the whole testbed to Prometheus."""

from __future__ import annotations

import threading
from pathlib import Path

from lab.runs.addresses import ALONE, LISTEN_OPTION, host_and_port
from lab.runs.following.metrics import WholeTestbed
from lab.runs.following.observer import Observer
from lab.runs.shown import echo
from lab.runs.testbeds.folder import SECRETS, find_testbed, own_testbed
from lab.testbed import load_testbed

POLL_S = 0.2


def serve_metrics(testbed: Path, secrets: Path | None, listen: str) -> int:
    """Until Ctrl-C; raises ObserverError where no hub answers, ValueError or OSError for a wrong address."""
    host, port = host_and_port(listen, LISTEN_OPTION, ALONE)
    path = find_testbed(testbed) if secrets else own_testbed(testbed)
    keys = secrets or path.parent / SECRETS
    with (
        Observer.connect(load_testbed(path), keys) as observer,
        WholeTestbed(observer, host, port) as page,
    ):
        echo(page.url)
        pause = threading.Event()
        while not pause.wait(POLL_S):
            page.poll()
    return 0
