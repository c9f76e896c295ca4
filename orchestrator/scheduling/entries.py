"""The entries of the queue: what is asked of the ring, by whom, how far it is; pure.

============  ==============================================================================================
kind          what it asks for
============  ==============================================================================================
key           ``bits`` of key for one pair, made from here on, or until as much is in stock
run           the same for every pair of a training run's users
calibration   steps in the order of their dependency, between two users where they need them
maintenance   the bench itself: nothing else runs, instruments are safe, until the holder gives it back
============  ==============================================================================================

::

    waiting <-> running -> done           held: by an operator, from waiting or running, and back to waiting
       |  \\       |   \\-> failed         aborted: from every state that is open
      held  \\---- | ----> aborted

Running means that a lease of the entry is in being, for a maintenance entry that it has the bench.  What is done,
failed or aborted never changes again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from orchestrator.events.status import pair_name
from orchestrator.scheduling.scheduler import Pair
from orchestrator.wire.fields import REASON_LIMIT
from orchestrator.wire.queue_control import OPEN, Kind, State

PRIORITIES = range(-10, 11)
STEP_FAILURES = 3
"""A calibration step that failed so often in a row is given up: something has to be looked at."""
LARGEST_BITS = 1 << 50
OPEN_AT_MOST = 500
BlockState: TypeAlias = Literal["lit", "counted", "without key", "lost"]


class QueueError(ValueError):
    """What was asked of the queue cannot be done; the text says why, and what can be."""


class Work(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What somebody wants of the ring: the part of an entry that never changes."""

    kind: Kind
    owner: str
    pairs: tuple[Pair, ...] = ()
    bits: int = 0
    until_stock: bool = False
    steps: tuple[str, ...] = ()
    note: str = ""


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Work that was asked for, and what became of it.

    Times are seconds of the wall clock, for people; ``place`` says which of the entries came first, ``made`` are the
    bits made so far, by pair in the order of ``work.pairs``, and of a calibration the first ``steps_done`` are done.
    """

    number: int
    work: Work
    place: float
    added_at: float
    made: tuple[int, ...]
    priority: int = 0
    due_at: float | None = None
    state: State = "waiting"
    reason: str = ""
    failures: int = 0
    began_at: float | None = None
    ended_at: float | None = None
    steps_done: int = 0

    @property
    def steps_left(self) -> tuple[str, ...]:
        """Calibration steps that are still to be done, the next one first."""
        return self.work.steps[self.steps_done :]

    @property
    def is_open(self) -> bool:
        """Whether it is still in the queue."""
        return self.state in OPEN

    def lacking(self, pair: Pair) -> int:
        """Bits of an order that are still to be made; those until a stock depend on the stock instead."""
        return max(0, self.work.bits - self.made[self.work.pairs.index(pair)])


@dataclass(frozen=True)
class End:
    """What became of a block: ``failed``, and it counts against its entry, or ``interrupted``, and it does not."""

    state: BlockState
    bits: int = 0
    failed: str = ""
    interrupted: str = ""
    ring_s: float | None = None
    """What a calibration step took."""


def objection(work: Work, pairs: Iterable[Pair], steps: Iterable[str]) -> str:
    """Why nobody can do what is ordered on a ring of ``pairs`` that knows calibration ``steps``; empty if it can be."""
    known = tuple(pairs)
    for pair in work.pairs:
        if pair not in known:
            return (
                f"{pair_name(pair)} is no pair of this testbed; pairs in ring order: "
                f"{', '.join(map(pair_name, known))}"
            )
    if not work.owner.strip():
        return "an entry needs an owner: say who wants it"
    if work.kind in ("key", "run"):
        if not work.pairs:
            return "key is made for a pair: name its two users"
        if work.kind == "key" and len(work.pairs) > 1:
            return "an order of key is for one pair; for several, add a run"
        if not 0 < work.bits <= LARGEST_BITS:
            return f"an order is of 1 to {LARGEST_BITS} bits, not of {work.bits}"
    if work.kind == "calibration":
        known_steps = tuple(steps)
        for step in work.steps or ("",):
            if step not in known_steps:
                return f"no calibration is called {step!r}; there are {', '.join(known_steps)}"
        if len(work.pairs) > 1:
            return "a calibration step runs between two users: name one pair, or none"
    return ""


def new_entry(number: int, work: Work, at: float, *, priority: int = 0, due_at: float | None = None) -> Entry:
    """As it enters the queue; raises QueueError for a priority that is none."""
    if priority not in PRIORITIES:
        raise QueueError(
            f"a priority is {PRIORITIES[0]} to {PRIORITIES[-1]}, each step worth a factor of two"
        )
    return Entry(number, work, float(number), at, (0,) * len(work.pairs), priority, due_at)


def begun(entry: Entry, at: float) -> Entry:
    """A lease of it is in being, or it has the bench."""
    _require(entry, ("waiting", "running"), "begin")
    return replace(
        entry, state="running", reason="", began_at=at if entry.began_at is None else entry.began_at
    )


def paused(entry: Entry, reason: str = "") -> Entry:
    """Its lease is over, and it wants more."""
    return replace(entry, state="waiting", reason=reason) if entry.state == "running" else entry


def held(entry: Entry, who: str) -> Entry:
    """No further lease until it is resumed."""
    _require(entry, ("waiting", "running"), "be held")
    return replace(entry, state="held", reason=f"held by {who}")


def resumed(entry: Entry) -> Entry:
    """Back in the queue."""
    _require(entry, ("held",), "be resumed")
    return replace(entry, state="waiting", reason="")


def aborted(entry: Entry, who: str, at: float) -> Entry:
    """Out of the queue for good; what was made stays made.  A maintenance entry that is given back is done."""
    _require(entry, OPEN, "be aborted")
    state: State = "done" if entry.work.kind == "maintenance" and entry.state == "running" else "aborted"
    return replace(entry, state=state, reason=f"by {who}", ended_at=at)


def credited(entry: Entry, pair: Pair, bits: int) -> Entry:
    """A block of it gave ``bits``; what comes in after its end is counted too."""
    index = entry.work.pairs.index(pair)
    made = (*entry.made[:index], entry.made[index] + bits, *entry.made[index + 1 :])
    return replace(entry, made=made, failures=0)


def done(entry: Entry, at: float) -> Entry:
    """It has all it asked for."""
    _require(entry, OPEN, "be done")
    return replace(entry, state="done", reason="", ended_at=at)


def step_done(entry: Entry, at: float) -> Entry:
    """The next step of a calibration is done; with the last one it is done altogether."""
    after = replace(entry, steps_done=entry.steps_done + 1, failures=0)
    return done(after, at) if not after.steps_left else paused(after)


def failed_once(entry: Entry, reason: str, at: float) -> Entry:
    """A lease of it went wrong; a step is given up after :data:`STEP_FAILURES` in a row, key is tried again."""
    if not entry.is_open:
        return entry
    failures = entry.failures + 1
    told = reason[:REASON_LIMIT]
    if entry.work.kind == "calibration" and failures >= STEP_FAILURES:
        return replace(entry, state="failed", reason=told, failures=failures, ended_at=at)
    state: State = "waiting" if entry.state == "running" else entry.state
    return replace(entry, state=state, reason=told, failures=failures)


def given_up(entry: Entry, reason: str, at: float) -> Entry:
    """Nobody will ever serve it."""
    _require(entry, OPEN, "be given up")
    return replace(entry, state="failed", reason=reason, ended_at=at)


def after_block(entry: Entry, pair: Pair, end: End, at: float) -> tuple[Entry, str]:
    """What the end of a block makes of its entry, and what is told of it."""
    if end.interrupted:
        return paused(entry), f"a block was interrupted: {end.interrupted}"
    if end.failed:
        return failed_once(entry, end.failed, at), f"a block failed: {end.failed[:REASON_LIMIT]}"
    if entry.work.kind == "calibration":
        after, step = step_done(entry, at), entry.steps_left[0]
        return after, f"{step} done" if after.is_open else f"{step} done; done"
    after, told = credited(entry, pair, end.bits), f"{end.bits:,} bits for {pair_name(pair)}"
    wants_more = entry.work.until_stock or any(map(after.lacking, after.work.pairs))
    if wants_more or not entry.is_open:
        return after, told
    return done(after, at), f"{told}; done"


def moved(
    entry: Entry, *, place: float | None = None, priority: int | None = None, due_at: float | None = None
) -> Entry:
    """To another place among equals, with another priority or due time; what is None stays."""
    _require(entry, OPEN, "be moved")
    if priority is not None and priority not in PRIORITIES:
        raise QueueError(
            f"a priority is {PRIORITIES[0]} to {PRIORITIES[-1]}, each step worth a factor of two"
        )
    return replace(
        entry,
        place=entry.place if place is None else place,
        priority=entry.priority if priority is None else priority,
        due_at=entry.due_at if due_at is None else due_at,
    )


def place_before(entries: Iterable[Entry], target: Entry) -> float:
    """A place just before ``target`` among the ``entries`` of the queue."""
    earlier = [each.place for each in entries if each.place < target.place]
    return (max(earlier) + target.place) / 2 if earlier else target.place - 1.0


def in_words(work: Work) -> str:
    """What is ordered, for people."""
    names = ", ".join(map(pair_name, work.pairs))
    if work.kind == "maintenance":
        return "maintenance"
    if work.kind == "calibration":
        return f"calibration {', '.join(work.steps)}{f' of {names}' if names else ''}"
    amount = f"{work.bits:,} bits"
    amount = f"stock up to {amount}" if work.until_stock else amount
    if work.kind == "key":
        return f"{amount} for {names}"
    users = dict.fromkeys(user for pair in work.pairs for user in pair)
    return f"run: {amount} for every pair of {', '.join(users)}"


def _require(entry: Entry, states: Iterable[State], doing: str) -> None:
    if entry.state not in tuple(states):
        why = f" ({entry.reason})" if entry.reason else ""
        raise QueueError(f"entry {entry.number} is {entry.state}{why} and cannot {doing}")


class HistoryLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Something that happened to an entry, or to the queue (``entry`` None), at a time of the wall clock."""

    at: float
    entry: int | None
    who: str
    what: Annotated[str, Meta(max_length=2 * REASON_LIMIT)]
