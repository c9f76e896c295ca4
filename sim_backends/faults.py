"""Faults that a test can plant in a simulated instrument.

A twin asks :meth:`FaultInjector.reply` what to do with each reply it is about to send; everything else
(latched errors, frozen readings) the twin implements itself and reads from the public attributes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

GARBAGE = b"\x00\xff\x7f?#!"


class FaultInjector:
    """Planned misbehaviour of one twin; thread-safe, everything off by default."""

    def __init__(self, pause: Callable[[float], None] = time.sleep) -> None:
        self._lock = threading.Lock()
        self._pause = pause
        self._drop = 0
        self._garbage = 0
        self._disconnect = False
        self.delay_s = 0.0
        self.latched_error: str | None = None

    def drop_replies(self, count: int) -> None:
        """Swallow the next ``count`` replies: the instrument acts but stays silent."""
        with self._lock:
            self._drop = count

    def garbage(self, count: int) -> None:
        """Replace the next ``count`` replies by bytes that mean nothing."""
        with self._lock:
            self._garbage = count

    def disconnect(self) -> None:
        """Close the link at the next message."""
        with self._lock:
            self._disconnect = True

    def take_disconnect(self) -> bool:
        """True once after :meth:`disconnect`: the server then closes the connection."""
        with self._lock:
            wanted, self._disconnect = self._disconnect, False
            return wanted

    def reply(self, data: bytes) -> bytes | None:
        """What really goes out instead of ``data``: the same, garbage, or nothing (None)."""
        with self._lock:
            drop, garbage, delay_s = self._drop > 0, self._garbage > 0, self.delay_s
            if drop:
                self._drop -= 1
            elif garbage:
                self._garbage -= 1
        if delay_s:
            self._pause(delay_s)
        if drop:
            return None
        return GARBAGE if garbage else data
