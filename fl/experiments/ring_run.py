"""What a ring did during a run, as results and pages tell it: who held the light when, what each block gave, what was planned.

Times are seconds since ``began_at`` by the clock of the orchestrator, which alone knows when a lease began and ended.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

PairNames: TypeAlias = tuple[str, str]


class LightTime(msgspec.Struct, frozen=True):
    """A lease: ``pair`` held the ring for ``ring_s`` seconds from ``began_s`` on, with ``light_s`` of them light for key."""

    pair: PairNames
    purpose: str
    began_s: float
    ring_s: float
    light_s: float
    ok: bool
    reason: str = ""


class BlockFigures(msgspec.Struct, frozen=True):
    """A block whose light ended at ``at_s``: error rate of ``sifted_bits``, None where they were never compared, and its key."""

    pair: PairNames
    at_s: float
    light_s: float
    qber: float | None
    sifted_bits: int
    secret_bits: int
    stored: bool
    reason: str = ""


class PlannedPoint(msgspec.Struct, frozen=True, array_like=True):
    """What the planner promises at a loss: secret bits per second of light, and the error rate."""

    loss_db: float
    rate_bps: float
    qber: float


class PairPlan(msgspec.Struct, frozen=True):
    """The plan of a pair, and ``curve``: the same ring with less and with more loss; empty where it was not worked out."""

    pair: PairNames
    loss_db: float
    rate_bps: float
    qber: float
    qber_limit: float
    curve: tuple[PlannedPoint, ...] = ()


class RingRun(msgspec.Struct, frozen=True):
    """All of it, in the order of time; ``rounds_s`` is when each round of training had its sum."""

    began_at: str
    leases: tuple[LightTime, ...]
    blocks: tuple[BlockFigures, ...]
    plans: tuple[PairPlan, ...]
    rounds_s: tuple[float, ...] = ()
