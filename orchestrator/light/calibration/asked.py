"""A station that is asked over a channel: what the relay says when it calibrates, and what a user does then.

::

    relay -> user   Ask(posture)      into the ring, dark, or out of it
    relay -> user   AskOutput(...)    what the user measures at its output: the relay needs it to tell losses apart
    user -> relay   Answer(value)     done, or why not
    relay -> user   ClimbTurn(why)    align your polarisation (:mod:`orchestrator.light.aligning`)
    relay -> user   Over()            the relay has closed its launch for good

Nothing of it can brighten a user: every posture is one that light phases know, and going out of the ring on the relay's
word is what ends them.  A relay that lies about its launch endangers its own detectors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from drivers.links.errors import InstrumentError
from orchestrator.light.messages import ClimbTurn, LightAbort, LightAborted, OthersClimb
from orchestrator.light.own_station import Direction, OwnStation
from orchestrator.wire.channel import Channel, ChannelTimeoutError
from orchestrator.wire.codec import Message, WireError, decode, encode
from orchestrator.wire.fields import REASON_LIMIT

Posture = Literal["in", "dark", "out"]


class Ask(Message, frozen=True):
    """Step into the ring, darken the station, or step out."""

    posture: Posture


class AskOutput(Message, frozen=True):
    """Measure one direction; with ``mu``, say what the sensor reads for so many photons instead."""

    direction: Direction
    mu: float | None = None


class Answer(Message, frozen=True):
    """What came of it; ``failed`` says why nothing did."""

    value: float = 0.0
    failed: str = ""


class Over(Message, frozen=True):
    """The calibration is over and the launch is closed; ``failed`` says why it ended early."""

    failed: str = ""


Asked = Ask | AskOutput | Over | LightAbort | ClimbTurn | OthersClimb
Climb = Callable[[ClimbTurn], None]
"""The user's turn to align its polarisation."""


class ChannelStation:
    """The relay's side: a user's station behind a channel."""

    def __init__(self, channel: Channel, user: str, timeout_s: float) -> None:
        self._channel, self._user, self._timeout_s = channel, user, timeout_s

    def take_in(self) -> None:
        """Into the ring; LightAborted where the user cannot."""
        self._ask(Ask("in"))

    def darken(self) -> None:
        """As little light as the attenuator lets through."""
        self._ask(Ask("dark"))

    def bypass(self) -> None:
        """Out of the ring."""
        self._ask(Ask("out"))

    def output_photons(self, direction: Direction) -> float:
        """Mean photons per slot at the output, by the user's word."""
        return self._ask(AskOutput(direction))

    def own_power_w(self, mu: float, direction: Direction) -> float:
        """What the user's sensor reads for so many photons, by the user's word."""
        return self._ask(AskOutput(direction, mu))

    def over(self, failed: str = "") -> None:
        """The launch is closed, and nothing more will be asked."""
        self._channel.send(encode(Over(failed[:REASON_LIMIT])))

    def _ask(self, asked: Ask | AskOutput) -> float:
        self._channel.send(encode(asked))
        try:
            answer = decode(self._channel.recv(self._timeout_s), Answer)
        except WireError as error:
            raise LightAborted(f"{self._user}: malformed answer: {error}") from error
        if answer.failed:
            raise LightAborted(f"{self._user}: {answer.failed}")
        return answer.value


def stand_as_asked(
    channel: Channel, station: OwnStation, timeout_s: float, climb: Climb = lambda turn: None
) -> None:
    """The user's side, until the relay is done; ``climb`` takes its turn in aligning polarisation.

    Raises LightAborted where the relay gave up or goes silent; the station is dark then, and in the ring unless no light
    reaches it.
    """
    over = False
    try:
        while True:
            asked: Asked = decode(channel.recv(timeout_s), Asked)
            if isinstance(asked, Over):
                over = True
                if asked.failed:
                    raise LightAborted(f"the relay gave up: {asked.failed}")
                return
            if isinstance(asked, LightAbort):
                raise LightAborted(f"aborted by the relay: {asked.reason}")
            if isinstance(asked, ClimbTurn):
                climb(asked)
            elif not isinstance(asked, OthersClimb):
                channel.send(encode(_answer(station, asked)))
    except WireError as error:
        raise LightAborted(f"malformed message in a calibration: {error}") from error
    except ChannelTimeoutError as error:
        raise LightAborted(f"the relay said nothing for {timeout_s:g} s in a calibration") from error
    finally:
        station.darken()
        if over:
            station.bypass()
        else:
            station.bypass_if_dark()


def _answer(station: OwnStation, asked: Ask | AskOutput) -> Answer:
    """Do what is asked; an instrument that cannot is the answer, and the relay gives up."""
    try:
        match asked:
            case Ask("in"):
                station.take_in()
            case Ask("dark"):
                station.darken()
            case Ask("out"):
                station.bypass()
            case AskOutput(direction, None):
                return Answer(station.output_photons(direction))
            case AskOutput(direction, mu):
                return Answer(station.own_power_w(mu or 0.0, direction))
    except (InstrumentError, LightAborted) as error:
        return Answer(failed=f"{type(error).__name__}: {error}"[:REASON_LIMIT])
    return Answer()
