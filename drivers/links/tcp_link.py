"""A TCP stream to one instrument, small writes sent at once (TCP_NODELAY).

A fresh line is a new connection: however late the reply to an old question comes, it goes to the closed one.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress

from drivers.links.byte_link import ByteLink
from drivers.links.errors import LinkBrokenError, LinkTimeoutError
from drivers.links.reasons import why_unreachable

RECEIVE_BYTES = 1 << 16


class TcpLink(ByteLink):
    """A connection to ``host:port``; ``timeout_s`` bounds connecting and sending too.

    ``talkative`` instruments say things that nobody asked for; from others, what comes between two exchanges is a reply
    that came twice or late, and the line is made fresh.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        instrument: str,
        timeout_s: float = 2.0,
        talkative: bool = False,
        bring_up: Callable[[], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(
            f"{host}:{port}", instrument=instrument, timeout_s=timeout_s, bring_up=bring_up, clock=clock
        )
        self._peer = (host, port)
        self._talkative = talkative
        self._socket: socket.socket | None = None

    @property
    def is_open(self) -> bool:
        """Whether the connection is open on our side."""
        return self._socket is not None

    def _write(self, data: bytes) -> None:
        connection = self._require_socket()
        try:
            connection.settimeout(self.limit_s(self.timeout_s))
            connection.sendall(data)
        except TimeoutError as error:
            raise self.error(
                LinkTimeoutError, f"the instrument takes no data for {self.timeout_s:g} s"
            ) from error
        except OSError as error:
            raise self.error(LinkBrokenError, f"the connection broke ({error})") from error

    def _open(self, timeout_s: float) -> None:
        try:
            connection = socket.create_connection(self._peer, timeout=timeout_s)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            raise self.error(
                LinkBrokenError, f"cannot connect: {why_unreachable(*self._peer, error)}"
            ) from error
        self._received = b""
        self._socket = connection

    def _close(self) -> None:
        connection, self._socket = self._socket, None
        if connection is not None:
            hang_up(connection)

    def _trouble(self) -> str:
        return found_waiting(self._require_socket(), self._talkative) or (
            "the instrument answered more than it was asked" if self._received and not self._talkative else ""
        )

    def _read(self, wait_s: float) -> bytes:
        connection = self._require_socket()
        try:
            connection.settimeout(max(wait_s, 1e-6))  # zero would mean non-blocking
            data = connection.recv(RECEIVE_BYTES)
        except TimeoutError:
            return b""
        except OSError as error:
            raise self.error(LinkBrokenError, f"the connection broke ({error})") from error
        if not data:
            raise self.error(LinkBrokenError, "the instrument closed the connection")
        return data

    def _require_socket(self) -> socket.socket:
        if self._socket is None:
            raise self.error(LinkBrokenError, "the connection was closed meanwhile")
        return self._socket


def found_waiting(connection: socket.socket, talkative: bool = False) -> str:
    """What an idle connection shows without being asked, in words: its end, or bytes; "" for silence."""
    try:
        connection.setblocking(False)
        waiting = connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return ""
    except OSError as error:
        return f"the connection broke ({error})"
    if not waiting:
        return "the instrument closed the connection; it may have restarted"
    return "" if talkative else "the instrument answered more than it was asked"


def hang_up(connection: socket.socket) -> None:
    """Close a connection, and end what another thread waits for on it."""
    with suppress(OSError):  # not connected any more
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
