"""What a socket monitor says about a link, as one state.

A ZeroMQ ``send`` succeeds although the server refused us or is somebody else.  libzmq reports such things
only to a socket monitor (zmq_socket_monitor(3)); :class:`LinkMonitor` turns its events into a
:class:`LinkState`.  What each event means was read off libzmq 4.3.5: a key that the gate does not know
gives ``HANDSHAKE_FAILED_AUTH``; a server with another key (or without a gate) just hangs up in the middle of
the handshake, ``HANDSHAKE_FAILED_NO_DETAIL``.  After a refusal libzmq does not try again by itself.
"""

from __future__ import annotations

import enum

import zmq
from zmq.utils.monitor import recv_monitor_message


class LinkState(enum.Enum):
    """How a link to a server stands; the value is the text for people."""

    CONNECTING = "connecting"
    UP = "up"
    UNREACHABLE = "nothing listens at the address"
    REFUSED = "the server does not accept our key or name"
    WRONG_SERVER_KEY = "the server's key is not the one in the testbed file, or the server admits nobody"
    SILENT = "the server does not finish the handshake: it is stopped, or its gate is down"
    LOST = "the link was up and broke"
    SUPERSEDED = "another process with our key took our place"
    CLOSED = "closed by us"


_AFTER: dict[int, LinkState] = {
    zmq.Event.CONNECT_DELAYED: LinkState.CONNECTING,
    zmq.Event.CONNECT_RETRIED: LinkState.CONNECTING,
    zmq.Event.HANDSHAKE_SUCCEEDED: LinkState.UP,
    zmq.Event.HANDSHAKE_FAILED_AUTH: LinkState.REFUSED,
    zmq.Event.HANDSHAKE_FAILED_PROTOCOL: LinkState.WRONG_SERVER_KEY,
    zmq.Event.HANDSHAKE_FAILED_NO_DETAIL: LinkState.WRONG_SERVER_KEY,
}
_TOLD_WHY = (LinkState.REFUSED, LinkState.WRONG_SERVER_KEY)


def next_state(state: LinkState, event: int) -> LinkState:
    """The state after monitor event ``event`` (a ``zmq.Event`` value); unknown events change nothing.

    A disconnection that follows a failed handshake keeps the reason of the failure, and so do the
    attempts after it until one ends differently.
    """
    if event in (zmq.Event.DISCONNECTED, zmq.Event.CLOSED):
        if state in _TOLD_WHY:
            return state
        return LinkState.LOST if state in (LinkState.UP, LinkState.LOST) else LinkState.UNREACHABLE
    after = _AFTER.get(event, state)
    if after is LinkState.CONNECTING and state in _TOLD_WHY:
        return state
    return after


class LinkMonitor:
    """Follows one client socket; create it before ``connect``, use it in the socket's own thread.

    :attr:`socket` becomes readable when something happened; :meth:`read` then brings :attr:`state` up to
    date.  Call :meth:`close` before closing the followed socket.
    """

    def __init__(self, followed: zmq.Socket[bytes]) -> None:
        self._followed = followed
        self.socket: zmq.Socket[bytes] = followed.get_monitor_socket()
        self.socket.linger = 0
        self.state = LinkState.CONNECTING

    def read(self) -> LinkState:
        """Take in all waiting events without blocking."""
        while self.socket.poll(0, zmq.POLLIN):
            event = recv_monitor_message(self.socket)
            self.state = next_state(self.state, event["event"])
        return self.state

    def wait(self, timeout_s: float) -> LinkState:
        """Block until the link is up or known to have failed, at most ``timeout_s``."""
        while self.read() is LinkState.CONNECTING and self.socket.poll(int(timeout_s * 1000), zmq.POLLIN):
            pass
        return self.state

    def close(self) -> None:
        """Stop following."""
        self._followed.disable_monitor()
        self.socket.close()
