"""Following a training run on a ring: every event is filed, shown, and charged to a cause when things stall.

A supervised process that dies is started again a few times: the protocols are made for that, and a round that
was under way is aborted and its updates are discarded.  Nothing here touches models, updates or keys.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from fl.keys.budget import duration
from lab.runs.following.observer import Observer
from lab.runs.following.progress import Display, RunProgress, show_event
from lab.runs.following.stalls import StallWatch
from lab.runs.supervising.supervised import Run
from orchestrator.events.learning import (
    RoundAborted,
    RoundCompleted,
    RoundStarted,
    WaitingForClients,
    WaitingForKeys,
)
from orchestrator.events.process import Ended, ProcessEvent
from orchestrator.events.status import BlockReport, LeaseStatus, PeerStatus

TICK_S = 0.2
RESTARTS = 3
"""How often one process is started again before the run is given up."""
STOP_AFTER_S = 600.0
"""With ``--if-short stop`` and no ``--max-wait``, the longest that a round may stand still."""


@dataclass
class Follower:
    """Follows ``run`` until its last round."""

    run: Run
    watch: StallWatch
    progress: RunProgress
    display: Display
    observer: Observer | None
    if_short: str = "wait"
    max_wait_s: float | None = None
    restarts: Counter[str] = field(default_factory=Counter)
    _still_since_s: float | None = None
    _eta_s: float | None = None

    def follow(self, stop: threading.Event) -> str:
        """Until the run is finished: "" or why it ended before.  Raises ChildError when a process keeps dying."""
        while self.run.finished is None:
            if stop.is_set():
                return "interrupted"
            try:
                name, event = self.run.supervisor.events.get(timeout=TICK_S)
            except queue.Empty:
                pass
            else:
                self._take(name, event)
            self._telemetry()
            if reason := self._tick(time.monotonic()):
                return reason
        return self.run.finished.reason

    def _take(self, name: str, event: ProcessEvent) -> None:
        self.run.note(name, event)
        show_event(self.progress, name, event)
        now_s = time.monotonic()
        match event:
            case WaitingForKeys():
                self.watch.waiting_for_keys(event, now_s)
                self._eta_s = event.eta_s
            case WaitingForClients():
                self.watch.missing_clients(event.missing, now_s)
            case RoundStarted() | RoundCompleted() | RoundAborted():
                self.watch.moving(now_s)
            case Ended():
                self._ended(name)

    def _ended(self, name: str) -> None:
        child = self.run.supervisor.children.get(name)
        if child is None or child.process.wait() == 0:
            return
        self.restarts[name] += 1
        if self.run.finished or self.restarts[name] > RESTARTS:
            self.run.supervisor.raise_ended(name, "keys and training")
        self.run.supervisor.restart(name)

    def _telemetry(self) -> None:
        if self.observer is None:
            return
        now_s = time.monotonic()
        for heard in self.observer.poll():
            match heard.item:
                case LeaseStatus():
                    self.watch.lease(heard.item.ok, now_s)
                case PeerStatus():
                    self.watch.peer(heard.item, now_s)
                case BlockReport() if not self.run.has_ring:
                    self._take(heard.role, heard.item)

    def _tick(self, now_s: float) -> str:
        self.watch.advance(now_s)
        cause = self.watch.cause
        eta = "" if self._eta_s is None else f", about {duration(round(self._eta_s))}"
        self.progress.waiting = "" if cause is None else f"{cause}{eta}"
        self.display.update()
        if cause is None:
            self._still_since_s = self._eta_s = None
            return ""
        self._still_since_s = self._still_since_s or now_s
        limit_s = STOP_AFTER_S if self.max_wait_s is None else self.max_wait_s
        if self.if_short == "stop" and now_s - self._still_since_s > limit_s:
            return f"stopped after {duration(round(limit_s))} without progress: {cause}"
        return ""
