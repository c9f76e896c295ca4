"""What two key stores settle when they meet again: pure steps (:mod:`orchestrator.keystore.steps`).

::

    first                                                    second
      Hello(nonce, fresh) ->
                              <- Answer(nonce, fresh, heads, ...)       [MAC over both greetings]
      Proof(heads, ...) ->                                              [MAC over both greetings]
      State(nonces, heads, tails, pending, confirmed) <->               [one-time tags, only if needed]
      Settled() <->                                                     [MAC]

The *nonce* of an end is drawn once in the life of its process; two of them name a session.  The *fresh* value is
drawn for every meeting, so that no greeting can be repeated, reflected, or taken from another pair, generation or
meeting.  Greetings are checked with the reusable key, which is computational: a forged one costs time, and decides
nothing but who speaks first.

States are exchanged in the first meeting of a session, and while a block waits at either end.  What an end has
tagged it repeats byte for byte as long as it would say the same, so broken meetings spend nothing; the greeting
names a digest of what the sender will say, so that no older state of the session is taken for it.  From the two
states each end draws the same conclusions:

* in the first meeting of a session (one of the two was started again): both adopt the larger heads (I6), burn what
  lies below, and burn what was reserved, because the end that started burnt it too (I4);
* a block pending on both ends is confirmed if the fingerprints fit, else burnt on both;
* pending here, confirmed there: confirmed, at the place it has there;
* pending here, unknown or burnt there: burnt;
* confirmed here, unknown there (the peer was restored from an old copy): burnt.

Settled ends the meeting: who hears it knows that the peer has drawn its conclusions, and only then works with it.

**Restored stores.**  The owner of a lane is never behind its peer in it, because it is durable first.  An end that
is behind in a lane of its own was therefore restored from an old copy.  If that is its outgoing authentication
lane, its next tag would use spent bits: it waits for the peer's state and adopts its heads before it tags anything.
If both ends are in that position nobody can tell what was used.

**Stores without reusable keys** (of the first format) get them once: the first sends Gift under a one-time tag,
with two further lane keys spent at both ends, and these become the reusable keys.  An end whose keys come from a
common secret, or that ever saw the peer prove them, accepts no other way.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from orchestrator.keystore.depositing import (
    FARTHEST,
    Confirm,
    Destroy,
    named_lanes,
)
from orchestrator.keystore.errors import AgreementError, KeyStoreError, RollbackError, TamperedError
from orchestrator.keystore.greeting import (
    PROTOCOL,
    Answer,
    Bare,
    Gift,
    Held,
    Hello,
    Own,
    PendingBlock,
    Proof,
    Settled,
    Stand,
    State,
    digest_of,
)
from orchestrator.keystore.lanes import Lane, incoming_auth, lane_owner, outgoing_auth
from orchestrator.keystore.steps import (
    Begin,
    Broken,
    Effect,
    Effects,
    Event,
    Expect,
    Fail,
    Finish,
    Heard,
    Say,
    SaySigned,
    Told,
)
from orchestrator.wire.channel import ChannelError
from orchestrator.wire.codec import encode


@dataclass(frozen=True)
class GiveGift(Effect):
    """Send Gift with two further keys, kept here as reusable keys before it leaves; or repeat it."""


@dataclass(frozen=True)
class Enter(Effect):
    """The peer is alive under this nonce and holds the reusable keys."""

    peer_nonce: bytes


@dataclass(frozen=True)
class Suspect(Effect):
    """Remember who is behind in a lane of its own: once heads are adopted, nobody can see it any more."""

    who: Literal["self", "peer"]


@dataclass(frozen=True)
class SayState(Effect):
    """Tag and send the own state, or repeat it; told the State as it was sent."""

    own: Own
    peer_nonce: bytes


@dataclass(frozen=True)
class Renew(Effect):
    """Burn what is reserved, adopt larger heads and tails; told the number of bits burnt."""

    heads: Mapping[Lane, int]
    tails: Mapping[Lane, int]


@dataclass(frozen=True)
class MarkSettled(Effect):
    """Remember that the stores were compared in this session."""

    peer_nonce: bytes


@dataclass(frozen=True)
class Reconciled:
    """What a meeting settled; ``rolled_back`` names an end that was restored from an old copy."""

    confirmed: tuple[str, ...]
    burnt: tuple[str, ...]
    burnt_bits: int
    rolled_back: Literal["self", "peer"] | None


Phase = Literal[
    "begin", "hello", "gift", "answer", "proof", "entered", "state", "renew", "settle", "end", "over"
]


@dataclass(frozen=True)
class Meeting:
    """One end of a meeting."""

    own: Own
    phase: Phase = "begin"
    hello: Hello | None = None
    answer: Answer | None = None
    theirs: Stand | None = None
    sent: State | None = None
    heard: State | None = None
    fits: frozenset[str] = frozenset()
    burnt_bits: int = 0
    confirmed: tuple[str, ...] = ()
    burnt: tuple[str, ...] = ()

    @property
    def peer_nonce(self) -> bytes:
        """The nonce of the peer's process."""
        if self.own.pair_end == "first":
            return self.answer.nonce if self.answer is not None else b""
        return self.hello.nonce if self.hello is not None else b""

    @property
    def greetings(self) -> bytes:
        """What a MAC covers besides its message."""
        said = [message for message in (self.hello, self.answer) if message is not None]
        return b"".join(encode(message) for message in said)

    @property
    def renews(self) -> bool:
        """Whether this is the first meeting of the session, as far as either end knows."""
        if self.theirs is None:
            return True
        return (self.own.settled_with, self.theirs.settled_with) != (self.peer_nonce, self.own.nonce)

    @property
    def compares(self) -> bool:
        """Whether states have to be exchanged."""
        waiting = len(self.own.pending) + (self.theirs.n_pending if self.theirs is not None else 0)
        return self.renews or waiting > 0


