"""What mod and strategy write into Flower's messages.

Everything of ours travels in one ``ConfigRecord`` named ``qunetlab-2``, after the version of this format:
``message``, a struct as MessagePack, ``tag``, which authenticates it end to end (:mod:`fl.carriers.flower.identity`; empty where keys are
simulated), and, from a client, ``told``: the few numbers that it may tell in the clear
(:mod:`fl.carriers.flower.leaving`).  What a client gives to a round is described by the messages of :mod:`fl.rounds.messages`; its bytes travel beside
them as an ``ArrayRecord``, which Flower cuts into chunks.  All phases of a round use Flower's message type
``train``: a mod sees only messages for which the app has registered a function, and every app that trains has
one.

An announcement brings the sums that its client has not seen yet.  ``otp`` and ``expanded``: one exchange per round.  ``lightsecagg``: four, in brackets what goes beside::

    RoundAnnouncement (model)  -> Upload (packed update)

    RoundAnnouncement          -> Shares (sealed shares)
    PeerShares (shares, model) -> Upload (packed update)
    Survivors                  -> Confirm (tags)
    Confirmation (tags)        -> Answer (packed sum of shares)

Between rounds an app may be asked, by Flower's message type ``evaluate``, to evaluate a model::

    Evaluation (model)         -> Evaluated (metrics)

:class:`Hello` comes once per node, before its first round; :class:`fl.rounds.messages.Decline` may take the place of
any answer.
"""

from __future__ import annotations

import hashlib
import re
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, overload

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from msgspec import Meta

from fl.rounds.config import MAX_CLIENTS, FLConfig, Name, RunId
from fl.rounds.messages import (
    Answer,
    ArrayHeader,
    Confirm,
    Confirmed,
    Decline,
    Digest,
    Names,
    PeerShares,
    RoundNumber,
    Shares,
    Survivors,
    Upload,
    read_uint8,
)
from orchestrator.wire.codec import Message, WireError, decode, encode

FORMAT = 3
CONFIG = f"qunetlab-{FORMAT}"
PAYLOAD = "qunetlab-payload"
RAW = "qunetlab.bytes"
NONCE_BYTES = 32

KeySupply: TypeAlias = Literal["node", "simulated"]
Tag: TypeAlias = Annotated[bytes, Meta(min_length=32, max_length=32)]
Nonce: TypeAlias = Annotated[bytes, Meta(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]
Bytes: TypeAlias = npt.NDArray[np.uint8]
"""uint8, packed values or one sealed message a row: shape (n,) or (rows, bytes)."""
T = TypeVar("T")


class Hello(Message, frozen=True):
    """Who are you?  ``nonce`` makes the answer fresh.

    The server does not know whom it asks, so ``proofs`` holds a tag for each user it may be (none where keys
    are simulated): a client introduces itself to the server of its testbed file and to nobody else.
    """

    nonce: Nonce
    proofs: Annotated[tuple[Tag, ...], Meta(max_length=MAX_CLIENTS)] = ()


class Introduction(Message, frozen=True):
    """The user behind a Flower node, and where its keys come from; the tag covers the nonce."""

    user: Name
    public_key: Annotated[str, Meta(max_length=40)]
    key_supply: KeySupply
    nonce: Nonce


class SumOf(Message, frozen=True):
    """A published sum: of which round, and whose updates are in it."""

    round: RoundNumber
    survivors: Names


class CatchUp(Message, frozen=True):
    """What a client needs to work the model out itself (:mod:`fl.rounds.following`), in the bytes beside.

    The model before round 1 (little-endian float32), where ``first``, and then the packed sums, one after another.
    """

    first: bool = False
    sums: Annotated[tuple[SumOf, ...], Meta(max_length=1_000_000)] = ()


class RoundAnnouncement(Message, frozen=True):
    """One round: settings of the run, number, participants in the order of the run, size and digest of the model.

    ``first_model`` is the digest of the model before round 1; ``handed`` and ``settings`` are those of
    :mod:`fl.carriers.flower.handed`.
    """

    config: FLConfig
    round: RoundNumber
    participants: Names
    n_parameters: Annotated[int, Meta(ge=1, le=1 << 28)]
    model: Digest
    first_model: Digest
    handed: Digest
    settings: Digest
    catch_up: CatchUp = CatchUp()


class Confirmation(Message, frozen=True):
    """The confirmations of the other share holders, one in each row of the array beside it."""

    survivors: Survivors
    confirmed: Confirmed


class Evaluation(Message, frozen=True):
    """Asks a client to evaluate the model after round ``last``; sent at most once after each round."""

    last: RoundAnnouncement
    model: Digest


class Evaluated(Message, frozen=True):
    """The app has evaluated the model; its public metrics travel beside this message."""

    run_id: RunId
    round: RoundNumber


FromServer: TypeAlias = Hello | RoundAnnouncement | PeerShares | Survivors | Confirmation | Evaluation
FromClient: TypeAlias = Shares | Upload | Confirm | Answer | Evaluated | Decline


def record_of(message: Message, tag: bytes, told: bytes = b"") -> ConfigRecord:
    """``message``, its tag and what is told beside it as the record that carries them."""
    beside = {"told": told} if told else {}
    return ConfigRecord({"message": encode(message), "tag": tag, **beside})


@overload
def open_record(content: RecordDict, kind: type[T]) -> tuple[T, bytes, bytes]: ...


@overload
def open_record(content: RecordDict, kind: Any) -> tuple[Any, bytes, bytes]: ...


def open_record(content: RecordDict, kind: Any) -> tuple[Any, bytes, bytes]:
    """(message, its bytes, its tag) out of a message's content; raises WireError."""
    record = content.config_records.get(CONFIG)
    if record is None:
        if any(re.fullmatch(r"qunetlab(-\d+)?", name) for name in content.config_records):
            raise WireError(
                f"the qunetlab record is of another format than {FORMAT}: install the same qunetlab on the server "
                "and on all clients"
            )
        raise WireError("the message carries no qunetlab record")
    data, tag = record.get("message"), record.get("tag")
    if not isinstance(data, bytes) or not isinstance(tag, bytes):
        raise WireError("the qunetlab record is incomplete")
    return decode(data, kind), data, tag


def payload_record(payload: Bytes) -> ArrayRecord:
    """Bytes as the record that carries them; their shape stands in the message."""
    data = np.ascontiguousarray(payload).tobytes()
    return ArrayRecord({"bytes": Array("uint8", (len(data),), RAW, data)})


def payload_bytes(content: RecordDict) -> bytes:
    """What travels beside a message, or nothing; raises WireError."""
    record = content.array_records.get(PAYLOAD)
    if record is None:
        return b""
    if list(record) != ["bytes"] or record["bytes"].stype != RAW:
        raise WireError("the bytes beside the message are not in the format of this version")
    return bytes(record["bytes"].data)


def told_bytes(content: RecordDict) -> bytes:
    """What a client tells in the clear beside its message, or nothing; raises WireError."""
    told = content.config_records[CONFIG].get("told", b"")
    if not isinstance(told, bytes):
        raise WireError("the metrics beside the message are not in the format of this version")
    return told


def beside_digest(payload: bytes, told: bytes = b"") -> bytes:
    """What the tag of a message covers of all that is beside it; nothing where there is nothing."""
    if not payload and not told:
        return b""
    return hashlib.sha256(hashlib.sha256(payload).digest() + told).digest()


def payload_array(header: ArrayHeader, payload: bytes) -> Bytes:
    """The array beside a message; raises WireError if its size is another."""
    return read_uint8(header, payload)
