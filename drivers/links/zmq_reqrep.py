"""One ZeroMQ REQ socket to an instrument service: a text request, exactly one text reply.

A REQ socket that waits for a reply accepts no further request, so a lost reply would jam it for good.
After a timeout the socket is therefore closed and the next request opens a fresh one; a late reply goes to
the closed socket and cannot be taken for the answer to a later question.  ZeroMQ reconnects silently and
never reports a dead peer, so a plain TCP connection, made when opening and after each timeout, tells a
slow instrument (LinkTimeoutError) from one that is gone (LinkBrokenError).
"""

from __future__ import annotations

import socket
import threading

import zmq

from drivers.links.errors import LinkBrokenError, LinkClosedError, LinkTimeoutError, MalformedReplyError

MAX_REPLY_BYTES = 16 << 20


def split_address(address: str, default_port: int) -> tuple[str, int]:
    """``"host"`` or ``"host:port"`` -> (host, port); ValueError for anything else."""
    host, separator, port = address.partition(":")
    if not host or (separator and not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536)):
        raise ValueError(f"address {address!r} is not 'host' or 'host:port'")
    return host, int(port) if separator else default_port


class RequestLink:
    """A request/reply link to ``host:port`` with one lock around each whole request."""

    def __init__(
        self, host: str, port: int, *, instrument: str, timeout_s: float = 2.0, probe_timeout_s: float = 2.0
    ) -> None:
        self.host = host
        self.port = port
        self.address = f"{host}:{port}"
        self.timeout_s = timeout_s
        self._probe_timeout_s = probe_timeout_s
        self._instrument = instrument
        self._lock = threading.RLock()
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._socket: zmq.Socket[bytes] | None = None

    def open(self) -> None:
        """Open the link afresh; LinkBrokenError when nothing listens there."""
        with self._lock:
            self.close()
            self._probe()
            self._context = zmq.Context()
            self._socket = self._connect(self._context)

    def close(self) -> None:
        """Close the link; closing twice does no harm."""
        with self._lock:
            if self._context is not None:
                self._context.destroy(linger=0)
            self._context = self._socket = None

    @property
    def is_open(self) -> bool:
        """Whether requests are accepted."""
        return self._context is not None

    def request(self, text: str, timeout_s: float | None = None) -> str:
        """Send ``text`` and return the reply, stripped of line ends (trailing blanks stay)."""
        with self._lock:
            if self._context is None:
                raise LinkClosedError(
                    "the link is not open; call connect()", instrument=self._instrument, address=self.address
                )
            if self._socket is None:
                self._socket = self._connect(self._context)
            wait_s = self.timeout_s if timeout_s is None else timeout_s
            self._socket.send_string(text)
            if not self._socket.poll(round(wait_s * 1000)):
                self._drop_socket()
                self._report_silence(text, wait_s)
            return self._decode(self._socket.recv(), text)

    def _connect(self, context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
        link = context.socket(zmq.REQ)
        link.setsockopt(zmq.LINGER, 0)
        link.setsockopt(zmq.MAXMSGSIZE, MAX_REPLY_BYTES)
        link.connect(f"tcp://{self.address}")
        return link

    def _drop_socket(self) -> None:
        if self._socket is not None:
            self._socket.close(linger=0)
        self._socket = None

    def _decode(self, reply: bytes, request: str) -> str:
        try:
            return reply.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise MalformedReplyError(
                f"the reply to {_head(request)!r} is not text ({len(reply)} bytes)",
                instrument=self._instrument,
                address=self.address,
            ) from error

    def _report_silence(self, request: str, wait_s: float) -> None:
        try:
            self._probe()
        except LinkBrokenError:
            self.close()
            raise
        raise LinkTimeoutError(
            f"no reply to {_head(request)!r} within {wait_s:g} s, although the port accepts connections",
            instrument=self._instrument,
            address=self.address,
        )

    def _probe(self) -> None:
        try:
            with socket.create_connection((self.host, self.port), timeout=self._probe_timeout_s):
                pass
        except OSError as error:
            raise LinkBrokenError(
                f"nothing accepts connections ({error}); check power, address and the service",
                instrument=self._instrument,
                address=self.address,
            ) from error


def _head(request: str) -> str:
    return request if len(request) <= 60 else request[:57] + "..."
