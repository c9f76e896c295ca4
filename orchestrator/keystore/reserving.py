"""How two ends agree on a range of a lane for one context: pure steps (:mod:`orchestrator.keystore.steps`).

::

    owner of the lane                        the other
      <- Ask(lane, size, context, stock)         [untagged: can only lead to an abort]
    allocates, durably
      Offer(range, context) ->                   follows, durably
      <- Accept(range, context)
    notes it; both may release

Whatever is lost or changed, both ends ask again and come to the same result: the owner finds the range that this
context has, the other end the range that it followed, and both repeat the tagged bytes of their first answer.
Nothing is burnt by a failed exchange: a range stays with its context until both release it, somebody abandons the
context, or an end starts again (I4).

An end whose own part is done may have to answer once more, because its last message was lost.  Then it runs the
same steps with ``again``: a range that has been released is named again, for the same context only, and its bits
do not leave a second time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from msgspec import Meta

from orchestrator.keystore.errors import (
    AgreementError,
    KeyStoreError,
    LaneShortError,
    ReservationError,
)
from orchestrator.keystore.lanes import Range
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
    SayTagged,
    Told,
)
from orchestrator.wire.codec import Message

Position = Annotated[int, Meta(ge=0, lt=1 << 62)]
Context = Annotated[bytes, Meta(max_length=64)]
LaneName = Annotated[str, Meta(max_length=16)]


class Ask(Message, frozen=True):
    """The other end to the owner: my application wants this; ``stock`` bits are free or held for it here."""

    lane: LaneName
    n_bits: Position
    context: Context
    stock: Position


class Offer(Message, frozen=True):
    """The owner: these bits, for this context."""

    lane: LaneName
    start: Position
    n_bits: Position
    context: Context


class Accept(Message, frozen=True):
    """The other end: followed, durably."""

    lane: LaneName
    start: Position
    n_bits: Position
    context: Context


class Refuse(Message, frozen=True):
    """Either end: no reservation this time.  Untagged, so nothing is given up for it."""

    reason: Literal["context", "short", "refused"]
    missing_bits: Position = 0


@dataclass(frozen=True)
class Wish:
    """What the applications of both ends ask for; ``again`` where this end's part was done before."""

    lane: str
    n_bits: int
    context: bytes
    stock: int
    again: bool = False

    def ask(self) -> Ask:
        return Ask(self.lane, self.n_bits, self.context, self.stock)

    def same_as(self, said: Ask | Offer) -> bool:
        """Whether the peer speaks of the same lane, size and context (I3)."""
        return (said.lane, said.n_bits, said.context) == (self.lane, self.n_bits, self.context)

    def place(self, name: str) -> str:
        """The place of a tagged message of this reservation among the letters."""
        return f"{name}/{self.lane}/{self.context.hex()}"


@dataclass(frozen=True)
class Check(Effect):
    """Whether this context may have a range here; told the range it has, or None."""

    wish: Wish


@dataclass(frozen=True)
class Allocate(Effect):
    """The range of this context at the owner, allocated unless it has one; told the range."""

    wish: Wish


@dataclass(frozen=True)
class Follow(Effect):
    """Move past the owner's range and hold it for the context; harmless if that was done before."""

    wish: Wish
    chosen: Range


@dataclass(frozen=True)
class Note(Effect):
    """The owner: the peer followed, the range may be released."""

    wish: Wish
    chosen: Range


Phase = Literal["begin", "asking", "waiting", "working", "answering", "over"]


@dataclass(frozen=True)
class Reserving:
    """One end of a reservation with ``peer``."""

    peer: str
    wish: Wish
    phase: Phase = "begin"
    chosen: Range | None = None


