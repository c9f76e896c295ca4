"""The messages between FL server and FL clients, and how arrays ride along.

A message is one MessagePack frame (:mod:`orchestrator.wire.codec`); messages that carry an array have a
second frame, the raw little-endian C-contiguous buffer, described by an :class:`ArrayHeader` in the first.
Who speaks is known from the CURVE key and is never a field.

A round in order (in brackets: mode ``lightsecagg`` only)::

    server                                   client
      RoundStart (+ model)          ---->
                                    <----     Progress "training", "waiting for keys", ... (heartbeats)
                                   [<----     Shares (+ one sealed share for every other participant)]
     [PeerShares (+ sealed shares)  ---->]
                                    <----     Upload (+ packed masked update)   or  Decline
      Receipt (of each of these)    ---->
     [Survivors                     ---->
                                    <----     Confirm (+ one tag for every other holder of shares)
      Confirmed (+ tags)            ---->
                                    <----     Answer (+ packed sum of shares)]
      RoundSum (+ packed sum)       ---->
      RoundEnd                      ---->

Every client computes the next model from the sum itself (:mod:`fl.rounds.following`).  One that was away says in Ready
how far it is, and is answered by the sums it missed, one for each Ready, until it has them all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from msgspec import Meta, field

from fl.rounds.clipping import LossBands
from fl.rounds.config import Count, FLConfig, Name, RunId, Seconds
from orchestrator.wire.codec import Message, WireError, decode

PROTOCOL_VERSION = 6
MESSAGE_LIMIT = 64 << 20
"""Largest frame, bytes: room for 16 million float32 parameters."""

Text: TypeAlias = Annotated[str, Meta(max_length=1000)]
Digest: TypeAlias = Annotated[bytes, Meta(min_length=32, max_length=32)]
Phase: TypeAlias = Literal[
    "idle", "loading", "training", "waiting for keys", "waiting for peers", "masking", "uploaded", "answered"
]
WAITING: tuple[Phase, ...] = ("waiting for keys", "waiting for peers")
What: TypeAlias = Literal["shares", "upload", "confirmation", "answer"]
RoundNumber: TypeAlias = Annotated[int, Meta(ge=1, le=1 << 40)]
Names: TypeAlias = Annotated[tuple[Name, ...], Meta(min_length=1, max_length=1000)]
Fingerprint: TypeAlias = Annotated[str, Meta(max_length=64, pattern=r"^[0-9a-f]*$")]


class ArrayHeader(Message, frozen=True):
    """What the buffer in the next frame is: a numpy type string (always little endian) and a shape."""

    dtype: Literal["<f4", "|u1"]
    shape: Annotated[tuple[Count, ...], Meta(min_length=1, max_length=2)]


# -- client to server ----------------------------------------------------------------------------------


class Join(Message, frozen=True):
    """First message of a connection; answered by Welcome."""

    version: Count


class Ready(Message, frozen=True):
    """Task and data are loaded; from here on the client can take part in rounds.

    ``followed`` is the last round whose sum is in the client's own model, 0 before the first.
    """

    run_id: RunId
    n_parameters: Count
    task_fingerprint: Fingerprint = ""
    followed: Count = 0


class Progress(Message, frozen=True):
    """What the client is doing, sent at every heartbeat; ``eta_s`` is how long the phase may yet last.

    ``missing_bits``: key that is not there yet, per peer, where the client waits for keys.
    """

    run_id: RunId
    round: Count
    phase: Phase
    detail: Text = ""
    eta_s: Seconds | None = None
    missing_bits: dict[Name, Count] = field(default_factory=dict)


class Shares(Message, frozen=True):
    """The client's mask, cut into shares: one sealed share for every other participant in the next frame.

    The frame has one row per peer, in the order of the participants.
    """

    run_id: RunId
    round: RoundNumber
    context: Digest
    key_bits: Count
    header: ArrayHeader


class Upload(Message, frozen=True):
    """The masked update in the next frame: ``n_values`` numbers of ``ring_width`` bits, packed.

    ``context`` is the digest of what the client agreed with its peers' nodes; ``key_bits`` is what the
    pads cost on the client's side (every pair counts it at both ends).  ``losses`` are bands of what clip and
    rounding took (:mod:`fl.rounds.clipping`); None from a client that was restarted since it trained.
    """

    run_id: RunId
    round: Count
    context: Digest
    weight: Annotated[int, Meta(ge=1, le=1 << 31)]
    n_values: Count
    ring_width: Annotated[int, Meta(ge=1, le=64)]
    key_bits: Count
    header: ArrayHeader
    losses: LossBands | None = None


class Confirm(Message, frozen=True):
    """The client is bound to these survivors: a tag for every other holder of shares in the next frame.

    The frame has one row per holder, in the order of the participants.
    """

    run_id: RunId
    round: RoundNumber
    survivors: Names
    header: ArrayHeader


class Answer(Message, frozen=True):
    """The packed sum of the survivors' shares in the next frame."""

    run_id: RunId
    round: RoundNumber
    survivors: Names
    header: ArrayHeader


class Decline(Message, frozen=True):
    """The client gives nothing (more) to this round; ``key_bits`` of pads were spent all the same.

    They were shared with ``spent_with`` (empty: with all other participants).  Also sent after a round that came
    to no sum, once it is clear what it cost.
    """

    run_id: RunId
    round: Count
    reason: Text
    key_bits: Count = 0
    spent_with: Annotated[tuple[Name, ...], Meta(max_length=1000)] = ()


class Leave(Message, frozen=True):
    """The client is going away in good order."""

    reason: Text = ""


# -- server to client ----------------------------------------------------------------------------------


class Welcome(Message, frozen=True):
    """The settings of the run."""

    version: Count
    config: FLConfig


