"""A TCP stream to one instrument, small writes sent at once (TCP_NODELAY).

After a failed exchange the connection is replaced: however late the reply to the old question comes, it goes
to the closed connection.  If the old one had been closed by the instrument, that is reported instead, since
the instrument may have restarted with other settings.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from drivers.links.byte_link import ByteLink
from drivers.links.errors import LinkBrokenError, LinkClosedError, LinkTimeoutError

RECEIVE_BYTES = 1 << 16


class TcpLink(ByteLink):
    """A connection to ``host:port``; ``timeout_s`` bounds connecting and sending too."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        instrument: str,
        timeout_s: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(f"{host}:{port}", instrument=instrument, timeout_s=timeout_s, clock=clock)
        self._peer = (host, port)
        self._socket: socket.socket | None = None

    @property
    def is_open(self) -> bool:
        """Whether the connection is open on our side."""
        return self._socket is not None

    def write(self, data: bytes) -> None:
        """Send all of ``data``."""
        connection = self._require_socket()
        try:
            connection.settimeout(self.timeout_s)
            connection.sendall(data)
        except TimeoutError as error:
            raise self.error(
                LinkTimeoutError, f"the instrument takes no data for {self.timeout_s:g} s"
            ) from error
        except OSError as error:
            raise self.error(LinkBrokenError, f"the connection broke ({error})") from error

    def drain(self) -> None:
        """Replace the connection by a fresh one; LinkBrokenError when the instrument had closed it."""
        while self._read(0.0):
            continue
        self.close()
        self._open()
        self._suspect = False

    def _open(self) -> None:
        try:
            self._socket = socket.create_connection(self._peer, timeout=self.timeout_s)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            raise self.error(
                LinkBrokenError, f"cannot connect ({error}); check power, address and the service"
            ) from error

    def _close(self) -> None:
        connection, self._socket = self._socket, None
        if connection is not None:
            connection.close()

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
            raise self.error(LinkClosedError, "the connection is closed")
        return self._socket
