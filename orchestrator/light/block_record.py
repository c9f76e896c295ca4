"""What a user records of a block, frame by frame; a frame that it could not record is lost, and the block goes on.

A frame is lost for a user when the relay says so, when its announcement does not come in time, or when the user's
own generator got no trigger and so put no symbols on the light.  Its symbols are erased at once, and never leave
the user.  Its slots stay in the number of pulses: what the relay chooses to lose must cost key.

Why a frame is lost stays with the record, for whoever is told of the block; the relay's words are marked as its own.

A word about a frame that is lost already changes nothing and is dropped.  Anything else out of turn, such as a second
announcement of a recorded frame, ends the block.  Which frames are lost for *both* is settled later
(:mod:`orchestrator.postprocessing.lost_frames`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from orchestrator import runtime
from orchestrator.light.clicks import BlockClicks, FrameClicks, joined
from orchestrator.light.messages import (
    LOST,
    Announcement,
    FrameLost,
    LightAborted,
    check_announcement,
    read_light_message,
)
from orchestrator.light.symbols import SymbolFrame
from orchestrator.wire.channel import Channel, ChannelTimeoutError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Heard:
    """An announcement: its bytes as received, and what they say."""

    data: bytes
    clicks: FrameClicks


@dataclass(frozen=True)
class Lost:
    """There is no announcement of a frame, and why."""

    reason: str


class BlockRecord:
    """The frames of one block so far; the next one is number ``len(announcements)``.

    ``announcements`` holds :data:`LOST` in the place of a lost frame.
    """

    def __init__(
        self,
        slots_per_frame: int,
        n_frames: int,
        lost_frames_limit: float,
        on_kept: Callable[[FrameClicks, SymbolFrame], None] = lambda clicks, symbols: None,
    ) -> None:
        """``lost_frames_limit``: the part of the frames that may be lost; ``on_kept`` gets each that is not, at once."""
        self.announcements: list[bytes] = []
        self._slots = slots_per_frame
        self._n_frames = n_frames
        self._limit = math.floor(lost_frames_limit * n_frames)
        self._kept: list[BlockClicks] = []
        self._on_kept = on_kept
        self.lost_reason = ""
        """Why the latest of the lost frames was lost."""

    @property
    def lost_frames(self) -> int:
        """How many frames are lost so far."""
        return self.announcements.count(LOST)

    def hear(self, channel: Channel, timeout_s: float) -> Heard | Lost:
        """Wait for the announcement of the next frame; Lost if the relay lost it, or says nothing in time."""
        frame, deadline = len(self.announcements), runtime.now() + timeout_s
        while True:
            try:
                data = channel.recv(max(0.0, deadline - runtime.now()))
            except ChannelTimeoutError:
                return Lost(f"no announcement within {timeout_s:g} s")
            message = read_light_message(data)
            if isinstance(message, Announcement | FrameLost) and self._is_lost(message.frame):
                if runtime.now() > deadline:
                    raise LightAborted(f"nothing but words about lost frames for {timeout_s:g} s")
                continue
            if isinstance(message, FrameLost) and message.frame == frame:
                return Lost(f"the relay says: {message.reason or 'no record of it'}")
            return Heard(data, check_announcement(message, frame, self._slots))

    def _is_lost(self, frame: int) -> bool:
        return frame < len(self.announcements) and self.announcements[frame] == LOST

    def keep(self, heard: Heard, symbols: SymbolFrame) -> None:
        """The next frame is recorded, with this user's symbols of the announced slots."""
        clicks = heard.clicks
        frame = np.full(clicks.slots.size, clicks.frame, np.uint32)
        self._kept.append(
            BlockClicks(frame, clicks.slots, clicks.outcomes, symbols.at(clicks.slots), self._slots)
        )
        self.announcements.append(heard.data)
        self._on_kept(clicks, symbols)

    def lose(self, symbols: SymbolFrame, reason: str) -> None:
        """The next frame is lost; raises LightAborted where too many are."""
        symbols.erase()
        self.lost_reason = f"frame {len(self.announcements)}: {reason}"
        logger.warning("lost: %s", self.lost_reason)
        nothing = (
            np.zeros(0, np.uint32),
            np.zeros(0, np.uint32),
            np.zeros(0, np.uint8),
            np.zeros(0, np.uint8),
        )
        self._kept.append(BlockClicks(*nothing, self._slots))
        self.announcements.append(LOST)
        if self.lost_frames > self._limit:
            raise LightAborted(
                f"{self.lost_frames} of {self._n_frames} frames are lost, at most {self._limit} may be; {self.lost_reason}"
            )

    def block(self) -> BlockClicks:
        """Everything that was kept."""
        return joined(self._kept)

    def wipe(self) -> None:
        """Overwrite the symbols of every frame."""
        for part in self._kept:
            part.wipe()
