"""The conversation of one block with the peer: typed messages, recorded for the transcript, with every wait bounded.

Whatever arrives that is not the message due ends the block in one way, :class:`BlockAborted`.  An ``Aborted``
message from the peer does so too; it is not authenticated and need not be, because all it can do is end a block.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn, TypeVar

from lab.calibration.steps import Step
from orchestrator.keystore.lanes import PairEnd
from orchestrator.postprocessing.authentication import Transcript
from orchestrator.postprocessing.messages import REASON_LIMIT, Aborted, BlockMessage
from orchestrator.wire.channel import Channel, ChannelError
from orchestrator.wire.codec import decode, encode

M = TypeVar("M")
N = TypeVar("N")

PATIENCE = 50.0
"""The whole block may take this many times the time-out of one message."""


class BlockAborted(Exception):
    """The block was given up and destroyed; ``reason`` says why, ``stage`` where, ``steps`` what to calibrate."""

    def __init__(self, reason: str, stage: str = "", steps: tuple[Step, ...] = ()) -> None:
        self.reason = reason
        self.stage = stage
        self.steps = steps
        super().__init__(f"block aborted during {stage}: {reason}" if stage else f"block aborted: {reason}")


@dataclass(slots=True)
class Conversation:
    """Messages of one block to and from the peer; ``recording`` ends before the transcript tags."""

    pair_end: PairEnd
    channel: Channel
    transcript: Transcript
    timeout_s: float
    clock: Callable[[], float]
    stage: str = "opening"
    recording: bool = True
    _deadline: float = field(init=False)

    def __post_init__(self) -> None:
        self._deadline = self.clock() + PATIENCE * self.timeout_s

    @property
    def peer(self) -> PairEnd:
        """The other end of the pair."""
        return "second" if self.pair_end == "first" else "first"

    def send(self, message: BlockMessage) -> None:
        """Send one message; raises ChannelError."""
        data = encode(message)
        if self.recording:
            self.transcript.add(self.pair_end, data)
        self.channel.send(data)

    def receive(self, type_: type[M]) -> M:
        """The next message, which must be a ``type_``; raises BlockAborted, ChannelError or WireError."""
        message = self._next()
        if not isinstance(message, type_):
            self.abort(f"got {type(message).__name__} where {type_.__name__} was due")
        return message

    def receive_either(self, one: type[M], other: type[N]) -> M | N:
        """The next message, which must be of one of two types; raises as :meth:`receive` does."""
        message = self._next()
        if not isinstance(message, (one, other)):
            self.abort(f"got {type(message).__name__} where {one.__name__} or {other.__name__} was due")
        return message

    def _next(self) -> BlockMessage:
        left = self._deadline - self.clock()
        if left <= 0:
            self.abort(f"the block took longer than {PATIENCE * self.timeout_s:g} s")
        data = self.channel.recv(min(self.timeout_s, left))
        message: BlockMessage = decode(data, BlockMessage)
        if isinstance(message, Aborted):
            self.abort(f"the peer gave up: {_printable(message.reason)}")
        if self.recording:
            self.transcript.add(self.peer, data)
        return message

    def abort(self, reason: str, steps: tuple[Step, ...] = ()) -> NoReturn:
        """End the block; ``steps`` are calibrations that would mend the ring."""
        raise BlockAborted(reason, self.stage, steps)

    def tell_peer(self, reason: str) -> None:
        """Let the peer stop waiting, if it can be reached at all; without this its time-out ends the block."""
        with contextlib.suppress(ChannelError):
            self.channel.send(encode(Aborted(reason=_printable(reason))))


def _printable(text: str) -> str:
    """At most 200 printable characters: peers' words end up in logs and terminals."""
    return "".join(c if c.isprintable() else "?" for c in text)[:REASON_LIMIT]
