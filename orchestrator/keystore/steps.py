"""How the agreements of a pair are written: pure steps, with everything that touches the world at the edge.

An agreement is a function ``step(state, event) -> (state, effects)`` over frozen values.  It never reads a clock,
a file or a socket: what it wants done it returns as *effects*, and what came of the last of them is its next
event.  :func:`converse` is the edge of a running node; the breadth-first check of
``tests/property/test_pair_model.py`` drives the same functions over a model of two stores and an evil hub.

A list of effects ends with the one whose outcome decides how to go on: hear something, ask the store, or end.
An effect that fails becomes a :class:`Broken` event, and the effects behind it are not carried out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from orchestrator.keystore.errors import KeyStoreError
from orchestrator.wire.channel import ChannelError
from orchestrator.wire.codec import Message


class Event:
    """What a step reacts to."""


@dataclass(frozen=True)
class Begin(Event):
    """The conversation starts."""


@dataclass(frozen=True)
class Heard(Event):
    """The peer said this; its tag or MAC, where the step asked for one, was right.

    ``fits`` names the blocks whose fingerprints in the message belong to the keys held here under these names.
    """

    message: Message
    fits: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Told(Event):
    """The effect was carried out, with this outcome."""

    value: Any = None


@dataclass(frozen=True)
class Broken(Event):
    """The effect could not be carried out, or nothing acceptable was heard."""

    error: KeyStoreError | ChannelError


class Effect:
    """What a step wants done."""


@dataclass(frozen=True)
class Say(Effect):
    """Send without any tag: what a forger could say as well."""

    message: Message


@dataclass(frozen=True)
class SaySigned(Effect):
    """Send under the pair's reusable key; the MAC covers ``covers`` and the message."""

    message: Message
    covers: bytes


@dataclass(frozen=True)
class SayTagged(Effect):
    """Send under a one-time tag; what was said before in the same ``place`` is repeated byte for byte."""

    place: str
    message: Message


@dataclass(frozen=True)
class Expect(Effect):
    """Hear one message of these types: untagged, under a one-time tag, or under the reusable key."""

    plain: tuple[type[Message], ...] = ()
    tagged: tuple[type[Message], ...] = ()
    signed: tuple[type[Message], ...] = ()
    covers: bytes = b""


@dataclass(frozen=True)
class Finish(Effect):
    """The agreement stands."""

    result: Any


@dataclass(frozen=True)
class Fail(Effect):
    """The conversation is over without an agreement."""

    error: KeyStoreError | ChannelError


S = TypeVar("S")
Effects = tuple[Effect, ...]
Step = Callable[[S, Event], tuple[S, Effects]]


def converse(step: Step[S], state: S, perform: Callable[[Effect], Event | None]) -> Any:
    """Run a conversation to its end; ``perform`` carries out one effect, and may raise what Fail may hold.

    Returns the result of Finish; raises the error of Fail.
    """
    event: Event = Begin()
    while True:
        state, effects = step(state, event)
        outcome: Event | None = None
        for effect in effects:
            if isinstance(effect, Finish):
                return effect.result
            if isinstance(effect, Fail):
                raise effect.error
            try:
                outcome = perform(effect)
            except (KeyStoreError, ChannelError) as error:
                outcome = Broken(error)
                break
        event = outcome if outcome is not None else Told()
