"""Pairs that make no key until they are calibrated: suspended with the reason, mended through the queue, resumed.

A block that does not fit the ring as it is calibrated, or something that left the range in which it is followed, names the
calibrations that would mend it.  More blocks would only waste light, so the pair is *suspended*; an entry with these steps
goes into the queue, one for each suspension, where priorities, holds and maintenance apply to it as to any other.  When it
is done the pair makes key again.

A calibration that does not mend must not be repeated for ever.  Suspensions count up until a block gives key; after
:data:`IN_A_ROW` nothing is queued any more, and neither where the entry failed or was aborted, or where the ring cannot run
the steps by itself.  The pair then stays suspended, with what to do, until an operator resumes it.

Suspensions are on disk, beside the queue.  An entry is added before the suspension that waits for it is written; killed
between the two, the next refusal finds the entry in the queue and waits for that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable

from msgspec.structs import replace

from orchestrator.events.status import pair_name
from orchestrator.keystore.errors import StoreError
from orchestrator.log_context import about
from orchestrator.scheduling.entries import HistoryLine, QueueError
from orchestrator.scheduling.queue_store import QueueStore, Suspension
from orchestrator.scheduling.ring_queue import ORCHESTRATOR, RingQueue
from orchestrator.scheduling.scheduler import Pair
from orchestrator.wire.fields import REASON_LIMIT

logger = logging.getLogger(__name__)

IN_A_ROW = 3
"""So many calibrations are queued for a pair without a block that gives key."""
WRITE_AGAIN_S = 5.0


class Suspensions:
    """The pairs that are suspended, or were and have made no key since; one thread has it, the orchestrator's loop."""

    def __init__(
        self,
        queue: RingQueue,
        store: QueueStore,
        runnable: Collection[str],
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        """``runnable``: the steps that the ring can run by itself; ``clock`` and ``wall`` as of the queue."""
        self._queue, self._store, self._runnable = queue, store, runnable
        self._clock, self._wall = clock, wall
        self._known = {each.pair: each for each in store.suspensions()}
        self._unwritten: set[Pair] = set()
        self._write_again_s = clock()

    # -- what is heard -------------------------------------------------------------------------------

    def refused(self, pair: Pair, reason: str, steps: Iterable[str]) -> None:
        """A block of the pair, or its light, was given up over these calibrations, likeliest first."""
        wanted = tuple(dict.fromkeys(steps))
        before = self._known.get(pair)
        if not wanted or (before is not None and before.suspended):
            return
        times = before.times + 1 if before is not None else 1
        told = reason[: REASON_LIMIT // 2]
        suspension = Suspension(pair, told, wanted, self._wall(), times)
        can = tuple(step for step in wanted if step in self._runnable)
        if times > IN_A_ROW:
            failed = f"calibrated {IN_A_ROW} times in a row, and it still does not fit: look at the ring, {', '.join(wanted)}"
            self._keep(replace(suspension, to_do=self._by_hand(pair, failed)))
        elif not can:
            by_hand = f"`qunetlab calibrate {wanted[0]} --pair {','.join(pair)}` with roles stopped"
            self._keep(replace(suspension, to_do=self._by_hand(pair, f"run {by_hand}")))
        else:
            self._mend(suspension, can)

    def made_key(self, pair: Pair) -> None:
        """A block gave key: what was wrong before is mended."""
        before = self._known.get(pair)
        if before is not None and not before.suspended:
            self._known.pop(pair)
            self._write(pair)

    def resume(self, who: str, pair: Pair, since: float | None = None) -> None:
        """An operator lets a pair make key again; what is queued for it stays.

        QueueError for one that may, and for one that was suspended before ``since`` (wall clock).
        """
        if self.why(pair) == "":
            raise QueueError(f"{pair_name(pair)} is not suspended")
        if since is not None and self._known[pair].at < since:
            raise QueueError(f"{pair_name(pair)} was suspended before")
        self._known.pop(pair)
        self._write(pair, who, f"resumes {pair_name(pair)}, which was suspended")

    def time(self) -> None:
        """Resume what is calibrated, and write what could not be written yet."""
        for each in list(self._known.values()):
            if each.suspended and each.entry is not None:
                self._look(each)
        if self._unwritten and self._clock() >= self._write_again_s:
            for pair in list(self._unwritten):
                self._write(pair)

    # -- what follows --------------------------------------------------------------------------------

    def why(self, pair: Pair) -> str:
        """Why a pair makes no key, and what has to happen; empty if it may."""
        each = self._known.get(pair)
        if each is None or not each.suspended:
            return ""
        return f"suspended: {each.reason}; {each.to_do}"[:REASON_LIMIT]

    # -- inside --------------------------------------------------------------------------------------

    def _mend(self, suspension: Suspension, steps: tuple[str, ...]) -> None:
        """Queue the steps, unless they are queued already."""
        pair = suspension.pair
        try:
            entry = self._queue.want_calibration(
                pair, steps, f"{pair_name(pair)} is suspended: {suspension.reason}"
            )
        except (QueueError, StoreError) as error:
            to_do = self._by_hand(pair, f"{', '.join(steps)} could not be queued ({error})")
            self._keep(replace(suspension, to_do=to_do))
            return
        number = entry.number if entry is not None else self._calibrates(pair, steps)
        told = ", ".join(steps)
        self._keep(
            replace(suspension, entry=number, to_do=f"entry {number} of the queue calibrates ({told})")
        )

    def _calibrates(self, pair: Pair, steps: tuple[str, ...]) -> int:
        """The last of the entries in which these steps stand."""
        return max(
            entry.number
            for entry in self._queue.entries
            if pair in entry.work.pairs and set(steps) & set(entry.steps_left)
        )

    def _look(self, suspension: Suspension) -> None:
        """What became of the entry that a suspension waits for."""
        assert suspension.entry is not None
        if any(entry.number == suspension.entry for entry in self._queue.entries):
            return
        entry = self._store.entry(suspension.entry)
        if entry is not None and entry.state == "done":
            self._known[suspension.pair] = replace(suspension, suspended=False, entry=None, to_do="")
            told = f"{pair_name(suspension.pair)} is calibrated and makes key again"
            self._write(suspension.pair, ORCHESTRATOR, told)
            return
        ended = "is gone" if entry is None else f"{entry.state} ({entry.reason})"
        to_do = self._by_hand(suspension.pair, f"its calibration, entry {suspension.entry}, {ended}")
        self._keep(replace(suspension, entry=None, to_do=to_do))

    def _by_hand(self, pair: Pair, why: str) -> str:
        return f"{why}; then `qunetlab queue resume --pair {pair_name(pair)}`"

    def _keep(self, suspension: Suspension) -> None:
        self._known[suspension.pair] = suspension
        told = self.why(suspension.pair)
        with about(pair=pair_name(suspension.pair)):
            logger.warning("%s %s", pair_name(suspension.pair), told)
        self._write(suspension.pair, ORCHESTRATOR, f"{pair_name(suspension.pair)} {told}")

    def _write(self, pair: Pair, who: str = "", what: str = "") -> None:
        """As it is in memory; a disk that takes nothing leaves it to be tried again."""
        try:
            with self._store.transaction():
                self._store.keep_suspension(pair, self._known.get(pair))
                if what:
                    self._store.note(HistoryLine(self._wall(), None, who, what))
        except StoreError as error:
            if pair not in self._unwritten:
                with about(pair=pair_name(pair)):
                    logger.warning(
                        "that %s is suspended, or not, is not written down yet: %s", pair_name(pair), error
                    )
            self._unwritten.add(pair)
            self._write_again_s = self._clock() + WRITE_AGAIN_S
        else:
            self._unwritten.discard(pair)
