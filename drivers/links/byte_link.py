"""A byte stream to one instrument: bytes out, bytes in before a deadline, every failure typed.

One lock is held around a whole exchange.  After an exchange that timed out or made no sense the link is
*suspect*, and the next exchange first calls :meth:`ByteLink.drain`, so that a late reply is not taken for
the answer to a later question: a serial line throws away input until it has been quiet for a moment (a
driver of a protocol without sequence numbers must do more), TCP connects anew.  When the peer is gone the link closes
itself and refuses work until it is opened again: whoever opens it must identify the instrument anew.
Serial lines and TCP streams derive from this class.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from drivers.links.errors import (
    InstrumentError,
    LinkBrokenError,
    LinkClosedError,
    LinkError,
    LinkTimeoutError,
    MalformedReplyError,
)

QUIET_S = 0.05  # a stream this long without a byte is quiet
MAX_DRAIN_S = 1.0
MAX_UNTERMINATED_BYTES = 4096


class ByteLink(ABC):
    """``timeout_s`` is what callers take for a reply unless they know better; ``clock`` serves deadlines."""

    def __init__(
        self, address: str, *, instrument: str, timeout_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.address = address
        self.timeout_s = timeout_s
        self._instrument = instrument
        self._clock = clock
        self._lock = threading.RLock()
        self._received = bytearray()
        self._suspect = False

    @property
    @abstractmethod
    def is_open(self) -> bool:
        """Whether the link is open."""

    @abstractmethod
    def _open(self) -> None:
        """Open the stream; LinkBrokenError when that fails."""

    @abstractmethod
    def _close(self) -> None:
        """Close the stream if it is open."""

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Send all of ``data``; LinkTimeoutError or LinkBrokenError when that fails."""

    @abstractmethod
    def _read(self, wait_s: float) -> bytes:
        """At least one byte, or none after ``wait_s``; LinkBrokenError when the peer is gone."""

    def open(self) -> None:
        """Open the link afresh."""
        with self._lock:
            self.close()
            self._suspect = False
            self._open()

    def close(self) -> None:
        """Close the link; closing twice does no harm."""
        with self._lock:
            self._received.clear()
            self._close()

    @contextmanager
    def exchange(self) -> Iterator[None]:
        """Hold the link for one question and its answer; a failure inside makes it suspect or closes it."""
        with self._lock:
            if not self.is_open:
                raise self.error(LinkClosedError, "the link is not open; call connect()")
            if self._suspect:
                self.drain()
            try:
                yield
            except (LinkBrokenError, LinkClosedError):
                self.close()
                raise
            except LinkError:
                self._suspect = True
                raise

    def drain(self) -> None:
        """Throw away input until the stream is quiet."""
        self._received.clear()
        give_up = self._clock() + MAX_DRAIN_S
        while self._read(QUIET_S):
            if self._clock() > give_up:
                raise self.error(MalformedReplyError, f"no silence within {MAX_DRAIN_S:g} s on the link")
        self._suspect = False

    def read_some(self, deadline: float) -> bytes:
        """At least one byte; LinkTimeoutError once this link's clock passes ``deadline``."""
        if self._received:
            data = bytes(self._received)
            self._received.clear()
            return data
        data = self._read(max(deadline - self._clock(), 0.0))
        if not data:
            raise self.error(LinkTimeoutError, "no reply in time")
        return data

    def read_line(self, deadline: float) -> bytes:
        """The next line without its LF or CR LF; LinkTimeoutError once the clock passes ``deadline``."""
        while (end := self._received.find(b"\n")) < 0:
            partial = len(self._received)
            if partial > MAX_UNTERMINATED_BYTES:
                raise self.error(MalformedReplyError, f"{partial} bytes without a line end")
            data = self._read(max(deadline - self._clock(), 0.0))
            if not data:
                raise self.error(LinkTimeoutError, f"no complete line in time ({partial} bytes of one came)")
            self._received += data
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return line.removesuffix(b"\r")

    def now(self) -> float:
        """This link's clock, for deadlines."""
        return self._clock()

    def error(self, kind: type[InstrumentError], text: str) -> InstrumentError:
        """An error of ``kind`` that names the instrument and this link's address."""
        return kind(text, instrument=self._instrument, address=self.address)
