"""How polarisation is aligned at the beginning of a lease, before any frame: by climbing, one party after the other.

Light of the pair is launched, nobody modulates it, and the relay counts.  Every gap passes its own part of all light, so
controllers can be climbed in any order, each for itself.  The relay climbs on its own counts.  A user climbs on what the relay
says that it counted::

    relay -> user    ClimbTurn(why, roughly)   it is your turn; ``why`` you are to climb, if you do not know better
    user  -> relay   CountWanted()             any number of times: my controller stands
    relay -> user    Counted(counts)
    user  -> relay   ClimbOver(left_db, ...)   at once where what is kept will do
    relay -> other   OthersClimb()             now and then, so that it waits

Two gaps that are far off leave little light to climb the third by.  So all that nothing is known of are first approached
in turn, each until most of its light passes.

Light that does not pass cannot blind a detector, so all that is planned may be launched before anything is aligned; every
reading is held against the plan all the same.  What a lie of the relay can do is said in
:mod:`orchestrator.light.tracking.polarization`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from lab.calibration.errors import CalibrationRefusedError
from lab.calibration.steps import Step
from lab.testbed import Testbed
from orchestrator import runtime
from orchestrator.light.calibration.exposures import RECORD_S, Exposures
from orchestrator.light.launching import MISSING
from orchestrator.light.messages import (
    ClimbOver,
    ClimbTurn,
    Counted,
    CountWanted,
    LightAborted,
    OthersClimb,
    read_light_message,
    unexpected,
)
from orchestrator.light.tracking.polarization import OwnPolarization, Pair, dark_counts
from orchestrator.wire.channel import Channel
from orchestrator.wire.codec import encode
from orchestrator.wire.fields import REASON_LIMIT

LOST_DB = 0.4
"""With so much less light than usual everybody climbs: what is less, holding finds back."""
TOO_BRIGHT = 3.0
"""Times the planned rate."""
MOST_READINGS = 10_000
"""That a user may want in its turn."""
TELL_EVERY_S = 2.0
"""The others are told to wait on."""

Count: TypeAlias = Callable[[], int]
Climber: TypeAlias = Callable[[Count, str, bool], float | None]
"""One party's turn: given readings, why it is to climb, empty where only its own reasons count, and whether roughly.