def step(state: Meeting, event: Event) -> tuple[Meeting, Effects]:
    """Either end of a meeting."""
    if isinstance(event, Broken):
        return _over(state, event.error)
    if state.phase in ("begin", "hello", "gift", "answer", "proof"):
        greet = _greet_first if state.own.pair_end == "first" else _greet_second
        return greet(state, event)
    return _compare(state, event)


def _greet_first(state: Meeting, event: Event) -> tuple[Meeting, Effects]:
    own = state.own
    match state.phase, event:
        case "begin", Begin():
            hello = Hello(PROTOCOL, own.nonce, own.fresh, own.keyed)
            answers = Expect(plain=(Bare,), signed=(Answer,), covers=encode(hello))
            return replace(state, phase="answer", hello=hello), (Say(hello), answers)
        case "answer", Heard(message=Bare()) if own.proved:
            return _over(state, _downgraded(own.peer))
        case "answer", Heard(message=Bare(heads=heads)):
            lane = str(outgoing_auth(own.pair_end))
            if heads.get(lane, 0) > own.heads[lane]:
                return _over(state, _both_restored(own))
            answers = Expect(signed=(Answer,), covers=state.greetings)
            return replace(state, phase="gift"), (GiveGift(), answers)
        case (("answer" | "gift"), Heard(message=Answer() as answer)):
            met = replace(state, phase="entered", answer=answer, theirs=answer.stand)
            return met, (SaySigned(Proof(own.stand()), met.greetings), Enter(answer.nonce))
    return _unexpected(state)


def _greet_second(state: Meeting, event: Event) -> tuple[Meeting, Effects]:
    own = state.own
    match state.phase, event:
        case "begin", Begin():
            return replace(state, phase="hello"), (Expect(plain=(Hello,)),)
        case "hello", Heard(message=Hello(protocol=protocol)) if protocol != PROTOCOL:
            text = f"{own.peer} greets in version {protocol}, this program in {PROTOCOL}; install the same"
            return _over(state, AgreementError(text))
        case "hello", Heard(message=Hello() as hello) if own.keyed and (hello.keyed or own.proved):
            return _answer(replace(state, hello=hello))
        case "hello", Heard(message=Hello() as hello):
            waiting = Say(Bare(dict(own.heads))), Expect(tagged=(Gift,))
            return replace(state, phase="gift", hello=hello), waiting
        case "gift", Heard(message=Gift()):
            return _answer(state)
        case "proof", Heard(message=Proof() as proof):
            return replace(state, phase="entered", theirs=proof.stand), (Enter(state.peer_nonce),)
    return _unexpected(state)


