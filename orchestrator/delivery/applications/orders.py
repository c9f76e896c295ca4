"""What an application ordered, the words with which it is refused, and the names of keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from orchestrator import runtime
from orchestrator.delivery.applications.messages import Why
from orchestrator.delivery.key_desk import DeliveredKey, KeysUnavailableError
from orchestrator.keystore.windows import KEY_ID_BYTES, Use
from orchestrator.randomness import RandomBytes
from orchestrator.secret import SecretBits

Kind: TypeAlias = tuple[str, str, int, tuple[str, ...]]
"""Master, slave, size in bits and path: keys of the same kind may stand for one another."""


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
    path: tuple[str, ...] = ()
    """Nodes between the two ends of a relayed key, in order."""
    last: str = ""
    """The node at the end of the path, at its beginning."""
    proof: bytes = b""
    """What the first node has proved to the last, at a node of the path."""
    onward: bool = False
    """The key goes further than the next node: it is there only once that one says so."""
    key_ids: list[bytes] = field(default_factory=list)
    plain: list[SecretBits] = field(default_factory=list, repr=False)
    """The keys to be carried, at a node of the path; one per key id."""

    @property
    def kind(self) -> Kind:
        return self.master, self.slave, self.n_bits, self.path

    @property
    def relays(self) -> bool:
        """Whether this node only passes the key on; then it is booked so."""
        return bool(self.plain)

    def use(self, day: int) -> Use:
        side = "relay" if self.relays else "master"
        return Use(self.master, side, day, self.number, self.number * self.n_bits)

    def keys(self, bits: Mapping[bytes, SecretBits]) -> list[DeliveredKey]:
        return [DeliveredKey(uuid_text(key_id), bits[key_id], self.path) for key_id in self.key_ids]

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


def not_kept(peer: str, master: str, slave: str, why: Why) -> KeysUnavailableError:
    """The answer where the peer's node does not keep a copy."""
    if why == "master":
        return KeysUnavailableError(
            f"{master} is no application of this node in the testbed file of {peer}'s machine", reason="peer"
        )
    if why == "twice":
        return KeysUnavailableError(
            f"the node of {peer} holds another key of the same id; ask again", reason="peer"
        )
    if why == "relay":
        return KeysUnavailableError(f"the node of {peer} passes no key on that way", reason="peer")
    if why == "full":
        return KeysUnavailableError(
            f"too many keys of {master} wait for {slave} at the node of {peer} already", reason="quota"
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
