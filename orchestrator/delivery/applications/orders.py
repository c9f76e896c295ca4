"""What an application ordered, the words with which it is refused, and the names of keys."""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator import runtime
from orchestrator.delivery.key_desk import DeliveredKey, KeysUnavailableError
from orchestrator.keystore.windows import KEY_ID_BYTES
from orchestrator.randomness import RandomBytes


@dataclass
class Order:
    """Keys that one application asked for; ``future`` gets them, or a KeyDeskError."""

    master: str
    slave: str
    number: int
    n_bits: int
    future: runtime.Future[list[DeliveredKey]]
    came_s: float
    expires_s: float
    key_ids: list[bytes] = field(default_factory=list)

    @property
    def kind(self) -> tuple[str, str, int]:
        return self.master, self.slave, self.n_bits

    def claim(self) -> bool:
        """Whether somebody still waits; from then on the order can no longer be cancelled."""
        return not self.future.done() and self.future.set_running_or_notify_cancel()

    def fail(self, error: Exception) -> None:
        if self.claim():
            self.future.set_exception(error)


def too_little_key(peer: str, missing_bits: int) -> KeysUnavailableError:
    """The answer to an application for which there is no key yet."""
    return KeysUnavailableError(
        "not enough key",
        [f"{missing_bits} bits are missing with the node of {peer}; ask again later"],
        reason="short",
    )


def not_kept(peer: str, slave: str, why: str) -> KeysUnavailableError:
    """The answer where the peer's node does not keep a copy."""
    if why == "full":
        return KeysUnavailableError(
            f"too many keys wait for {slave} at the node of {peer} already", reason="quota"
        )
    return KeysUnavailableError(f"the node of {peer} does not serve {slave}", reason="peer")


def uuid_bytes(randomness: RandomBytes) -> bytes:
    """A random UUID, version 4 (RFC 9562, section 5.4)."""
    raw = bytearray(randomness(KEY_ID_BYTES))
    raw[6] = (raw[6] & 0x0F) | 0x40
    raw[8] = (raw[8] & 0x3F) | 0x80
    return bytes(raw)


def uuid_text(key_id: bytes) -> str:
    """With hyphens, lower case."""
    text = key_id.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
