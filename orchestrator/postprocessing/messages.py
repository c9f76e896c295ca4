"""The messages of one block between its two nodes, as they stand on the wire.

``first`` and ``second`` are the users of the pair in testbed order.  Order of a block (see
:mod:`orchestrator.postprocessing.block` for what each step means)::

    first -> second   Opening          second -> first   Opening
    first -> second   Labels           second -> first   Labels
    first -> second   Drawn            second -> first   TestBits
    second -> first   ParityRequest    first -> second   ParityReply      (as often as needed)
    second -> first   Reconciled       first -> second   VerificationTag
    second -> first   Verdict          first -> second   AmplificationSeed
    first -> second   TranscriptTag    second -> first   TranscriptTag
    first -> second   Accepted         second -> first   Accepted

At any point either side may send Aborted or, before reconciliation and both alike, NoKey.  Bit arrays are packed
least significant bit first (:mod:`orchestrator.bits`), other arrays are little endian and say so.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from orchestrator.wire.codec import Message

Count = Annotated[int, msgspec.Meta(ge=0, le=2**48)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
REASON_LIMIT = 200
Reason = Annotated[str, msgspec.Meta(max_length=REASON_LIMIT)]
Tag = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
Tags = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16 * 16)]
Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Array = Annotated[bytes, msgspec.Meta(max_length=2**26)]


class Opening(Message, frozen=True):
    """What this side believes the block to be, and what it recorded of each frame, under the pair's reusable key.

    ``digests``: 32 bytes per frame, see :mod:`orchestrator.postprocessing.lost_frames`.
    """

    epoch: Count
    lease_number: Count
    block: Count
    first: Name
    second: Name
    plan: Digest
    digests: Array
    mac: Digest


class Labels(Message, frozen=True):
    """This side's labels of the single clicks in the frames that are not lost (packed)."""

    labels: Array


class Drawn(Message, frozen=True):
    """The first user's drawn labels of the key rounds, its test bits, and one 16-byte Cascade seed per frame."""

    labels: Array
    test_bits: Array
    seeds: Array


class TestBits(Message, frozen=True):
    """The second user's bits, flips done: those of the test, and of the rounds that make no key and are told all the same."""

    test_bits: Array
    told_bits: Array = b""


class ParityRequest(Message, frozen=True):
    """One round of questions: per frame an action (uint8) and a count (uint32), and all boundaries (uint16)."""

    actions: Array
    counts: Array
    positions: Array


class ParityReply(Message, frozen=True):
    """The parities asked for, in order, packed."""

    parities: Array


class Reconciled(Message, frozen=True):
    """The second user's end of reconciliation: parity bits received and bits corrected."""

    parity_bits: Count
    corrected_bits: Count


class VerificationTag(Message, frozen=True):
    """One-time Poly1305 tags over the first user's block, 16 bytes each, as many as eps_cor asks for.

    ``key_offset`` is the place of their keys in the sender's lane.
    """

    key_offset: Count
    tag: Tags


class Verdict(Message, frozen=True):
    """Outcome of the verification at the second user."""

    equal: bool


class AmplificationSeed(Message, frozen=True):
    """Length of the key and the two w-bit numbers of the hash, one after the other (little endian)."""

    key_bits: Count
    seed: Array


class TranscriptTag(Message, frozen=True):
    """One-time tag over both streams of the block."""

    key_offset: Count
    tag: Tag


class Accepted(Message, frozen=True):
    """The peer's tag was right.  Not authenticated: it decides nothing but when to stop waiting."""


class NoKey(Message, frozen=True):
    """The public counts alone give length 0; nothing more will come."""

    reason: Reason


class Aborted(Message, frozen=True):
    """The sender has destroyed the block.  Not authenticated: it can only end a block, never complete one."""

    reason: Reason


BlockMessage: TypeAlias = (
    Opening
    | Labels
    | Drawn
    | TestBits
    | ParityRequest
    | ParityReply
    | Reconciled
    | VerificationTag
    | Verdict
    | AmplificationSeed
    | TranscriptTag
    | Accepted
    | NoKey
    | Aborted
)
