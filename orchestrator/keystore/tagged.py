"""Messages between two nodes under one-time tags.

Every message is tagged with Poly1305, used as an almost-XOR-universal hash, under 256 fresh bits of the
sender's authentication lane (Wegman-Carter; QKD.md section 6: forgery <= 8 ceil(L/16)/2^106).  The offset of
those bits travels with the message and is bound by the tag, as are sender, receiver and generation.  A replay names
an offset below the head and is refused; a message is checked *before* its offset is believed, so that
nobody can burn the lane by naming a far one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.poly1305 import Poly1305
from msgspec import Meta

from orchestrator.keystore.errors import RefusedError, TamperedError
from orchestrator.keystore.store import KeyStore
from orchestrator.protocols.epsilons import forgery_bound
from orchestrator.secret import SecretBits
from orchestrator.wire.channel import Channel
from orchestrator.wire.codec import Message, WireError, decode, encode

TAG_KEY_BITS = 256
TAG_BYTES = 16

Position = Annotated[int, Meta(ge=0, lt=1 << 62)]
Tag = Annotated[bytes, Meta(min_length=TAG_BYTES, max_length=TAG_BYTES)]


class Tagged(Message, frozen=True):
    """An encoded message with its one-time tag.

    ``n_keys`` keys of 256 bits lie at ``offset`` of the sender's lane: the first makes the tag, the others
    serve fingerprints inside the message, so that both ends spend them together.
    """

    body: bytes
    offset: Position
    n_keys: Annotated[int, Meta(ge=1, le=4096)]
    tag: Tag


def one_time_tag(key: SecretBits, data: bytes) -> bytes:
    """The Poly1305 tag of ``data``; ``key`` (256 bits) must never tag anything else."""
    return Poly1305.generate_tag(key.reveal_bytes(), data)


def one_time_tag_fits(key: SecretBits, data: bytes, tag: bytes) -> bool:
    """Whether ``tag`` belongs to ``data`` (constant time)."""
    try:
        Poly1305.verify_tag(key.reveal_bytes(), data, tag)
    except InvalidSignature:
        return False
    return True


def _bound(generation: int, sender: str, receiver: str, offset: int, n_keys: int, body: bytes) -> bytes:
    names = b"".join(len(part).to_bytes(2, "big") + part for part in (sender.encode(), receiver.encode()))
    numbers = generation.to_bytes(8, "big") + offset.to_bytes(8, "big") + n_keys.to_bytes(2, "big")
    return b"qunetlab-agreement-v2" + names + numbers + body


class TaggedChannel:
    """Sends and receives tagged messages to and from one peer over any channel."""

    def __init__(self, store: KeyStore, channel: Channel, peer: str) -> None:
        self._channel = channel
        self._auth = store.auth(peer)
        self._store = store
        self._own = store.owner
        self._peer = peer

    def send(self, message: Message) -> None:
        """Tag and send; raises AuthLaneExhaustedError or what the channel raises."""
        self.send_with_keys(0, lambda _: message)

    def send_with_keys(self, n_keys: int, build: Callable[[list[SecretBits]], Message]) -> None:
        """Tag and send the message that ``build`` makes with ``n_keys`` further one-time keys."""
        offset, secret = self._auth.take_outgoing((1 + n_keys) * TAG_KEY_BITS)
        own, *others = _keys(secret, 1 + n_keys)
        body = encode(build(others))
        tag = one_time_tag(
            own, _bound(self._store.generation(self._peer), self._own, self._peer, offset, 1 + n_keys, body)
        )
        _wipe([secret, own, *others])
        self._channel.send(encode(Tagged(body, offset, 1 + n_keys, tag)))

    def send_plain(self, message: Message) -> None:
        """Send without a tag: for requests and refusals, which can only lead to an abort."""
        self._channel.send(encode(message))

    def receive(self, type_: Any, timeout_s: float, *, plain: Any = None) -> Any:
        """The next message, of ``type_`` if tagged, or of the type ``plain`` if untagged.

        Raises TamperedError where the tag does not fit, the offset was used before or the content is not
        of the type.
        """
        data = self._channel.recv(timeout_s)
        outer = self._decode(data, Tagged if plain is None else Tagged | plain)
        if not isinstance(outer, Tagged):
            return outer
        _wipe(self._open(outer))
        return self._decode(outer.body, type_)

    def receive_with_keys(self, type_: Any, timeout_s: float) -> tuple[Any, list[SecretBits]]:
        """The next message and the further one-time keys that its sender spent with it."""
        outer = self._decode(self._channel.recv(timeout_s), Tagged)
        keys = self._open(outer)
        return self._decode(outer.body, type_), keys

    def receive_plain(self, type_: Any, timeout_s: float) -> Any:
        """The next message, which carries no tag."""
        return self._decode(self._channel.recv(timeout_s), type_)

    def _decode(self, data: bytes, type_: Any) -> Any:
        try:
            return decode(data, type_)
        except WireError as error:
            raise TamperedError(f"{self._peer} sent no message of the protocol: {error}") from error

    def _open(self, message: Tagged) -> list[SecretBits]:
        """Check the tag, then spend its key; returns the further keys."""
        n_bits = message.n_keys * TAG_KEY_BITS
        try:
            secret = self._auth.peek_incoming(message.offset, n_bits)
        except RefusedError as error:
            raise TamperedError(f"a message of {self._peer} names unusable tag bits: {error}") from error
        own, *others = _keys(secret, message.n_keys)
        generation = self._store.generation(self._peer)
        data = _bound(generation, self._peer, self._own, message.offset, message.n_keys, message.body)
        fits = one_time_tag_fits(own, data, message.tag)
        _wipe([secret, own])
        forgery = forgery_bound(len(data))
        if not fits:
            self._auth.wrong_tag(forgery)
            raise TamperedError(f"a message of {self._peer} carries a wrong tag; the session is dropped")
        self._auth.take_incoming(message.offset, n_bits, forgery).wipe()
        return others


def _keys(secret: SecretBits, n_keys: int) -> list[SecretBits]:
    return [secret.take(index * TAG_KEY_BITS, TAG_KEY_BITS) for index in range(n_keys)]


def _wipe(secrets: Iterable[SecretBits]) -> None:
    for secret in secrets:
        secret.wipe()
