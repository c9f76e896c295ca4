"""Making several instruments safe at once: light first, and nobody waits long for one that is dead.

The safe states are applied in the order of the catalogue (:class:`drivers.catalogue.SafeOrder`).  Those of one order
begin together; the next order begins when they are done, or after :data:`PATIENCE_S` where one does not come to its
end.  So the order holds among instruments that answer, and a dead one delays the others by a moment, not by its
time-outs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby

from drivers.links.errors import NotReadyError

PATIENCE_S = 0.25
"""How long an order may take before the next begins: three with dead instruments leave the fourth dark in a second."""
LIMIT_S = 30.0
"""When whoever waits for all gives up; the slowest, a motor of an attenuator, takes 20 s for its whole travel."""


@dataclass(frozen=True)
class SafeJob:
    """One instrument to be made safe."""

    order: int
    name: str
    safe_state: Callable[[], object]


def make_safe(jobs: Iterable[SafeJob], *, limit_s: float = LIMIT_S) -> dict[str, Exception]:
    """Apply every safe state, in order; what failed, by name, in that order.

    Returns when all have ended; NotReadyError stands for those that have not after ``limit_s``.
    """
    ordered = sorted(jobs, key=lambda job: job.order)
    outcomes: dict[str, Exception | None] = {}

    def run(job: SafeJob) -> None:
        try:
            job.safe_state()
        except Exception as error:  # noqa: BLE001 - told to the caller; the others must still be made safe
            outcomes[job.name] = error
        else:
            outcomes[job.name] = None

    threads: list[threading.Thread] = []
    for _, stage in groupby(ordered, key=lambda job: job.order):
        begun = [
            threading.Thread(target=run, args=(job,), name=f"safe {job.name}", daemon=True) for job in stage
        ]
        for thread in begun:
            thread.start()
        threads += begun
        _join(begun, PATIENCE_S)
    _join(threads, limit_s)
    late = NotReadyError(f"its safe state has not come to its end after {limit_s:g} s")
    found = {job.name: outcomes.get(job.name, late) for job in ordered}
    return {name: error for name, error in found.items() if error is not None}


def _join(threads: Iterable[threading.Thread], limit_s: float) -> None:
    until = time.monotonic() + limit_s
    for thread in threads:
        thread.join(max(until - time.monotonic(), 0.0))
