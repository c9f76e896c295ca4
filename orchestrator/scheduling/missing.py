"""Calibrations that began and whose parties are missing: waited for, and given up after a while with the reason.

A node that was killed is back in seconds, an instrument that was switched off in minutes, and the step is then done again.
Somebody who left for good, or who takes no offer, would be waited for without end: after :data:`PATIENCE_S` the entry fails, so
that whoever ordered it is told who was missing, and a suspended pair says that nobody mends it.  Others have the ring all the
while.  An entry that has not begun waits as long as it takes: one may order before all nodes run.
"""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.events.status import pair_name
from orchestrator.scheduling.entries import Entry
from orchestrator.scheduling.leases import Outcome
from orchestrator.scheduling.ring_queue import RingQueue
from orchestrator.scheduling.scheduler import Pair

PATIENCE_S = 600.0


class Missing:
    """``why_away`` says why a pair cannot be served, empty if it can; ``clock`` is monotonic."""

    def __init__(self, queue: RingQueue, why_away: Callable[[Pair], str], clock: Callable[[], float]) -> None:
        self._queue, self._why_away, self._clock = queue, why_away, clock
        self._since_s: dict[int, float] = {}
        """Since when parties of an entry are away."""
        self._refused_s: dict[int, float] = {}
        """Since when every offer for an entry is refused."""

    def lease_over(self, outcome: Outcome) -> None:
        """An offer for an entry was refused, or was not."""
        number = outcome.lease.entry
        if number is not None and outcome.refused:
            self._refused_s.setdefault(number, self._clock())
        elif number is not None:
            self._refused_s.pop(number, None)

    def look(self) -> None:
        """Give up what waited too long."""
        now_s = self._clock()
        begun = {each.number: each for each in self._queue.entries if _waits_in_the_middle(each)}
        self._refused_s = {number: at_s for number, at_s in self._refused_s.items() if number in begun}
        away = {
            number: why
            for number, entry in begun.items()
            if (why := "; ".join(filter(None, map(self._why_away, entry.work.pairs))))
        }
        self._since_s = {number: self._since_s.get(number, now_s) for number in away}
        for number, entry in begun.items():
            since_s = min(book.get(number, now_s) for book in (self._since_s, self._refused_s))
            if now_s - since_s >= PATIENCE_S:
                self._queue.give_up(entry, _told(entry, away.get(number) or entry.reason, now_s - since_s))


def _waits_in_the_middle(entry: Entry) -> bool:
    """Whether it is a calibration of a pair that began and waits to go on."""
    in_the_middle = entry.state == "waiting" and entry.began_at is not None
    return in_the_middle and entry.work.kind == "calibration" and bool(entry.work.pairs)


def _told(entry: Entry, why: str, waited_s: float) -> str:
    """The reason, with what to do."""
    pair = pair_name(entry.work.pairs[0])
    return (
        f"given up after {waited_s / 60:.0f} minutes: {why}; once that is over, `qunetlab queue add calibration "
        f"{' '.join(entry.steps_left)} --pair {pair}`"
    )
