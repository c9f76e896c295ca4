"""One SCPI link over PyVISA: whole queries under one lock, typed errors, reopening after trouble.

The link is opened through PyVISA with the pure Python library (``@py``), so every VISA address works:
``TCPIP::host::port::SOCKET`` for raw sockets and ``TCPIP::host::INSTR`` for VXI-11.  Three facts about
pyvisa-py shape this module:

* it opens dead sockets silently, so :meth:`ScpiLink.open` always asks for the identity;
* on raw sockets it writes in 4096-byte steps without any time-out and does not notice a closed peer
  (each read spins until its time-out), so raw-socket sessions do their input and output on the session's
  own socket: one ``sendall`` of a memoryview for a block, an end of stream seen at once;
* Nagle's delay costs 40 ms on every set followed by a query, so TCP_NODELAY is set on that socket.

After a time-out, a broken connection or a malformed reply nothing is known about what is still on the wire.
The failing call raises, the link is *suspect*, and the next use closes it, opens it again, identifies the
instrument and calls ``on_reopen`` (the driver re-applies passive settings there) before anything is sent.
Nothing is ever retried behind the caller's back and no failed call yields a default value.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar, cast

import pyvisa
from pyvisa.constants import StatusCode
from pyvisa.resources import MessageBasedResource

from drivers.base import Identity
from drivers.links.errors import (
    InstrumentRefusedError,
    LinkBrokenError,
    LinkClosedError,
    LinkError,
    LinkTimeoutError,
    MalformedReplyError,
)
from drivers.links.ieee488 import block_header, parse_error

log = logging.getLogger(__name__)

ERROR_QUERY = "SYSTem:ERRor?"
_RECEIVE_BYTES = 65536
_MAX_REPLY_BYTES = 1 << 20
_MAX_QUEUED_ERRORS = 64
"""More than any queue holds: a latched fault that answers for ever must not hang the driver."""
_Number = TypeVar("_Number", int, float)


class _Transport(Protocol):
    """Bytes out and lines in, each call with its own time limit.  Raises OSError and TimeoutError only."""

    def send(self, parts: tuple[bytes | memoryview, ...], timeout_s: float) -> None: ...

    def read_line(self, timeout_s: float) -> bytes: ...

    def close(self) -> None: ...


class _SocketTransport:
    """Input and output on the socket of a pyvisa-py SOCKET session."""

    def __init__(self, resource: MessageBasedResource, sock: socket.socket) -> None:
        self._resource = resource
        self._socket = sock
        self._pending = bytearray()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, parts: tuple[bytes | memoryview, ...], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        for part in parts:
            self._socket.settimeout(max(deadline - time.monotonic(), 1e-3))
            self._socket.sendall(part)

    def read_line(self, timeout_s: float) -> bytes:
        deadline = time.monotonic() + timeout_s
        while (end := self._pending.find(b"\n")) < 0:
            if len(self._pending) > _MAX_REPLY_BYTES:
                raise ValueError("reply without an end")
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError
            self._socket.settimeout(remaining)
            data = self._socket.recv(_RECEIVE_BYTES)
            if not data:
                raise ConnectionResetError("the instrument closed the connection")
            self._pending += data
            if not data.isascii() or b"\0" in data:
                raise ValueError("bytes that are not text")
        line = bytes(self._pending[:end])
        del self._pending[: end + 1]
        return line

    def close(self) -> None:
        self._resource.close()


class _VisaTransport:
    """Input and output through PyVISA, for sessions that are no raw sockets (VXI-11, USBTMC)."""

    def __init__(self, resource: MessageBasedResource) -> None:
        self._resource = resource

    def send(self, parts: tuple[bytes | memoryview, ...], timeout_s: float) -> None:
        self._resource.timeout = timeout_s * 1000.0
        with _visa_errors():
            self._resource.write_raw(b"".join(bytes(part) for part in parts))

    def read_line(self, timeout_s: float) -> bytes:
        self._resource.timeout = timeout_s * 1000.0
        with _visa_errors():
            data = bytes(self._resource.read_raw())
        if not data.isascii() or b"\0" in data:
            raise ValueError("bytes that are not text")
        return data.rstrip(b"\n")

    def close(self) -> None:
        self._resource.close()


@contextlib.contextmanager
def _visa_errors() -> Iterator[None]:
    try:
        yield
    except pyvisa.errors.VisaIOError as exc:
        if exc.error_code == StatusCode.error_timeout:
            raise TimeoutError from exc
        raise OSError(exc.abbreviation) from exc


@functools.cache
def _resource_manager() -> pyvisa.ResourceManager:
    return pyvisa.ResourceManager("@py")


def _open_transport(address: str, timeout_s: float) -> _Transport:
    """Open ``address``; raises OSError when the peer refuses and TimeoutError when it does not answer."""
    manager = _resource_manager()
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
    return _SocketTransport(resource, sock)


def parse_identity(reply: str) -> Identity:
    """``vendor,model,serial,firmware`` -> Identity.  Raises ValueError for anything else."""
    fields = [field.strip() for field in reply.split(",", 3)]
    if len(fields) != 4 or not fields[0] or not fields[1]:
        raise ValueError("not of the form vendor,model,serial,firmware")
    return Identity(*fields)


class ScpiLink:
    """A SCPI conversation with one instrument; every public method is safe to call from any thread.

    ``accept(identity)`` raises WrongInstrumentError for another model.  ``on_reopen`` runs, under the lock
    and with the link usable, after each reopening that trouble made necessary.
    """

    def __init__(
        self,
        instrument: str,
        address: str,
        accept: Callable[[Identity], None],
        *,
        timeout_s: float = 2.0,
        on_reopen: Callable[[], None] | None = None,
    ) -> None:
        self.instrument = instrument
        self.address = address
        self.timeout_s = timeout_s
        self._accept = accept
        self._on_reopen = on_reopen
        self._lock = threading.RLock()
        self._transport: _Transport | None = None
        self._wanted_open = False
        self._suspect = False
        self.reopened = 0

    @property
    def is_open(self) -> bool:
        """Whether :meth:`open` was called and :meth:`close` was not."""
        return self._wanted_open

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Hold the link for several calls that belong together."""
        with self._lock:
            yield

    def open(self) -> Identity:
        """Open and identify.  Raises LinkError or WrongInstrumentError; the link is then closed again."""
        with self._lock:
            self._drop()
            try:
                identity = self._connect()
            except BaseException:
                self._drop()
                self._wanted_open = False
                raise
            self._wanted_open = True
            return identity

    def close(self) -> None:
        """Close; safe to call twice."""
        with self._lock:
            self._wanted_open = False
            self._drop()

    def identify(self) -> Identity:
        """Ask ``*IDN?``."""
        with self._usable():
            return self._ask_identity()

    def query(self, command: str, *, timeout_s: float | None = None) -> str:
        """Send a query and return the reply without its line end."""
        with self._usable():
            return self._query(command, timeout_s)

    def command(self, command: str, *, timeout_s: float | None = None) -> None:
        """Send a command and read the error queue.  Raises InstrumentRefusedError with the first code."""
        with self._usable():
            self._raise_refusal(command, self._query(f"{command};:{ERROR_QUERY}", timeout_s))

    def write_block(self, prefix: str, data: memoryview, *, timeout_s: float) -> None:
        """Send ``prefix`` and ``data`` (contiguous) as a definite-length block, then read the error queue.

        ``timeout_s`` covers the whole transfer.  The contents of ``data`` appear in no log and no error.
        """
        raw = data.cast("B")
        head = prefix.encode("ascii") + block_header(len(raw))
        what = f"{prefix}<block of {len(raw)} bytes>"
        with self._usable():
            self._send(what, (head, raw, b"\n"), timeout_s)
            self._raise_refusal(what, self._query(ERROR_QUERY, timeout_s))

    def query_float(self, command: str) -> float:
        """A query whose reply is one number.  Raises MalformedReplyError for anything else."""
        with self._usable():
            return self.number(command, self._query(command, None), float)

    def query_int(self, command: str) -> int:
        """A query whose reply is one integer.  Raises MalformedReplyError for anything else."""
        with self._usable():
            return self.number(command, self._query(command, None), int)

    def number(self, command: str, reply: str, kind: Callable[[str], _Number]) -> _Number:
        """Read ``reply`` to ``command`` as a number."""
        try:
            return kind(reply)
        except ValueError as exc:
            raise self.malformed(command, f"not a number: {reply[:40]!r}") from exc

    def malformed(self, command: str, why: str) -> MalformedReplyError:
        """The error for a reply that cannot be right; marks the link suspect."""
        self._suspect = True
        return MalformedReplyError(
            f"reply to {command!r} is {why}; the link is reopened before its next use",
            instrument=self.instrument,
            address=self.address,
        )

    @contextlib.contextmanager
    def _usable(self) -> Iterator[None]:
        with self._lock:
            if not self._wanted_open:
                raise LinkClosedError(
                    "the link is closed; call connect() first",
                    instrument=self.instrument,
                    address=self.address,
                )
            if self._suspect or self._transport is None:
                self._reopen()
            try:
                yield
            except LinkError:
                self._suspect = True
                raise
            except (KeyboardInterrupt, SystemExit):
                # An interrupted query leaves its reply on the wire.
                self._suspect = True
                raise

    def _reopen(self) -> None:
        self._suspect = True
        self._drop()
        identity = self._connect()
        self.reopened += 1
        log.warning("%s at %s: link reopened, %s answers", self.instrument, self.address, identity.model)
        if self._on_reopen is not None:
            try:
                self._on_reopen()
            except BaseException:
                self._suspect = True
                raise

    def _connect(self) -> Identity:
        try:
            self._transport = _open_transport(self.address, self.timeout_s)
        except OSError as exc:
            raise self._link_error("opening the link", exc) from exc
        identity = self._ask_identity()
        self._accept(identity)
        self._suspect = False
        return identity

    def _drop(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            try:
                transport.close()
            except (OSError, pyvisa.errors.Error) as exc:
                log.debug("%s at %s: closing: %s", self.instrument, self.address, exc)

    def _ask_identity(self) -> Identity:
        reply = self._query("*IDN?", None)
        try:
            return parse_identity(reply)
        except ValueError as exc:
            raise self.malformed("*IDN?", str(exc)) from exc

    def _query(self, command: str, timeout_s: float | None) -> str:
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        self._send(command, (command.encode("ascii") + b"\n",), timeout_s)
        assert self._transport is not None
        try:
            line = self._transport.read_line(timeout_s)
        except ValueError as exc:
            raise self.malformed(command, str(exc)) from exc
        except OSError as exc:
            raise self._link_error(f"waiting for the reply to {command!r}", exc) from exc
        return line.decode("ascii").strip()

    def _send(self, what: str, parts: tuple[bytes | memoryview, ...], timeout_s: float) -> None:
        if self._transport is None:
            raise LinkClosedError("the link is closed", instrument=self.instrument, address=self.address)
        log.debug("%s < %s", self.instrument, what)
        try:
            self._transport.send(parts, timeout_s)
        except OSError as exc:
            raise self._link_error(f"sending {what!r}", exc) from exc

    def _link_error(self, doing: str, exc: OSError) -> LinkError:
        self._suspect = True
        if isinstance(exc, TimeoutError):
            return LinkTimeoutError(
                f"no answer in time while {doing}; check that the instrument is on and not busy",
                instrument=self.instrument,
                address=self.address,
            )
        return LinkBrokenError(
            f"{doing} failed ({exc.strerror or exc}); check address, cable and power",
            instrument=self.instrument,
            address=self.address,
        )

    def _raise_refusal(self, command: str, reply: str) -> None:
        try:
            first = error = parse_error(reply)
            for _ in range(_MAX_QUEUED_ERRORS):
                if error.code == 0:
                    break
                log.debug("%s > %d %s", self.instrument, error.code, error.text)
                error = parse_error(self._query(ERROR_QUERY, None))
        except ValueError as exc:
            raise self.malformed(ERROR_QUERY, str(exc)) from exc
        if first.code != 0:
            raise InstrumentRefusedError(
                f"refused {command!r}: {first.code} {first.text}",
                instrument=self.instrument,
                address=self.address,
                code=first.code,
            )
