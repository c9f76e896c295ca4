"""One ZeroMQ REQ socket to an instrument service: a text request, exactly one text reply.

A REQ socket that waits for a reply accepts no further request, so a fresh line is a fresh socket: a late reply goes to
the closed one.  ZeroMQ reconnects by itself and says nothing, while the service behind it may have restarted with other
settings; a socket monitor tells of every lost connection, and the link then counts as broken.  A plain TCP connection,
made when opening, tells a service that is slow from one that is not there.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import zmq
from zmq.utils.monitor import recv_monitor_message

from drivers.links.addresses import split_address as split_address  # for drivers of other packages
from drivers.links.errors import LinkBrokenError, LinkTimeoutError, MalformedReplyError
from drivers.links.link import NO_TEXT, Link
from drivers.links.reasons import why_unreachable

MAX_REPLY_BYTES = 16 << 20


class RequestLink(Link):
    """A request/reply link to ``host:port``; any thread may ask."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        instrument: str,
        timeout_s: float = 2.0,
        bring_up: Callable[[], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(
            f"{host}:{port}", instrument=instrument, timeout_s=timeout_s, bring_up=bring_up, clock=clock
        )
        self.host = host
        self.port = port
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None

    @property
    def is_open(self) -> bool:
        """Whether the socket is open on our side."""
        return self._socket is not None

    def request(self, text: str, timeout_s: float | None = None) -> str:
        """Send ``text`` and return the reply, stripped of line ends (trailing blanks stay)."""
        with self.asking(text, timeout_s) as reply:
            return reply

    @contextmanager
    def asking(self, text: str, timeout_s: float | None = None) -> Iterator[str]:
        """As :meth:`request`; what reads the reply stands inside, so that one without sense makes the line suspect."""
        with self.exchange():
            yield self._ask(text, self.limit_s(self.timeout_s if timeout_s is None else timeout_s))

    def _ask(self, text: str, wait_s: float) -> str:
        line = self._line()
        self._seen("sent", text.encode())
        line.send_string(text)
        for slice_s in self.slices(self._clock() + wait_s):
            if line.poll(round(slice_s * 1000)):
                reply = line.recv()
                self._seen("received", reply)
                return self._decode(reply, text)
            if self._lost_connection():
                raise self.error(
                    LinkBrokenError, f"the connection was lost before the reply to {_head(text)!r} came"
                )
        self._probe(self.limit_s(self.timeout_s))
        raise self.error(
            LinkTimeoutError,
            f"no reply to {_head(text)!r} within {wait_s:g} s, although the port accepts connections",
        )

    def _open(self, timeout_s: float) -> None:
        self._probe(timeout_s)
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        link = context.socket(zmq.REQ)
        link.setsockopt(zmq.LINGER, 0)
        link.setsockopt(zmq.MAXMSGSIZE, MAX_REPLY_BYTES)
        self._monitor = link.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        link.connect(f"tcp://{self.address}")
        self._context, self._socket = context, link

    def _close(self) -> None:
        context, self._context = self._context, None
        self._socket = self._monitor = None
        if context is not None:
            context.destroy(linger=0)

    def _trouble(self) -> str:
        return (
            "the connection was lost and made again by itself; the service may have restarted"
            if self._lost_connection()
            else ""
        )

    def _lost_connection(self) -> bool:
        monitor, lost = self._monitor, False
        while monitor is not None and monitor.poll(0):
            recv_monitor_message(monitor)
            lost = True
        return lost

    def _line(self) -> zmq.Socket[bytes]:
        if self._socket is None:
            raise self.error(LinkBrokenError, "the connection was closed meanwhile")
        return self._socket

    def _decode(self, reply: bytes, request: str) -> str:
        """Text in UTF-8, or in Latin-1, in which old instruments spell their makers."""
        try:
            return reply.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            if NO_TEXT.search(reply):
                raise self.error(
                    MalformedReplyError, f"the reply to {_head(request)!r} is not text ({len(reply)} bytes)"
                ) from error
            return reply.decode("latin-1").rstrip("\r\n")

    def _probe(self, timeout_s: float) -> None:
        try:
            with socket.create_connection((self.host, self.port), timeout=timeout_s):
                pass
        except OSError as error:
            raise self.error(
                LinkBrokenError,
                f"nothing accepts connections: {why_unreachable(self.host, self.port, error)}",
            ) from error


def _head(request: str) -> str:
    return request if len(request) <= 60 else request[:57] + "..."
