"""How the two ends of a pair begin a new generation: both or none, whatever is lost on the way.

An operator gave each end the same new out-of-band secret (:mod:`orchestrator.keystore.generations` keeps it).  At
the beginning of every meeting, before anything that needs the old generation, both ends say where they stand, in
the clear, and from the two standings each draws the same conclusion::

    both:  Standing(nonce, generation, least, begun, kept names) ->
    * both keep a secret X:            both -> Proof(X, T), and each begins T with X once it holds the other's
    * one has begun T with X, the
      other still keeps X:             the one -> Proof(X, T, begun), and the other begins T with X
    * nothing in common, same g:       nothing; the meeting goes on under g
    * the same g, begun by one with
      what the other keeps:            an error: an end that lost its store came back with a secret for any g
    * nothing in common, different g:  an error: one store is an old copy, only a further secret helps

A proof is an HMAC under the reusable keys of X itself (not of the old generation, whose lanes may be empty) over
both standings as its sender saw them, with their fresh nonces; where both still keep X, over all bits of X too.  So
an end begins only when the peer has shown that it holds the very same secret *durably*, and from then on the peer
either has begun as well or can follow: the secret stays with it until it does.  What a hub drops, alters or repeats
makes a proof fail; the line is dropped, nothing was spent, and the next meeting comes to the same conclusion.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

from msgspec import Meta

from orchestrator.keystore.errors import AgreementError, TamperedError
from orchestrator.keystore.generations import GENERATION_LIMIT, MOST_KEPT, NAME_BYTES
from orchestrator.keystore.lanes import PairEnd
from orchestrator.keystore.pair_macs import MAC_BYTES, PairMacs
from orchestrator.keystore.store import KeyStore
from orchestrator.randomness import RandomBytes, random_bytes
from orchestrator.wire.channel import Channel
from orchestrator.wire.codec import Message, WireError, decode, encode

T = TypeVar("T")

MOST_AHEAD = 1024
"""How far above the own least a peer may ask to go: generations are not to be used up by one of them."""

Name = Annotated[bytes, Meta(min_length=NAME_BYTES, max_length=NAME_BYTES)]
Number = Annotated[int, Meta(ge=0, lt=GENERATION_LIMIT)]


class GenerationError(AgreementError):
    """The ends are at different generations and share no secret that would bring them together."""


class Standing(Message, frozen=True):
    """Where an end stands; not authenticated, so it only proposes what a proof must confirm."""

    nonce: Annotated[bytes, Meta(min_length=16, max_length=16)]
    generation: Number
    least: Number
    begun: Annotated[bytes, Meta(max_length=NAME_BYTES)]
    kept: Annotated[list[Name], Meta(max_length=MOST_KEPT)]


class Proof(Message, frozen=True):
    """The sender keeps the secret ``name`` for ``generation``, or has begun with it."""

    name: Name
    generation: Number
    begun: bool
    mac: Annotated[bytes, Meta(min_length=MAC_BYTES, max_length=MAC_BYTES)]


@dataclass(frozen=True)
class Step:
    """What an end has to do: ``"both"`` prove and begin, ``"lead"`` the peer, ``"follow"`` it."""

    kind: Literal["both", "lead", "follow"]
    name: bytes
    generation: int


def conclude(pair_end: PairEnd, ours: Standing, theirs: Standing) -> Step | None:
    """The conclusion from both standings, the same at both ends; None where there is nothing to do.

    Raises GenerationError where they cannot come together.
    """
    if ours.generation > theirs.generation and ours.begun in theirs.kept:
        return Step("lead", ours.begun, ours.generation)
    if theirs.generation > ours.generation and theirs.begun in ours.kept:
        return Step("follow", theirs.begun, theirs.generation)
    firsts, seconds = (ours.kept, theirs.kept) if pair_end == "first" else (theirs.kept, ours.kept)
    common = next((name for name in firsts if name in seconds), None)
    if common is not None:
        return Step("both", common, max(ours.least, theirs.least))
    if ours.generation == theirs.generation and (ours.begun in theirs.kept or theirs.begun in ours.kept):
        raise GenerationError(
            f"one end began anew with a secret that the other keeps for a generation above {ours.generation}: it was"
            " made for any generation; make a new secret with `qunetlab keys reseed PAIR --new` while both nodes run"
            " and take it at both ends"
        )
    if ours.generation != theirs.generation:
        raise GenerationError(
            f"generation {ours.generation} here, {theirs.generation} at the peer: one of the two stores is an old"
            " copy; make a new secret with `qunetlab keys reseed PAIR --new` and take it at both ends"
        )
    return None


def settle_generation(
    store: KeyStore,
    channel: Channel,
    pair_end: PairEnd,
    peer: str,
    timeout_s: float = 10.0,
    random: RandomBytes = random_bytes,
) -> int | None:
    """Begin the next generation if both ends hold its secret; both ends call this first in every meeting.

    Returns the generation that was begun here, or None.  Raises TamperedError, GenerationError or a ChannelError,
    and then nothing was begun.
    """
    generations = store.generations
    ours = Standing(
        random(16),
        store.generation(peer),
        generations.least(peer),
        generations.current_name(peer),
        list(generations.kept(peer)),
    )
    channel.send(encode(ours))
    theirs = _receive(channel, Standing, peer, timeout_s)
    step = conclude(pair_end, ours, theirs)
    if step is None:
        return None
    if step.generation > ours.least + MOST_AHEAD:
        raise AgreementError(f"{peer} asks for generation {step.generation}, far above {ours.least}")
    return _Settling(store, channel, peer, ours, theirs, step).run(timeout_s)


class _Settling:
    """One conclusion on its way."""

    def __init__(
        self, store: KeyStore, channel: Channel, peer: str, ours: Standing, theirs: Standing, step: Step
    ) -> None:
        self._store, self._channel, self._peer = store, channel, peer
        self._ours, self._theirs, self._step = ours, theirs, step

    def run(self, timeout_s: float) -> int | None:
        store, peer, step = self._store, self._peer, self._step
        if step.kind == "lead":
            macs = store.mac_keys.get(peer, step.generation)
            if macs is None:
                raise AgreementError(f"no reusable keys of generation {step.generation} with {peer} are kept")
            self._prove(macs, b"", begun=True)
            return None
        secret = store.generations.secret(peer, step.name)
        macs = store.generations.macs(peer, secret)
        bits = secret.auth_ab.reveal_bytes() + secret.auth_ba.reveal_bytes() if step.kind == "both" else b""
        secret.wipe()
        if step.kind == "both":
            store.generations.note_shown(peer, step.name)
            self._prove(macs, bits, begun=False)
        proof = _receive(self._channel, Proof, peer, timeout_s)
        begun = step.kind == "follow"
        wanted = Proof(step.name, step.generation, begun, proof.mac)
        data = self._data(peer, store.owner, self._theirs, self._ours, begun) + bits
        if proof != wanted or not macs.fits(data, proof.mac):
            raise TamperedError(f"{peer} did not prove that it holds the new secret; nothing was changed")
        store.generations.begin(peer, step.name, step.generation)
        return step.generation

    def _prove(self, macs: PairMacs, bits: bytes, *, begun: bool) -> None:
        data = self._data(self._store.owner, self._peer, self._ours, self._theirs, begun) + bits
        self._channel.send(encode(Proof(self._step.name, self._step.generation, begun, macs.make(data))))

    def _data(self, sender: str, receiver: str, own: Standing, other: Standing, begun: bool) -> bytes:
        """What a proof covers: who says it to whom, both standings, the secret's name, the generation, the claim."""
        parts = [
            b"qunetlab-generation-v1",
            sender.encode(),
            receiver.encode(),
            encode(own),
            encode(other),
            self._step.name,
            self._step.generation.to_bytes(8, "big"),
            b"begun" if begun else b"kept",
        ]
        return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def _receive(channel: Channel, type_: type[T], peer: str, timeout_s: float) -> T:
    try:
        return decode(channel.recv(timeout_s), type_)
    except WireError as error:
        raise TamperedError(f"{peer} sent no {type_.__name__}: {error}") from error
