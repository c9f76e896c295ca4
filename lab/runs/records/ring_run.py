"""What the ring did during a run, from the records that its roles wrote (:mod:`fl.experiments.ring_run`).

The orchestrator tells when a lease began and ended, the first user of a pair what became of its block; a lease's number joins
both.  Records that are on other machines are not asked for: what is not here is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

from fl.experiments.ring_run import BlockFigures, LightTime, PairPlan, PlannedPoint, RingRun
from lab.runs.planned import planned
from lab.runs.records.gathering import LEARNING_SERVER, RING
from lab.testbed import Testbed
from orchestrator.events.status import ORCHESTRATOR, Pair
from orchestrator.records.chain import read_chain
from orchestrator.records.keeping import CHAIN_FILE, RECORDS
from orchestrator.records.kinds import BlockEnded, LeaseEnded, Record, SumKept, record_of
from orchestrator.wire.messages import KEY

R = TypeVar("R", bound=Record)
CURVES = 6
"""Pairs whose curve is worked out: each takes the better part of a second, and more could not be told apart."""


def homes_of_run(folder: Path) -> list[Path]:
    """Where the records of each ring of a run were gathered, in the order of its attempts."""
    found = (folder / RECORDS).glob(f"{RING}*")
    return sorted(found, key=lambda home: (len(home.name), home.name))


def ring_run(
    homes: Sequence[Path],
    testbed: Testbed,
    *,
    pairs: Sequence[Pair] | None = None,
    since: datetime | None = None,
) -> RingRun | None:
    """The run whose roles wrote into ``homes/ROLE``; None where no lease is on record.

    ``pairs``: those that are asked for, all without it.  ``since`` leaves out what a ring did before.
    """
    chosen = list(testbed.pairs() if pairs is None else pairs)
    leases = [
        (home, each)
        for home in homes
        for each in _told(home, ORCHESTRATOR, LeaseEnded)
        if (since is None or each.at >= since) and (each.first, each.second) in chosen
    ]
    if not leases:
        return None
    began = min(_began(each) for _, each in leases)

    def seconds(at: datetime) -> float:
        return (at - began).total_seconds()

    ended = {(home, each.token): seconds(each.at) for home, each in leases}
    blocks = (
        _block(each, ended[home, each.token])
        for home in homes
        for each in _blocks(home, testbed.user_names())
        if (home, each.token) in ended
    )
    sums = (each.at for home in homes for each in _told(home, LEARNING_SERVER, SumKept))
    return RingRun(
        began.isoformat(timespec="seconds"),
        tuple(
            sorted((_light(each, seconds(_began(each))) for _, each in leases), key=lambda each: each.began_s)
        ),
        tuple(sorted(blocks, key=lambda each: each.at_s)),
        plans_of(testbed, chosen),
        tuple(sorted(seconds(at) for at in sums if at >= began)),
    )


def plans_of(testbed: Testbed, pairs: Iterable[Pair]) -> tuple[PairPlan, ...]:
    """The plan of each pair, with the curves of the first few."""
    found = []
    for number, (first, second) in enumerate(pairs):
        plan = planned(testbed, first, second, with_curve=number < CURVES)
        curve = tuple(PlannedPoint(*point) for point in plan["curve"])
        numbers = (plan["loss_db"], plan["rate_bps"], plan["qber"], plan["qber_limit"])
        found.append(PairPlan((first, second), *numbers, curve))
    return tuple(found)


def _told(home: Path, role: str, kind: type[R]) -> Iterator[R]:
    """What a role has on record, wherever its chain lies: gathered with the run, or in its own state."""
    for path in (home / role / CHAIN_FILE, home / role / RECORDS / CHAIN_FILE):
        if path.is_file():
            records = (record_of(bytes(line.record)) for line in read_chain(path).lines if line is not None)
            yield from (each for each in records if isinstance(each, kind))


def _blocks(home: Path, users: Iterable[str]) -> Iterator[BlockEnded]:
    for user in users:
        yield from (
            each for each in _told(home, user, BlockEnded) if each.first == user and not each.interrupted
        )


def _began(lease: LeaseEnded) -> datetime:
    return lease.at - timedelta(seconds=lease.ring_s)


def _light(lease: LeaseEnded, began_s: float) -> LightTime:
    light_s = max((each.light_s for each in lease.told), default=0.0) if lease.purpose == KEY else 0.0
    pair = (lease.first, lease.second)
    return LightTime(pair, lease.purpose, began_s, lease.ring_s, light_s, lease.ok, lease.reason)


def _block(block: BlockEnded, at_s: float) -> BlockFigures:
    return BlockFigures(
        (block.first, block.second),
        at_s,
        block.light_s,
        block.qber,
        block.counts.n_key if block.counts else 0,
        block.secret_bits,
        block.stored,
        block.reason,
    )
