"""SCPI over PyVISA: whole queries as exchanges, typed errors, refusals told from the instrument's error queue.

The link is opened through PyVISA with the pure Python library (``@py``), so every VISA address works:
``TCPIP::host::port::SOCKET`` for raw sockets and ``TCPIP::host::INSTR`` for VXI-11.  Three facts about
pyvisa-py shape this module:

* it opens dead sockets silently, so that a driver asks for the identity whenever the line is opened;
* on raw sockets it writes in 4096-byte steps without any time-out and does not notice a closed peer
  (each read spins until its time-out), so raw-socket sessions do their input and output on the session's
  own socket: ``sendall`` of large parts of a memoryview for a block, an end of stream seen at once;
* Nagle's delay costs 40 ms on every set followed by a query, so TCP_NODELAY is set on that socket.

A set command is judged by its own errors.  What an earlier user left in the queue is read and logged first, and the
error query is a message of its own: an instrument drops the rest of a message that it cannot parse.
Nothing is ever retried behind the caller's back and no failed call yields a default value.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, TypeVar, cast

import pyvisa
from pyvisa.constants import StatusCode
from pyvisa.resources import MessageBasedResource

from drivers.base import Identity
from drivers.links.errors import (
    InstrumentError,
    InstrumentRefusedError,
    LinkBrokenError,
    LinkTimeoutError,
    MalformedReplyError,
    NoReadingError,
)
from drivers.links.ieee488 import ErrorReply, block_header, parse_error
from drivers.links.link import NO_TEXT, Link
from drivers.links.reasons import why_no_visa
from drivers.links.scpi_replies import parse_identity, parse_number, parse_switch, parse_whole, parse_word
from drivers.links.tcp_link import found_waiting, hang_up

log = logging.getLogger(__name__)

ERROR_QUERY = "SYSTem:ERRor?"
_RECEIVE_BYTES = 65536
_SEND_BYTES = 1 << 22
_MAX_REPLY_BYTES = 1 << 20
_MAX_QUEUED_ERRORS = 64
"""More than any queue holds: a latched fault that answers for ever must not hang the driver."""
NO_NUMBER = 9.9e37
"""SCPI-1999, 7.2.1.4: infinity is +-9.9E37, not-a-number 9.91E37."""
_Word = TypeVar("_Word")
Slices = Callable[[float], Iterator[float]]


class _Transport(Protocol):
    """Bytes out and lines in until a deadline, in slices.  Raises OSError, TimeoutError and ValueError (no text)."""

    def send(self, parts: tuple[bytes | memoryview, ...], deadline: float) -> None: ...

    def read_line(self, deadline: float) -> bytes: ...

    def trouble(self) -> str: ...

    def unfinished(self) -> bytes: ...

    def close(self) -> None: ...


class _SocketTransport:
    """Input and output on the socket of a pyvisa-py SOCKET session."""

    def __init__(self, resource: MessageBasedResource, sock: socket.socket, slices: Slices) -> None:
        self._resource = resource
        self._socket = sock
        self._slices = slices
        self._pending = bytearray()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, parts: tuple[bytes | memoryview, ...], deadline: float) -> None:
        for part in parts:
            view = memoryview(part)
            for begin in range(0, len(view), _SEND_BYTES):
                self._send_all(view[begin : begin + _SEND_BYTES], deadline)

    def _send_all(self, view: memoryview, deadline: float) -> None:
        for wait_s in self._slices(deadline):
            self._socket.settimeout(max(wait_s, 1e-3))
            with contextlib.suppress(TimeoutError):
                while view:
                    view = view[self._socket.send(view) :]
                return
        raise TimeoutError

    def read_line(self, deadline: float) -> bytes:
        while (end := self._pending.find(b"\n")) < 0:
            if len(self._pending) > _MAX_REPLY_BYTES:
                raise ValueError("reply without an end")
            self._pending += self._receive(deadline)
        line = bytes(self._pending[:end])
        del self._pending[: end + 1]
        return line

    def _receive(self, deadline: float) -> bytes:
        for wait_s in self._slices(deadline):
            self._socket.settimeout(max(wait_s, 1e-6))
            with contextlib.suppress(TimeoutError):
                data = self._socket.recv(_RECEIVE_BYTES)
                if not data:
                    raise ConnectionResetError("the instrument closed the connection")
                _require_text(data)
                return data
        raise TimeoutError

    def trouble(self) -> str:
        return (
            "the instrument answered more than it was asked" if self._pending else found_waiting(self._socket)
        )

    def unfinished(self) -> bytes:
        """What came of a line whose end did not."""
        return bytes(self._pending)

    def close(self) -> None:
        hang_up(self._socket)
        self._resource.close()


class _VisaTransport:
    """Input and output through PyVISA, for sessions that are no raw sockets (VXI-11, USBTMC); waits are not cut."""

    def __init__(self, resource: MessageBasedResource) -> None:
        self._resource = resource

    def send(self, parts: tuple[bytes | memoryview, ...], deadline: float) -> None:
        with self._until(deadline):
            self._resource.write_raw(b"".join(bytes(part) for part in parts))

    def read_line(self, deadline: float) -> bytes:
        with self._until(deadline):
            data = bytes(self._resource.read_raw())
        _require_text(data)
        return data.rstrip(b"\n")

    def trouble(self) -> str:
        return ""

    def unfinished(self) -> bytes:
        return b""

    def close(self) -> None:
        self._resource.close()

    @contextlib.contextmanager
    def _until(self, deadline: float) -> Iterator[None]:
        self._resource.timeout = max((deadline - time.monotonic()) * 1000.0, 1.0)
        try:
            yield
        except pyvisa.errors.VisaIOError as exc:
            if exc.error_code == StatusCode.error_timeout:
                raise TimeoutError from exc
            raise OSError(exc.abbreviation) from exc


def _require_text(data: bytes) -> None:
    if NO_TEXT.search(data):
        raise ValueError("bytes that are not text")


_making = threading.Lock()


def resource_manager() -> pyvisa.ResourceManager:
    """The one VISA resource manager of this process, kept for good.

    PyVISA gives its manager away before it is whole: of two threads that ask first, one would get half of it.
    """
    with _making:
        return _made_manager()


@functools.cache
def _made_manager() -> pyvisa.ResourceManager:
    return pyvisa.ResourceManager("@py")


def _open_transport(address: str, timeout_s: float, slices: Slices) -> _Transport:
    """Open ``address``; raises OSError when the peer refuses and TimeoutError when it does not answer."""
    manager = resource_manager()
    try:
        resource = cast(
            MessageBasedResource, manager.open_resource(address, open_timeout=max(int(timeout_s * 1000), 1))
        )
    except (pyvisa.errors.VisaIOError, pyvisa.errors.InvalidSession, ValueError) as exc:
        # ValueError: a package for this kind of address is missing (PyUSB, for example).
        raise OSError(str(exc)) from exc
    except Exception as exc:
        # pyvisa-py reports a failed connect as a bare Exception, an unknown host with its cause behind it.
        if type(exc) is not Exception:
            raise
        raise (exc.__context__ if isinstance(exc.__context__, OSError) else TimeoutError(str(exc))) from exc
    session = getattr(manager.visalib, "sessions", {}).get(resource.session)
    sock = getattr(session, "interface", None)
    if not isinstance(sock, socket.socket):
        return _VisaTransport(resource)
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        resource.close()
        raise OSError(code, "the connection was refused or unreachable")
    return _SocketTransport(resource, sock, slices)


class ScpiLink(Link):
    """A SCPI conversation with one instrument; every public method is safe to call from any thread."""

    def __init__(
        self,
        instrument: str,
        address: str,
        *,
        timeout_s: float = 2.0,
        bring_up: Callable[[], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(address, instrument=instrument, timeout_s=timeout_s, bring_up=bring_up, clock=clock)
        self._transport: _Transport | None = None

    @property
    def is_open(self) -> bool:
        """Whether the line is open on our side."""
        return self._transport is not None

    def identify(self) -> Identity:
        """Ask ``*IDN?``."""
        return self.query_parsed("*IDN?", parse_identity)

    def query(self, command: str, *, timeout_s: float | None = None) -> str:
        """Send a query and return the reply without its line end."""
        with self.exchange():
            return self._query(command, timeout_s)

    def command(self, command: str, *, timeout_s: float | None = None) -> None:
        """Send a command and read the error queue.  Raises InstrumentRefusedError with the first code."""
        with self.exchange():
            self._read_old_errors()
            self._say(command, timeout_s)
            self._raise_refusal(command, timeout_s)

    def tell(self, command: str) -> None:
        """Send a command and ask nothing: for the safe state, which is judged by what the instrument reads back."""
        with self.exchange():
            self._say(command, None)

    def write_block(self, prefix: str, data: memoryview, *, timeout_s: float) -> None:
        """Send ``prefix`` and ``data`` (contiguous) as a definite-length block, then read the error queue.

        ``timeout_s`` covers the transfer, and once more its digestion.  The contents of ``data`` appear in no log, no
        error and no tap.
        """
        raw = data.cast("B")
        head = prefix.encode("ascii") + block_header(len(raw))
        what = f"{prefix}<block of {len(raw)} bytes>"
        with self.exchange():
            self._read_old_errors()
            self._send(what, (head, raw, b"\n"), timeout_s)
            self._raise_refusal(what, timeout_s)

    def clear_errors(self) -> list[ErrorReply]:
        """Read and log what the error queue holds from earlier times."""
        with self.exchange():
            return self._read_old_errors()

    def require_no_errors(self, doing: str) -> None:
        """Read the error queue after ``doing`` what no command ends.  Raises InstrumentRefusedError with the first code."""
        with self.exchange():
            self._raise_found(f"says of {doing}", None)

    def query_float(
        self,
        command: str,
        *,
        timeout_s: float | None = None,
        possible: tuple[float, float] = (-math.inf, math.inf),
    ) -> float:
        """A query whose reply is one number.

        Raises NoReadingError for SCPI's infinity and not-a-number, MalformedReplyError for anything else, and for a number
        that is not ``possible`` for any such instrument: it is in another unit, or answers something else.
        """
        value = self.query_parsed(command, parse_number, timeout_s=timeout_s)
        if abs(value) >= NO_NUMBER:
            raise self.error(
                NoReadingError,
                f"{command!r} has no value: {value:g} is SCPI's word for over range or no reading",
            )
        low, high = possible
        if not low <= value <= high:
            raise self.error(
                MalformedReplyError,
                f"reply to {command!r} is {value:g}, which cannot be: {low:g}..{high:g} can; this firmware differs",
            )
        return value

    def query_int(self, command: str, *, timeout_s: float | None = None) -> int:
        """A query whose reply is one integer.  Raises MalformedReplyError for anything else."""
        return self.query_parsed(command, parse_whole, timeout_s=timeout_s)

    def query_word(
        self, command: str, words: Mapping[str, _Word], *, timeout_s: float | None = None
    ) -> _Word:
        """A query whose reply is one of ``words``; what that stands for.  Raises MalformedReplyError for anything else."""
        return self.query_parsed(command, lambda reply: parse_word(reply, words), timeout_s=timeout_s)

    def query_bool(self, command: str, *, timeout_s: float | None = None) -> bool:
        """A query whose reply is on or off.  Raises MalformedReplyError for anything else."""
        return self.query_parsed(command, parse_switch, timeout_s=timeout_s)

    def query_parsed(
        self, command: str, parse: Callable[[str], _Word], *, timeout_s: float | None = None
    ) -> _Word:
        """A query whose reply ``parse`` understands or raises ValueError for: MalformedReplyError then."""
        with self.exchange():
            reply = self._query(command, timeout_s)
            try:
                return parse(reply)
            except ValueError as exc:
                raise self._malformed(command, f"{exc}: {reply[:60]!r}") from exc

    def _malformed(self, command: str, why: str) -> MalformedReplyError:
        return self.error(
            MalformedReplyError, f"reply to {command!r} is {why}; the link is reopened before its next use"
        )

    def prepare(self) -> None:
        """Load the VISA back end."""
        resource_manager()

    def _open(self, timeout_s: float) -> None:
        try:
            self._transport = _open_transport(self.address, timeout_s, self.slices)
        except OSError as exc:
            kind = LinkTimeoutError if isinstance(exc, TimeoutError) else LinkBrokenError
            vague = exc.errno is None and kind is LinkBrokenError
            cause = exc.__cause__ if vague and isinstance(exc.__cause__, Exception) else exc
            raise self.error(kind, f"opening the link failed: {why_no_visa(self.address, cause)}") from exc

    def _close(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            try:
                transport.close()
            except (OSError, pyvisa.errors.Error) as exc:
                log.debug("%s at %s: closing: %s", self.instrument, self.address, exc)

    def _trouble(self) -> str:
        return self._line().trouble()

    def _query(self, command: str, timeout_s: float | None) -> str:
        self._say(command, timeout_s)
        return self._reply(command, timeout_s)

    def _say(self, command: str, timeout_s: float | None) -> None:
        self._send(command, (command.encode("ascii") + b"\n",), timeout_s)

    def _reply(self, command: str, timeout_s: float | None) -> str:
        try:
            line = self._line().read_line(self.deadline(timeout_s))
        except ValueError as exc:
            raise self._malformed(command, str(exc)) from exc
        except OSError as exc:
            if unfinished := self._transport.unfinished() if self._transport else b"":
                self._seen("received", unfinished)
            raise self._link_error(f"waiting for the reply to {command!r}", exc) from exc
        self._seen("received", line + b"\n")
        return line.decode("latin-1").strip()

    def _send(self, what: str, parts: tuple[bytes | memoryview, ...], timeout_s: float | None) -> None:
        log.debug("%s < %s", self.instrument, what)
        self._check_turn()
        for part in parts:
            block = isinstance(part, memoryview)
            self._seen("block" if block else "sent", b"%d" % len(part) if block else bytes(part))
        try:
            self._line().send(parts, self.deadline(timeout_s))
        except OSError as exc:
            raise self._link_error(f"sending {what!r}", exc) from exc

    def _line(self) -> _Transport:
        if self._transport is None:
            raise self.error(LinkBrokenError, "the connection was closed meanwhile")
        return self._transport

    def _link_error(self, doing: str, exc: OSError) -> InstrumentError:
        if isinstance(exc, TimeoutError):
            return self.error(
                LinkTimeoutError,
                f"no answer in time while {doing}; check that the instrument is on and not busy",
            )
        return self.error(
            LinkBrokenError, f"{doing} failed ({exc.strerror or exc}); check address, cable and power"
        )

    def _read_errors(self, timeout_s: float | None) -> list[ErrorReply]:
        """The whole error queue, oldest first."""
        found: list[ErrorReply] = []
        try:
            while (error := parse_error(self._query(ERROR_QUERY, timeout_s))).code:
                found.append(error)
                if len(found) >= _MAX_QUEUED_ERRORS:
                    break
        except ValueError as exc:
            raise self._malformed(ERROR_QUERY, str(exc)) from exc
        return found

    def _read_old_errors(self) -> list[ErrorReply]:
        old = self._read_errors(None)
        for error in old:
            log.warning(
                "%s at %s: an error from earlier: %d %s",
                self.instrument,
                self.address,
                error.code,
                error.text,
            )
        return old

    def _raise_refusal(self, command: str, timeout_s: float | None) -> None:
        self._raise_found(f"refused {command!r}", timeout_s)

    def _raise_found(self, what: str, timeout_s: float | None) -> None:
        found = self._read_errors(timeout_s)
        if found:
            raise InstrumentRefusedError(
                f"{what}: {found[0].code} {found[0].text}",
                instrument=self.instrument,
                address=self.address,
                code=found[0].code,
            )