What may still be gained then (dB, with 95 % confidence), None where it did not climb.
"""


@dataclass
class Meter:
    """Readings of the light at rest, held against ``planned_cps`` of both detectors together; 0 where nobody planned any.

    ``gated``: only clicks in gates, as in frames; else all but those that darkness adds, where nobody knows yet when pulses
    arrive.
    ``meanwhile`` is told now and then which part of the parties is ``done``.
    """

    testbed: Testbed
    exposures: Exposures
    planned_cps: float = 0.0
    gated: bool = True
    meanwhile: Callable[[float], None] = lambda part: None
    done: float = 0.0
    readings: int = 0
    told_s: float = field(default_factory=runtime.now)

    def count(self) -> int:
        """Clicks of one record.  LightAborted where there are far more than planned."""
        clicks = self._clicks()
        self.readings += 1
        if (at_s := runtime.now()) - self.told_s > TELL_EVERY_S:
            self.told_s = at_s
            self.meanwhile(self.done)
        if 0 < TOO_BRIGHT * self.planned_cps * self._seconds < clicks:
            raise LightAborted(
                f"{clicks / self._seconds:.3g} counts per second while polarisation is aligned, and {self.planned_cps:.3g} "
                "are planned: is the launch attenuation right?"
            )
        return clicks

    def _clicks(self) -> int:
        if not self.gated:
            gates = self.testbed.protocol.gate_ns * 1e-9 * self.testbed.protocol.clock_hz
            beside = dark_counts(self.testbed, reading_slots(self.testbed)) * (1 / gates - 1)
            return max(0, round(sum(each.size for each in self.exposures.tags()) - beside))
        return int(self.exposures.gated(clicks=1, longest_s=RECORD_S).inside.sum())

    def share(self) -> float:
        """Of the planned light, what arrives."""
        dark = dark_counts(self.testbed, reading_slots(self.testbed))
        return (self.count() - dark) / (self.planned_cps * self._seconds)

    @property
    def _seconds(self) -> float:
        return reading_slots(self.testbed) / self.testbed.protocol.clock_hz


def reading_slots(testbed: Testbed) -> int:
    """Slots whose light is counted in a reading."""
    tail_s = max(testbed.calibration.detector_delays_ps) * 1e-12
    return round((RECORD_S - tail_s) * testbed.protocol.clock_hz)


def align(meter: Meter, climbers: Iterable[Climber], usual: float = 1.0, why: str = "") -> float:
    """Have everybody climb who must; returns the share of the planned light that arrives when all are aligned.

    ``usual`` is what that was; it stands where no light is planned, and where not all have climbed: each of these leaves what
    the others lost, and would be taken for usual with the next.  ``why`` says what all climb for, empty where only those do
    that must.  LightAborted where light is still missing, and where somebody gives up.
    """
    if meter.planned_cps and (share := meter.share()) < usual * 10 ** (-LOST_DB / 10):
        why = f"{share:.0%} of the planned light arrives, and {usual:.0%} did when it was aligned"
    before, turns = meter.readings, list(climbers)
    passes = [(roughly, climb) for roughly in (True, False) for climb in turns]
    for number, (roughly, climb) in enumerate(passes):
        meter.done = number / len(passes)
        climb(meter.count, why, roughly)
    if not meter.planned_cps or meter.readings == before:
        return usual
    if (share := meter.share()) < MISSING:
        raise LightAborted(
            f"{share:.1%} of the planned light arrives with polarisation aligned: do both stations let light through, is a "
            "station taken in that should be bypassed?"
        )
    return share if why else usual


def tell_others(channels: Sequence[Channel]) -> None:
    """Have users wait on, whoever climbs."""
    for channel in channels:
        channel.send(encode(OthersClimb()))


def own_climber(own: OwnPolarization, testbed: Testbed, pair: Sequence[str]) -> Climber:
    """The turn of a party that is not behind a channel."""

    return lambda count, why, roughly: climb_own(own, testbed, pair, count, why, roughly)


def climb_own(
    own: OwnPolarization, testbed: Testbed, pair: Sequence[str], count: Count, why: str, roughly: bool
) -> float | None:
    """Stand as is kept, and climb where that will not do; LightAborted with the reason where climbing is refused."""
    own.prepare(pair)
    dark = dark_counts(testbed, reading_slots(testbed))
    try:
        if roughly:
            own.approach(pair, count, dark)
        elif why or own.must_climb(pair):
            return own.climb(pair, count, dark).below_best_db
        return None
    except CalibrationRefusedError as error:
        raise LightAborted(f"{own.owner}: {Step.POLARIZATION} is refused: {error}") from error


def user_climber(channel: Channel, user: str, patience_s: float) -> Climber:
    """The turn of a user behind a channel, as the relay serves it."""

    def climb(count: Count, why: str, roughly: bool) -> float | None:
        channel.send(encode(ClimbTurn(why[:REASON_LIMIT], roughly)))
        for _ in range(MOST_READINGS):
            message = read_light_message(channel.recv(patience_s))
            if isinstance(message, ClimbOver):
                return message.left_db
            if not isinstance(message, CountWanted):
                raise unexpected("CountWanted or ClimbOver", message)
            channel.send(encode(Counted(count())))
        raise LightAborted(f"{user} climbs without end")

    return climb


def climb_in_turn(
    own: OwnPolarization | None,
    testbed: Testbed,
    pair: Pair,
    channel: Channel,
    turn: ClimbTurn,
    patience_s: float,
) -> None:
    """A user's own turn.  LightAborted where climbing is refused or the relay says anything else than counts."""

    def count() -> int:
        channel.send(encode(CountWanted()))
        while isinstance(message := read_light_message(channel.recv(patience_s)), OthersClimb):
            pass
        if not isinstance(message, Counted):
            raise unexpected("Counted", message)
        return message.counts

    left_db = None if own is None else climb_own(own, testbed, pair, count, turn.why, turn.roughly)
    channel.send(encode(ClimbOver(left_db)))