def owner_step(state: Reserving, event: Event) -> tuple[Reserving, Effects]:
    """The end that allocates."""
    wish = state.wish
    match state.phase, event:
        case "begin", Begin():
            return replace(state, phase="asking"), (Expect(plain=(Ask, Refuse)),)
        case "asking", Heard(message=Refuse() as refuse):
            return _over(state, refusal(state.peer, wish, refuse))
        case "asking", Heard(message=Ask() as asked) if not wish.same_as(asked):
            return _refuse(state, Refuse("context"))
        case "asking", Heard(message=Ask() as asked) if asked.stock < wish.n_bits:
            return _refuse(state, Refuse("short", wish.n_bits - asked.stock))
        case "asking", Heard(message=Ask()):
            return replace(state, phase="working"), (Allocate(wish),)
        case "working", Told(value=Range() as chosen):
            offer = Offer(wish.lane, chosen.start, chosen.n_bits, wish.context)
            expected = Expect(plain=(Refuse,), tagged=(Accept,))
            said = SayTagged(wish.place("offer"), offer)
            return replace(state, phase="waiting", chosen=chosen), (said, expected)
        case "working", Broken(error=LaneShortError() as error):
            return _over(state, error, Say(Refuse("short", error.missing_bits)))
        case "working", Broken(error=KeyStoreError() as error):
            return _over(state, error, Say(Refuse("refused")))
        case "waiting", Heard(message=Refuse() as refuse):
            return _over(state, refusal(state.peer, wish, refuse))
        case "waiting", Heard(message=Accept() as answer) if state.chosen is not None:
            expected_answer = Accept(wish.lane, state.chosen.start, state.chosen.n_bits, wish.context)
            if answer != expected_answer:
                return _over(
                    state, AgreementError(f"{state.peer} accepts another range than the one offered")
                )
            return replace(state, phase="answering"), (Note(wish, state.chosen),)
        case "answering", Told():
            return replace(state, phase="over"), (Finish(state.chosen),)
    return _unexpected(state, event)


def other_step(state: Reserving, event: Event) -> tuple[Reserving, Effects]:
    """The end that follows."""
    wish = state.wish
    match state.phase, event:
        case "begin", Begin():
            return replace(state, phase="asking"), (Check(wish),)
        case "asking", Broken(error=KeyStoreError() as error):
            return _over(state, error, Say(Refuse("refused")))
        case "asking", Told():
            expected = Expect(plain=(Refuse,), tagged=(Offer,))
            return replace(state, phase="waiting"), (Say(wish.ask()), expected)
        case "waiting", Heard(message=Refuse() as refuse):
            return _over(state, refusal(state.peer, wish, refuse))
        case "waiting", Heard(message=Offer() as offer) if not wish.same_as(offer):
            return _refuse(state, Refuse("context"))
        case "waiting", Heard(message=Offer() as offer):
            chosen = Range(offer.start, offer.n_bits)
            return replace(state, phase="working", chosen=chosen), (Follow(wish, chosen),)
        case "working", Broken(error=KeyStoreError() as error):
            return _over(state, error, Say(Refuse("refused")))
        case "working", Told() if state.chosen is not None:
            accept = Accept(wish.lane, state.chosen.start, state.chosen.n_bits, wish.context)
            said = SayTagged(wish.place("accept"), accept)
            return replace(state, phase="over"), (said, Finish(state.chosen))
    return _unexpected(state, event)


def refusal(peer: str, wish: Wish, refuse: Refuse) -> KeyStoreError:
    """What a refusal means for the application."""
    if refuse.reason == "short":
        return LaneShortError(peer, wish.lane, max(refuse.missing_bits, 1))
    if refuse.reason == "context":
        return ReservationError(
            f"{peer} asks for another purpose, round, participant set or size; nothing was allocated"
        )
    return ReservationError(f"{peer} refuses bits of lane {wish.lane} for this context; see its log")


def _refuse(state: Reserving, refuse: Refuse) -> tuple[Reserving, Effects]:
    return _over(state, refusal(state.peer, state.wish, refuse), Say(refuse))


def _over(state: Reserving, error: KeyStoreError, *said: Effect) -> tuple[Reserving, Effects]:
    return replace(state, phase="over"), (*said, Fail(error))


def _unexpected(state: Reserving, event: Event) -> tuple[Reserving, Effects]:
    if isinstance(event, Broken):
        return replace(state, phase="over"), (Fail(event.error),)
    return _over(state, AgreementError(f"{state.peer} does not keep to the order of a reservation"))
