"""What mod and strategy write into Flower's messages.

Everything of ours travels in one ``ConfigRecord`` named ``qunetlab``: ``message``, one of the structs below
as MessagePack, and ``tag``, which authenticates it end to end (:mod:`fl.flower.identity`; empty where keys
are simulated).  Protected updates travel beside it as an ``ArrayRecord`` of bytes, which Flower cuts into
chunks.  All phases use Flower's message type ``train``: a mod sees only messages for which the app has
registered a function, and every app that trains has one for this type.

One exchange per round in modes ``otp`` and ``expanded``; :class:`Hello` comes once per node, before them.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, overload

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from msgspec import Meta

from fl.config import Count, FLConfig, Name, RunId
from orchestrator.wire.codec import Message, WireError, decode, encode

CONFIG = "qunetlab"
PAYLOAD = "qunetlab-payload"
NONCE_BYTES = 32

KeySupply: TypeAlias = Literal["node", "simulated"]
PublicKey: TypeAlias = Annotated[str, Meta(max_length=40)]
Reason: TypeAlias = Annotated[str, Meta(max_length=1000)]
Digest: TypeAlias = Annotated[bytes, Meta(min_length=32, max_length=32)]
T = TypeVar("T")


class Hello(Message, frozen=True):
    """Who are you?  ``nonce`` makes the answer fresh."""

    nonce: Annotated[bytes, Meta(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]


class Introduction(Message, frozen=True):
    """The user behind a Flower node, and where its keys come from; the tag covers the nonce."""

    user: Name
    public_key: PublicKey
    key_supply: KeySupply
    nonce: Annotated[bytes, Meta(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]


class RoundAnnouncement(Message, frozen=True):
    """One round: settings of the run, number, participants in the order of the run."""

    config: FLConfig
    round: Annotated[int, Meta(ge=1, le=1 << 40)]
    participants: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=1000)]


class Upload(Message, frozen=True):
    """What the payload of a reply is; ``context`` is the digest of the round as the client understood it."""

    run_id: RunId
    round: Count
    context: Digest
    weight: Count
    n_values: Count
    value_bits: Annotated[int, Meta(ge=1, le=64)]
    key_bits: Count


class Refusal(Message, frozen=True):
    """The client takes no part in this round; ``key_bits`` of pad are gone all the same."""

    run_id: RunId
    round: Count
    reason: Reason
    key_bits: Count = 0


FromServer: TypeAlias = Hello | RoundAnnouncement
FromClient: TypeAlias = Introduction | Upload | Refusal


def record_of(message: Message, tag: bytes) -> ConfigRecord:
    """``message`` and its tag as the record that carries them."""
    return ConfigRecord({"message": encode(message), "tag": tag})


@overload
def open_record(content: RecordDict, kind: type[T]) -> tuple[T, bytes, bytes]: ...


@overload
def open_record(content: RecordDict, kind: Any) -> tuple[Any, bytes, bytes]: ...


def open_record(content: RecordDict, kind: Any) -> tuple[Any, bytes, bytes]:
    """(message, its bytes, its tag) out of a message's content; raises WireError."""
    record = content.config_records.get(CONFIG)
    if record is None:
        raise WireError("the message carries no qunetlab record")
    data, tag = record.get("message"), record.get("tag")
    if not isinstance(data, bytes) or not isinstance(tag, bytes):
        raise WireError("the qunetlab record is incomplete")
    return decode(data, kind), data, tag


def payload_record(packed: npt.NDArray[np.uint8]) -> ArrayRecord:
    """Packed bytes as the record that carries them."""
    return ArrayRecord({"packed": Array(np.ascontiguousarray(packed))})


def read_payload(content: RecordDict, n_bytes: int) -> npt.NDArray[np.uint8]:
    """The packed bytes of a reply, exactly ``n_bytes``; raises WireError."""
    record = content.array_records.get(PAYLOAD)
    if record is None or list(record) != ["packed"]:
        raise WireError("the reply carries no protected update")
    return _read_array(record["packed"], n_bytes)


def _read_array(array: Array, n_bytes: int) -> npt.NDArray[np.uint8]:
    if array.stype != "numpy.ndarray" or len(array.data) > n_bytes + 1024:
        raise WireError(f"the protected update is not an array of {n_bytes} bytes")
    try:
        packed = array.numpy()
    except (ValueError, EOFError, OSError) as error:
        raise WireError("the protected update is no array") from error
    if packed.dtype != np.uint8 or packed.shape != (n_bytes,):
        raise WireError(
            f"the protected update is {packed.dtype} of shape {packed.shape}, not {n_bytes} bytes"
        )
    return packed


def payload_digest(packed: npt.NDArray[np.uint8]) -> bytes:
    """SHA-256 of a payload, which the tag of its message covers."""
    return hashlib.sha256(packed.tobytes()).digest()
