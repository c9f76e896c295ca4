"""How two ends put a block that both hold into their lanes: pure steps (:mod:`orchestrator.keystore.steps`).

::

    first                                    second
      Propose(id, size, tails, fingerprint) ->   compares the fingerprint with its own key
      <- Verdict(id, same, starts)               [different: destroys its key]
    confirms [or destroys its key]
      Stored(id) ->                              confirms

Each end holds the block as pending before it speaks.  The fingerprint is a one-time tag of the key itself, so it
says nothing about it.  A message that is lost or wrong burns nothing: the block stays pending (or, where only the
last message was lost, is confirmed at one end and pending at the other), a retry repeats the same bytes, and the
next meeting settles what is left (:mod:`orchestrator.keystore.meeting`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from msgspec import Meta

from orchestrator.keystore.errors import AgreementError, KeyMismatchError, KeyStoreError
from orchestrator.keystore.lanes import Lane
from orchestrator.keystore.steps import (
    Begin,
    Broken,
    Effect,
    Effects,
    Event,
    Expect,
    Fail,
    Finish,
    Heard,
    SayTagged,
    Told,
)
from orchestrator.wire.codec import Message

Position = Annotated[int, Meta(ge=0, lt=1 << 62)]
Tag = Annotated[bytes, Meta(min_length=16, max_length=16)]
BlockId = Annotated[str, Meta(min_length=1, max_length=128)]
Context = Annotated[bytes, Meta(max_length=64)]
Positions = Annotated[dict[str, Position], Meta(max_length=len(Lane))]

FARTHEST = 1 << 42
"""How far beyond the own end of a lane a peer may place a block: room for seeds, far from the end of the numbers."""


class Propose(Message, frozen=True):
    """First to second: I hold this block; here is its fingerprint under the second key of this message."""

    block_id: BlockId
    n_bits: Position
    context: Context
    split: tuple[int, int, int]
    tails: Positions
    fingerprint: Tag


class Verdict(Message, frozen=True):
    """Second to first: whether I hold the same block, and where its parts go."""

    block_id: BlockId
    same: bool
    starts: Positions


class Stored(Message, frozen=True):
    """First to second: confirmed here, at these places."""

    block_id: BlockId
    starts: Positions


@dataclass(frozen=True)
class Block:
    """A block as one end holds it; ``tails`` are where its lanes end, ``placed`` is where it lies if it does."""

    block_id: str
    n_bits: int
    context: bytes
    split: tuple[int, int, int]
    tails: Mapping[Lane, int]
    placed: Mapping[Lane, int] | None = None

    def place(self, name: str) -> str:
        return f"{name}/{self.block_id}"


@dataclass(frozen=True)
class SayProposal(Effect):
    """Send Propose with the fingerprint of the block under a one-time key, or repeat it byte for byte."""

    block: Block


@dataclass(frozen=True)
class Confirm(Effect):
    """Put the block into the lanes at these starts; harmless if it lies there."""

    block_id: str
    starts: Mapping[Lane, int]


@dataclass(frozen=True)
class Destroy(Effect):
    """Burn the block."""

    block_id: str


@dataclass(frozen=True)
class Depositing:
    """One end of a deposit with ``peer``."""

    peer: str
    block: Block
    phase: Literal["begin", "proposed", "placing", "destroying", "storing", "over"] = "begin"
    starts: Mapping[Lane, int] | None = None


def first_step(state: Depositing, event: Event) -> tuple[Depositing, Effects]:
    """The end that proposes."""
    block, peer = state.block, state.peer
    match state.phase, event:
        case "begin", Begin():
            return replace(state, phase="proposed"), (SayProposal(block), Expect(tagged=(Verdict,)))
        case "proposed", Heard(message=Verdict() as verdict) if verdict.block_id != block.block_id:
            return _over(state, AgreementError(f"{peer} answers about another block than {block.block_id}"))
        case "proposed", Heard(message=Verdict() as verdict) if not verdict.same:
            return replace(state, phase="destroying"), (Destroy(block.block_id),)
        case "proposed", Heard(message=Verdict() as verdict):
            starts = named_lanes(verdict.starts)
            if starts is None or not _possible(starts, block):
                return _over(
                    state, AgreementError(f"{peer} wants block {block.block_id} where it cannot lie")
                )
            placed = replace(state, phase="placing", starts=starts)
            return placed, (Confirm(block.block_id, starts),)
        case "placing", Told():
            said = SayTagged(block.place("stored"), Stored(block.block_id, _named(state.starts)))
            return replace(state, phase="over"), (said, Finish(state.starts))
        case "destroying", Told():
            return _over(state, mismatch(peer, block.block_id))
    return _unexpected(state, event)


def second_step(state: Depositing, event: Event) -> tuple[Depositing, Effects]:
    """The end that compares."""
    block, peer = state.block, state.peer
    match state.phase, event:
        case "begin", Begin():
            return replace(state, phase="proposed"), (Expect(tagged=(Propose,)),)
        case "proposed", Heard(message=Propose() as propose) if propose.block_id != block.block_id:
            return _over(state, AgreementError(f"{peer} deposits another block than {block.block_id}"))
        case "proposed", Heard(message=Propose() as propose) if propose.split != block.split:
            text = f"{peer} divides blocks by another rule; create both stores with the same one"
            return _over(state, AgreementError(text))
        case "proposed", Heard(message=Propose() as propose, fits=fits):
            fits_here = block.placed is not None or block.block_id in fits
            if not fits_here or (propose.n_bits, propose.context) != (block.n_bits, block.context):
                return replace(state, phase="destroying"), (Destroy(block.block_id),)
            theirs = named_lanes(propose.tails)
            if theirs is None or any(
                theirs.get(lane, 0) > tail + FARTHEST for lane, tail in block.tails.items()
            ):
                return _over(state, AgreementError(f"{peer} names an impossible end of a lane"))
            starts = {lane: max(tail, theirs.get(lane, 0)) for lane, tail in block.tails.items()}
            starts = dict(block.placed) if block.placed is not None else starts
            verdict = Verdict(block.block_id, True, _named(starts))
            said = SayTagged(block.place("verdict"), verdict)
            return replace(state, phase="storing", starts=starts), (said, Expect(tagged=(Stored,)))
        case "destroying", Told():
            said = SayTagged(block.place("verdict"), Verdict(block.block_id, False, {}))
            return _over(state, mismatch(peer, block.block_id), said)
        case "storing", Heard(message=Stored() as stored) if stored != Stored(
            block.block_id, _named(state.starts)
        ):
            return _over(state, AgreementError(f"{peer} confirms something else than {block.block_id}"))
        case "storing", Heard(message=Stored()) if state.starts is not None:
            return replace(state, phase="placing"), (Confirm(block.block_id, state.starts),)
        case "placing", Told():
            return replace(state, phase="over"), (Finish(state.starts),)
    return _unexpected(state, event)


def mismatch(peer: str, block_id: str) -> KeyMismatchError:
    """Both ends destroyed what they held under this name (R13)."""
    return KeyMismatchError(f"{peer} holds another key as block {block_id}; both were destroyed")


def named_lanes(positions: Mapping[str, int]) -> dict[Lane, int] | None:
    """Positions by lane; None if a name is no lane."""
    try:
        return {Lane(name): position for name, position in positions.items()}
    except ValueError:
        return None


def _named(starts: Mapping[Lane, int] | None) -> dict[str, int]:
    return {str(lane): start for lane, start in (starts or {}).items()}


def _possible(starts: Mapping[Lane, int], block: Block) -> bool:
    if block.placed is not None:
        return all(starts.get(lane) == start for lane, start in block.placed.items())
    return all(tail <= starts.get(lane, -1) <= tail + FARTHEST for lane, tail in block.tails.items())


def _over(state: Depositing, error: KeyStoreError, *said: Effect) -> tuple[Depositing, Effects]:
    return replace(state, phase="over"), (*said, Fail(error))


def _unexpected(state: Depositing, event: Event) -> tuple[Depositing, Effects]:
    if isinstance(event, Broken):
        return replace(state, phase="over"), (Fail(event.error),)
    return _over(state, AgreementError(f"{state.peer} does not keep to the order of a deposit"))
