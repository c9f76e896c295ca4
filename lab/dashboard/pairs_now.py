"""Each pair as the wall page needs it, kept up with what is heard: its latest block, how fast its key is used, how long it waits.

The ring serves one pair at a time.  A pair that waits for its turn, well and while blocks of others are stored, is not unserved: for
it the time counts from the ring's latest stored block, but for so many turns of :data:`TURN_S` as pairs lack key, and no longer.
A pair that is away or failed last has no turn to wait for: for it the time counts from its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from lab.dashboard.lamp import PairNow, Plan
from lab.dashboard.use import Use
from lab.runs.following.observer import Heard
from orchestrator.events.status import BlockReport, Learning, Pair, PairStatus

TURN_S = 60.0
"""What a pair's turn may take."""


@dataclass
class _Followed:
    use: Use = field(default_factory=Use)
    pair: PairStatus | None = None
    block: BlockReport | None = None
    lacks_since_s: float | None = None
    """Since when it lacks key without a stored block."""


class PairsNow:
    """All pairs; times on the observer's clock.  ``plan_of`` gives a pair's plan, or None while none is known."""

    def __init__(self, plan_of: Callable[[Pair], Plan | None]) -> None:
        self._plan_of = plan_of
        self._pairs: dict[Pair, _Followed] = {}
        self._round_bits = 0
        self._stored_s = -math.inf
        """When the latest block was stored, of whichever pair."""

    def note(self, heard: Heard) -> None:
        """One more word."""
        item = heard.item
        if isinstance(item, PairStatus):
            followed = self._pairs.setdefault(item.pair, _Followed())
            followed.pair = item
            followed.use.stock(item.stock_bits, heard.since_s)
            if not item.lacks_key:
                followed.lacks_since_s = None
            elif followed.lacks_since_s is None:
                followed.lacks_since_s = heard.since_s
        elif isinstance(item, BlockReport) and item.counts(heard.role):
            followed = self._pairs.setdefault(item.pair, _Followed())
            before, followed.block = followed.block, item
            if item.stored and (before is None or before != item):
                followed.use.stored(item.secret_bits)
                self._stored_s = max(self._stored_s, heard.since_s)
                if followed.lacks_since_s is not None:
                    followed.lacks_since_s = heard.since_s
        elif isinstance(item, Learning):
            self._round_bits = item.round_bits if item.state in ("running", "waiting") else 0

    def forget(self) -> None:
        """The hub is another one: what it told is gone, and use is measured anew."""
        self._pairs.clear()
        self._round_bits = 0

    def now(self, now_s: float) -> tuple[PairNow, ...]:
        """Every pair that the orchestrator told of."""
        return tuple(
            PairNow(
                each.pair,
                each.block,
                self._plan_of(pair),
                self._unserved_s(each, now_s),
                each.use.lasts_s(now_s),
                each.use.falls(),
                self._round_bits,
            )
            for pair, each in self._pairs.items()
            if each.pair is not None
        )

    def _unserved_s(self, each: _Followed, now_s: float) -> float:
        if each.lacks_since_s is None or each.pair is None:
            return 0.0
        alone_s = now_s - each.lacks_since_s
        if not each.pair.available or each.pair.failures:
            return alone_s
        others = sum(
            other is not each and other.lacks_since_s is not None and other.pair.available
            for other in self._pairs.values()
            if other.pair is not None
        )
        return min(alone_s, max(now_s - self._stored_s, alone_s - others * TURN_S))
