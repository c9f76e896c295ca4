"""One channel's stream of time tags: a ZeroMQ PAIR socket that the DataLinkTarget service binds.

Each message holds N pairs of little-endian uint64, (timestamp, index of the reference pulse).
An empty message ends the stream.  The stream knows how many tags it has delivered since it was opened, and
:meth:`TagStream.take` reads on until a given total is reached - or fails: it never returns a part.  After a
failure the position in the stream is unknown, so the stream refuses to be read until it is started anew.
Source: IDQ Python examples, ``StreamClient`` and the binary reader of the timestamp files.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import zmq

from drivers.links.errors import (
    InstrumentError,
    LinkBrokenError,
    LinkTimeoutError,
    MalformedReplyError,
    NotReadyError,
)

PAIR_BYTES = 16
SLICE_S = 0.05


@dataclass
class TagStream:
    """The receiving end of one acquisition; ``taken`` counts tags handed out since it began."""

    channel: int
    acquisition: str
    socket: zmq.Socket[bytes]
    address: str
    instrument: str
    taken: int = 0
    records_expected: int = 0
    failure: InstrumentError | None = field(default=None, repr=False)

    def take(
        self,
        total: int,
        timeout_s: float,
        *,
        go_on: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> npt.NDArray[np.uint64]:
        """The tags from ``taken`` up to ``total``: uint64 of shape (total - taken, 2), (timestamp, reference index).

        ``go_on`` is called every :data:`SLICE_S` of waiting and raises when there is nothing to wait for.  Raises LinkTimeoutError when they do not arrive in time, LinkBrokenError when the stream ended and
        MalformedReplyError for a message that is no list of pairs or for more tags than ``total``.
        """
        self.require_sound()
        filled, deadline = 0, clock() + timeout_s
        try:
            tags = self._room(total - self.taken)
            while filled < len(tags):
                message = self._receive(deadline, filled, len(tags), timeout_s, go_on, clock)
                pairs = np.frombuffer(message, dtype="<u8").reshape(-1, 2)
                if filled + len(pairs) > len(tags):
                    raise self._error(MalformedReplyError, "more tags arrived than the service reported")
                tags[filled : filled + len(pairs)] = pairs
                filled += len(pairs)
        except InstrumentError as error:
            self.failure = error
            raise
        except BaseException:  # a stop button: tags taken from the socket are gone
            self.failure = self._error(NotReadyError, "reading was interrupted")
            raise
        self.taken = total
        return tags

    def _room(self, count: int) -> npt.NDArray[np.uint64]:
        try:
            return np.empty((count, 2), dtype=np.uint64)
        except (MemoryError, OverflowError, ValueError) as error:
            raise self._error(
                MalformedReplyError, f"the service reports {count} tags, more than this machine can hold"
            ) from error

    def require_sound(self) -> None:
        """NotReadyError when an earlier failure lost the position in the stream."""
        if self.failure is not None:
            raise self._error(
                NotReadyError, "the stream failed before; start the streams again"
            ) from self.failure

    def close(self) -> None:
        """Close the socket; closing twice does no harm."""
        self.socket.close(linger=0)

    def _receive(
        self,
        deadline: float,
        filled: int,
        wanted: int,
        timeout_s: float,
        go_on: Callable[[], None],
        clock: Callable[[], float],
    ) -> bytes:
        while not self.socket.poll(round(max(0.0, min(deadline - clock(), SLICE_S)) * 1000)):
            go_on()
            if clock() >= deadline:
                raise self._error(
                    LinkTimeoutError,
                    f"{filled} of {wanted} tags arrived within {timeout_s:g} s; start the streams again",
                )
        message = self.socket.recv()
        if not message:
            raise self._error(LinkBrokenError, f"the stream ended after {filled} of {wanted} tags")
        if len(message) % PAIR_BYTES:
            raise self._error(
                MalformedReplyError, f"a message of {len(message)} bytes is no list of tag pairs"
            )
        return message

    def _error(self, kind: type[InstrumentError], text: str) -> InstrumentError:
        return kind(f"channel {self.channel}: {text}", instrument=self.instrument, address=self.address)
