"""Random mixes of work for one ring, and what a rule of scheduling makes of them.

A mix is what a ring of 4 to 64 users is asked for in some hours: 2 to 8 training runs (key for every pair of three to
eight users), orders of key for one pair, calibration steps, each with its arrival, priority and, if wanted, some with a due
time.
Pairs yield what is theirs to yield per block; the scheduler begins with planned rates that are up to a quarter off and
learns.  One block in a hundred gives nothing, and every change of pair takes a switch.

For a bound (``due_bound.py``) a job takes whole blocks of its own, and one switch to each pair that no other job wants.
More switching, blocks that give nothing and calibrations that must come first only make schedules worse, and are left
out.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from orchestrator.scheduling.claims import Claim, Turn, next_turn, owed_after
from orchestrator.scheduling.scheduler import Pair, PairState, Policy, SchedulerState, lease_finished

LOST_BLOCKS = 0.01
RATES_OFF = 0.25
"""How far planned rates are from true ones at most."""


@dataclass(frozen=True)
class Job:
    """One entry of a mix: key by pair, or a calibration step."""

    number: int
    arrives_s: float
    priority: int = 0
    due_s: float | None = None
    bits: dict[Pair, int] = field(default_factory=dict)
    step_s: float = 0.0
    pair: Pair | None = None

    @property
    def weight(self) -> float:
        return 2.0**self.priority

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """Pairs that have to be brought onto the ring for it."""
        return tuple(self.bits) if self.pair is None else (self.pair,)


@dataclass(frozen=True)
class Mix:
    """What is asked of a ring, and what the ring really yields, bits per second of ring by pair."""

    users: int
    jobs: tuple[Job, ...]
    rates_bps: dict[Pair, float]
    planned_bps: dict[Pair, float]
    block_s: float
    switch_s: float
    seed: int

    def block_bits(self, pair: Pair) -> int:
        """What a good block of ``pair`` gives."""
        return round(self.rates_bps[pair] * self.block_s)

    def ring_s(self, job: Job) -> float:
        """The least ring time of a job: its step, or whole blocks of its own and the switch to each pair that nobody else
        brings onto the ring."""
        blocks = sum(-(-bits // self.block_bits(pair)) for pair, bits in job.bits.items())
        alone = sum(
            all(pair not in each.pairs for each in self.jobs if each is not job) for pair in job.pairs
        )
        return job.step_s + blocks * self.block_s + alone * self.switch_s


@dataclass(frozen=True)
class Result:
    """When each job was done, in the order of the mix; ``late`` of those with a due time; ``longest_wait_s`` that
    one that could be served waited for its next block."""

    done_s: npt.NDArray[np.float64]
    late: int
    longest_wait_s: float
    switches: int

    def weighted_s(self, mix: Mix) -> float:
        """Sum of completion times, each times its job's weight."""
        return float(np.dot([job.weight for job in mix.jobs], self.done_s))


def draw_mix(seed: int, due_part: float = 0.0) -> Mix:
    """The mix of ``seed``; ``due_part`` of its jobs have a due time."""
    rng = np.random.default_rng(seed)
    n_users = round(math.exp(rng.uniform(math.log(4), math.log(64))))
    users = [f"u{i}" for i in range(n_users)]
    block_s = float(rng.uniform(10.0, 60.0))
    rates: dict[Pair, float] = {}

    def pair_of(names: Sequence[str]) -> Pair:
        first, second = sorted(names, key=users.index)
        rates.setdefault((first, second), float(rng.lognormal(math.log(20e3), 0.5)))
        return first, second

    def pick(n: int) -> list[str]:
        return [str(name) for name in rng.choice(users, n, replace=False)]

    drawn: list[tuple[dict[Pair, int], float, Pair | None]] = []
    for _ in range(int(rng.integers(2, 9))):
        cohort = pick(int(rng.integers(3, min(8, n_users) + 1)))
        bits = int(rng.uniform(0.5, 6.0) * block_s * 20e3)
        drawn.append(({pair_of(pair): bits for pair in itertools.combinations(cohort, 2)}, 0.0, None))
    for _ in range(int(rng.integers(2, 13))):
        drawn.append(({pair_of(pick(2)): int(rng.uniform(0.5, 20.0) * block_s * 20e3)}, 0.0, None))
    for _ in range(int(rng.integers(1, 9))):
        about = pair_of(pick(2)) if rng.random() < 0.5 else None
        drawn.append(({}, float(rng.uniform(20.0, 300.0)), about))
    whole_s = sum(step_s + sum(b / rates[p] for p, b in bits.items()) for bits, step_s, _ in drawn)
    arrivals = np.sort(rng.uniform(0.0, whole_s * rng.uniform(0.0, 1.2), len(drawn)))
    jobs = []
    for number, index in enumerate(rng.permutation(len(drawn))):
        bits, step_s, about = drawn[index]
        ring_s = step_s or sum(b / rates[p] for p, b in bits.items())
        due_s = arrivals[number] + ring_s * rng.uniform(1.5, 10.0) if rng.random() < due_part else None
        priority = 2 if step_s else int(rng.integers(-2, 3))
        jobs.append(Job(number, float(arrivals[number]), priority, due_s, bits, step_s, about))
    planned = {pair: rate * float(rng.uniform(1 - RATES_OFF, 1 + RATES_OFF)) for pair, rate in rates.items()}
    return Mix(n_users, tuple(jobs), rates, planned, block_s, float(rng.uniform(0.5, 3.0)), seed)


