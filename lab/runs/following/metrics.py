"""The whole testbed for Prometheus, in one process beside it: the metrics of every role as far as the hub tells them.

The same table as at every role (:mod:`orchestrator.metrics.table`), told what an observer hears; a role's own page has more, as it
has what is not told to the hub.  The verdict is ``qunetlab_up`` and ``qunetlab_state``.  Counters begin with what the hub knew at
the start.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from importlib.metadata import version

from lab.runs.addresses import LISTEN_OPTION
from lab.runs.following.observer import Observer
from lab.runs.following.verdict import verdict
from lab.runs.watched.page import MetricsPage
from lab.runs.watched.process import names_of
from orchestrator.events.common import Serving
from orchestrator.events.inside import Judged
from orchestrator.events.status import OBSERVER
from orchestrator.metrics.book import Metrics
from orchestrator.metrics.exposition import Exposition


class WholeTestbed:
    """What an observer hears, as metrics, with their page; a context manager.  :meth:`poll` is the caller's loop."""

    def __init__(self, observer: Observer, host: str, port: int) -> None:
        """Raises ListenError where the address is taken or not ours."""
        self._observer = observer
        self._lock = threading.Lock()
        self._synced = False
        self.metrics = Metrics(OBSERVER, names_of(observer.testbed), clock=observer.clock)
        self.metrics.ask(self._judge)
        exposition = Exposition(self.metrics)
        self._page = MetricsPage(exposition.page, self._why_not, host, port, LISTEN_OPTION)
        self.url = self._page.url
        self.metrics.tell(Serving(role=OBSERVER, version=version("qunetlab"), metrics=self.url))

    def poll(self) -> None:
        """Take in what has come; raises ObserverError once the hub does not serve this observer any more."""
        with self._lock:
            heard = self._observer.poll()
            if self._synced and not self._observer.synced:
                self.metrics.forget()
            self._synced = self._observer.synced
            for each in heard:
                self.metrics.tell(each.item, each.role, max(0.0, self._observer.clock() - each.since_s))

    def _judge(self) -> Iterator[Judged]:
        with self._lock:
            yield Judged(verdict(self._observer.facts()).state)

    def _why_not(self) -> list[str]:
        with self._lock:
            said = verdict(self._observer.facts())
        return [said.text] if said.state == "no answer" else []

    def __enter__(self) -> WholeTestbed:
        self._page.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._page.__exit__(*error)