def _answer(state: Meeting) -> tuple[Meeting, Effects]:
    assert state.hello is not None
    answer = Answer(state.own.nonce, state.own.fresh, state.own.stand())
    said = SaySigned(answer, encode(state.hello))
    answered = replace(state, phase="proof", answer=answer)
    return answered, (said, Expect(signed=(Proof,), covers=answered.greetings))


def _compare(state: Meeting, event: Event) -> tuple[Meeting, Effects]:
    match state.phase, event:
        case "entered", Told():
            return _entered(state)
        case "state", Told(value=State() as sent):
            spoken = replace(state, sent=sent)
            return _settle(spoken) if state.heard is not None else (spoken, (Expect(tagged=(State,)),))
        case "state", Heard(message=State() as heard, fits=fits):
            return _heard(replace(state, heard=heard, fits=fits))
        case "renew", Told(value=int() as burnt_bits):
            renewed = replace(state, phase="state", burnt_bits=burnt_bits)
            if state.sent is None:
                return renewed, (SayState(state.own, state.peer_nonce),)
            return _settle(renewed)
        case "settle", Told():
            return _end(state)
        case "end", Heard(message=Settled()):
            restored = _restored(state) or state.own.suspected
            result = Reconciled(state.confirmed, state.burnt, state.burnt_bits, restored)
            return replace(state, phase="over"), (Finish(result),)
    return _unexpected(state)


def _entered(state: Meeting) -> tuple[Meeting, Effects]:
    """Both have proved themselves: decide whether states are needed, and who speaks first."""
    own, theirs = state.own, state.theirs
    assert theirs is not None
    if named_lanes(theirs.heads) is None:
        return _over(state, AgreementError(f"{own.peer} names a lane that does not exist"))
    own_lane, peer_lane = str(outgoing_auth(own.pair_end)), str(incoming_auth(own.pair_end))
    behind = theirs.heads.get(own_lane, 0) > own.heads[own_lane]
    peer_behind = own.heads[peer_lane] > theirs.heads.get(peer_lane, 0)
    if behind and peer_behind:
        return _over(state, _both_restored(own))
    if not state.compares:
        return _end(state)
    waiting, restored = replace(state, phase="state"), _restored(state)
    noted = () if restored is None else (Suspect(restored),)
    if behind:
        return waiting, (*noted, Expect(tagged=(State,)))
    return waiting, (*noted, SayState(own, state.peer_nonce))


def _heard(state: Meeting) -> tuple[Meeting, Effects]:
    """The peer's state: of this session, what its greeting announced, and of lanes that exist."""
    own, heard, theirs = state.own, state.heard, state.theirs
    assert heard is not None
    assert theirs is not None
    if not hmac.compare_digest(heard.own_nonce + heard.peer_nonce, state.peer_nonce + own.nonce):
        return _over(state, AgreementError(f"the state of {own.peer} answers another greeting than ours"))
    waiting = [(block.block_id, block.n_bits, block.context) for block in heard.pending]
    if not hmac.compare_digest(digest_of(waiting, heard.confirmed), theirs.digest):
        return _over(state, AgreementError(f"the state of {own.peer} is not the one its greeting announced"))
    heads, tails = named_lanes(heard.heads), named_lanes(heard.tails)
    placed = [named_lanes(block.starts) for block in heard.confirmed]
    if heads is None or tails is None or None in placed:
        return _over(state, AgreementError(f"{own.peer} names a lane that does not exist"))
    ends = [(lane, end) for named in (heads, tails, *placed) for lane, end in (named or {}).items()]
    if any(end > own.heads.get(str(lane), 0) + FARTHEST for lane, end in ends):
        return _over(state, AgreementError(f"{own.peer} names an impossible end of a lane"))
    if state.renews:
        return replace(state, phase="renew"), (Renew(heads, tails),)
    if state.sent is None:
        return state, (SayState(own, state.peer_nonce),)
    return _settle(state)


