"""One calibration by three parties, each of which has its own instruments and a channel to the relay.

*The relay's own* (carver, visibility, ...): it works with its own means, and users' stations do as they are asked
(:mod:`orchestrator.light.calibration.asked`).

*A user's own* (delays, phase): both users in turn.  The one whose turn it is says how many frames it wants, again and
again; the relay passes that on to the other, who stands at rest in them, and all three go through a light phase::

    user     -> relay    WantFrames(n)
    relay    -> partner  StandFrames(n)
    all                  light phase of n frames
    user     -> relay    Found(refused)
    relay    -> partner  TurnOver()

What is found stays with its owner.  The frames are no key: what comes of them is counts by level, of another type.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

from msgspec import Meta

from lab.calibration.book import Book
from lab.calibration.errors import CalibrationRefusedError
from lab.calibration.finding import Finding
from lab.calibration.steps import Step
from lab.light_of import pair_light
from lab.testbed import Testbed
from orchestrator.light.aligning import climb_in_turn, user_climber
from orchestrator.light.calibration.asked import ChannelStation, stand_as_asked
from orchestrator.light.calibration.levels import REST
from orchestrator.light.calibration.means import Levels, OnFrame, Pair
from orchestrator.light.calibration.procedures import RELAY_PROCEDURES, USER_PROCEDURES
from orchestrator.light.calibration.relay_bench import RelayBench
from orchestrator.light.clicks import LevelClicks
from orchestrator.light.launching import PlannedLight, RelayInstruments
from orchestrator.light.messages import ClimbTurn, LightAbort, LightAborted
from orchestrator.light.own_station import OWN_DIRECTION, OwnStation
from orchestrator.light.relay import RelayLight
from orchestrator.light.timing import FrameTiming
from orchestrator.light.tracking.polarization import parties
from orchestrator.light.user import ScannedFrame, UserLight
from orchestrator.protocols.block_planning import plan_for
from orchestrator.wire.channel import Channel, ChannelTimeoutError
from orchestrator.wire.codec import Message, WireError, decode, encode
from orchestrator.wire.fields import REASON_LIMIT

Part = Callable[[float], None]
MOST_FRAMES = 1 << 16
ANSWER_S = 30.0
"""For a switch, an attenuator or a sensor to do what was asked."""
FITTING_S = 120.0
"""What a user may need between two light phases, to fit what it counted."""


class WantFrames(Message, frozen=True):
    """The user whose turn it is wants a light phase."""

    n_frames: Annotated[int, Meta(ge=1, le=MOST_FRAMES)]


class Found(Message, frozen=True):
    """Its turn is over; ``refused`` says why it found nothing."""

    refused: Annotated[str, Meta(max_length=REASON_LIMIT)] = ""


class StandFrames(Message, frozen=True):
    """Stand at rest in a light phase."""

    n_frames: Annotated[int, Meta(ge=1, le=MOST_FRAMES)]


class TurnOver(Message, frozen=True):
    """The other user is done."""


Said = WantFrames | Found | StandFrames | TurnOver


class RelayParty:
    """The relay in a calibration."""

    def __init__(
        self, testbed: Testbed, light: RelayLight, owned: RelayInstruments, timeout_s: float = ANSWER_S
    ) -> None:
        self._testbed, self._light, self._owned, self._timeout_s = testbed, light, owned, timeout_s

    def calibrate(
        self, step: Step, pair: Pair, channels: tuple[Channel, Channel], part: Part
    ) -> Finding | None:
        """The relay's finding, None where users find.

        Raises CalibrationRefusedError for its own, LightAborted, ChannelError or InstrumentError.
        """
        if step in USER_PROCEDURES:
            for turn in (0, 1):
                self.serve(pair, channels, turn, lambda done, turn=turn: part((turn + done) / 2))  # type: ignore[misc]
            return None
        stations = {
            user: ChannelStation(channel, user, self._timeout_s)
            for user, channel in zip(pair, channels, strict=True)
        }
        climbers = {
            user: user_climber(channel, user, self._timeout_s)
            for user, channel in zip(pair, channels, strict=True)
            if user in parties(self._testbed, pair)
        }
        failed = "it was interrupted"
        try:
            bench = RelayBench(
                self._testbed,
                self._owned,
                stations,
                self._light.polarization,
                lambda taken_in: {user: climbers[user] for user in taken_in if user in climbers},
                self._light.gates_ps(),
            )
            found = RELAY_PROCEDURES[step](bench, "relay", pair, part)
            failed = ""
        except CalibrationRefusedError as error:
            failed = f"refused: {error}"
            raise
        except Exception as error:
            failed = f"{type(error).__name__}: {error}"
            raise
        finally:
            for station in stations.values():
                station.over(failed)
        return found

    def serve(self, pair: Pair, channels: tuple[Channel, Channel], turn: int, part: Part) -> None:
        """Light phases for the user whose turn it is, 0 or 1 of the pair, as many as it wants."""
        active, partner = channels[turn], channels[1 - turn]
        budget = pair_light(self._testbed, *pair).budget(plan_for(self._testbed, *pair).mu_a)
        while True:
            wanted = _read(active, FITTING_S)
            if isinstance(wanted, Found):
                partner.send(encode(TurnOver()))
                return
            if not isinstance(wanted, WantFrames):
                raise LightAborted(f"{pair[turn]} says {type(wanted).__name__} in its turn")
            partner.send(encode(StandFrames(wanted.n_frames)))
            active.send(encode(StandFrames(wanted.n_frames)))
            self._light.run(
                channels,
                wanted.n_frames,
                # what is counted depends on levels that nobody else knows
                PlannedLight(budget.launch_attenuation_db, pair=pair),
                on_frame=lambda frame, _, n=wanted.n_frames: part((frame + 1) / n),  # type: ignore[misc]
            )


class UserParty:
    """One user in a calibration with a partner."""

    def __init__(
        self,
        testbed: Testbed,
        name: str,
        light: UserLight,
        station: OwnStation,
        book: Book,
        timeout_s: float = ANSWER_S,
    ) -> None:
        self.testbed, self.book = testbed, book
        self._name, self._light, self._station, self._timeout_s = name, light, station, timeout_s
        self._channel: Channel | None = None

    def calibrate(self, step: Step, pair: Pair, channel: Channel, part: Part) -> Finding | None:
        """This user's finding, None where the relay finds.  Raises as :meth:`RelayParty.calibrate` does."""
        if step in RELAY_PROCEDURES:

            def climb(turn: ClimbTurn) -> None:
                climb_in_turn(self._light.polarization, self.testbed, pair, channel, turn, self._timeout_s)

            stand_as_asked(channel, self._station, self._timeout_s, climb)
            return None
        found, refused = None, None
        for user in pair:
            if user != self._name:
                self.stand(pair, channel)
                continue
            try:
                found = self.find(step, pair, channel, part)
            except CalibrationRefusedError as error:
                refused = error
        if refused is not None:
            raise refused
        return found

    def find(self, step: Step, pair: Pair, channel: Channel, part: Part) -> Finding:
        """This user's turn in a step of users; raises CalibrationRefusedError once the others know that it is over."""
        self._channel = channel
        try:
            found = USER_PROCEDURES[step](self, self._name, pair, part)
        except CalibrationRefusedError as error:
            channel.send(encode(Found(str(error)[:REASON_LIMIT])))
            raise
        channel.send(encode(Found()))
        return found

    def stand(self, pair: Pair, channel: Channel) -> None:
        """At rest in the partner's light phases."""
        while not isinstance(told := _read(channel, self._timeout_s + FITTING_S), TurnOver):
            if not isinstance(told, StandFrames):
                raise LightAborted(f"the relay says {type(told).__name__} in the partner's turn")
            self._light.calibrate(
                channel,
                levels=REST,
                mu=self._mu(pair),
                direction=OWN_DIRECTION[pair.index(self._name)],
                n_frames=told.n_frames,
                pair=pair,
            )

    def framed(self, pair: Pair, levels: Levels, n_frames: int, on_frame: OnFrame) -> LevelClicks:
        """A light phase in which this user plays private levels."""
        return self._light.calibrate(
            self._begin(n_frames),
            levels=levels,
            mu=self._mu(pair),
            direction=OWN_DIRECTION[pair.index(self._name)],
            n_frames=n_frames,
            pair=pair,
            on_frame=on_frame,
        )

    def scanned(
        self, pair: Pair, levels: Levels, timings: Sequence[FrameTiming], on_frame: OnFrame
    ) -> list[ScannedFrame]:
        """The same with a time for every frame."""
        return self._light.scan(
            self._begin(len(timings)),
            levels=levels,
            mu=self._mu(pair),
            direction=OWN_DIRECTION[pair.index(self._name)],
            timings=timings,
            pair=pair,
            on_frame=on_frame,
        )

    def _begin(self, n_frames: int) -> Channel:
        """Have the others ready for a light phase."""
        assert self._channel is not None
        self._channel.send(encode(WantFrames(n_frames)))
        told = _read(self._channel, self._timeout_s)
        if told != StandFrames(n_frames):
            raise LightAborted(f"the relay begins {told}, and {n_frames} frames were wanted")
        return self._channel

    def _mu(self, pair: Pair) -> float:
        plan = plan_for(self.testbed, *pair)
        return (plan.mu_a, plan.mu_b)[pair.index(self._name)]


def _read(channel: Channel, timeout_s: float) -> Said:
    """The next message; LightAborted for an abort, malformed bytes and silence."""
    try:
        message: Said | LightAbort = decode(channel.recv(timeout_s), Said | LightAbort)
    except WireError as error:
        raise LightAborted(f"malformed message in a calibration: {error}") from error
    except ChannelTimeoutError as error:
        raise LightAborted(f"nothing came for {timeout_s:g} s in a calibration") from error
    if isinstance(message, LightAbort):
        raise LightAborted(f"aborted by the other side: {message.reason}")
    return message
