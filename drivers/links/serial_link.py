"""A serial line to one instrument: bytes out, bytes in before a deadline, every failure typed.

Built on pyserial, so an address is a device path (``/dev/ttyUSB0``, a pty) or a pyserial URL
(``socket://host:port``).  Opening asks for exclusive use of the port.  One lock is held around a whole
exchange; after an exchange that timed out or made no sense the line is *suspect*, and the next exchange
first throws away input until the line has been quiet for a moment, so that a late reply is not taken for
the answer to a later question.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import serial

from drivers.links.errors import (
    LinkBrokenError,
    LinkClosedError,
    LinkError,
    LinkTimeoutError,
    MalformedReplyError,
)

try:
    import termios

    _BROKEN: tuple[type[Exception], ...] = (OSError, termios.error)
except ImportError:  # no termios on Windows
    _BROKEN = (OSError,)  # pyserial's SerialException is an OSError
_UNUSABLE: tuple[type[Exception], ...] = (*_BROKEN, ValueError)  # pyserial: ValueError for a bad URL

QUIET_S = 0.05  # a line this long without a byte is quiet
MAX_DRAIN_S = 1.0
MAX_UNTERMINATED_BYTES = 4096


class SerialLink:
    """One serial port; ``timeout_s`` bounds each read unless the call says otherwise."""

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
        self.address = address
        self.timeout_s = timeout_s
        self._instrument = instrument
        self._baudrate = baudrate
        self._rtscts = rtscts
        self._clock = clock
        self._lock = threading.RLock()
        self._port: serial.SerialBase | None = None
        self._received = bytearray()
        self._suspect = False

    def open(self) -> None:
        """Open the port afresh and forget what lay in its buffers; LinkBrokenError when it cannot be opened."""
        with self._lock:
            self.close()
            try:
                self._port = serial.serial_for_url(
                    self.address,
                    baudrate=self._baudrate,
                    rtscts=self._rtscts,
                    write_timeout=self.timeout_s,
                    exclusive=True,
                )
            except _UNUSABLE as error:
                raise LinkBrokenError(
                    f"cannot open the serial port ({error}); check the cable, the path and who else uses it",
                    instrument=self._instrument,
                    address=self.address,
                ) from error
            self._suspect = True

    def close(self) -> None:
        """Close the port; closing twice does no harm."""
        with self._lock:
            port, self._port = self._port, None
            self._received.clear()
            if port is not None:
                with suppress(*_BROKEN):
                    port.close()

    @property
    def is_open(self) -> bool:
        """Whether the port is open."""
        return self._port is not None

    @contextmanager
    def exchange(self) -> Iterator[None]:
        """Hold the line for one question and its answer; a failure inside makes the line suspect."""
        with self._lock:
            if self._port is None:
                raise LinkClosedError(
                    "the port is not open; call connect()", instrument=self._instrument, address=self.address
                )
            if self._suspect:
                self.drain()
            try:
                yield
            except LinkBrokenError:
                self.close()
                raise
            except LinkError:
                self._suspect = True
                raise

    def drain(self) -> None:
        """Throw away input until the line is quiet."""
        self._received.clear()
        give_up = self._clock() + MAX_DRAIN_S
        while self._read(QUIET_S):
            if self._clock() > give_up:
                raise MalformedReplyError(
                    f"the line does not fall silent within {MAX_DRAIN_S:g} s",
                    instrument=self._instrument,
                    address=self.address,
                )
        self._suspect = False

    def write(self, data: bytes) -> None:
        """Send ``data``."""
        port = self._require_port()
        try:
            port.write(data)
        except serial.SerialTimeoutException as error:
            raise LinkTimeoutError(
                f"the instrument accepts no data (flow control?) for {self.timeout_s:g} s",
                instrument=self._instrument,
                address=self.address,
            ) from error
        except _BROKEN as error:
            raise self._broken(error) from error

    def read_some(self, wait_s: float) -> bytes:
        """At least one byte, or LinkTimeoutError after ``wait_s``."""
        if self._received:
            data = bytes(self._received)
            self._received.clear()
            return data
        data = self._read(max(wait_s, 0.0))
        if not data:
            raise LinkTimeoutError("no reply in time", instrument=self._instrument, address=self.address)
        return data

    def read_line(self, deadline: float) -> bytes:
        """The next line without its LF or CR LF; ``deadline`` is on this link's clock."""
        while (end := self._received.find(b"\n")) < 0:
            if len(self._received) > MAX_UNTERMINATED_BYTES:
                raise MalformedReplyError(
                    f"{len(self._received)} bytes without a line end",
                    instrument=self._instrument,
                    address=self.address,
                )
            data = self._read(max(deadline - self._clock(), 0.0))
            if not data:
                raise LinkTimeoutError(
                    f"no complete line in time ({len(self._received)} bytes of one arrived)",
                    instrument=self._instrument,
                    address=self.address,
                )
            self._received += data
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return line.removesuffix(b"\r")

    def now(self) -> float:
        """This link's clock, for deadlines."""
        return self._clock()

    def _read(self, wait_s: float) -> bytes:
        port = self._require_port()
        try:
            port.timeout = wait_s
            first: bytes = port.read(1)
            return first + port.read(port.in_waiting) if first else b""
        except _BROKEN as error:
            raise self._broken(error) from error

    def _require_port(self) -> serial.SerialBase:
        if self._port is None:
            raise LinkClosedError("the port is closed", instrument=self._instrument, address=self.address)
        return self._port

    def _broken(self, error: BaseException) -> LinkBrokenError:
        return LinkBrokenError(
            f"the serial line broke ({error})", instrument=self._instrument, address=self.address
        )
