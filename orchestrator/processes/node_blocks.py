"""A block at its node between the end of its light and the last word about it: what is told of it, and put on record.

Its record is written when the block is over, so that nothing is known of a key from it that could still be lost: counts and
lengths, never bits.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import get_args

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from orchestrator.events.status import BlockCause, BlockReport, pair_name
from orchestrator.keystore.errors import AgreementError, KeyStoreError
from orchestrator.keystore.lanes import AUTH_LANES
from orchestrator.keystore.store import KeyStore
from orchestrator.light.clicks import BlockClicks
from orchestrator.light.messages import LOST, block_digest, frame_digest
from orchestrator.log_context import about
from orchestrator.postprocessing.block import BlockResult
from orchestrator.postprocessing.conversation import BlockAborted
from orchestrator.processes.following import FollowedBlock
from orchestrator.processes.pair_lines import JobExpiredError
from orchestrator.protocols.base import BlockCounts, BlockPlan
from orchestrator.records.kinds import BlockEnded, Reading, Span, Spent, SymbolCounts
from orchestrator.wire.channel import ChannelError
from orchestrator.wire.fields import REASON_LIMIT


@dataclass
class BlockNotes:
    """What is noted of a block while its two nodes talk, for its record; kept whether it comes to key or not."""

    result: BlockResult | None = None
    auth: dict[str, Span] = field(default_factory=dict)

    def ended(self, lit: BlockEnded, report: BlockReport, store: KeyStore) -> BlockEnded:
        """The record of the block, ``report`` being the last word about it."""
        record = replace(
            lit, stored=report.stored, reason=report.reason, interrupted=report.interrupted, auth=self.auth
        )
        if (result := self.result) is None:
            return record
        return replace(
            record,
            lost_frames=result.frames_lost,
            agreed=result.agreed,
            counts=symbol_counts(result.counts),
            qber=result.qber,
            f_ec=result.f_ec,
            phase_error_upper=result.phase_error_upper,
            disclosed_bits=result.leak_bits,
            spent=_spent(result),
            secret_bits=result.secret_bits if result.key is not None else 0,
            lanes=placed(store, record.peer, record.block_id),
        )


@dataclass(frozen=True)
class Block:
    """A block whose light phase is over; ``report`` says so far what is known of it."""

    report: BlockReport
    peer: str
    plan: BlockPlan
    clicks: BlockClicks
    announcements: list[bytes]
    lit: BlockEnded
    followed: FollowedBlock
    notes: BlockNotes = field(default_factory=BlockNotes)

    @property
    def name(self) -> str:
        """The block's id, the same at both nodes."""
        return self.lit.block_id

    def about(self) -> AbstractContextManager[None]:
        """Lines of the log are about this block."""
        told = self.report
        return about(pair=pair_name(told.pair), session=f"{told.epoch}/{told.lease_number}", block=self.name)

    def on_told(self, clicks: npt.NDArray[np.int64]) -> None:
        """Follow what the rounds say whose symbols are told; int64 of shape (2, n, n)."""
        self.followed.see(self.plan, len(self.announcements), clicks)


def block_lit(
    owner: str,
    report: BlockReport,
    block_id: str,
    plan: BlockPlan,
    testbed: str,
    announcements: list[bytes],
    readings: tuple[Reading, ...],
) -> BlockEnded:
    """A block after its light phase, as far as its record is known by then."""
    return BlockEnded(
        owner=owner,
        epoch=report.epoch,
        lease_number=report.lease_number,
        first=report.first,
        second=report.second,
        block_id=block_id,
        stored=False,
        testbed=testbed,
        plan=plan.digest(),
        frames=len(announcements),
        pulses=report.pulses,
        own_lost=tuple(frame for frame, each in enumerate(announcements) if each == LOST),
        heard=block_digest(map(frame_digest, announcements)),
        light_s=report.light_s,
        wall_s=report.light_wall_s,
        readings=readings,
    )


def _spent(result: BlockResult) -> Spent | None:
    of = result.epsilons
    return None if of is None else Spent(result.leak_bits - of.tags, of.tags, of.sec, of.cor, of.auth)


def symbol_counts(counts: BlockCounts) -> SymbolCounts:
    """The counts of a block that is over."""
    return SymbolCounts(**{name: getattr(counts, name) for name in SymbolCounts.__struct_fields__})


def placed(store: KeyStore, peer: str, block_id: str) -> dict[str, Span]:
    """Where the key of a block lies in the store; nothing before both ends confirmed it."""
    starts = store.deposits.starts(peer, block_id)
    return {
        str(part.lane): Span(starts[part.lane], part.n_bits)
        for part in (store.deposits.parts(peer, block_id) if starts else ())
    }


def auth_heads(store: KeyStore, peer: str) -> dict[str, int]:
    """Up to where each authentication lane is used."""
    states = store.lane_states(peer)
    return {str(lane): states[lane].head for lane in AUTH_LANES}


def auth_passed(store: KeyStore, peer: str, before: dict[str, int]) -> dict[str, Span]:
    """What of the authentication lanes was used since they stood at ``before``."""
    return {lane: Span(before[lane], head - before[lane]) for lane, head in auth_heads(store, peer).items()}


CAUSES: tuple[BlockCause, ...] = get_args(BlockCause)


def cause_of(error: BaseException) -> BlockCause:
    """Of which kind the failure of a block was, by where it came from."""
    if isinstance(error, BlockAborted):
        return next((cause for cause in CAUSES if cause and cause == error.stage), "other")
    if isinstance(error, ChannelError | JobExpiredError | AgreementError):
        return "line"
    return "store" if isinstance(error, KeyStoreError) else "other"


def reported(report: BlockReport, result: BlockResult, announced: int) -> BlockReport:
    """``report`` with what post-processing found, and the announced slots of the frames that are not lost."""
    return replace(
        report,
        stored=result.key is not None,
        reason=result.no_key_reason[:REASON_LIMIT],
        cause="" if result.key is not None else "no-key",
        lost_frames=result.lost_frames,
        announced=announced,
        sifted_bits=result.n_key,
        test_rounds=result.n_test,
        test_errors=result.test_errors,
        secret_bits=result.secret_bits if result.key is not None else 0,
        predicted_bits=result.predicted_bits,
        disclosed_bits=result.leak_bits,
        qber=result.qber,
        f_ec=result.f_ec,
        phase_error_upper=result.phase_error_upper,
    )