Rule = Callable[[Sequence[Claim], SchedulerState, float], Turn | None]


class Ours:
    """The orchestrator's rule, with what it saves up for the oldest."""

    def __init__(self) -> None:
        self.owed_s = 0.0

    def __call__(self, claims: Sequence[Claim], state: SchedulerState, now_s: float) -> Turn | None:
        return next_turn(claims, state, now_s, owed_s=self.owed_s)

    def served(self, claims: Sequence[Claim], number: int, ring_s: float, state: SchedulerState) -> None:
        self.owed_s = owed_after(self.owed_s, claims, number, ring_s, state)


def turn_of(claim: Claim, state: SchedulerState) -> Turn:
    """The claim's next block: of the pair on the ring if it lacks key, else of its first pair."""
    if claim.step_s:
        return Turn(claim.number, claim.pair, True)
    pairs = list(claim.lacking)
    return Turn(claim.number, state.holder if state.holder in pairs else pairs[0], False)


def first_come(claims: Sequence[Claim], state: SchedulerState, now_s: float) -> Turn | None:
    """The oldest until it has all it wants."""
    return turn_of(min(claims, key=lambda each: each.number), state)


class RoundRobin:
    """A block for each in turn."""

    def __init__(self) -> None:
        self._last = -1

    def __call__(self, claims: Sequence[Claim], state: SchedulerState, now_s: float) -> Turn | None:
        after = [each for each in claims if each.number > self._last] or list(claims)
        claim = min(after, key=lambda each: each.number)
        self._last = claim.number
        return turn_of(claim, state)


def simulate(mix: Mix, rule: Rule) -> Result:
    """Serve every job of ``mix`` block by block, as ``rule`` says."""
    rng = np.random.default_rng(mix.seed + 1)
    pairs = tuple(PairState(*pair, rate_bps=rate) for pair, rate in mix.planned_bps.items())
    state = SchedulerState(pairs, policy=Policy(switch_s=mix.switch_s), block_s=mix.block_s)
    lacking = {job.number: dict(job.bits) for job in mix.jobs}
    done: dict[int, float] = {}
    waits_since: dict[int, float] = {}
    measured: set[Pair] = set()
    now_s = longest_s = 0.0
    switches = 0
    while len(done) < len(mix.jobs):
        here = [job for job in mix.jobs if job.number not in done and job.arrives_s <= now_s]
        if not here:
            now_s = min(job.arrives_s for job in mix.jobs if job.number not in done)
            continue
        claims = [
            Claim(each.number, each.priority, each.due_s, lacking[each.number], each.step_s, each.pair)
            for each in here
        ]
        turn = rule(claims, state, now_s)
        assert turn is not None
        begun_s = now_s
        if turn.pair is not None and turn.pair != state.holder:
            now_s += mix.switch_s
            switches += 1
        for each in here:
            waits_since.setdefault(each.number, each.arrives_s)
        longest_s = max(longest_s, *(begun_s - waits_since[each.number] for each in here))
        if turn.is_step:
            now_s += mix.jobs[turn.number].step_s
            done[turn.number] = now_s
            if turn.pair is not None:
                state = replace(state, holder=turn.pair)
        else:
            assert turn.pair is not None
            now_s += mix.block_s
            is_lost = rng.random() < LOST_BLOCKS
            bits = 0 if is_lost else mix.block_bits(turn.pair)
            state = _learnt(state, turn.pair, bits, mix.block_s, now_s, measured)
            left = lacking[turn.number]
            left[turn.pair] -= bits
            if left[turn.pair] <= 0:
                del left[turn.pair]
            if not left:
                done[turn.number] = now_s
        waits_since[turn.number] = now_s
        if isinstance(rule, Ours):
            rule.served(claims, turn.number, now_s - begun_s, state)
    late = sum(job.due_s is not None and done[job.number] > job.due_s for job in mix.jobs)
    return Result(np.array([done[job.number] for job in mix.jobs]), late, longest_s, switches)


def _learnt(
    state: SchedulerState, pair: Pair, bits: int, block_s: float, now_s: float, measured: set[Pair]
) -> SchedulerState:
    """After a block; the first one that gives key replaces the planned rate, as in the orchestrator."""
    after = lease_finished(state, pair, now_s, block_s, bits)
    if bits and pair not in measured:
        measured.add(pair)
        return replace(
            after,
            pairs=tuple(replace(p, rate_bps=bits / block_s) if p.pair == pair else p for p in after.pairs),
        )
    return after
