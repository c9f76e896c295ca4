"""Answers of ETSI GS QKD 014 v1.1.1, section 6, as JSON; those with keys are written into a buffer that can be wiped.

Python wipes what it can: a key goes from its array into one ``bytearray`` without a copy between, the buffer is handed
to TLS as it stands and overwritten after it was sent.  Copies inside OpenSSL, and key in freed memory of the kernel, are
out of reach; core files are off in processes that hold key.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from orchestrator.delivery.http.formats import Error, Key, KeyContainer, relayed, standard_name
from orchestrator.delivery.key_desk import DeliveredKey, DeliveryStatus

_ENCODER = msgspec.json.Encoder()
_CONTAINER_BYTES = 32
_KEY_BYTES = 96
"""What stands around one key: its braces, names, UUID and padding."""


def status_answer(status: DeliveryStatus) -> bytes:
    """Section 6.1."""
    said = {standard_name(name): value for name, value in vars(status).items() if name != "path"}
    if status.path:
        said["status_extension"] = relayed(status.path)
    return _ENCODER.encode(said)


def keys_answer(keys: Sequence[DeliveredKey]) -> bytearray:
    """Section 6.3; the keys are wiped, and whoever sends the answer wipes that.

    Raises ValueError for a key that is not of whole bytes.
    """
    try:
        if any(len(each.key) % 8 for each in keys):
            raise ValueError("a delivered key is not of whole bytes")
        room = sum(_KEY_BYTES + len(each.key) // 6 + 80 * len(each.path) for each in keys)
        answer = bytearray(_CONTAINER_BYTES + room)
        held = [Key(each.key_id, each.key.reveal().data, relayed(each.path)) for each in keys]
        _ENCODER.encode_into(KeyContainer(held), answer)
    finally:
        wipe_keys(keys)
    return answer


def error_answer(message: str, details: Sequence[str] = ()) -> bytes:
    """Section 6.5; each detail is an object of its own, as the standard has them."""
    return _ENCODER.encode(Error(message, tuple({"detail": each} for each in details)))


def wipe_keys(keys: Sequence[DeliveredKey]) -> None:
    """Keys that are sent, or that nobody waits for any more."""
    for each in keys:
        each.key.wipe()


def wipe(buffer: bytearray) -> None:
    """Overwrite what was sent."""
    buffer[:] = bytes(len(buffer))
