"""A client's connection to the FL server: a link that says how it stands and heals itself.

A link reconnects after a broken connection, but not after a refusal; then a fresh one is made, with a growing
pause.  A refusal may pass (a server in the middle of its start, or suspended within the handshake), so it is an
error only when it lasts from the beginning; a link that was up keeps trying.
"""

from __future__ import annotations

from collections.abc import Callable

from fl.rounds.messages import MESSAGE_LIMIT, FromClient, FromServer, frame_of, split_message
from fl.workloads.base import Parameters
from orchestrator.bits import PackedBits
from orchestrator.wire.codec import encode
from orchestrator.wire.curve import CurveKeys
from orchestrator.wire.links import LinkError, LinkState, QueueLimits, Target, Transport

REFUSALS = (LinkState.REFUSED, LinkState.WRONG_SERVER_KEY)
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 2.0
LOST_AFTER_S = 6.0
QUEUES = QueueLimits(MESSAGE_LIMIT, unread=4)
"""Few messages of the server wait unread: this client reads while it trains, and a model may be large."""


class ServerRefusedError(Exception):
    """The server turns this client away, or is not the server it should be."""


class ServerLink:
    """Use from one thread.  ``patience_s`` is how long a refusal may last before it is an error."""

    def __init__(
        self,
        transport: Transport,
        keys: CurveKeys,
        server_public: str,
        endpoint: str,
        clock: Callable[[], float],
        patience_s: float = 10.0,
    ) -> None:
        self._transport = transport
        self._waiter = transport.waiter()
        self._keys = keys
        self._server_public = server_public
        self._endpoint = endpoint
        self._clock = clock
        self._patience_s = patience_s
        self._refused_since_s: float | None = None
        self._retry_at_s = 0.0
        self._was_up = False
        self._pause_s = FIRST_PAUSE_S
        self._open()

    def _open(self) -> None:
        self.state = LinkState.CONNECTING
        target = Target(self._endpoint, self._server_public, QUEUES, lost_after_s=LOST_AFTER_S)
        self._link = self._transport.connect(self._waiter, self._keys, target)

    def poll(self, timeout_s: float) -> LinkState:
        """Wait for a message or a change of the link, at most ``timeout_s``; returns the link's state.

        Raises ServerRefusedError when the server keeps turning us away.
        """
        self._waiter.wait(timeout_s)
        if self._link.state is not LinkState.CONNECTING or self.state not in REFUSALS:
            self.state = self._link.state
        if self.state in REFUSALS:
            self._refused()
        elif self.state is LinkState.UP:
            self._refused_since_s, self._pause_s, self._was_up = None, FIRST_PAUSE_S, True
        return self.state

    def _refused(self) -> None:
        now_s = self._clock()
        if self._refused_since_s is None:
            self._refused_since_s = now_s
            self._retry_at_s = now_s + self._pause_s
        if not self._was_up and now_s - self._refused_since_s >= self._patience_s:
            raise ServerRefusedError(
                f"no connection to the FL server at {self._endpoint}: {self.state.value}; compare the public "
                "keys in the testbed file with the secrets folders of server and client"
            )
        if now_s >= self._retry_at_s:
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
            self._retry_at_s = now_s + self._pause_s
            state = self.state
            self._link.close()
            self._open()
            self.state = state  # until the fresh link knows better

    def receive(self) -> tuple[FromServer, bytes | None] | None:
        """The next message and its array frame, or None if none waits; raises WireError."""
        frames = self._link.receive()
        if frames is None:
            return None
        message, buffer = split_message(frames, FromServer)
        assert isinstance(message, FromServer)
        return message, buffer

    def send(self, message: FromClient, array: Parameters | PackedBits | None = None) -> bool:
        """Queue a message; False if there is no connection to queue it for."""
        frames = [encode(message)] if array is None else [encode(message), frame_of(array)]
        try:
            self._link.send(*frames)
        except LinkError:
            return False
        return True

    def close(self) -> None:
        """Close the link; what was sent still goes out within half a second."""
        self._link.close()
        self._waiter.close()
