"""The light phase of a lease: what relay and users say to each other while pulses fly.

Both users take their stations in (:class:`StationIn`), the relay opens the launch (:class:`LightOn`), and closes it at
the end, however it ends (:class:`LightOff`); only then are stations bypassed.  Before it says that light is on, polarisation
is aligned (:mod:`orchestrator.light.aligning`) and the loop's phase looked at (:mod:`orchestrator.light.phase_look`).

Per frame: both users arm their modulators (:class:`Armed`), the relay fires one trigger, reads the tags and publishes
which slots clicked in which detector (:class:`Announcement`).  Users keep the symbols of announced slots only.  A frame
that the relay could not record it calls lost (:class:`FrameLost`), and the block goes on.  Announcements carry public
facts; their bytes as received go into both users' transcripts, so that a relay which tells the two users different
stories is caught.

All messages travel on channels of topic ``light/<epoch>/<lease number>`` between the relay and each user.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt

from lab.calibration.steps import Step
from orchestrator.light.clicks import BOTH, D1_ONLY, FrameClicks
from orchestrator.wire.codec import Message, WireError, decode, encode
from orchestrator.wire.fields import REASON_LIMIT

Reason = Annotated[str, msgspec.Meta(max_length=500)]
FrameIndex = Annotated[int, msgspec.Meta(ge=0, lt=2**32)]


class StationIn(Message, frozen=True, tag="station-in"):
    """User to relay: my station is taken in, so light may be launched."""


class ClimbTurn(Message, frozen=True, tag="climb-turn"):
    """Relay to user: align your polarisation, if you must or for this reason; ``roughly`` where others are to come first."""

    why: Reason = ""
    roughly: bool = False


class CountWanted(Message, frozen=True, tag="count-wanted"):
    """User to relay: my controller stands; count the light."""


class Counted(Message, frozen=True, tag="counted"):
    """Relay to user: so many clicks came."""

    counts: Annotated[int, msgspec.Meta(ge=0, lt=2**32)]


class ClimbOver(Message, frozen=True, tag="climb-over"):
    """User to relay: my turn is over; at most ``left_db`` may still be gained where I climbed, and nothing is said where not."""

    left_db: Annotated[float, msgspec.Meta(ge=0.0)] | None = None


class OthersClimb(Message, frozen=True, tag="others-climb"):
    """Relay to user: others align their polarisation; wait on."""


class LookTurn(Message, frozen=True, tag="look-turn"):
    """Relay to first user: look at the loop's phase, if you want to."""


class LookArmed(Message, frozen=True, tag="look-armed"):
    """User to relay: a frame that shows the phase, and makes no key, waits for its trigger."""


class LookOver(Message, frozen=True, tag="look-over"):
    """User to relay: I know the phase."""


class LightOn(Message, frozen=True, tag="light-on"):
    """Relay to user: light is launched; check your intensity."""


class LightOff(Message, frozen=True, tag="light-off"):
    """Relay to user: the launch is closed; stations may be bypassed."""


class Armed(Message, frozen=True, tag="armed"):
    """User to relay: frame ``frame`` is loaded and waits for its trigger."""

    frame: FrameIndex


class Announcement(Message, frozen=True, tag="announcement"):
    """Relay to user: the clicks of one frame.

    ``slots``: uint32 little endian, strictly increasing; ``outcomes``: uint8 per slot, 1 = D1 only,
    2 = D2 only, 3 = both.
    """

    frame: FrameIndex
    slots: bytes
    outcomes: bytes


class FrameLost(Message, frozen=True, tag="frame-lost"):
    """Relay to user: there is no announcement of this frame, as it did not fire or has no record of the clicks.

    ``reason`` says why, for people: nothing is decided by it.
    """

    frame: FrameIndex
    reason: Reason = ""


class Finished(Message, frozen=True, tag="finished"):
    """User to relay: all frames are over and the intensity was right to the end; the light may go out."""


class LightAbort(Message, frozen=True, tag="light-abort"):
    """Either way: the light phase ends here, and why."""

    reason: Reason


