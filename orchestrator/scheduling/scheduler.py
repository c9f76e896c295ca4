"""Which pair of those that lack key gets the ring next.

Whose turn it is among the entries of the queue is decided first, in :mod:`orchestrator.scheduling.claims`; here is
which of its pairs.  The ring serves one pair at a time, and a federated round starts only when *every* pair of it holds enough
key.  What counts is therefore the ring time still needed by all pairs together plus the time lost by
switching, and never the order as such.  Round-robin loses on both: it serves pairs that already have
enough, and it pays a switch for every lease.  The rules here, first match wins:

1. **Nobody starves.**  A pair that has waited ``max_wait_s`` for key it lacks is served; the longest wait
first.
2. **Deadlines.**  A pair that would be late if it were served last is served; the earliest deadline first.
3. **Stay.**  The pair on the ring keeps it while it lacks key and its last lease was good, unless it still needs more
than another pair and the switches there and back: then everybody together waits less if that one goes before.
4. **Shortest first.**  Else the pair that needs the least ring time, so that as many pairs as possible are
ready.

"Lacks key" is meant level by level: as long as some pair lacks the key of one round, only such pairs are
served; then those that lack two rounds, and so on up to ``rounds_ahead``.  Time in which training runs is
thus used to prepare later rounds, evenly.  A pair whose leases fail backs off (twice as long after each
failure, at most ``max_wait_s``) and meanwhile holds nobody up.

A pair that can be served and lacks the key of one round waits at most
``max_wait_s + number of pairs * (lease + switching time)`` for its next lease.

Everything is a pure function of a frozen state; times are seconds of one monotonic clock passed in by the
caller.  :func:`dump` writes ages instead of times, because a monotonic clock does not survive a restart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import msgspec
from msgspec.structs import replace

from orchestrator.decoding import msgpack_decoder

Pair = tuple[str, str]


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The scheduler's constants.

    ``switch_s`` ring time lost when another pair takes over; ``max_wait_s`` see the rules; ``rounds_ahead``
    how many rounds of key are prepared at most; ``memory_s`` ring seconds after which a measured rate has
    mostly forgotten the past; ``retry_s`` back-off after a first failed lease; ``oldest_share`` the part of the
    ring's time that the entry longest in the queue is sure of, see :mod:`orchestrator.scheduling.claims`.
    """

    switch_s: float = 2.0
    max_wait_s: float = 300.0
    rounds_ahead: int = 8
    memory_s: float = 120.0
    retry_s: float = 10.0
    oldest_share: float = 0.01


