"""Which entry of the queue gets the next block of the ring.

A *claim* is what one entry still wants of the ring: bits of key for one pair or several, or a calibration step.  The
ring serves one claim at a time and may turn to another after every block, so this is the scheduling of one machine
with release dates and preemption; what counts is the sum of the claims' completion times, each times its weight.
That sum is least, apart from releases and switching, when the claim with the largest *weight over ring time still
needed* goes first (Smith, Naval Research Logistics Quarterly 3, 59, 1956); with releases the same rule, applied anew
after every block, comes close (``tests/benchmarks/bench_scheduler.py`` holds it against a lower bound).

First match wins:

1. **Nobody starves.**  The claim that is in the queue longest earns a part of the ring's time
(:attr:`~orchestrator.scheduling.scheduler.Policy.oldest_share`), saved up until it pays for a block.  So whatever
others ask for, urgent or not, each is served in the end, and all others lose no more than that part.
2. **Smith's rule within due times.**  The order in which all are to be served is filled from its end, as Smith did for
jobs with due times: of those that may still be ready then, the one of least weight over ring time goes last.  The first
of the order has the ring.  So a claim goes before a heavier one only where it would be late behind it, and nobody waits for the
last moment only to break into the work of another.
3. **Order** of arrival among equals.

A due time is *promised* if it can be met, as far as is known, together with those promised to claims that came before;
one that cannot has no further say.  Claims are to be ready a block before they are due where there is room, because
blocks are lost.  The weight doubles with every step of priority.  Ring time still needed is in whole blocks, with the
switching to each pair but the one on the ring and with the calibrations that must come before it; so the claim on the
ring keeps it unless another is worth the switch.

ARTIQ, whose ``priority_key`` puts priority before everything (artiq/master/scheduler.py), lets one long run of higher
priority hold up any number of short ones; here a step of priority is worth a factor of two in length.

Which pair of a claim is served is :func:`~orchestrator.scheduling.scheduler.next_pair`'s to say.  Everything is a
pure function of frozen values.
"""

from __future__ import annotations

import heapq
import itertools
import math
from bisect import insort
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from msgspec.structs import replace

from orchestrator.scheduling.scheduler import Pair, PairState, SchedulerState, can_serve, next_pair


@dataclass(frozen=True)
class Claim:
    """What an entry still wants; ``number`` grows in order of arrival.

    Key: ``lacking`` bits by pair.  A calibration: ``step_s`` seconds of ring for its next step, between the users of
    ``pair`` if it needs two, and ``later_s`` for those behind it.  Due at ``due_s`` on the caller's clock.  ``entry`` is its number in the queue; what running trainings
    ask for has none.
    """

    number: int
    priority: int = 0
    due_s: float | None = None
    lacking: Mapping[Pair, int] = field(default_factory=dict)
    step_s: float = 0.0
    pair: Pair | None = None
    entry: int | None = None
    later_s: float = 0.0

    @property
    def weight(self) -> float:
        """What an hour of delay of this claim counts against that of others."""
        return math.ldexp(1.0, self.priority)


Steps: TypeAlias = Mapping[Pair, Sequence[Claim]]


@dataclass(frozen=True)
class Turn:
    """Who is served: claim ``number``, a block of ``pair`` or, where ``is_step``, its calibration step."""

    number: int
    pair: Pair | None
    is_step: bool


@dataclass(frozen=True)
class _Candidate:
    claim: Claim
    turn: Turn
    ring_s: float
    """All that the claim needs."""
    block_s: float
    """What its turn takes."""


def next_turn(
    claims: Sequence[Claim], state: SchedulerState, now_s: float, *, owed_s: float = 0.0
) -> Turn | None:
    """Who gets the ring, or None if no claim can use it; ``owed_s`` of ring were saved up for the oldest."""
    steps = _steps_by_pair(claims)
    candidates = [each for claim in claims if (each := _candidate(claim, steps, state, now_s)) is not None]
    if not candidates:
        return None
    oldest = min(candidates, key=lambda each: each.claim.number)
    if owed_s > 0.0 and owed_s >= oldest.block_s:
        return oldest.turn
    return _planned(candidates, now_s)[0].turn


def service_order(claims: Sequence[Claim], state: SchedulerState, now_s: float) -> list[Claim]:
    """Claims that can be served, in the order in which each has all it wants as things stand."""
    steps = _steps_by_pair(claims)
    candidates = [each for claim in claims if (each := _candidate(claim, steps, state, now_s)) is not None]
    return [each.claim for each in _planned(candidates, now_s)]


def owed_after(
    owed_s: float, claims: Collection[Claim], served: int, ring_s: float, state: SchedulerState
) -> float:
    """What is saved up for the oldest of ``claims`` after claim ``served`` had the ring for ``ring_s``."""
    if len(claims) < 2:
        return 0.0
    owed_s += state.policy.oldest_share * ring_s
    if served == min(claim.number for claim in claims):
        owed_s -= ring_s
    return max(owed_s, 0.0)


def ring_time_s(claim: Claim, claims: Sequence[Claim], state: SchedulerState) -> float:
    """Ring time that ``claim``, one of ``claims``, still needs if it is served alone; infinite if it yields nothing."""
    return _ring_s(claim, _steps_by_pair(claims), state, [state.of(pair) for pair in claim.lacking])


