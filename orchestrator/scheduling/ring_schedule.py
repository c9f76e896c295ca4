"""From what nodes report to whom the ring is offered next: the bookkeeping around the scheduler.

:mod:`orchestrator.scheduling.scheduler` is pure and knows demand, stock and rates per pair.  Here the reports of both
ends are put together: the stock of a pair is the smaller of what its two nodes say, the demand the
largest that anybody asked for; blocks whose light is over and whose key is not reported yet count as
stock, so that the ring does not make them twice; and a pair that could not take an offer, or whose light
ended early, is left alone for a moment that doubles with every time in a row.  After a refusal, which costs
no ring time, it stays within seconds, so that a process that restarts and an instrument that was switched on
again are soon back at work; after light that ended early it grows to a minute.
A block without key is what the scheduler itself backs off from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from msgspec.structs import replace

from orchestrator.events.status import RELAY, BlockReport, Stock
from orchestrator.scheduling.leases import Outcome
from orchestrator.scheduling.scheduler import (
    Pair,
    PairState,
    Policy,
    SchedulerState,
    dump,
    lease_finished,
    load,
    set_demand,
    set_stock,
    set_user_available,
)
from orchestrator.wire.messages import KEY, Demand

HOLD_OFF_S = 0.25
HOLD_OFF_MAX_S = 4.0
"""After refused offers, which cost no ring time."""
FAILED_HOLD_OFF_S = 1.0
FAILED_HOLD_OFF_MAX_S = 60.0
"""After light that ended early."""
EARLY_REPORTS = 4
REPORT_PATIENCE_S = 180.0
"""A block whose report has not come by then is no longer expected."""


STOCK_PATIENCE_S = 2.0
"""Both nodes of a block tell their stock within this time."""
USABLE_LANE = "mask"
"""The lane whose stock serves demand."""


@dataclass(frozen=True)
class Fault:
    """Leases and blocks of a pair that gave no key, ``count`` in a row since ``since_s``; why the last did not."""

    since_s: float
    count: int
    reason: str


@dataclass
class _Pending:
    """A block between the end of its light and its report."""

    pair: Pair
    ring_s: float
    expires_s: float


class RingSchedule:
    """Mutable surroundings of the pure scheduler state; times are monotonic seconds of the caller."""

    def __init__(
        self,
        rates_bps: Mapping[Pair, float],
        users: tuple[str, ...],
        now_s: float,
        policy: Policy | None = None,
        *,
        block_bits: Mapping[Pair, int] | None = None,
    ) -> None:
        """``rates_bps``: a first guess per pair; ``block_bits``: what a block is planned to yield, in use
        until one is measured.  The relay and every user count as unable until they are seen."""
        pairs = tuple(PairState(first, second, rate) for (first, second), rate in rates_bps.items())
        self.state = SchedulerState(pairs, policy=policy or Policy())
        for user in users:
            self.state = set_user_available(self.state, user, False, now_s)
        self._users = users
        self._relay_able = False
        self._stock: dict[Pair, dict[str, int]] = {pair: {} for pair in rates_bps}
        self._demand: dict[Pair, dict[str, tuple[int, float | None]]] = {pair: {} for pair in rates_bps}
        self._pending: dict[tuple[int, int], _Pending] = {}
        self._early: dict[tuple[int, int], BlockReport] = {}
        self._last_over = (0, 0)
        self._refusals: dict[Pair, int] = {}
        self._failures: dict[Pair, int] = {}
        self._held_until_s: dict[Pair, float] = {}
        self._block_bits: dict[Pair, int] = dict(block_bits or {})
        self._faults: dict[Pair, Fault] = {}
        self._recent: dict[Pair, tuple[int, int | None, float]] = {}
        """The latest block by pair: its bits, the stock known when it was told, and until when that may lag behind."""

    # -- what is heard -------------------------------------------------------------------------------

    def party_able(self, role: str, able: bool, now_s: float) -> None:
        """A node or the relay came or went, or told whether its instruments are ready."""
        if role == RELAY:
            self._relay_able = able
            if able:
                self._forgive(list(self._stock))  # whatever held a pair up may be over
        elif role in self._users:
            self.state = set_user_available(self.state, role, able, now_s)
            self._forgive([pair for pair in self._stock if role in pair])

    def again_at_once(self, pair: Pair) -> None:
        """The fault of ``pair`` was repaired here: its next offer need not wait."""
        self._forgive([pair])

    def _forgive(self, pairs: list[Pair]) -> None:
        for pair in pairs:
            self._refusals.pop(pair, None)
            self._failures.pop(pair, None)
            self._held_until_s.pop(pair, None)
            self._faults.pop(pair, None)

    def stock(self, user: str, report: Stock, now_s: float) -> None:
        """What ``user`` holds with each of its peers."""
        for entry in report.lanes:
            if entry.lane != USABLE_LANE:
                continue
            for pair, known in self._stock.items():
                if set(pair) == {user, entry.peer}:
                    known[user] = entry.bits
                    self.state = set_stock(self.state, pair, min(known.values()), now_s)

    def demand(self, role: str, demand: Demand, now_s: float) -> bool:
        """What ``role`` wants for a pair; False if there is no such pair."""
        known = self._demand.get((demand.first, demand.second))
        if known is None:
            return False
        due_s = None if demand.deadline_s is None else now_s + demand.deadline_s
        known[role] = demand.bits, due_s
        deadlines = [due for bits, due in known.values() if due is not None and bits]
        bits = max(bits for bits, _ in known.values())
        pair = demand.first, demand.second
        self.state = set_demand(self.state, pair, bits, now_s, min(deadlines, default=None))
        return True

    def lease_over(self, outcome: Outcome, now_s: float) -> None:
        """A lease ended; a good one is credited when its block is reported."""
        pair = outcome.lease.pair
        self._last_over = outcome.lease.epoch, outcome.lease.number
        if not outcome.ok:
            self._failed(pair, outcome.reason, now_s)
        if outcome.refused:
            count = self._refusals[pair] = self._refusals.get(pair, 0) + 1
            self._held_until_s[pair] = now_s + _doubling(HOLD_OFF_S, HOLD_OFF_MAX_S, count)
            return
        self._refusals.pop(pair, None)
        if not outcome.ok:
            count = self._failures[pair] = self._failures.get(pair, 0) + 1
            self._held_until_s[pair] = now_s + _doubling(FAILED_HOLD_OFF_S, FAILED_HOLD_OFF_MAX_S, count)
            self.state = replace(self.state, holder=None)
            return
        self._failures.pop(pair, None)
        if outcome.lease.purpose != KEY:
            self.state = replace(self.state, holder=pair)
            return
        token = outcome.lease.epoch, outcome.lease.number
        self._pending[token] = _Pending(pair, outcome.ring_s, now_s + REPORT_PATIENCE_S)
        self.state = replace(self.state, holder=pair)
        early = self._early.pop(token, None)
        self._early.clear()
        if early is not None:
            self.block_reported(early, now_s)

    def block_reported(self, report: BlockReport, now_s: float) -> bool:
        """The first report of a block counts (True), the other node's repeats it (False).

        A node may be through with its block before the last party has said that the light is off.
        """
        pair = report.first, report.second
        token = report.epoch, report.lease_number
        pending = self._pending.get(token)
        if pending is None:
            if token <= self._last_over or token in self._early or len(self._early) >= EARLY_REPORTS:
                return False
            self._early[token] = report
            return True
        if pending.pair != pair:
            return False
        del self._pending[token]
        if report.stored:
            self._faults.pop(pair, None)
        else:
            self._failed(pair, report.reason, now_s)
        holder = self.state.holder
        bits = report.secret_bits if report.stored else 0
        if bits:
            self._recent[pair] = bits, self.known_stock(pair), now_s + STOCK_PATIENCE_S
        first_measurement = not self.state.of(pair).measured and bits and pending.ring_s > 0
        after = lease_finished(self.state, pair, now_s, pending.ring_s, bits, ok=report.stored)
        if bits:
            self._block_bits[pair] = bits
        if first_measurement:
            rate = bits / pending.ring_s
            pairs = tuple(
                replace(p, rate_bps=rate, measured=True) if p.pair == pair else p for p in after.pairs
            )
            after = replace(after, pairs=pairs)
        self.state = replace(after, holder=holder)
        return True

    def _failed(self, pair: Pair, reason: str, now_s: float) -> None:
        before = self._faults.get(pair, Fault(now_s, 0, ""))
        self._faults[pair] = Fault(before.since_s, before.count + 1, reason)

    # -- what follows --------------------------------------------------------------------------------

    def seen(self, now_s: float) -> SchedulerState:
        """The pairs as they may be served: their blocks in work counted as stock, hold-offs respected."""
        for token in [token for token, block in self._pending.items() if block.expires_s <= now_s]:
            del self._pending[token]
        return replace(self.state, pairs=tuple(self._seen(p, now_s) for p in self.state.pairs))

    def _seen(self, pair: PairState, now_s: float) -> PairState:
        """A pair with its blocks in work counted and its hold-off respected."""
        held = self._held_until_s.get(pair.pair, now_s) > now_s
        return replace(
            pair,
            stock_bits=pair.stock_bits + self.in_work_bits(pair.pair),
            available=self.available(pair.pair) and not held,
        )

    # -- what is shown -------------------------------------------------------------------------------

    def available(self, pair: Pair) -> bool:
        """Whether relay and both nodes are there and ready."""
        return self._relay_able and self.state.of(pair).available

    def in_work_bits(self, pair: Pair) -> int:
        """What the blocks between light and report are expected to give."""
        return sum(block.pair == pair for block in self._pending.values()) * self._block_bits.get(pair, 0)

    def block_bits(self, pair: Pair) -> int:
        """What a good block of ``pair`` gives: as the last one did, before it as planned."""
        return self._block_bits.get(pair, 0)

    def known_stock(self, pair: Pair) -> int | None:
        """What both ends hold; None before both told."""
        known = self._stock[pair]
        return min(known.values()) if len(known) == len(pair) else None

    def coming_stock(self, pair: Pair, now_s: float) -> int | None:
        """What both ends hold or are about to: blocks in work, and one of which both have not told yet."""
        known = self.known_stock(pair)
        if known is None:
            return None
        bits, before, until_s = self._recent.get(pair, (0, None, now_s))
        return known + self.in_work_bits(pair) + (bits if known == before and now_s < until_s else 0)

    def fault(self, pair: Pair) -> Fault | None:
        """What went wrong since the last good block, or since a party of the pair came back."""
        return self._faults.get(pair)

    # -- across restarts -----------------------------------------------------------------------------

    def dump(self, now_s: float) -> bytes:
        """Rates, demands and waiting times, for :meth:`restore`."""
        return dump(self.state, now_s)

    def restore(self, data: bytes, now_s: float) -> bool:
        """Go on from an earlier process; False, and nothing changed, if ``data`` is not about these pairs.

        Users count as absent again, and stocks are what nodes report anew.
        """
        try:
            old = load(data, now_s)
        except ValueError:
            return False
        if [p.pair for p in old.pairs] != [p.pair for p in self.state.pairs]:
            return False
        self.state = replace(old, policy=self.state.policy)
        for user in self._users:
            self.state = set_user_available(self.state, user, False, now_s)
        return True


def _doubling(start_s: float, max_s: float, count: int) -> float:
    """``start_s`` the first time, twice as long each time in a row, at most ``max_s``."""
    return min(start_s * 2.0 ** min(count - 1, 20), max_s)