def _settle(state: Meeting) -> tuple[Meeting, Effects]:
    """Carry out what both ends conclude, and say so."""
    assert state.sent is not None
    assert state.heard is not None
    confirms, destroys = decisions(state.own, state.sent, state.heard, state.fits, renews=state.renews)
    settled = replace(
        state,
        phase="settle",
        confirmed=tuple(effect.block_id for effect in confirms),
        burnt=tuple(effect.block_id for effect in destroys),
    )
    return settled, (*confirms, *destroys, MarkSettled(state.peer_nonce))


def decisions(
    own: Own, ours: State, theirs: State, fits: Collection[str], *, renews: bool
) -> tuple[tuple[Confirm, ...], tuple[Destroy, ...]]:
    """What becomes of every block that this end holds; the other end comes to the same from its side.

    ``fits`` names the blocks waiting at both ends whose fingerprints agree.  A confirmed block that the peer does
    not know is given up only in the first meeting of a session: only then can the peer have been restored, and
    otherwise it may have used the block up a moment earlier.
    """
    their_pending = {block.block_id: block for block in theirs.pending}
    their_confirmed = {block.block_id: block for block in theirs.confirmed}
    tails = {Lane(lane): max(tail, theirs.tails.get(lane, 0)) for lane, tail in ours.tails.items()}
    confirms: list[Confirm] = []
    destroys: list[Destroy] = []
    for block in sorted(own.pending, key=lambda held: held.block_id):
        twin, placed = their_pending.get(block.block_id), their_confirmed.get(block.block_id)
        if placed is not None:
            confirms.append(Confirm(block.block_id, named_lanes(placed.starts) or {}))
        elif twin is not None and block.block_id in fits and _same(block, twin):
            confirms.append(Confirm(block.block_id, {part.lane: tails[part.lane] for part in block.parts}))
            for part in block.parts:
                tails[part.lane] += part.n_bits
        else:
            destroys.append(Destroy(block.block_id))
    for held in ours.confirmed if renews else ():
        known = their_confirmed.get(held.block_id)
        if held.block_id not in their_pending and (known is None or known.starts != held.starts):
            destroys.append(Destroy(held.block_id))
    return tuple(confirms), tuple(destroys)


def _same(mine: Held, twin: PendingBlock) -> bool:
    return (mine.n_bits, mine.context) == (twin.n_bits, twin.context)


def _end(state: Meeting) -> tuple[Meeting, Effects]:
    said = SaySigned(Settled(), state.greetings)
    return replace(state, phase="end"), (said, Expect(signed=(Settled,), covers=state.greetings))


def _restored(state: Meeting) -> Literal["self", "peer"] | None:
    """Who is behind in a lane of its own."""
    if state.theirs is None or not state.renews:
        return None
    for lane, head in (named_lanes(state.theirs.heads) or {}).items():
        ours = state.own.heads[str(lane)]
        if lane_owner(lane) == state.own.pair_end and head > ours:
            return "self"
        if lane_owner(lane) != state.own.pair_end and head < ours:
            return "peer"
    return None


def _both_restored(own: Own) -> RollbackError:
    return RollbackError(
        f"the stores of {own.name} and {own.peer} both look restored from old copies; what was used is"
        " unknown: seed the pair again with fresh stores"
    )


def _downgraded(peer: str) -> TamperedError:
    return TamperedError(f"{peer} seems to have lost the reusable keys that it has shown before")


def _over(state: Meeting, error: KeyStoreError | ChannelError) -> tuple[Meeting, Effects]:
    return replace(state, phase="over"), (Fail(error),)


def _unexpected(state: Meeting) -> tuple[Meeting, Effects]:
    return _over(state, AgreementError(f"{state.own.peer} does not keep to the order of a meeting"))
