"""A serial line (pyserial): a device path such as ``/dev/ttyUSB0``, a pty, or a pyserial URL.

Opening asks for exclusive use of the port, so that two processes cannot talk to one instrument at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

import serial

from drivers.links.byte_link import ByteLink
from drivers.links.errors import LinkBrokenError, LinkClosedError, LinkTimeoutError

try:
    import termios

    _BROKEN: tuple[type[Exception], ...] = (OSError, termios.error)
except ImportError:  # no termios on Windows
    _BROKEN = (OSError,)  # pyserial's SerialException is an OSError
_UNUSABLE: tuple[type[Exception], ...] = (*_BROKEN, ValueError)  # ValueError: pyserial on a bad URL


class SerialLink(ByteLink):
    """One serial port, 8 data bits, no parity, 1 stop bit."""

    def __init__(
        self,
        address: str,
        *,
        baudrate: int,
        instrument: str,
        rtscts: bool = False,
        timeout_s: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(address, instrument=instrument, timeout_s=timeout_s, clock=clock)
        self._baudrate = baudrate
        self._rtscts = rtscts
        self._port: serial.SerialBase | None = None

    @property
    def is_open(self) -> bool:
        """Whether the port is open."""
        return self._port is not None

    def write(self, data: bytes) -> None:
        """Send all of ``data``."""
        port = self._require_port()
        try:
            port.write(data)
        except serial.SerialTimeoutException as error:
            raise self.error(
                LinkTimeoutError, f"the instrument takes no data for {self.timeout_s:g} s (flow control?)"
            ) from error
        except _BROKEN as error:
            raise self.error(LinkBrokenError, f"the serial line broke ({error})") from error

    def _open(self) -> None:
        try:
            self._port = serial.serial_for_url(
                self.address,
                baudrate=self._baudrate,
                rtscts=self._rtscts,
                write_timeout=self.timeout_s,
                exclusive=True,
            )
        except _UNUSABLE as error:
            raise self.error(
                LinkBrokenError,
                f"cannot open the serial port ({error}); check cable, path and who else uses it",
            ) from error
        self._suspect = True  # replies to an earlier owner of the line may still come

    def _close(self) -> None:
        port, self._port = self._port, None
        if port is not None:
            with suppress(*_BROKEN):
                port.close()

    def _read(self, wait_s: float) -> bytes:
        port = self._require_port()
        try:
            port.timeout = wait_s
            first: bytes = port.read(1)
            return first + port.read(port.in_waiting) if first else b""
        except _BROKEN as error:
            raise self.error(LinkBrokenError, f"the serial line broke ({error})") from error

    def _require_port(self) -> serial.SerialBase:
        if self._port is None:
            raise self.error(LinkClosedError, "the port is closed")
        return self._port