LightMessage = (
    StationIn
    | ClimbTurn
    | CountWanted
    | Counted
    | ClimbOver
    | OthersClimb
    | LookTurn
    | LookArmed
    | LookOver
    | LightOn
    | LightOff
    | Armed
    | Announcement
    | FrameLost
    | Finished
    | LightAbort
)

LOST = b""
"""Stands in a list of announcements, in the place of a frame that is lost."""


class LightAborted(Exception):
    """The light phase ended early; nothing of the block is kept.  ``steps`` are calibrations that would mend the ring."""

    def __init__(self, text: str, steps: tuple[Step, ...] = ()) -> None:
        super().__init__(text)
        self.steps = steps


class DetectorsBlinded(LightAborted):
    """More light reaches a detector than it bears."""


class LightMissing(LightAborted):
    """There is less light than planned, or none."""


class LaunchClosed(LightAborted):
    """The relay ended it, and confirmed that its launch is closed."""


def light_topic(epoch: int, lease_number: int) -> str:
    """Topic of the light phase of one lease."""
    return f"light/{epoch}/{lease_number}"


def announce(frame: int, slots: npt.NDArray[np.uint32], outcomes: npt.NDArray[np.uint8]) -> bytes:
    """The encoded announcement of one frame: slots (uint32, increasing) and outcomes (uint8), both of shape (n,)."""
    return encode(Announcement(frame, slots.astype("<u4").tobytes(), outcomes.astype(np.uint8).tobytes()))


def frame_digest(announcement: bytes) -> bytes:
    """The SHA-256 of a frame's announcement as it stood on the wire, zeros for a lost one."""
    return bytes(32) if announcement == LOST else hashlib.sha256(announcement).digest()


def block_digest(frames: Iterable[bytes]) -> str:
    """SHA-256 (hexadecimal) of the :func:`frame_digest` of every frame: equal iff the same was recorded of each."""
    return hashlib.sha256(b"".join(frames)).hexdigest()


def reason_of(error: BaseException) -> str:
    """What an error says, as it is sent to others."""
    return f"{type(error).__name__}: {error}"[:REASON_LIMIT]


def aborting(error: BaseException) -> bytes:
    """The encoded word that ends the light phase because of ``error``."""
    return encode(LightAbort(reason_of(error)))


def read_light_message(data: bytes) -> LightMessage:
    """Decode one message; an abort of the other side or malformed bytes raise LightAborted."""
    try:
        message: LightMessage = decode(data, LightMessage)
    except WireError as error:
        raise LightAborted(f"malformed message in the light phase: {error}") from error
    if isinstance(message, LightAbort):
        raise LightAborted(f"aborted by the other side: {message.reason}")
    return message


def unexpected(expected: str, message: LightMessage) -> LightAborted:
    """What a message other than the expected one comes to."""
    kind = LaunchClosed if isinstance(message, LightOff) else LightAborted
    return kind(f"expected {expected}, got {type(message).__name__}")


def check_announcement(message: LightMessage, frame: int, slots_per_frame: int) -> FrameClicks:
    """The clicks of frame ``frame``; anything but its well-formed announcement raises LightAborted."""
    if not isinstance(message, Announcement):
        raise unexpected(f"the announcement of frame {frame}", message)
    if message.frame != frame:
        raise LightAborted(f"expected the announcement of frame {frame}, got frame {message.frame}")
    if len(message.slots) != 4 * len(message.outcomes):
        raise LightAborted(f"announcement of frame {frame}: slots and outcomes differ in number")
    slots = np.frombuffer(message.slots, "<u4").astype(np.uint32, copy=False)
    outcomes = np.frombuffer(message.outcomes, np.uint8)
    if slots.size and (slots[-1] >= slots_per_frame or np.any(slots[1:] <= slots[:-1])):
        raise LightAborted(f"announcement of frame {frame}: slots out of order or out of range")
    if outcomes.size and (outcomes.min() < D1_ONLY or outcomes.max() > BOTH):
        raise LightAborted(f"announcement of frame {frame}: unknown outcome")
    return FrameClicks(frame, slots, outcomes)
