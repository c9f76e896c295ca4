"""The counts connection of a WebSQ: one ASCII line per measurement period, ``unix_time,c1,c2,...``.

Lines pile up on an idle connection, so each measurement has a connection of its own.  Its first line ends a period that
was under way, the second holds one that began after the call.  Source: vendor's ``WebSQControl.py``.
"""

from __future__ import annotations

import math
import threading

from drivers.links.errors import MalformedReplyError
from drivers.links.tcp_link import TcpLink


class CountsLink(TcpLink):
    """The counts connection; nothing else of the instrument waits for it."""

    def __init__(self, host: str, port: int, *, instrument: str, timeout_s: float) -> None:
        super().__init__(host, port, instrument=instrument, timeout_s=timeout_s, talkative=True)
        self._measuring = threading.Lock()

    def measure(self, detectors: int, period_s: float) -> list[float]:
        """Counts of each detector in one whole measurement period that began after the call."""
        with self._measuring:
            try:
                self.open()
                with self.exchange():
                    deadline = self.deadline(2 * period_s + self.timeout_s)
                    begun = self._parse(self.read_line(deadline), detectors)
                    whole = self._parse(self.read_line(deadline), detectors)
                    if whole[0] <= begun[0]:
                        raise self.error(
                            MalformedReplyError,
                            "the time stamps of the counts stand still; the readings are stale",
                        )
            finally:
                self.close()
        return whole[1:]

    def _parse(self, line: bytes, detectors: int) -> list[float]:
        try:
            fields = [float(field) for field in line.decode("ascii").split(",")]
        except ValueError as error:
            raise self.error(
                MalformedReplyError, f"a counts line of {len(line)} bytes is not a list of numbers"
            ) from error
        if len(fields) != detectors + 1:
            raise self.error(MalformedReplyError, f"{len(fields) - 1} counts for {detectors} detectors")
        if not all(math.isfinite(field) and field >= 0 for field in fields):
            raise self.error(MalformedReplyError, "a count is negative or not finite")
        return fields
