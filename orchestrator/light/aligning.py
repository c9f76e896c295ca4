"""How polarisation is aligned at the beginning of a lease, before any frame: by climbing, one party after the other.

Light of the pair is launched, nobody modulates it, and the relay counts.  Every gap passes its own part of all light, so
controllers can be climbed in any order, each for itself.  The relay climbs on its own counts.  A user climbs on what the relay
says that it counted::

    relay -> user    ClimbTurn(why)            it is your turn; ``why`` you are to climb, if you do not know better
    user  -> relay   CountWanted()             any number of times: my controller stands
    relay -> user    Counted(counts)
    user  -> relay   ClimbOver(left_db, ...)   at once where what is kept will do
    relay -> other   OthersClimb()             now and then, so that it waits

Light that does not pass cannot blind a detector, so all that is planned may be launched before anything is aligned; every
reading is held against the plan all the same.  What a lie of the relay can do is said in
:mod:`orchestrator.light.tracking.polarization`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from lab.calibration.errors import CalibrationRefusedError
from lab.calibration.steps import Step
from lab.testbed import Testbed
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
TELL_EVERY = 10
"""Readings, after which the others are told to wait on."""

Count: TypeAlias = Callable[[], int]
Climber: TypeAlias = Callable[[Count, str], None]
"""One party's turn: given readings, and why it is to climb, empty where only its own reasons count."""


@dataclass
class Meter:
    """Readings of the light at rest, held against ``planned_cps`` of both detectors together; 0 where nobody planned any.

    ``meanwhile`` is called now and then.
    """

    testbed: Testbed
    exposures: Exposures
    planned_cps: float = 0.0
    meanwhile: Callable[[], None] = lambda: None
    readings: int = 0

    def count(self) -> int:
        """Clicks in gates of one record.  LightAborted where there are far more than planned."""
        counted = self.exposures.gated(clicks=1, longest_s=RECORD_S)
        self.readings += 1
        if self.readings % TELL_EVERY == 0:
            self.meanwhile()
        clicks = int(counted.inside.sum())
        if 0 < TOO_BRIGHT * self.planned_cps * self._seconds < clicks:
            raise LightAborted(
                f"{clicks / self._seconds:.3g} counts per second while polarisation is aligned, and {self.planned_cps:.3g} "
                "are planned: is the launch attenuation right?"
            )
        return clicks

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


def align(meter: Meter, climbers: Sequence[Climber], usual: float) -> float:
    """Have everybody climb who must; returns the share of the planned light that arrives then, ``usual`` where none is planned.

    ``usual`` is the share when all were aligned.  LightAborted where light is still missing, and where somebody gives up.
    """
    why = ""
    if meter.planned_cps and (share := meter.share()) < usual * 10 ** (-LOST_DB / 10):
        why = f"{share:.0%} of the planned light arrives, and {usual:.0%} did when it was aligned"
    before = meter.readings
    for climb in climbers:
        climb(meter.count, why)
    if not meter.planned_cps or meter.readings == before:
        return usual
    if (share := meter.share()) < MISSING:
        raise LightAborted(
            f"{share:.1%} of the planned light arrives with polarisation aligned: do both stations let light through, is a "
            "station taken in that should be bypassed?"
        )
    return share


def tell_others(channels: Sequence[Channel]) -> None:
    """Have users wait on, whoever climbs."""
    for channel in channels:
        channel.send(encode(OthersClimb()))


def relay_climber(own: OwnPolarization, testbed: Testbed, pair: Sequence[str]) -> Climber:
    """The relay's own turn."""

    def climb(count: Count, why: str) -> None:
        if why or own.must_climb(pair):
            climb_for(own, testbed, pair, count)

    return climb


def climb_for(own: OwnPolarization, testbed: Testbed, pair: Sequence[str], count: Count) -> None:
    """Climb; LightAborted with the reason where that is refused."""
    try:
        own.climb(pair, count, dark_counts(testbed, reading_slots(testbed)))
    except CalibrationRefusedError as error:
        raise LightAborted(f"{own.owner}: {Step.POLARIZATION} is refused: {error}") from error


def user_climber(channel: Channel, user: str, patience_s: float) -> Climber:
    """The turn of a user behind a channel, as the relay serves it."""

    def climb(count: Count, why: str) -> None:
        channel.send(encode(ClimbTurn(why[:REASON_LIMIT])))
        for _ in range(MOST_READINGS):
            message = read_light_message(channel.recv(patience_s))
            if isinstance(message, ClimbOver):
                return
            if not isinstance(message, CountWanted):
                raise unexpected("CountWanted or ClimbOver", message)
            channel.send(encode(Counted(count())))
        raise LightAborted(f"{user} climbs without end")

    return climb


def climb_in_turn(
    own: OwnPolarization | None, testbed: Testbed, pair: Pair, channel: Channel, why: str, patience_s: float
) -> None:
    """A user's own turn.  LightAborted where climbing is refused or the relay says anything else than counts."""

    def count() -> int:
        channel.send(encode(CountWanted()))
        while isinstance(message := read_light_message(channel.recv(patience_s)), OthersClimb):
            pass
        if not isinstance(message, Counted):
            raise unexpected("Counted", message)
        return message.counts

    if own is not None and (why or own.must_climb(pair)):
        climb_for(own, testbed, pair, count)
    channel.send(encode(ClimbOver()))
