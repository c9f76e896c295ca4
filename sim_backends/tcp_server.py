"""TCP for simulated instruments that any number of clients may talk to: a thread each, until one of both ends hangs up."""

from __future__ import annotations

import contextlib
import socket
import threading
from abc import ABC, abstractmethod


class TcpServer(ABC):
    """Accepts clients from :meth:`listen` until :meth:`close`; any thread."""

    def __init__(self, name: str) -> None:
        """``name``: how the names of its threads begin."""
        self._name = name
        self._listener: socket.socket | None = None
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()

    @abstractmethod
    def _talk(self, connection: socket.socket) -> None:
        """Serve one client, in a daemon thread of its own; whoever it was is hung up on when this returns."""

    def listen(self, host: str, port: int) -> tuple[str, int]:
        """Listen on ``host``:``port`` (0 chooses one); where it is.  Raises OSError."""
        self._listener = socket.create_server((host, port))
        threading.Thread(
            target=self._accept, args=(self._listener,), daemon=True, name=f"{self._name}-accept"
        ).start()
        bound_host, bound_port = self._listener.getsockname()[:2]
        return str(bound_host), int(bound_port)

    def close(self) -> None:
        """Stop listening and close all connections; safe to call twice."""
        listener, self._listener = self._listener, None
        if listener is not None:
            _shut(listener)
        self.drop_connections()

    def drop_connections(self) -> None:
        """Close the connections of all clients, as a pulled cable or a power cut does."""
        with self._lock:
            connections, self._connections = self._connections, set()
        for connection in connections:
            _shut(connection)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._connections.add(connection)
            threading.Thread(
                target=self._serve, args=(connection,), daemon=True, name=f"{self._name}-client"
            ).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            self._talk(connection)
        finally:
            with self._lock:
                self._connections.discard(connection)
            _shut(connection)


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it was down already
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()
