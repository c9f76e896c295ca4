"""Whose turn it is on the ring: what the queue claims and what running trainings ask for, put together.

A running training does not stand in the queue: its nodes say again and again how much key they want in stock.  All of
that is one claim more, as old as the first lack of its pairs, so that neither the queue nor a training can starve the
other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import msgspec

from orchestrator.scheduling.claims import Claim, next_turn, owed_after, ring_time_s, service_order
from orchestrator.scheduling.entries import Entry
from orchestrator.scheduling.leases import Outcome
from orchestrator.scheduling.ring_queue import RingQueue
from orchestrator.scheduling.ring_schedule import RingSchedule
from orchestrator.scheduling.scheduler import Pair, SchedulerState, lacking
from orchestrator.wire.messages import KEY, calibration

STEP_S = 60.0
"""Ring time of a calibration step until one was measured."""


@dataclass(frozen=True)
class NextLease:
    """Who is offered the ring: ``entry`` of the queue, None for running trainings."""

    pair: Pair
    purpose: str
    entry: int | None


class Turns:
    """Asks both and remembers what is owed to the oldest; times are monotonic seconds of the caller."""

    def __init__(
        self, queue: RingQueue, schedule: RingSchedule, suspended: Callable[[Pair], str] = lambda pair: ""
    ) -> None:
        """``suspended``: why a pair makes no key for the time being, empty if it may."""
        self._queue = queue
        self._suspended = suspended
        self._schedule = schedule
        self._owed_s = 0.0
        self._claims: Sequence[Claim] = ()
        self._served = 0

    def next(self, now_s: float) -> NextLease | None:
        """Who is offered the free ring."""
        state = self._schedule.seen(now_s)
        self._finish()
        claims = self.claims(state, now_s)
        turn = next_turn(claims, _wanted(claims, state), now_s, owed_s=self._owed_s)
        if turn is None:
            return None
        claim = next(each for each in claims if each.number == turn.number)
        self._claims, self._served = claims, turn.number
        pair = turn.pair or self._any_pair(state)
        if pair is None:
            return None
        step = "" if claim.entry is None or not turn.is_step else self._step(claim.entry)
        return NextLease(pair, calibration(step) if step else KEY, claim.entry)

    def lease_over(self, outcome: Outcome) -> None:
        """Account for the ring time of a lease."""
        if not outcome.refused:
            state = self._schedule.state
            self._owed_s = owed_after(self._owed_s, self._claims, self._served, outcome.ring_s, state)

    def claims(self, state: SchedulerState, now_s: float) -> list[Claim]:
        """Everything that could be served, oldest first."""
        found = [
            claim for entry in self._queue.entries if (claim := self._claim(entry, state, now_s)) is not None
        ]
        wanted = {pair: bits for pair, bits in lacking(state, now_s).items() if not self._suspended(pair)}
        if wanted:
            waits = [s for p in state.pairs if p.pair in wanted and (s := p.waiting_since_s) is not None]
            due = [s for p in state.pairs if p.pair in wanted and (s := p.needed_by_s) is not None]
            since_s = min(waits, default=now_s)
            older = sum(
                self._queue.since_s(each.entry) <= since_s for each in found if each.entry is not None
            )
            found.insert(older, Claim(0, due_s=min(due, default=None), lacking=wanted))
        return [replace(claim, number=number) for number, claim in enumerate(found)]

    def times_s(self, now_s: float) -> dict[int, tuple[float | None, float | None]]:
        """By entry: ring time that it still needs, and when it is ready if each claim in turn is served to its end.

        None where that hangs on a calibration step of which nobody knows what it takes.
        """
        state = self._schedule.seen(now_s)
        left = self.claims(state, now_s)
        state = _wanted(left, state)
        found: dict[int, tuple[float | None, float | None]] = {}
        passed_s: float | None = 0.0
        for claim in service_order(left, state, now_s):
            ring_s = None if self._is_guessed(claim, left) else ring_time_s(claim, left, state)
            passed_s = None if ring_s is None or passed_s is None else passed_s + ring_s
            if claim.entry is not None:
                found[claim.entry] = ring_s, passed_s
            left.remove(claim)
        return found

    def _claim(self, entry: Entry, state: SchedulerState, now_s: float) -> Claim | None:
        work = entry.work
        if entry.state == "held" or work.kind == "maintenance":
            return None
        known = Claim(0, entry.priority, self._queue.due_s(entry.number), entry=entry.number)
        if work.kind == "calibration":
            pair = work.pairs[0] if work.pairs else None
            if pair is None and self._any_pair(state) is None:
                return None
            first_s, *later_s = map(self._step_s, entry.steps_left)
            return replace(known, step_s=first_s, later_s=sum(later_s), pair=pair)
        wanted = {
            pair: bits
            for pair in work.pairs
            if not self._suspended(pair) and (bits := self._lacking(entry, pair, now_s)) > 0
        }
        return replace(known, lacking=wanted) if wanted else None

    def _lacking(self, entry: Entry, pair: Pair, now_s: float) -> int:
        """Bits of an entry that neither were made nor are in work; of the stock, that are not there nor in work."""
        if entry.work.until_stock:
            stock = self._schedule.coming_stock(pair, now_s)
            return 0 if stock is None else entry.work.bits - stock
        expected = self._queue.in_work(entry.number, pair) * self._schedule.block_bits(pair)
        return entry.lacking(pair) - expected

    def _finish(self) -> None:
        """Entries whose stock is there are done."""
        for entry in self._queue.entries:
            if entry.work.until_stock and entry.state != "held":
                stocks = [self._schedule.known_stock(pair) for pair in entry.work.pairs]
                if all(stock is not None and stock >= entry.work.bits for stock in stocks):
                    self._queue.satisfied(entry.number)

    def _step(self, number: int) -> str:
        return next(each.steps_left[0] for each in self._queue.entries if each.number == number)

    def _step_s(self, step: str) -> float:
        known = self._queue.duration(step)
        return STEP_S if known is None else known.ring_s

    def _is_guessed(self, claim: Claim, left: Sequence[Claim]) -> bool:
        """Whether a step of the claim, or one that must come before its key, was never measured."""
        steps = [each for each in left if each.step_s and each.pair in claim.lacking]
        numbers = {each.entry for each in (claim, *steps)}
        return any(
            self._queue.duration(step) is None
            for entry in self._queue.entries
            if entry.number in numbers
            for step in entry.steps_left
        )

    def _any_pair(self, state: SchedulerState) -> Pair | None:
        """A pair that can serve a step which names none: the one on the ring, if it can."""
        here = [p.pair for p in state.pairs if p.available]
        return state.holder if state.holder in here else next(iter(here), None)


def _wanted(claims: Sequence[Claim], state: SchedulerState) -> SchedulerState:
    """The state with those pairs alone that somebody claims: a ring of 64 users has 2016."""
    wanted = {pair for claim in claims for pair in (*claim.lacking, *([claim.pair] if claim.pair else []))}
    return msgspec.structs.replace(state, pairs=tuple(p for p in state.pairs if p.pair in wanted))
