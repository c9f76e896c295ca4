"""A block rehearsed in one process: synthetic clicks, in-memory lanes, both users in two threads.

Serves the benchmarks and the tests, and shows what a plan gives before any light is spent.  Clicks are drawn from
the plan's own channel (numbers of rounds Poissonian, errors independent), bits from a seeded generator: nothing here
is secret, and none of it may be used as key.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from orchestrator.keystore.errors import LaneShortError, ReplayError
from orchestrator.keystore.lanes import PairEnd
from orchestrator.keystore.pair_macs import MAC_KEY_BITS, PairMacs
from orchestrator.light.clicks import D1_ONLY, BlockClicks
from orchestrator.postprocessing.block import BlockResult, OnTold, run_block
from orchestrator.postprocessing.conversation import BlockAborted
from orchestrator.protocols.base import BlockPlan
from orchestrator.protocols.four_phase.planner import FourPhasePlan
from orchestrator.secret import SecretBits
from orchestrator.wire.channel import Channel
from orchestrator.wire.memory_channel import memory_channel_pair

SLOT_BITS = 22
"""Slots of a synthetic frame, as a power of two."""
LANE_BYTES = 1024


def synthetic_clicks(
    plan: FourPhasePlan, rng: np.random.Generator, *, qber: float | None = None
) -> tuple[BlockClicks, BlockClicks]:
    """The first and the second user's clicks of one block; ``qber`` (the plan's when None) in both bases."""
    error_rate = plan.qber if qber is None else qber
    mixed_gain = plan.channel.gain_and_qber(plan.mu_a, plan.mu_b, np.pi / 2)[0]
    p, n = plan.p_x, plan.n_pulses
    means = n * np.array(
        [p * p * plan.gain, p * (1 - p) * mixed_gain, (1 - p) * p * mixed_gain, (1 - p) ** 2 * plan.gain]
    )
    kinds = np.repeat(np.arange(4, dtype=np.uint8), rng.poisson(means))
    rng.shuffle(kinds)
    slots = np.unique(rng.integers(0, n, kinds.size))
    kinds = kinds[: slots.size]
    a = ((kinds >> 1) << 1) | rng.integers(0, 2, kinds.size, dtype=np.uint8)
    b = ((kinds & 1) << 1) | rng.integers(0, 2, kinds.size, dtype=np.uint8)
    wrong = rng.random(kinds.size) < error_rate
    outcome = np.where(
        (a ^ b) & 2, rng.integers(0, 2, kinds.size), ((a ^ b) & 1) ^ wrong
    ).astype(np.uint8) + np.uint8(D1_ONLY)  # fmt: skip
    frame = (slots >> SLOT_BITS).astype(np.uint32)
    slot = (slots & ((1 << SLOT_BITS) - 1)).astype(np.uint32)
    first = BlockClicks(frame, slot, outcome, a.astype(np.uint8), n)
    return first, BlockClicks(frame.copy(), slot.copy(), outcome.copy(), b.astype(np.uint8), n)


class MemoryAuthKeys:
    """Both authentication lanes of one end, held in memory; the first bits of each serve as its reusable key too."""

    def __init__(self, outgoing: SecretBits, incoming: SecretBits) -> None:
        self._macs = PairMacs(outgoing.take(0, MAC_KEY_BITS), incoming.take(0, MAC_KEY_BITS))
        self._outgoing = outgoing
        self._incoming = incoming
        self.outgoing_head = 0
        self.incoming_head = 0
        self.forgery = 0.0
        """Probability that any of the tags checked so far was forged, at most."""

    def take_outgoing(self, n_bits: int) -> tuple[int, SecretBits]:
        offset = self.outgoing_head
        if offset + n_bits > len(self._outgoing):
            raise LaneShortError("peer", "outgoing", offset + n_bits - len(self._outgoing))
        self.outgoing_head += n_bits
        return offset, self._outgoing.take(offset, n_bits)

    def peek_incoming(self, offset: int, n_bits: int) -> SecretBits:
        if offset < self.incoming_head:
            raise ReplayError(
                f"bits at {offset} of the incoming lane were used, its head is {self.incoming_head}"
            )
        if offset + n_bits > len(self._incoming):
            raise LaneShortError("peer", "incoming", offset + n_bits - len(self._incoming))
        return self._incoming.take(offset, n_bits)

    def take_incoming(self, offset: int, n_bits: int, forgery: float = 0.0) -> SecretBits:
        bits = self.peek_incoming(offset, n_bits)
        self.incoming_head = offset + n_bits
        self.forgery += forgery
        return bits

    def wrong_tag(self, forgery: float) -> None:
        self.forgery += forgery

    def mac(self, data: bytes) -> bytes:
        return self._macs.make(data)

    def mac_fits(self, data: bytes, mac: bytes) -> bool:
        return self._macs.fits(data, mac)


def memory_lanes(rng: np.random.Generator) -> tuple[MemoryAuthKeys, MemoryAuthKeys]:
    """Authentication lanes of the two users, filled with the same seeded bits."""
    forth, back = rng.bytes(LANE_BYTES), rng.bytes(LANE_BYTES)
    return (
        MemoryAuthKeys(SecretBits.from_bytes(forth), SecretBits.from_bytes(back)),
        MemoryAuthKeys(SecretBits.from_bytes(back), SecretBits.from_bytes(forth)),
    )


@dataclass(slots=True)
class Side:
    """One user of a rehearsed block; what is set here replaces the honest default."""

    clicks: BlockClicks
    auth: MemoryAuthKeys
    plan: BlockPlan
    announcements: list[bytes] = field(default_factory=lambda: [b"synthetic announcement"])
    session: tuple[int, int] = (1, 1)
    pair: tuple[str, str] = ("alice", "bob")
    block: int = 0
    on_told: OnTold = lambda clicks: None
    outcome: BlockResult | BlockAborted | None = None

    @property
    def key(self) -> SecretBits | None:
        """The key this side ended with, if any."""
        return self.outcome.key if isinstance(self.outcome, BlockResult) else None

    @property
    def result(self) -> BlockResult:
        """The result of a block that came to its end; raises what ended it otherwise."""
        if isinstance(self.outcome, BlockResult):
            return self.outcome
        raise self.outcome or RuntimeError("the block has not been run")


def honest_sides(plan: FourPhasePlan, seed: int, *, qber: float | None = None) -> dict[PairEnd, Side]:
    """Both users of a block in which everybody plays along."""
    rng = np.random.default_rng(seed)
    clicks = synthetic_clicks(plan, rng, qber=qber)
    lanes = memory_lanes(rng)
    return {"first": Side(clicks[0], lanes[0], plan), "second": Side(clicks[1], lanes[1], plan)}


def rehearse(
    sides: dict[PairEnd, Side],
    *,
    seed: int = 0,
    timeout_s: float = 20.0,
    channels: tuple[Channel, Channel] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Run both sides to their end; each ``outcome`` is set to its BlockResult or the BlockAborted it raised."""
    ends = channels or memory_channel_pair()

    def run(pair_end: PairEnd, channel: Channel) -> None:
        side = sides[pair_end]
        try:
            side.outcome = run_block(
                pair_end=pair_end,
                channel=channel,
                clicks=side.clicks,
                announcement_transcript=side.announcements,
                plan=side.plan,
                session=side.session,
                pair=side.pair,
                auth=side.auth,
                random_bytes=np.random.default_rng([seed, pair_end == "second"]).bytes,
                timeout_s=timeout_s,
                block=side.block,
                clock=clock,
                on_told=side.on_told,
            )
        except BlockAborted as aborted:
            side.outcome = aborted

    threads = [
        threading.Thread(target=run, args=(pair_end, end), name=f"rehearsal {pair_end}")
        for pair_end, end in zip(("first", "second"), ends, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