def _ring_s(claim: Claim, steps: Steps, state: SchedulerState, pairs: Iterable[PairState]) -> float:
    if claim.step_s:
        return _steps_s(claim) + _switch_s(claim.pair, state)
    return sum(
        sum(map(_steps_s, steps.get(p.pair, ()))) + _pair_s(p, claim.lacking[p.pair], state)
        for p in pairs
        if claim.lacking[p.pair] > 0
    )


def _steps_s(claim: Claim) -> float:
    return claim.step_s + claim.later_s


def _steps_by_pair(claims: Sequence[Claim]) -> Steps:
    """Calibration steps by the pair that they are for, in order of arrival."""
    steps: dict[Pair, list[Claim]] = {}
    for claim in sorted(claims, key=lambda each: each.number):
        if claim.step_s and claim.pair is not None:
            steps.setdefault(claim.pair, []).append(claim)
    return steps


def _candidate(claim: Claim, steps: Steps, state: SchedulerState, now_s: float) -> _Candidate | None:
    """The claim as it could be served, None if it cannot be."""
    if claim.step_s:
        if claim.pair is not None and not can_serve(state.of(claim.pair), state.policy, now_s):
            return None
        block_s = claim.step_s + _switch_s(claim.pair, state)
        turn = Turn(claim.number, claim.pair, True)
        return _Candidate(claim, turn, block_s + claim.later_s, block_s)
    able = [
        replace(p, stock_bits=0, demand_bits=bits)
        for pair, bits in claim.lacking.items()
        if can_serve(p := state.of(pair), state.policy, now_s)
    ]
    pair = next_pair(replace(state, pairs=tuple(able)), now_s)
    if pair is None:
        return None
    needed_s = _ring_s(claim, steps, state, able)
    if pair in steps:  # no key is made on what is about to be mended
        first = steps[pair][0]
        turn = Turn(first.number, pair, True)
        return _Candidate(claim, turn, needed_s, first.step_s + _switch_s(pair, state))
    return _Candidate(
        claim, Turn(claim.number, pair, False), needed_s, state.block_s + _switch_s(pair, state)
    )


def _promised(candidates: Sequence[_Candidate], now_s: float) -> list[_Candidate]:
    """Those whose due time can be met beside those that came before them, the first due first.

    Served in order of their due times all of a set are in time if any order has them so (Jackson 1955).
    """
    promised: list[_Candidate] = []
    for each in sorted(candidates, key=lambda each: each.claim.number):
        if now_s + each.ring_s <= _due_s(each) < math.inf:
            with_it = [*promised]
            insort(with_it, each, key=_due_s)
            if all(end_s <= _due_s(one) for one, end_s in zip(with_it, _ends_s(with_it, now_s), strict=True)):
                promised = with_it
    return promised


def _planned(candidates: Sequence[_Candidate], now_s: float) -> list[_Candidate]:
    """All in the order in which each is served to its end, filled from the last one on."""
    due = _promised(candidates, now_s)
    until_s = _with_reserve(due, now_s)
    waits = [
        _placed(each) for each in candidates if each.claim.number not in {one.claim.number for one in due}
    ]
    heapq.heapify(waits)
    end_s = now_s + sum(each.ring_s for each in candidates if math.isfinite(each.ring_s))
    order: list[_Candidate] = []
    while waits or due:
        while due and (not waits or until_s[-1] >= end_s):
            until_s.pop()
            heapq.heappush(waits, _placed(due.pop()))
        *_, last = heapq.heappop(waits)
        order.append(last)
        if math.isfinite(last.ring_s):
            end_s -= last.ring_s
    return order[::-1]


def _placed(candidate: _Candidate) -> tuple[float, int, _Candidate]:
    """Sorts by worth, what came later first among equals."""
    return _worth(candidate), -candidate.claim.number, candidate


def _with_reserve(due: Sequence[_Candidate], now_s: float) -> list[float]:
    """When those promised are to be ready: a block before they are due where there is room for it, and in their order."""
    until_s = [
        max(_due_s(each) - each.block_s, end_s) for each, end_s in zip(due, _ends_s(due, now_s), strict=True)
    ]
    return list(itertools.accumulate(reversed(until_s), min))[::-1]


def _ends_s(candidates: Sequence[_Candidate], now_s: float) -> Iterator[float]:
    """When each is ready if they are served in this order."""
    return itertools.islice(
        itertools.accumulate((each.ring_s for each in candidates), initial=now_s), 1, None
    )


def _due_s(candidate: _Candidate) -> float:
    return math.inf if candidate.claim.due_s is None else candidate.claim.due_s


def _worth(candidate: _Candidate) -> float:
    return candidate.claim.weight / candidate.ring_s if candidate.ring_s > 0.0 else math.inf


def _pair_s(pair: PairState, bits: int, state: SchedulerState) -> float:
    """Ring time of ``bits`` for a pair: the switch to it, then whole blocks."""
    if pair.rate_bps <= 0.0:
        return math.inf
    light_s = bits / pair.rate_bps
    if state.block_s > 0.0:
        light_s = math.ceil(light_s / state.block_s - 1e-9) * state.block_s
    return _switch_s(pair.pair, state) + light_s


def _switch_s(pair: Pair | None, state: SchedulerState) -> float:
    return 0.0 if pair is None or pair == state.holder else state.policy.switch_s