class RoundStart(Message, frozen=True):
    """Train from the model in the next frame, with exactly these participants and weights.

    ``rounds_left`` counts this round too; clients order key for no more than that.
    """

    run_id: RunId
    round: RoundNumber
    participants: Names
    weights: Annotated[
        tuple[Annotated[int, Meta(ge=1, le=1 << 31)], ...], Meta(min_length=1, max_length=1000)
    ]
    rounds_left: Annotated[int, Meta(ge=1, le=1_000_000)]
    header: ArrayHeader


class PeerShares(Message, frozen=True):
    """What ``senders`` sealed for this client: one row each in the next frame.

    Participants missing among the senders have dropped out; only the senders go on.
    """

    run_id: RunId
    round: RoundNumber
    senders: Names
    header: ArrayHeader


class Survivors(Message, frozen=True):
    """Whose uploads are to be summed; ``holders`` are the clients that hold shares and are asked for an answer.

    ``participants`` are those of the round, for a client that was restarted.
    """

    run_id: RunId
    round: RoundNumber
    participants: Names
    holders: Names
    survivors: Names


class Confirmed(Message, frozen=True):
    """What ``holders`` said to this client about the survivors: one tag each in the next frame."""

    run_id: RunId
    round: RoundNumber
    holders: Names
    header: ArrayHeader


class Receipt(Message, frozen=True):
    """What became of something that the client sent."""

    run_id: RunId
    round: Count
    status: Literal["accepted", "duplicate", "refused"]
    reason: Text = ""
    what: What = "upload"


class RoundSum(Message, frozen=True):
    """The exact sum of a round's weighted integers in the next frame, packed; ``survivors``: whose updates are in it.

    A client that is ``catching_up`` says Ready again once it has followed.
    """

    run_id: RunId
    round: RoundNumber
    survivors: Names
    header: ArrayHeader
    catching_up: bool = False


class RoundEnd(Message, frozen=True):
    """The round is over: summed up (``reason`` empty), or aborted and its updates discarded.

    ``survivors`` are those whose updates are in the sum.
    """

    run_id: RunId
    round: Count
    reason: Text = ""
    accuracy: float | None = None
    survivors: Annotated[tuple[Name, ...], Meta(max_length=1000)] = ()


class RunEnd(Message, frozen=True):
    """The run is over; ``reason`` is empty if it reached its last round."""

    run_id: RunId
    reason: Text = ""


class JoinAgain(Message, frozen=True):
    """The server does not know this connection (it restarted, say): send Join."""


class Rejected(Message, frozen=True):
    """The client cannot take part in the run at all."""

    reason: Text


FromClient: TypeAlias = Join | Ready | Progress | Shares | Upload | Confirm | Answer | Decline | Leave
FromServer: TypeAlias = (
    Welcome
    | RoundStart
    | PeerShares
    | Survivors
    | Confirmed
    | Receipt
    | RoundSum
    | RoundEnd
    | RunEnd
    | JoinAgain
    | Rejected
)
Contribution: TypeAlias = Shares | Upload | Confirm | Answer
"""What a client gives to a round."""
CARRIERS = (Shares, Upload, Confirm, Answer, RoundStart, PeerShares, Confirmed, RoundSum)
"""Messages with an array frame."""


def header_of(array: npt.NDArray[np.float32] | npt.NDArray[np.uint8]) -> ArrayHeader:
    """The header that describes ``array`` of any shape, which must be float32 or uint8."""
    kind: Literal["<f4", "|u1"] = "<f4" if array.dtype == np.float32 else "|u1"
    if array.dtype != np.dtype(kind):
        raise TypeError(f"arrays of type {array.dtype} do not travel; use float32 or uint8")
    return ArrayHeader(kind, tuple(int(size) for size in array.shape))


def frame_of(array: npt.NDArray[np.float32] | npt.NDArray[np.uint8]) -> bytes:
    """The buffer of ``array`` (float32 or uint8, any shape) as the second frame of a message."""
    return np.ascontiguousarray(array, dtype=header_of(array).dtype).tobytes()


def read_float32(header: ArrayHeader, frame: bytes) -> npt.NDArray[np.float32]:
    """A float32 array of the shape in its header, any shape, from its frame; raises WireError if header and frame disagree."""
    return _read(header, frame, "<f4").astype(np.float32)


def read_uint8(header: ArrayHeader, frame: bytes) -> npt.NDArray[np.uint8]:
    """A uint8 array of the shape in its header, any shape, from its frame; raises WireError if header and frame disagree."""
    return _read(header, frame, "|u1").view(np.uint8)


def _read(header: ArrayHeader, frame: bytes, dtype: str) -> npt.NDArray[np.generic]:
    if header.dtype != dtype:
        raise WireError(f"an array of type {dtype} was expected, not {header.dtype}")
    expected = math.prod(header.shape) * np.dtype(dtype).itemsize
    if len(frame) != expected:
        raise WireError(
            f"an array of shape {header.shape} needs {expected} bytes, the frame has {len(frame)}"
        )
    return np.frombuffer(frame, dtype).reshape(header.shape)


def split_message(frames: Sequence[bytes], type_: object) -> tuple[Message, bytes | None]:
    """The message and array frame in ``frames``; raises WireError for any other number of frames.

    Messages with a header have exactly one array frame, all others none.
    """
    if not 1 <= len(frames) <= 2:
        raise WireError(f"a message has one or two frames, not {len(frames)}")
    message: Message = decode(frames[0], type_)
    carries_array = isinstance(message, CARRIERS)
    if carries_array != (len(frames) == 2):
        raise WireError(f"{type(message).__name__} with {len(frames)} frames")
    return message, frames[1] if carries_array else None
