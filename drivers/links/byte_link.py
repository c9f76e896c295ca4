"""A byte stream to one instrument: bytes out, bytes in before a deadline, every failure typed.

Serial lines and TCP streams derive from this class.  See :mod:`drivers.links.link` for exchanges and urgency.
"""

from __future__ import annotations

from abc import abstractmethod

from drivers.links.errors import LinkTimeoutError, MalformedReplyError
from drivers.links.link import Link

MAX_UNTERMINATED_BYTES = 4096


class ByteLink(Link):
    """Bytes both ways; call these methods inside ``exchange``."""

    _received = b""

    @abstractmethod
    def _write(self, data: bytes) -> None:
        """Send all of ``data``; LinkTimeoutError or LinkBrokenError when that fails."""

    @abstractmethod
    def _read(self, wait_s: float) -> bytes:
        """At least one byte, or none after ``wait_s``; LinkBrokenError when the peer is gone."""

    def write(self, data: bytes) -> None:
        """Send all of ``data``; LinkTimeoutError or LinkBrokenError when that fails."""
        self._check_turn()
        self._seen("sent", data)
        self._write(data)

    def read_some(self, deadline: float) -> bytes:
        """At least one byte; LinkTimeoutError once this link's clock passes ``deadline``."""
        if self._received:
            data, self._received = self._received, b""
            return data
        for wait_s in self.slices(deadline):
            if data := self._read(wait_s):
                self._seen("received", data)
                return data
        raise self.error(LinkTimeoutError, "no reply in time")

    def read_line(self, deadline: float) -> bytes:
        """The next line without its LF or CR LF; LinkTimeoutError once the clock passes ``deadline``."""
        line = bytearray()
        while (end := line.find(b"\n")) < 0:
            if len(line) > MAX_UNTERMINATED_BYTES:
                raise self.error(MalformedReplyError, f"{len(line)} bytes without a line end")
            try:
                line += self.read_some(deadline)
            except LinkTimeoutError as error:
                raise self.error(
                    LinkTimeoutError, f"no complete line in time ({len(line)} bytes of one came)"
                ) from error
        self._received = bytes(line[end + 1 :])
        return bytes(line[:end]).removesuffix(b"\r")
