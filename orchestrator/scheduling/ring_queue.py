"""The queue in use: what operators ask of it, what it claims of the ring, what becomes of its leases.

One thread has it, the orchestrator's loop.  Nothing is changed in memory before it is on disk
(:mod:`orchestrator.scheduling.queue_store`), so a failed write leaves both as they were and is told to whoever asked.  What
the ring did cannot be refused: if its end cannot be written it stays lit, and is written with the next word of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from datetime import UTC, datetime

from msgspec.structs import replace

from orchestrator.events.status import BlockReport
from orchestrator.keystore.errors import StoreError
from orchestrator.log_context import about
from orchestrator.scheduling import entries as rules
from orchestrator.scheduling.entries import End, Entry, HistoryLine, QueueError, Work, in_words
from orchestrator.scheduling.leases import Lease, Outcome
from orchestrator.scheduling.queue_store import (
    DURATIONS_REMEMBERED,
    HISTORY_DAYS,
    HISTORY_LINES,
    Duration,
    Forgotten,
    Hold,
    QueueStore,
    Token,
)
from orchestrator.scheduling.scheduler import Pair
from orchestrator.wall_clock import utc_now
from orchestrator.wire.fields import REASON_LIMIT
from orchestrator.wire.queue_control import NOTE_LIMIT

logger = logging.getLogger(__name__)

REPORT_PATIENCE_S = 180.0
"""A block whose end nobody told by then is lost."""
FORGET_EVERY_S = 3600.0
"""What is not kept any longer is let go of so often."""
KEPT = f"kept: {HISTORY_DAYS} days and {HISTORY_LINES:,} lines at most, and everything of open entries"
WRITE_AGAIN_S = 5.0
"""After a disk that took nothing."""
ORCHESTRATOR = "orchestrator"
UNTOLD = "no reason was told"
OWN_PRIORITY = 2
"""Of calibrations that the orchestrator adds itself."""


class RingQueue:
    """Entries that are open, and the blocks in work for them; ``wall`` and ``clock`` are the wall and the monotonic clock."""

    def __init__(
        self,
        store: QueueStore,
        pairs: Iterable[Pair],
        steps: Iterable[str],
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._store = store
        self._pairs = tuple(pairs)
        self._steps = tuple(steps)
        self._clock, self._wall = clock, wall
        self._entries = {
            entry.number: entry if entry.work.kind == "maintenance" else rules.paused(entry)
            for entry in store.open_entries()
        }
        """Open entries; what was running has no lease any more, but who had the bench has it."""
        self._since_s = dict.fromkeys(self._entries, float("-inf"))
        self._due_s: dict[int, float] = {}
        for entry in self._entries.values():
            self._note_due(entry)
        now_s = clock()
        self._lit = {block.token: (block, now_s + REPORT_PATIENCE_S) for block in store.lit_blocks()}
        self._inherited: dict[Token, set[str]] = {token: set() for token in self._lit}
        """Blocks that an earlier process lit, and those of their nodes that have nothing of them."""
        self._hold = store.hold()
        self._durations = store.durations()
        self._forget_at_s = now_s
        self.to_abort: dict[int, str] = {}
        """Entries whose lease is to end at once, and why."""
        self._unwritten: dict[Token, End] = {}
        """Ends of blocks that could not be written yet, and what they are."""
        self._write_again_s = now_s

    # -- what is asked -------------------------------------------------------------------------------

    def add(self, work: Work, *, priority: int = 0, due_in_s: float | None = None) -> Entry:
        """A new entry.  Raises QueueError for what nobody can do, and for a second maintenance lock."""
        work = replace(work, steps=self._in_order(work.steps))
        reason = rules.objection(work, self._pairs, self._steps)
        if reason:
            raise QueueError(reason)
        if len(self._entries) >= rules.OPEN_AT_MOST:
            raise QueueError(
                f"the queue is full: {rules.OPEN_AT_MOST} entries are open; wait, or abort one that nobody needs"
            )
        at = self._wall()
        if work.kind == "maintenance" and (lock := self._lock()) is not None:
            raise QueueError(
                f"{_who_has(lock)}; there is one maintenance lock: ask for it to be given back with"
                f" `qunetlab queue abort {lock.number}`"
            )
        with self._store.transaction():
            number = self._store.next_number()
            due_at = None if due_in_s is None else at + due_in_s
            entry = rules.new_entry(number, work, at, priority=priority, due_at=due_at)
            self._put(entry, work.owner, f"added: {in_words(work)}")
        self._entries[number] = entry
        self._since_s[number] = self._clock()
        self._note_due(entry)
        return entry

    def want_calibration(self, pair: Pair, steps: Collection[str], why: str) -> Entry | None:
        """Add a calibration by the orchestrator itself; None where its steps for ``pair`` stand in the queue already.

        It has priority over what operators add without saying otherwise, whose key would be of the ring that it mends.
        Raises QueueError as :meth:`add` does, and StoreError.
        """
        missing = [step for step in steps if not self._stands(pair, step)]
        if not missing:
            return None
        work = Work("calibration", ORCHESTRATOR, (pair,), steps=tuple(missing), note=why[:NOTE_LIMIT])
        return self.add(work, priority=OWN_PRIORITY)

    def _stands(self, pair: Pair, step: str) -> bool:
        return any(step in entry.steps_left and pair in entry.work.pairs for entry in self._entries.values())

    def hold(self, who: str, number: int | None = None) -> None:
        """Hold an entry or, without ``number``, all."""
        if number is not None:
            entry = self._open(number)
            if entry == self._lock() and entry.state == "running":
                raise QueueError(
                    f"{_who_has(entry)}: the ring rests until it is given back with `qunetlab queue abort {number}`"
                )
            self._change(entry, lambda entry: rules.held(entry, who), who, "held")
            return
        if self._hold is not None:
            raise QueueError(f"{self._hold.who} holds the queue already, since {when(self._hold.at)}")
        hold = Hold(who, self._wall())
        with self._store.transaction():
            self._store.set_hold(hold)
            self._store.note(HistoryLine(hold.at, None, who, "holds the queue"))
        self._hold = hold

    def resume(self, who: str, number: int | None = None) -> None:
        """Let an entry, or all, go on."""
        if number is not None:
            self._change(self._open(number), rules.resumed, who, "resumed")
            return
        if self._hold is None:
            lock = self._lock()
            if lock is not None and lock.state == "running":
                raise QueueError(
                    f"the queue is not held; {_who_has(lock)}, and is given back with"
                    f" `qunetlab queue abort {lock.number}`"
                )
            raise QueueError("the queue is not held")
        with self._store.transaction():
            self._store.set_hold(None)
            self._store.note(
                HistoryLine(self._wall(), None, who, f"resumes the queue that {self._hold.who} held")
            )
        self._hold = None

    def abort(self, who: str, number: int, *, take_over: bool = False) -> Entry:
        """Take an entry out of the queue; maintenance only by its holder, or by who takes over."""
        entry = self._open(number)
        if entry.work.kind == "maintenance" and who != entry.work.owner and not take_over:
            raise QueueError(f"{_who_has(entry)} and may be at the bench: ask, or end it with --take-over")
        after = self._change(entry, lambda e: rules.aborted(e, who, self._wall()), who, "aborted")
        self.to_abort[number] = f"entry {number} was aborted by {who}"
        return after

    def move(
        self,
        who: str,
        number: int,
        *,
        before: int | None = None,
        priority: int | None = None,
        due_in_s: float | None = None,
    ) -> Entry:
        """Another place, priority or due time for an entry."""
        if before is None and priority is None and due_in_s is None:
            raise QueueError("say where to: before another entry, with another priority or another due time")
        if before == number:
            raise QueueError(f"entry {number} cannot be moved before itself: name another one")
        place = None
        if before is not None:
            others = [each for each in self._entries.values() if each.number != number]
            place = rules.place_before(others, self._open(before))
        due_at = None if due_in_s is None else self._wall() + due_in_s
        told = [
            *([f"before entry {before}"] if before is not None else []),
            *([f"to priority {priority}"] if priority is not None else []),
            *([f"due in {due_in_s:.0f} s"] if due_in_s is not None else []),
        ]
        entry = self._change(
            self._open(number),
            lambda e: rules.moved(e, place=place, priority=priority, due_at=due_at),
            who,
            f"moved {', '.join(told)}",
        )
        if due_in_s is not None:
            self._due_s[number] = self._clock() + due_in_s
        return entry

    # -- what it wants -------------------------------------------------------------------------------

    @property
    def held_by(self) -> Hold | None:
        """Who holds the whole queue."""
        return self._hold

    @property
    def entries(self) -> list[Entry]:
        """Open entries, in the order in which they came or were moved to."""
        return sorted(self._entries.values(), key=lambda entry: entry.place)

    def closed(self, limit: int) -> list[Entry]:
        """The latest entries that are not open any more."""
        return self._store.closed_entries(limit)

    def history(self, number: int | None, limit: int) -> list[HistoryLine]:
        """What happened; raises QueueError for an entry that there never was."""
        if number is not None and self._store.entry(number) is None:
            raise QueueError(self._no_entry(number))
        return self._store.history(number, limit)

    def forgotten(self) -> Forgotten:
        """What of the history is not kept any more."""
        return self._store.forgotten()

    def duration(self, step: str) -> Duration | None:
        """What a calibration step takes, None until one was done."""
        return self._durations.get(step)

    def since_s(self, number: int) -> float:
        """When an entry came, on the monotonic clock; long ago for one that an earlier process took in."""
        return self._since_s[number]

    def due_s(self, number: int) -> float | None:
        """When it is due, on the monotonic clock."""
        return self._due_s.get(number)

    @property
    def resting(self) -> str:
        """Why the ring rests: somebody holds the queue or has the bench; empty if it does not."""
        if self._hold is not None:
            return f"{self._hold.who} holds the queue since {when(self._hold.at)}"
        lock = self._lock()
        return _who_has(lock) if lock is not None and lock.state == "running" else ""

    def ring_is_free(self) -> None:
        """No lease is in being: a maintenance entry that waits has the bench from here on."""
        lock = self._lock()
        if lock is not None and lock.state == "waiting" and self._hold is None:
            try:
                self._change(lock, lambda e: rules.begun(e, self._wall()), lock.work.owner, "has the bench")
            except StoreError as error:
                logger.warning("entry %d does not begin: %s", lock.number, error)

    def in_work(self, number: int, pair: Pair) -> int:
        """Blocks of an entry whose end was not told yet."""
        return sum(block.entry == number and block.pair == pair for block, _ in self._lit.values())

    # -- what becomes of it --------------------------------------------------------------------------

    def lit(self, lease: Lease) -> None:
        """A lease of an entry is about to be lit; raises StoreError or QueueError, and then it must not be."""
        assert lease.entry is not None
        token = lease.epoch, lease.number
        entry = self._open(lease.entry)
        after = rules.begun(entry, self._wall())
        with self._store.transaction():
            self._store.lit(token, lease.entry, lease.pair)
            if entry.began_at is None:
                self._put(after, ORCHESTRATOR, "begun")
        self._entries[lease.entry] = after
        block = self._store.block(token)
        assert block is not None
        self._lit[token] = block, self._clock() + REPORT_PATIENCE_S

    def lease_over(self, outcome: Outcome) -> None:
        """A lease of an entry ended; key is counted when its block is reported."""
        lease = outcome.lease
        if lease.entry is None:
            return
        entry = self._entries.get(lease.entry)
        token = lease.epoch, lease.number
        if outcome.refused and outcome.unknown_purpose and entry is not None:
            self.give_up(entry, outcome.reason)
            return
        if outcome.refused:
            if entry is not None and entry.state == "waiting":
                self._entries[entry.number] = replace(entry, reason=outcome.reason[:REASON_LIMIT])
            return
        if not outcome.ok:
            self._end_block(token, End("lost", failed=outcome.reason or UNTOLD))
        elif entry is not None and entry.work.kind == "calibration":
            self._end_block(token, End("counted", ring_s=outcome.ring_s))
        elif entry is not None:
            self._entries[entry.number] = rules.paused(entry)

    def ended_before(self, role: str, token: Token, reason: str) -> None:
        """A node tells that the light of a lease, granted by an earlier process, ended early."""
        if token in self._inherited and role in self._lit[token][0].pair:
            self._end_block(token, End("lost", failed=reason or UNTOLD))

    def has_no_others(self, role: str, in_work: Collection[Token]) -> None:
        """A node has told of every block it had; of those lit by an earlier process only ``in_work`` may still come.

        A block of which neither of its nodes has anything was never lit to its end.
        """
        for token in [token for token in self._inherited if token not in in_work]:
            if role in self._lit[token][0].pair:
                self._inherited[token].add(role)
                if len(self._inherited[token]) == len(self._lit[token][0].pair):
                    self._end_block(token, End("lost", interrupted="the orchestrator ended while it was lit"))

    def block_reported(self, report: BlockReport) -> None:
        """What a block gave, the first time that one of its nodes tells."""
        token = report.epoch, report.lease_number
        block = self._store.block(token)
        if block is None or block.pair != report.pair or block.state in ("counted", "without key"):
            return
        if report.stored:
            self._end_block(token, End("counted", bits=report.secret_bits))
        else:
            self._end_block(token, End("without key", failed=report.reason or UNTOLD))

    def time(self, now_s: float) -> None:
        """Write again what could not be written; give up waiting for blocks of which nobody told anything."""
        if now_s >= self._forget_at_s:
            self._forget_at_s = now_s + FORGET_EVERY_S
            self._forget()
        if self._unwritten and now_s >= self._write_again_s:
            for token, end in list(self._unwritten.items()):
                self._end_block(token, end)
        for token in [token for token, (_, until_s) in self._lit.items() if until_s <= now_s]:
            if token not in self._unwritten:
                self._end_block(token, End("lost", failed="nobody told what became of its block"))

    def satisfied(self, number: int) -> None:
        """As much as an entry asked for is there."""
        entry = self._entries[number]
        try:
            self._change(entry, lambda e: rules.done(e, self._wall()), ORCHESTRATOR, "done")
        except StoreError as error:
            logger.warning("entry %d has what it wants, which is not written down yet: %s", number, error)

    def give_up(self, entry: Entry, reason: str) -> None:
        """An open entry that nobody will serve."""
        told = reason[:REASON_LIMIT]
        try:
            self._change(
                entry, lambda e: rules.given_up(e, told, self._wall()), ORCHESTRATOR, f"failed: {told}"
            )
        except StoreError as error:
            logger.warning("entry %d is given up, which is not written down yet: %s", entry.number, error)

    # -- inside --------------------------------------------------------------------------------------

    def _end_block(self, token: Token, end: End) -> None:
        """Write the end of a block with what it does to its entry; a failed write leaves it lit, to be tried again."""
        try:
            block = self._store.block(token)
            if block is None:
                return
            entry = self._entries.get(block.entry) or self._store.entry(block.entry)
            assert entry is not None
            after, told = rules.after_block(entry, block.pair, end, self._wall())
            with self._store.transaction():
                self._store.end_block(token, end.state, end.bits)
                self._put(after, ORCHESTRATOR, told)
                if end.ring_s is not None:
                    self._learn(entry.steps_left[0], end.ring_s)
        except StoreError as error:
            if token not in self._unwritten:
                with about(session="{}/{}".format(*token)):
                    logger.warning("the end of block %d/%d is not written down yet: %s", *token, error)
            self._unwritten[token] = end
            self._write_again_s = self._clock() + WRITE_AGAIN_S
            return
        for book in (self._unwritten, self._lit, self._inherited):
            book.pop(token, None)
        self._keep(after)

    def _learn(self, step: str, ring_s: float) -> None:
        """A step was done once more."""
        known = self._durations.get(step)
        times = 1 if known is None else known.times + 1
        mean_s = ring_s
        if known is not None:
            mean_s = known.ring_s + (ring_s - known.ring_s) / min(times, DURATIONS_REMEMBERED)
        self._durations[step] = Duration(mean_s, times, self._wall())
        self._store.learn(step, self._durations[step])

    def _forget(self) -> None:
        try:
            lines = self._store.forget(self._wall())
        except StoreError as error:
            logger.warning("old history stays for another while: %s", error)
        else:
            if lines:
                logger.info("%d lines of history are not kept any longer (%s)", lines, KEPT)

    def _no_entry(self, number: int) -> str:
        """Why a number is none of an entry that is known."""
        if number >= self._store.next_number():
            return f"there is no entry {number}"
        return f"entry {number} is not in the history any more; {KEPT}"

    def _change(self, entry: Entry, change: Callable[[Entry], Entry], who: str, what: str) -> Entry:
        after = change(entry)
        with self._store.transaction():
            self._put(after, who, what)
        self._keep(after)
        return after

    def _put(self, entry: Entry, who: str, what: str) -> None:
        self._store.put(entry)
        self._store.note(HistoryLine(self._wall(), entry.number, who, what))

    def _keep(self, entry: Entry) -> None:
        """In memory, as long as it is open."""
        if entry.is_open:
            self._entries[entry.number] = entry
            return
        for book in (self._entries, self._since_s, self._due_s):
            book.pop(entry.number, None)

    def _in_order(self, steps: Collection[str]) -> tuple[str, ...]:
        """Each step once, behind those that it needs; what is no step at the end, to be refused."""
        return tuple(dict.fromkeys([*(each for each in self._steps if each in steps), *steps]))

    def _open(self, number: int) -> Entry:
        entry = self._entries.get(number)
        if entry is None:
            closed = self._store.entry(number)
            if closed is None:
                raise QueueError(self._no_entry(number))
            since = f" since {when(closed.ended_at)}" if closed.ended_at is not None else ""
            why = f" ({closed.reason})" if closed.reason else ""
            raise QueueError(f"entry {number} is {closed.state} and no longer in the queue{since}{why}")
        return entry

    def _lock(self) -> Entry | None:
        return next((each for each in self._entries.values() if each.work.kind == "maintenance"), None)

    def _note_due(self, entry: Entry) -> None:
        if entry.due_at is not None:
            self._due_s[entry.number] = self._clock() + entry.due_at - self._wall()


def _who_has(lock: Entry) -> str:
    """Who has, or waits for, the bench, since when and what for."""
    has, since = ("has", lock.began_at) if lock.state == "running" else ("waits for", lock.added_at)
    what_for = f": {lock.work.note}" if lock.work.note else ""
    return f"{lock.work.owner} {has} the bench since {when(since or lock.added_at)} (entry {lock.number}{what_for})"


def when(at: float) -> str:
    """A time of the wall clock, for people."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def wall_clock() -> float:
    """Seconds since 1970, for people and for what they call due; nothing that runs is timed by it."""
    return utc_now().timestamp()
