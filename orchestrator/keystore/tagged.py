"""Messages between two nodes under one-time tags, and greetings under the reusable key.

Every tagged message carries Poly1305, used as an almost-XOR-universal hash, under 256 fresh bits of the
sender's authentication lane (Wegman-Carter; forgery <= 8 ceil(L/16)/2^106, docs/formulas.md).  The offset of
those bits travels with the message and is bound by the tag, as are sender, receiver and generation.  A message is
checked *before* its offset is believed, so that nobody can burn the lane by naming a far one.

A retry repeats the bytes that went out first (:mod:`orchestrator.keystore.letters`), and the receiver knows them
again; so a line that loses or changes messages costs time and no lane bits.  Bytes that were never tagged by the
peer name a used offset or carry a wrong tag, and are refused and counted.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable
from typing import Annotated, Any

from msgspec import Meta

from orchestrator.keystore.errors import RefusedError, TamperedError
from orchestrator.keystore.letters import Letter
from orchestrator.keystore.pair_macs import MAC_BYTES
from orchestrator.keystore.steps import Expect
from orchestrator.keystore.store import KeyStore
from orchestrator.one_time_tags import TAG_BYTES, TAG_KEY_BITS, one_time_tag, one_time_tag_fits
from orchestrator.protocols.epsilons import forgery_bound
from orchestrator.secret import SecretBits
from orchestrator.wire.channel import Channel
from orchestrator.wire.codec import Message, WireError, decode, encode

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


class Signed(Message, frozen=True):
    """An encoded message of a greeting with its MAC under the reusable key (computational)."""

    body: bytes
    mac: Annotated[bytes, Meta(min_length=MAC_BYTES, max_length=MAC_BYTES)]


def _names(sender: str, receiver: str) -> bytes:
    return b"".join(len(part).to_bytes(2, "big") + part for part in (sender.encode(), receiver.encode()))


def _bound(generation: int, sender: str, receiver: str, offset: int, n_keys: int, body: bytes) -> bytes:
    numbers = generation.to_bytes(8, "big") + offset.to_bytes(8, "big") + n_keys.to_bytes(2, "big")
    return b"qunetlab-agreement-v2" + _names(sender, receiver) + numbers + body


def _greeted(generation: int, sender: str, receiver: str, covers: bytes, body: bytes) -> bytes:
    numbers = generation.to_bytes(8, "big") + len(covers).to_bytes(8, "big")
    return b"qunetlab-greeting-v1" + _names(sender, receiver) + numbers + covers + body


class TaggedChannel:
    """Sends and receives tagged messages to and from one peer over any channel."""

    def __init__(self, store: KeyStore, channel: Channel, peer: str) -> None:
        self._channel = channel
        self._auth = store.auth(peer)
        self._store = store
        self._letters = store.letters(peer)
        self._own = store.owner
        self._peer = peer

    def send(self, message: Message, place: str | None = None) -> None:
        """Tag and send; with a ``place``, a retry of the same message repeats the same bytes.

        Raises AuthLaneExhaustedError or what the channel raises.
        """
        self.send_with_keys(0, lambda _: message, place, encode(message))

    def send_with_keys(
        self,
        n_keys: int,
        build: Callable[[list[SecretBits]], Message],
        place: str | None = None,
        content: bytes = b"",
    ) -> bytes:
        """Tag and send the message that ``build`` makes with ``n_keys`` further one-time keys; returns it encoded.

        With a ``place``, the letter that this place holds is repeated if it was made for the same ``content``.
        """
        letter = None if place is None else self._letters.sent(place, content)
        if letter is None:
            letter = self._write(n_keys, build, content)
            if place is not None:
                self._letters.keep(place, letter)
        self._channel.send(letter.sent)
        return letter.body

    def _write(self, n_keys: int, build: Callable[[list[SecretBits]], Message], content: bytes) -> Letter:
        offset, secret = self._auth.take_outgoing((1 + n_keys) * TAG_KEY_BITS)
        own, *others = _keys(secret, 1 + n_keys)
        body = encode(build(others))
        generation = self._store.generation(self._peer)
        tag = one_time_tag(own, _bound(generation, self._own, self._peer, offset, 1 + n_keys, body))
        _wipe([secret, own, *others])
        return Letter(content, body, encode(Tagged(body, offset, 1 + n_keys, tag)))

    def send_plain(self, message: Message) -> None:
        """Send without a tag: for requests and refusals, which can only lead to an abort."""
        self._channel.send(encode(message))

    def send_signed(self, message: Message, covers: bytes) -> None:
        """Send under the reusable key; the MAC covers ``covers`` too.  Raises RefusedError without such a key."""
        body = encode(message)
        generation = self._store.generation(self._peer)
        macs = self._store.mac_keys.get(self._peer, generation)
        if macs is None:
            raise RefusedError(f"there are no reusable keys for greetings with {self._peer}")
        mac = macs.make(_greeted(generation, self._own, self._peer, covers, body))
        self._channel.send(encode(Signed(body, mac)))

    def expect(
        self, wanted: Expect, timeout_s: float, keep: Callable[[list[SecretBits]], None] | None = None
    ) -> tuple[Message, list[SecretBits]]:
        """The next message, as a step wants it, and the further one-time keys spent with it.

        ``keep`` is given the further keys once the tag was found right, and before they are spent.
        Raises TamperedError where tag or MAC does not fit, the offset was used before or the content is not of the
        types wanted.
        """
        outer_types = [*wanted.plain]
        if wanted.tagged:
            outer_types.append(Tagged)
        if wanted.signed:
            outer_types.append(Signed)
        outer: Message = self._decode(self._channel.recv(timeout_s), _union(outer_types))
        if isinstance(outer, Tagged):
            keys = self._open(outer, keep)
            return self._decode(outer.body, _union(wanted.tagged)), keys
        if isinstance(outer, Signed):
            self._check_mac(outer, wanted.covers)
            return self._decode(outer.body, _union(wanted.signed)), []
        return outer, []

    def _check_mac(self, message: Signed, covers: bytes) -> None:
        generation = self._store.generation(self._peer)
        macs = self._store.mac_keys.get(self._peer, generation)
        data = _greeted(generation, self._peer, self._own, covers, message.body)
        if macs is None or not macs.fits(data, message.mac):
            raise self._refused(
                "wrong MAC",
                f"a greeting of {self._peer} carries a wrong MAC: changed, repeated, of another pair or generation",
            )

    def _refused(self, reason: str, text: str) -> TamperedError:
        self._letters.rejected[reason] += 1
        return TamperedError(text)

    def _decode(self, data: bytes, type_: Any) -> Any:
        try:
            return decode(data, type_)
        except WireError as error:
            raise self._refused(
                "malformed", f"{self._peer} sent no message of the protocol: {error}"
            ) from error

    def _open(
        self, message: Tagged, keep: Callable[[list[SecretBits]], None] | None = None
    ) -> list[SecretBits]:
        """Check the tag, then spend its key; returns the further keys.  A message heard before is heard again."""
        known = encode(message)
        before = self._letters.seen(known)
        if before is not None:
            return before
        n_bits = message.n_keys * TAG_KEY_BITS
        try:
            secret = self._auth.peek_incoming(message.offset, n_bits)
        except RefusedError as error:
            raise self._refused(
                "used tag bits", f"a message of {self._peer} names unusable tag bits: {error}"
            ) from error
        own, *others = _keys(secret, message.n_keys)
        generation = self._store.generation(self._peer)
        data = _bound(generation, self._peer, self._own, message.offset, message.n_keys, message.body)
        fits = one_time_tag_fits(own, data, message.tag)
        _wipe([secret, own])
        forgery = forgery_bound(len(data))
        if not fits:
            self._auth.wrong_tag(forgery)
            raise self._refused(
                "wrong tag", f"a message of {self._peer} carries a wrong tag; the session is dropped"
            )
        if keep is not None:
            keep(others)
        self._auth.take_incoming(message.offset, n_bits, forgery).wipe()
        self._letters.note_seen(known, others)
        return others


def _union(types: Iterable[type[Message]]) -> Any:
    return functools.reduce(operator.or_, types)


def _keys(secret: SecretBits, n_keys: int) -> list[SecretBits]:
    return [secret.take(index * TAG_KEY_BITS, TAG_KEY_BITS) for index in range(n_keys)]


def _wipe(secrets: Iterable[SecretBits]) -> None:
    for secret in secrets:
        secret.wipe()
