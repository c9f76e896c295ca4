"""The relay keeps the two users at the same frame, whatever either of them has given up.

Each user goes through the frames of a block by itself and says which one it has armed (:class:`Armed`), and at last
that it has finished.  A user that waited in vain for an announcement gives the frame up and arms the next one.  The
relay therefore fires only when both have armed the same frame and say nothing else; it tells the one behind that
its frame is lost, until it has caught up.  Nothing here makes key safe: a relay that fires all the same costs frames,
or the block.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from orchestrator.light.messages import (
    Armed,
    Finished,
    FrameLost,
    LightAborted,
    LightMessage,
    StationIn,
    read_light_message,
    unexpected,
)
from orchestrator.wire.channel import Channel, ChannelError, ChannelTimeoutError
from orchestrator.wire.codec import encode


class UsersInStep:
    """What both users of a lease have armed."""

    def __init__(self, channels: tuple[Channel, Channel], n_frames: int, patience_s: float) -> None:
        """``patience_s``: how long a user may take from one frame to the next, with a frame given up."""
        self._channels = channels
        self._n_frames = n_frames
        self._patience_s = patience_s
        self._armed = [-1, -1]
        self._served = -1

    def send(self, data: bytes) -> None:
        """The same encoded message to both."""
        for channel in self._channels:
            channel.send(data)

    def send_last(self, messages: list[bytes]) -> None:
        """The last encoded messages to both, whether the other can be reached or not."""
        for channel in self._channels:
            with contextlib.suppress(ChannelError):
                for data in messages:
                    channel.send(data)

    def await_stations(self) -> None:
        """Both have taken their stations in; raises LightAborted or ChannelError."""
        for channel in self._channels:
            message = read_light_message(channel.recv(self._patience_s))
            if not isinstance(message, StationIn):
                raise unexpected("StationIn", message)

    def send_in_turn(self, data: bytes) -> None:
        """The same encoded message to the first, and to the second when the first has armed; raises as they do.

        So the second reads its light with all that the first attenuated of it, and not both take away the same.
        """
        self._channels[0].send(data)
        self._hear(0, self._patience_s)
        self._channels[1].send(data)

    def next_frame(self) -> int | None:
        """The frame that both have armed, None once both have finished; raises LightAborted or ChannelError.

        A user that gives up says so and darkens its station, and the other may see that first: both are told of.
        """
        try:
            return self._next_frame()
        except LightAborted as error:
            reasons = [str(error), *(str(other) for side in (0, 1) for other in self._last_words(side))]
            raise LightAborted("; ".join(reasons)) from error

    def _last_words(self, side: int) -> Iterator[LightAborted]:
        """Why a user gives up, if it said so by this time."""
        with contextlib.suppress(ChannelError):
            while True:
                try:
                    read_light_message(self._channels[side].recv(0.0))
                except LightAborted as error:
                    yield error
                    return

    def _next_frame(self) -> int | None:
        waiting = tuple(side for side in (0, 1) if self._armed[side] <= self._served)
        while True:
            for side in waiting:
                self._hear(side, self._patience_s)
            for side in (0, 1):
                self._hear_the_rest(side)
            first, second = self._armed
            if first == second:
                self._served = first
                return first if first < self._n_frames else None
            behind = 0 if first < second else 1
            ahead = f"the other user is at frame {max(first, second)}"
            self._channels[behind].send(encode(FrameLost(self._armed[behind], ahead)))
            waiting = (behind,)

    def _hear_the_rest(self, side: int) -> None:
        with contextlib.suppress(ChannelTimeoutError):
            while True:
                self._hear(side, 0.0)

    def _hear(self, side: int, timeout_s: float) -> None:
        frame = self._frame_of(read_light_message(self._channels[side].recv(timeout_s)))
        if not self._armed[side] < frame <= self._n_frames:
            raise LightAborted(f"a user went from frame {self._armed[side]} to {frame} of {self._n_frames}")
        self._armed[side] = frame

    def _frame_of(self, message: LightMessage) -> int:
        match message:
            case Armed(frame):
                return frame
            case Finished():
                return self._n_frames
        raise unexpected("Armed or Finished", message)
