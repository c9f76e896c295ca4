"""A serial line (pyserial): a device path such as ``/dev/ttyUSB0``, a pty, or a pyserial URL.

Opening asks for exclusive use of the port, so that two processes cannot talk to one instrument at once.  A port that
cannot be opened or is gone is told with what the system knows: who has it, and which ports there are
(:mod:`drivers.links.serial_ports`).  One that comes back under its name is opened by the next use.

On a POSIX system bytes go straight to the port's descriptor.  pyserial looks at the clock after it wrote, so that a
process that stands still for a moment (imports, a busy machine) would call a telegram unsent that is long out.
"""

from __future__ import annotations

import errno
import os
import select
import time
from collections.abc import Callable
from contextlib import suppress

import serial

from drivers.links import serial_ports
from drivers.links.byte_link import ByteLink
from drivers.links.errors import InstrumentError, LinkBrokenError, LinkTimeoutError, MalformedReplyError

try:
    import termios

    _BROKEN: tuple[type[Exception], ...] = (OSError, termios.error)
    _FILES: tuple[type[serial.SerialBase], ...] = (serial.Serial,)  # ports that are files of the system
except ImportError:  # no termios on Windows
    _BROKEN = (OSError,)  # pyserial's SerialException is an OSError
    _FILES = ()
_UNUSABLE: tuple[type[Exception], ...] = (*_BROKEN, ValueError)  # ValueError: pyserial on a bad URL

_CUT_OFF: tuple[type[Exception], ...] = (*_BROKEN, TypeError)  # pyserial, when another thread closes the port

QUIET_S = 0.05  # a line this long without a byte is quiet
LATE_S = 0.3  # how much later than another an answer may come: buffers on the way may be slow
MAX_DRAIN_S = 1.0
_TAKEN = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EBUSY)
_FORBIDDEN = (errno.EACCES, errno.EPERM)


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
        timeout_s = self.limit_s(self.timeout_s)
        try:
            if type(port) in _FILES:  # not its descendants: spy:// shows what is written
                sent = self._send(port, data, self.now() + timeout_s)
            else:
                port.write_timeout = timeout_s
                port.write(data)
                sent = True
        except serial.SerialTimeoutException:
            sent = False
        except _CUT_OFF as error:
            raise self._broken(error) from error
        if not sent:
            why = self.why_silent() or "the adapter is slow, or flow control holds it"
            raise self.error(
                LinkTimeoutError, f"{len(data)} bytes could not be sent in {timeout_s:g} s: {why}"
            )

    def _send(self, port: serial.SerialBase, data: bytes, deadline: float) -> bool:
        """Whether the system took all of ``data`` before ``deadline``; it is offered some at least once."""
        for wait_s in self.slices(deadline):
            if select.select([], [port.fileno()], [], wait_s)[1]:
                with suppress(BlockingIOError):
                    data = data[os.write(port.fileno(), data) :]
            if not data:
                return True
        return False

    def why_silent(self) -> str:
        """Why the instrument may not even have heard what was sent; "" when nothing is known."""
        if not self._rtscts or self._port is None:
            return ""
        with suppress(*_CUT_OFF, AttributeError):  # a pty and a network port have no such lines
            if not self._port.cts:
                return "CTS is off, so nothing is sent; is the instrument switched on, and has the cable RTS and CTS?"
        return ""

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
                LinkBrokenError, f"cannot open the serial port: {self._reason(error)}"
            ) from error
        self._freshen(timeout_s)  # replies to an earlier owner of the line may still come

    def _reason(self, error: Exception) -> str:
        """Why the port cannot be used, and what to do."""
        code = getattr(error, "errno", None)
        if code in _TAKEN:
            who = " and ".join(serial_ports.holders(self.address)) or "another program"
            return f"{who} has it; one program at a time talks to an instrument, end the other first"
        if code in _FORBIDDEN:
            return (
                f"no permission ({error}); this user must be in the group that owns the port, often dialout"
            )
        if self._is_gone() or "no ports found" in str(error):
            return f"it is not there; {serial_ports.told(serial_ports.present())}"
        return f"{error}; check the address"

    def _is_gone(self) -> bool:
        return "://" not in self.address and os.path.isabs(self.address) and not os.path.exists(self.address)

    def _broken(self, error: Exception) -> InstrumentError:
        """A port that is gone is closed by the base; its next use opens it again."""
        gone = f"; the port is gone: {serial_ports.told(serial_ports.present())}" if self._is_gone() else ""
        return self.error(LinkBrokenError, f"the serial line broke ({error}){gone}")

    def _close(self) -> None:
        port, self._port = self._port, None
        if port is not None:
            with suppress(*_CUT_OFF, AttributeError):
                port.reset_output_buffer()  # else closing waits until all is sent, for half a minute without CTS
            with suppress(*_BROKEN):
                port.close()

    def _freshen(self, timeout_s: float) -> None:
        """Forget what was not sent yet, and what was not read."""
        with suppress(*_CUT_OFF, AttributeError):
            self._require_port().reset_output_buffer()
        self.drain(timeout_s)

    def _trouble(self) -> str:
        """A port that vanished while nothing was asked: another may have its name by now."""
        try:
            self._require_port().in_waiting  # noqa: B018 - asks the port itself
        except _CUT_OFF as error:
            return f"the serial line broke ({error}); the instrument may have restarted"
        return ""

    def drain(self, timeout_s: float = MAX_DRAIN_S) -> None:
        """Throw away input until the line is quiet; MalformedReplyError when it does not become so."""
        self._received = b""
        give_up = self.now() + (MAX_DRAIN_S if timeout_s >= MAX_DRAIN_S else timeout_s / 2)
        while unread := self._read(QUIET_S):
            self._seen("received", unread)
            if self.now() > give_up:
                if self._turns.is_urgent:
                    return  # the safe command goes out whatever is on the line
                raise self.error(MalformedReplyError, f"no silence within {MAX_DRAIN_S:g} s on the line")

    def throw_away_late(self) -> None:
        """Throw away what is still to come of earlier answers, for as long as they may be late."""
        deadline = self.now() + LATE_S
        with suppress(LinkTimeoutError):
            while self.read_some(deadline):
                continue

    def _read(self, wait_s: float) -> bytes:
        port = self._require_port()
        try:
            port.timeout = wait_s
            first: bytes = port.read(1)
            return first + port.read(port.in_waiting) if first else b""
        except _CUT_OFF as error:
            raise self._broken(error) from error

    def _require_port(self) -> serial.SerialBase:
        if self._port is None:
            raise self.error(LinkBrokenError, "the port was closed meanwhile")
        return self._port
