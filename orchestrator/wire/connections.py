"""The TCP connections of this process's server sockets, and whose they are, so that one can be ended.

libzmq refuses a revoked key at the next handshake, and its messages are dropped by their key; but it has no call
that ends one peer's connection.  The operating system has: ``shutdown(2)`` on the descriptor, which libzmq names
with every message (``ZMQ_SRCFD``), makes both ends see the connection close.  Descriptors are used again, so each
is remembered with the address of its other end; a connection whose speaker is not known for certain is ended too,
since an honest peer just connects anew.

Two reasons end a connection: its role was revoked, or it floods.  libzmq bounds the *messages* that wait, but a
message of parts without end is none yet and is held in memory as long as it grows.  The kernel counts the bytes a
connection has brought (``tcpi_bytes_received``, tcp(7)): one that brings more than all its queue can hold without
a message coming out is ended, and libzmq then gives the memory back.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import zmq

from orchestrator import runtime

_log = logging.getLogger(__name__)
_DESCRIPTORS = Path("/proc/self/fd")
MARGIN_BYTES = 16 << 20
"""What the kernel may have taken and the socket not, and what encryption and heartbeats add."""
WATCH_S = 0.2
_BYTES_RECEIVED = 128
"""Place of ``tcpi_bytes_received`` (64 bits) in ``struct tcp_info`` (linux/tcp.h, since Linux 4.1)."""


class Connections:
    """Who was heard on which connection.  :meth:`heard` belongs to the serving thread, the rest to any."""

    def __init__(self) -> None:
        self._ports: dict[int, int] = {}
        self._heard: dict[int, tuple[str, object]] = {}
        self._messages: dict[int, int] = {}
        self._looked: dict[int, int] = {}
        """Messages of each descriptor at the last look, whosever connection it was then."""
        self._marks: dict[int, _Mark] = {}
        self._stop = runtime.event()
        self._watch: runtime.Thread | None = None
        self.floods = 0
        """Connections that were ended because they flooded."""

    def serve(self, endpoint: str, unread_bytes: int = 16 << 20) -> None:
        """Connections to this endpoint (``tcp://HOST:PORT``) belong to us.

        One that brings more than ``unread_bytes``, and a margin, without a message is ended; on Linux only,
        which alone lists the descriptors of a process and counts their bytes.
        """
        self._ports[int(endpoint.rpartition(":")[2])] = unread_bytes + MARGIN_BYTES
        if self._watch is None and _DESCRIPTORS.is_dir():
            self._watch = runtime.spawn(self._watching, name="connections")

    def close(self) -> None:
        """Watch no more.  Idempotent."""
        self._stop.set()
        if self._watch is not None:
            self._watch.join()

    def _watching(self) -> None:
        while not self._stop.wait(WATCH_S):
            try:
                self.end_floods()
            except OSError as error:  # no descriptor is free, say; the next look may succeed
                _log.warning("connections cannot be looked at: %s", error)

    def end_floods(self) -> None:
        """End the connections that have brought too much since their last message."""
        seen = {}
        for descriptor, other_end in self._established():
            received, limit = _received(descriptor, self._ports)
            messages = self._messages.get(descriptor, 0)
            mark = self._marks.get(descriptor)
            if messages != self._looked.get(descriptor, 0):
                mark = _Mark(other_end, received)
            elif mark is None or mark.other_end != other_end:
                mark = _Mark(other_end, 0)
            self._looked[descriptor] = messages
            if received - mark.received > limit:
                self.floods += _shut(descriptor)
                role = self._heard.get(descriptor, ("a peer that said nothing", None))[0]
                _log.warning("%s sent %d bytes and no message: its connection is ended", role, received)
            seen[descriptor] = mark
        self._marks = seen

    def heard(self, frame: zmq.Frame, role: str) -> None:
        """A message of ``role`` came."""
        descriptor = frame.get(zmq.SRCFD)
        self._messages[descriptor] = self._messages.get(descriptor, 0) + 1
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


@contextmanager
def _opened(descriptor: int) -> Iterator[socket.socket]:
    """The socket of a descriptor, through one of our own; raises OSError where there is none."""
    own = os.dup(descriptor)
    try:
        connection = socket.socket(fileno=own)
    except OSError:
        os.close(own)
        raise
    with connection:
        yield connection


@dataclass(frozen=True)
class _Mark:
    """How many bytes a connection had brought when its last message was noticed."""

    other_end: object
    received: int


def _received(descriptor: int, ports: Mapping[int, int]) -> tuple[int, int]:
    """Bytes that a connection has brought since it began, and its limit; (0, 0) where nobody counts them."""
    try:
        with _opened(descriptor) as connection:
            limit = ports.get(connection.getsockname()[1], 0)
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    except OSError:  # closed meanwhile
        return 0, 0
    if len(info) < _BYTES_RECEIVED + 8:
        return 0, 0
    return int(struct.unpack_from("<Q", info, _BYTES_RECEIVED)[0]), limit


def _other_end(descriptor: int, ports: Collection[int] | None = None) -> object:
    """Address of the other end of a TCP connection (to one of ``ports`` here); None if there is none."""
    try:
        with _opened(descriptor) as connection:
            if connection.family not in (socket.AF_INET, socket.AF_INET6):
                return None
            if ports is not None and connection.getsockname()[1] not in ports:
                return None
            return connection.getpeername()
    except OSError:  # closed meanwhile, no socket, or one that listens
        return None


def _shut(descriptor: int) -> bool:
    try:
        with _opened(descriptor) as connection:
            connection.shutdown(socket.SHUT_RDWR)
    except OSError:  # it has just closed by itself
        return False
    return True