class PairState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the scheduler knows of a pair.

    ``demand_bits`` is the key that one more round takes, ``rate_bps`` secret bits per second *of ring* (the
    plan's expectation until leases have been ``measured``).  ``waiting_since_s`` is when the pair began to lack
    the key of one round or was last served, whichever is later; None while it lacks nothing.  ``failures``
    counts failed leases in a row.
    """

    first: str
    second: str
    rate_bps: float = 1.0
    stock_bits: int = 0
    demand_bits: int = 0
    available: bool = True
    waiting_since_s: float | None = None
    last_served_s: float | None = None
    needed_by_s: float | None = None
    failures: int = 0
    measured: bool = False

    @property
    def pair(self) -> Pair:
        """The two users in the testbed's order."""
        return self.first, self.second

    def lacking_bits(self, rounds: int) -> int:
        """Bits missing from the key of this many rounds."""
        return max(0, rounds * self.demand_bits - self.stock_bits)

    def ring_s(self, rounds: int) -> float:
        """Ring time that makes up for them; infinite for a pair that yields nothing."""
        lacking = self.lacking_bits(rounds)
        if not lacking:
            return 0.0
        return lacking / self.rate_bps if self.rate_bps > 0.0 else math.inf


class SchedulerState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All pairs, the pair the ring is set up for, the users who are away, and the policy.

    ``block_s`` is how long the ring is taken by one block, 0 until one was measured.
    """

    pairs: tuple[PairState, ...]
    holder: Pair | None = None
    absent_users: frozenset[str] = frozenset()
    policy: Policy = Policy()
    block_s: float = 0.0

    def of(self, pair: Pair) -> PairState:
        """The state of one pair; KeyError names a pair that is not scheduled."""
        for state in self.pairs:
            if state.pair == pair:
                return state
        raise KeyError(f"the scheduler knows no pair {pair[0]}-{pair[1]}")


def next_pair(state: SchedulerState, now_s: float) -> Pair | None:
    """The pair that gets the next lease, or None when no pair can use one."""
    policy = state.policy
    wanting, rounds = _wanting(state, now_s)
    if not wanting:
        return None
    overdue = [p for p in wanting if _waited(p, now_s) >= policy.max_wait_s]
    if overdue:
        return max(overdue, key=lambda p: _waited(p, now_s)).pair
    whole_s = sum(p.ring_s(rounds) + policy.switch_s for p in wanting)
    late = [p for p in wanting if p.needed_by_s is not None and p.needed_by_s - now_s < whole_s]
    candidates = late or wanting
    if late:
        earliest = min(_deadline(p) for p in late)
        candidates = [p for p in late if _deadline(p) == earliest]
    shortest = min(candidates, key=lambda p: (p.ring_s(rounds), -_waited(p, now_s)))
    worth_it_s = max(shortest.ring_s(rounds), state.block_s) + 2 * policy.switch_s
    for p in candidates:
        if p.pair == state.holder and not p.failures and p.ring_s(rounds) <= worth_it_s:
            return p.pair
    return shortest.pair


def lacking(state: SchedulerState, now_s: float) -> dict[Pair, int]:
    """Bits that pairs which can be served lack for the rounds that are being prepared."""
    wanting, rounds = _wanting(state, now_s)
    return {p.pair: p.lacking_bits(rounds) for p in wanting}


def _wanting(state: SchedulerState, now_s: float) -> tuple[list[PairState], int]:
    """The pairs that lack key and can be served, and for how many rounds they do."""
    ready = [p for p in state.pairs if can_serve(p, state.policy, now_s)]
    rounds = _level(ready, state.policy.rounds_ahead)
    return [p for p in ready if p.lacking_bits(rounds)], rounds


def lease_finished(
    state: SchedulerState, pair: Pair, now_s: float, ring_s: float, secret_bits: int, ok: bool = True
) -> SchedulerState:
    """After a lease of ``ring_s`` seconds that stored ``secret_bits``; ``ok`` False if it failed or was
    refused.

    A good lease may store nothing yet, when its block goes on in the next lease.  The measured rate is an
    average over ring time that forgets exponentially.
    """
    if ring_s < 0.0 or secret_bits < 0:
        raise ValueError(f"a lease cannot last {ring_s} s or yield {secret_bits} bits")
    weight = -math.expm1(-ring_s / state.policy.memory_s)

    def finish(p: PairState) -> PairState:
        rate = p.rate_bps + weight * (secret_bits / ring_s - p.rate_bps) if ring_s > 0.0 else p.rate_bps
        return replace(
            p,
            rate_bps=rate,
            stock_bits=p.stock_bits + secret_bits,
            last_served_s=now_s,
            waiting_since_s=None,
            failures=0 if ok else p.failures + 1,
        )

    block_s = state.block_s + weight * (ring_s - state.block_s) if state.block_s else ring_s
    return replace(_change(state, [pair], now_s, finish), holder=pair, block_s=block_s)


def set_stock(state: SchedulerState, pair: Pair, stock_bits: int, now_s: float) -> SchedulerState:
    """The stock as the key stores report it (consumption included)."""
    return _change(state, [pair], now_s, lambda p: replace(p, stock_bits=stock_bits))


def set_demand(
    state: SchedulerState, pair: Pair, demand_bits: int, now_s: float, needed_by_s: float | None = None
) -> SchedulerState:
    """The key one more round of this pair takes, and when it is needed at the latest."""
    return _change(
        state, [pair], now_s, lambda p: replace(p, demand_bits=demand_bits, needed_by_s=needed_by_s)
    )


def set_user_available(state: SchedulerState, user: str, available: bool, now_s: float) -> SchedulerState:
    """A node came or went; a pair can be served while neither of its users is absent."""
    absent = state.absent_users - {user} if available else state.absent_users | {user}
    pairs = [p.pair for p in state.pairs if user in p.pair]

    def update(p: PairState) -> PairState:
        return replace(p, available=not absent.intersection(p.pair), failures=0)

    return replace(_change(state, pairs, now_s, update), absent_users=absent)


def dump(state: SchedulerState, now_s: float) -> bytes:
    """The state as bytes, times as ages before ``now_s``."""
    return msgspec.msgpack.encode(_shifted(state, -now_s))


def load(data: bytes, now_s: float) -> SchedulerState:
    """The state :func:`dump` wrote, on the clock of this process; the time in between does not count.

    Raises ValueError for anything else.
    """
    try:
        state: SchedulerState = msgpack_decoder(SchedulerState).decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"not a scheduler state: {error}") from error
    return _shifted(state, now_s)


def _level(pairs: Iterable[PairState], rounds_ahead: int) -> int:
    """The number of rounds being prepared: one more than the poorest pair holds, at most ``rounds_ahead``."""
    held = [p.stock_bits // p.demand_bits for p in pairs if p.demand_bits > 0]
    return min(max(min(held, default=0) + 1, 1), max(rounds_ahead, 1))


def _waited(pair: PairState, now_s: float) -> float:
    return now_s - pair.waiting_since_s if pair.waiting_since_s is not None else 0.0


def _deadline(pair: PairState) -> float:
    return math.inf if pair.needed_by_s is None else pair.needed_by_s


def can_serve(pair: PairState, policy: Policy, now_s: float) -> bool:
    """Whether both users are there, and no failure is too recent."""
    return pair.available and now_s >= _retry_at(pair, policy)


def _retry_at(pair: PairState, policy: Policy) -> float:
    """When a pair may be served again after failures in a row."""
    if not pair.failures or pair.last_served_s is None:
        return -math.inf
    return pair.last_served_s + min(policy.retry_s * 2.0 ** min(pair.failures - 1, 30), policy.max_wait_s)


def _change(
    state: SchedulerState, pairs: Iterable[Pair], now_s: float, change: Callable[[PairState], PairState]
) -> SchedulerState:
    """Apply ``change`` to some pairs and let the waiting clock of each start or stop with it."""
    chosen = {state.of(pair).pair for pair in pairs}

    def clocked(p: PairState) -> PairState:
        if not (p.available and p.lacking_bits(1)):
            return replace(p, waiting_since_s=None)
        return p if p.waiting_since_s is not None else replace(p, waiting_since_s=now_s)

    return replace(state, pairs=tuple(clocked(change(p)) if p.pair in chosen else p for p in state.pairs))


def _shifted(state: SchedulerState, by_s: float) -> SchedulerState:
    """All times moved by ``by_s``."""

    def move(t: float | None) -> float | None:
        return None if t is None else t + by_s

    return replace(
        state,
        pairs=tuple(
            replace(
                p,
                waiting_since_s=move(p.waiting_since_s),
                last_served_s=move(p.last_served_s),
                needed_by_s=move(p.needed_by_s),
            )
            for p in state.pairs
        ),
    )
