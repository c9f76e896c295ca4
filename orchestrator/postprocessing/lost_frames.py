"""Which frames of a block are lost: settled between the two users before either reveals a basis.

Each user tells the other one digest per frame of the announcement that it recorded, and zeros for a frame that it
lost (:class:`~orchestrator.postprocessing.messages.Opening`).  A frame that either lost, or that the relay announced
differently to the two, is lost for both: its symbols are erased and it makes no key.

What the untrusted relay gains by choosing which frames are lost depends on when it chooses.  *Before* any basis is
known, to lose a frame is to announce no click in it, which it may do anyway; the frame's slots stay in the number
of pulses, and so in the emitted rounds whose minus coins may all hide among the clicks that are left.  *After* bases are
known, it could keep the frames in which the test rounds happen to be right, and the proof says nothing of those.  Hence
no label is sent before the peer's opening was found genuine: that peer is through with its light, and what it recorded is
fixed.  Afterwards nothing loses a frame, and whatever differs from what was settled ends the block.

An opening that is to be believed at once carries a MAC under the pair's reusable key, which spends no lane bits
however many blocks come to nothing.  The MAC is computational, and the key does not rest on it, nor on the digests:
openings, and the announcements of the frames that are left, are under the one-time tags over the transcript.  Whoever
forges a MAC must therefore have told the user, before it saw a label, exactly what the peer is going to record.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

from orchestrator.keystore.lanes import PairEnd
from orchestrator.light.messages import frame_digest
from orchestrator.postprocessing import messages as m
from orchestrator.postprocessing.authentication import AuthKeys, BlockId
from orchestrator.postprocessing.conversation import Conversation

DIGEST_BYTES = 32
_NO_RECORD = bytes(DIGEST_BYTES)
_DOMAIN = b"qunetlab block opening 1"


def frame_digests(announcements: Sequence[bytes]) -> bytes:
    """The :func:`frame_digest` of each frame's announcement as received."""
    return b"".join(map(frame_digest, announcements))


def frames_lost(ours: bytes, theirs: bytes) -> frozenset[int]:
    """The frames that are not the same record at both, by lists of digests of one length."""
    pairs = zip(_split(ours), _split(theirs), strict=True)
    return frozenset(frame for frame, (a, b) in enumerate(pairs) if a != b or a == _NO_RECORD)


def _split(digests: bytes) -> list[bytes]:
    return [digests[start : start + DIGEST_BYTES] for start in range(0, len(digests), DIGEST_BYTES)]


@dataclass(frozen=True, slots=True)
class OpeningText:
    """What the MAC of an opening covers: the block that it is bound to, the plan, and the digests."""

    block: BlockId
    plan: bytes
    digests: bytes

    def said_by(self, sender: PairEnd) -> bytes:
        """Its bytes, bound to who says it."""
        lengths = struct.pack("<QQ", len(self.plan), len(self.digests))
        return self.block.header(_DOMAIN, sender) + lengths + self.plan + self.digests


def settle(talk: Conversation, auth: AuthKeys, ours: OpeningText) -> frozenset[int]:
    """Exchange openings; returns the frames that are lost.

    Raises BlockAborted unless the peer's opening is of the same block and plan, and genuine.
    """
    opening = m.Opening(
        epoch=ours.block.epoch,
        lease_number=ours.block.lease_number,
        block=ours.block.block,
        first=ours.block.first,
        second=ours.block.second,
        plan=ours.plan,
        digests=ours.digests,
        mac=auth.mac(ours.said_by(talk.pair_end)),
    )
    talk.send(opening)
    theirs = talk.receive(m.Opening)
    for name in ("epoch", "lease_number", "block", "first", "second", "plan"):
        if getattr(theirs, name) != getattr(opening, name):
            talk.abort(f"the two users' openings differ in '{name}'")
    if len(theirs.digests) != len(ours.digests):
        talk.abort("the two users' openings differ in the number of frames")
    if not auth.mac_fits(replace(ours, digests=theirs.digests).said_by(talk.peer), theirs.mac):
        talk.abort("the peer's opening is not genuine: it was changed or made up on its way")
    return frames_lost(ours.digests, theirs.digests)
