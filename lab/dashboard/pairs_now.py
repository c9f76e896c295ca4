"""Each pair as the wall page needs it, kept up with what is heard: its latest block, how fast its key is used, how long it waits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from lab.dashboard.lamp import PairNow, Plan
from lab.dashboard.use import Use
from lab.runs.following.observer import Heard
from orchestrator.events.status import BlockReport, Learning, Pair, PairStatus


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
                0.0 if each.lacks_since_s is None else now_s - each.lacks_since_s,
                each.use.lasts_s(now_s),
                each.use.falls(),
                self._round_bits,
            )
            for pair, each in self._pairs.items()
            if each.pair is not None
        )
