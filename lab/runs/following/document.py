"""What an observer knows of a testbed, as one typed document: the page of ``qunetlab status`` and its ``--json``.

Items stand in it as the structs that their roles said (:mod:`orchestrator.events.status`), each with its age; a row
of a pair puts together what several roles said of it.  The schema is ``docs/status.schema.json``.
"""

from __future__ import annotations

from typing import Literal, Self, TypeVar

import msgspec

from lab.runs.attacks.seen import AttackSeen
from lab.runs.following.observer import Heard, Observer
from lab.runs.following.verdict import Verdict, verdict
from orchestrator.events.status import (
    BlockReport,
    Epsilons,
    LeaseStatus,
    PairStatus,
    StatusItem,
)

T = TypeVar("T")
SCHEMA: Literal[2] = 2
"""Version of the document; grows when a field changes its meaning or goes."""


class Said(msgspec.Struct, frozen=True):
    """The verdict, see :mod:`lab.runs.following.verdict`; ``line`` is all of it for people."""

    state: str
    age_s: float
    text: str
    exit_code: int
    line: str

    @classmethod
    def of(cls, said: Verdict) -> Said:
        """As plain values."""
        return cls(said.state, round(said.age_s, 3), said.text, said.exit_code, said.line)


class ItemRow(msgspec.Struct, frozen=True):
    """An item, who said it, of which kind it is and how old it is."""

    role: str
    kind: str
    age_s: float
    data: StatusItem

    @classmethod
    def of(cls, heard: Heard, now_s: float) -> Self:
        """At ``now_s`` on the observer's clock."""
        age_s = round(max(0.0, now_s - heard.since_s), 3)
        return cls(heard.role, type(heard.item).__name__, age_s, heard.item)


class ItemLine(ItemRow, frozen=True, kw_only=True):
    """A line of ``--watch --json``: an item that changed."""

    schema: Literal[2] = SCHEMA


class VerdictLine(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict alone: of ``--check --json``, and of ``--watch --json`` when it changed."""

    schema: Literal[2] = SCHEMA
    verdict: Said


class PairRow(msgspec.Struct, frozen=True):
    """A pair: what the scheduler knows, and the latest block, lease and epsilons, with their ages."""

    pair: PairStatus
    block: BlockReport | None = None
    block_age_s: float | None = None
    lease: LeaseStatus | None = None
    lease_age_s: float | None = None
    epsilons: Epsilons | None = None


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was told; ages and times are seconds.  ``lost`` items were sent and never came.

    ``attack`` is on, of a ring that this machine simulates.
    """

    schema: Literal[2] = SCHEMA
    verdict: Said
    testbed: str
    epoch: int | None
    heard_s: float
    lost: int
    pairs: tuple[PairRow, ...]
    items: tuple[ItemRow, ...]
    attack: AttackSeen | None = None

    def said(self, kind: type[T]) -> list[tuple[str, T, float]]:
        """Role, item and age of every item of a kind."""
        return [(row.role, row.data, row.age_s) for row in self.items if isinstance(row.data, kind)]


def document_of(observer: Observer, attack: AttackSeen | None = None) -> Document:
    """What ``observer`` has heard until now, and the ``attack`` that is on."""
    facts, now_s = observer.facts(), observer.clock()
    return Document(
        verdict=Said.of(verdict(facts)),
        testbed=observer.testbed.name,
        epoch=observer.agent.epoch,
        heard_s=round(facts.heard_s, 3),
        lost=observer.lost,
        pairs=pair_rows(observer),
        items=tuple(ItemRow.of(each, now_s) for each in observer.heard.values()),
        attack=attack,
    )


def pair_rows(observer: Observer) -> tuple[PairRow, ...]:
    """Every pair that the orchestrator told of, with what its first node and the ring said of it."""
    blocks = {
        block.pair: (block, age_s)
        for role, block, age_s in observer.said_by(BlockReport)
        if role == block.first
    }
    leases = {lease.pair: (lease, age_s) for _, lease, age_s in observer.said_by(LeaseStatus)}
    epsilons = {(role, sums.peer): sums for role, sums, _ in observer.said_by(Epsilons)}
    rows = []
    for _, pair, _ in observer.said_by(PairStatus):
        block, block_age_s = blocks.get(pair.pair, (None, None))
        lease, lease_age_s = leases.get(pair.pair, (None, None))
        rows.append(PairRow(pair, block, block_age_s, lease, lease_age_s, epsilons.get(pair.pair)))
    return tuple(rows)
