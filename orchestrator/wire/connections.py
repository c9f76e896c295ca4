"""The TCP connections of this process's server sockets, and whose they are, so that a revoked one can be ended.

libzmq refuses a revoked key at the next handshake, and its messages are dropped by their key; but it has no call
that ends one peer's connection.  The operating system has: ``shutdown(2)`` on the descriptor, which libzmq names
with every message (``ZMQ_SRCFD``), makes both ends see the connection close.  Descriptors are used again, so each
is remembered with the address of its other end; a connection whose speaker is not known for certain is ended too,
since an honest peer just connects anew.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import zmq

_DESCRIPTORS = Path("/proc/self/fd")


class Connections:
    """Who was heard on which connection.  :meth:`heard` belongs to the serving thread, the rest to any."""

    def __init__(self) -> None:
        self._ports: set[int] = set()
        self._heard: dict[int, tuple[str, object]] = {}

    def serve(self, endpoint: str) -> None:
        """Connections to this endpoint (``tcp://HOST:PORT``) belong to us."""
        self._ports.add(int(endpoint.rpartition(":")[2]))

    def heard(self, frame: zmq.Frame, role: str) -> None:
        """A message of ``role`` came."""
        descriptor = frame.get(zmq.SRCFD)
        known = self._heard.get(descriptor)
        if known is None or known[0] != role:
            self._heard[descriptor] = role, _other_end(descriptor)

    def end(self, roles: set[str]) -> int:
        """End every connection that is not for certain another role's; how many that were."""
        ended = 0
        for descriptor, other_end in self._established():
            role, heard_from = self._heard.get(descriptor, ("", None))
            if role in roles or heard_from != other_end:
                ended += _shut(descriptor)
        return ended

    def _established(self) -> Iterator[tuple[int, object]]:
        for name in os.listdir(_DESCRIPTORS):
            other_end = _other_end(int(name), self._ports)
            if other_end is not None:
                yield int(name), other_end


def _other_end(descriptor: int, ports: set[int] | None = None) -> object:
    """Address of the other end of a TCP connection (to one of ``ports`` here); None if there is none."""
    try:
        with socket.socket(fileno=os.dup(descriptor)) as connection:
            if connection.family not in (socket.AF_INET, socket.AF_INET6):
                return None
            if ports is not None and connection.getsockname()[1] not in ports:
                return None
            return connection.getpeername()
    except OSError:  # closed meanwhile, no socket, or one that listens
        return None


def _shut(descriptor: int) -> bool:
    try:
        with socket.socket(fileno=os.dup(descriptor)) as connection:
            connection.shutdown(socket.SHUT_RDWR)
    except OSError:  # it has just closed by itself
        return False
    return True
