"""What a client holds of a ``lightsecagg`` round between Flower's messages.

Flower starts a process for every message, so mask, shares and channel of a round wait for the next one in
``Context.state``, which stays on the node.  They are key, so they lie there encrypted: AES-256-GCM (NIST SP
800-38D) under a key that only the holder of the user's CURVE secret key can derive, bound to run, round and
step.  That is as computational as the seal of the node's own key store; nothing of it leaves the node.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from flwr.app import ConfigRecord, Context

from fl.carriers.flower.records import RoundAnnouncement
from fl.modes.field import Symbols
from orchestrator.delivery.sharing import ParkedChannel
from orchestrator.randomness import random_bytes
from orchestrator.wire.codec import Message, decode, encode

STATE = "qunetlab-shares"
PURPOSE = b"qunetlab-flower-held-v1"
NONCE_BYTES = 12
Step: TypeAlias = Literal["shared", "uploaded", "confirmed"]


class HeldError(Exception):
    """The kept state of a round is missing, or belongs to another message."""


class Held(Message, frozen=True):
    """One round of one client after a step; ``mask`` is empty once it has protected an update."""

    announcement: RoundAnnouncement
    step: Step
    channel: ParkedChannel
    mask: bytes
    shares: dict[str, bytes]

    def __repr__(self) -> str:
        return f"<Held of round {self.announcement.round}>"


def seal_key(secret: bytes) -> bytes:
    """The key that encrypts what is held, from a secret of the user."""
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=PURPOSE).derive(secret)


def keep(context: Context, key: bytes, held: Held) -> None:
    """Keep ``held``, which replaces what was kept before."""
    nonce = random_bytes(NONCE_BYTES)
    sealed = AESGCM(key).encrypt(nonce, encode(held), _bound(context))
    context.state[STATE] = ConfigRecord({"sealed": nonce + sealed})


def take(context: Context, key: bytes, run_id: str, round_number: int, step: Step) -> Held:
    """Take out what was kept after ``step`` of a round, which works once; raises HeldError."""
    record = context.state.config_records.get(STATE)
    sealed = None if record is None else record.get("sealed")
    if not isinstance(sealed, bytes):
        raise HeldError(f"nothing is held of round {round_number}: the node was restarted, or declined it")
    try:
        data = AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], _bound(context))
    except InvalidTag:
        raise HeldError("what is held of the round was changed, or belongs to another user") from None
    held = decode(data, Held)
    at = held.announcement
    if (at.config.run_id, at.round, held.step) != (run_id, round_number, step):
        raise HeldError(f"round {round_number} is not at this step: round {at.round} {held.step} is held")
    drop(context)
    return held


def drop(context: Context) -> None:
    """Forget what was kept."""
    if STATE in context.state:
        del context.state[STATE]


def symbols_to_bytes(symbols: Symbols) -> bytes:
    """Field symbols (uint32) as bytes."""
    return np.ascontiguousarray(symbols, "<u4").tobytes()


def symbols_from_bytes(data: bytes) -> Symbols:
    """Field symbols from bytes."""
    return np.frombuffer(bytearray(data), "<u4").astype(np.uint32)


def _bound(context: Context) -> bytes:
    return PURPOSE + f"|{context.run_id}|{context.node_id}".encode()
