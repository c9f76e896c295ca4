"""A serial line (pyserial): a device path such as ``/dev/ttyUSB0``, a pty, or a pyserial URL.

Opening asks for exclusive use of the port, so that two processes cannot talk to one instrument at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

import serial

from drivers.links.byte_link import ByteLink
from drivers.links.errors import LinkBrokenError, LinkTimeoutError, MalformedReplyError

try:
    import termios

    _BROKEN: tuple[type[Exception], ...] = (OSError, termios.error)
except ImportError:  # no termios on Windows
    _BROKEN = (OSError,)  # pyserial's SerialException is an OSError
_UNUSABLE: tuple[type[Exception], ...] = (*_BROKEN, ValueError)  # ValueError: pyserial on a bad URL

_CUT_OFF: tuple[type[Exception], ...] = (*_BROKEN, TypeError)  # pyserial, when another thread closes the port

QUIET_S = 0.05  # a line this long without a byte is quiet
MAX_DRAIN_S = 1.0


class SerialLink(ByteLink):
    """One serial port, 8 data bits, no parity, 1 stop bit.

    A fresh line is one that has been quiet for a moment, with its input thrown away: a driver of a protocol without
    marks on its replies must get in step by itself, whenever ``renewed`` has changed.
    """

    def __init__(
        self,
        address: str,
        *,
        baudrate: int,
        instrument: str,
        rtscts: bool = False,
        timeout_s: float = 2.0,
        bring_up: Callable[[], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(address, instrument=instrument, timeout_s=timeout_s, bring_up=bring_up, clock=clock)
        self._baudrate = baudrate
        self._rtscts = rtscts
        self._port: serial.SerialBase | None = None

    @property
    def is_open(self) -> bool:
        """Whether the port is open."""
        return self._port is not None

    def _write(self, data: bytes) -> None:
        port = self._require_port()
        try:
            port.write_timeout = self.limit_s(self.timeout_s)
            port.write(data)
        except serial.SerialTimeoutException as error:
            raise self.error(
                LinkTimeoutError, f"the instrument takes no data for {self.timeout_s:g} s (flow control?)"
            ) from error
        except _BROKEN as error:
            raise self.error(LinkBrokenError, f"the serial line broke ({error})") from error

    def _open(self, timeout_s: float) -> None:
        try:
            self._port = serial.serial_for_url(
                self.address,
                baudrate=self._baudrate,
                rtscts=self._rtscts,
                write_timeout=timeout_s,
                exclusive=True,
            )
        except _UNUSABLE as error:
            raise self.error(
                LinkBrokenError,
                f"cannot open the serial port ({error}); check cable, path and who else uses it",
            ) from error
        self._freshen(timeout_s)  # replies to an earlier owner of the line may still come

    def _close(self) -> None:
        port, self._port = self._port, None
        if port is not None:
            with suppress(*_BROKEN):
                port.close()

    def _freshen(self, timeout_s: float) -> None:
        self.drain(timeout_s)

    def drain(self, timeout_s: float = MAX_DRAIN_S) -> None:
        """Throw away input until the line is quiet; MalformedReplyError when it does not become so."""
        self._received = b""
        give_up = self.now() + (MAX_DRAIN_S if timeout_s >= MAX_DRAIN_S else timeout_s / 2)
        while self._read(QUIET_S):
            if self.now() > give_up:
                if self._hasty:
                    return
                raise self.error(MalformedReplyError, f"no silence within {MAX_DRAIN_S:g} s on the line")

    def _read(self, wait_s: float) -> bytes:
        port = self._require_port()
        try:
            port.timeout = wait_s
            first: bytes = port.read(1)
            return first + port.read(port.in_waiting) if first else b""
        except _CUT_OFF as error:
            raise self.error(LinkBrokenError, f"the serial line broke ({error})") from error

    def _require_port(self) -> serial.SerialBase:
        if self._port is None:
            raise self.error(LinkBrokenError, "the port was closed meanwhile")
        return self._port
