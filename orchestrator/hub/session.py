"""One connection of an agent to the hub: two sockets, their monitors and their clocks.

A session is used by the agent's thread only and thrown away as a whole when anything about it breaks, so
nothing that libzmq still holds of it can reach a later one.
"""

from __future__ import annotations

import contextlib
import enum
from collections import deque

import zmq

from orchestrator.hub.table import ChannelTable
from orchestrator.wire.codec import encode
from orchestrator.wire.curve import BULK_LIMIT, BULK_RECEIVE_QUEUE, CONTROL_LIMIT, CurveKeys, client_socket
from orchestrator.wire.links import LinkMonitor, LinkState
from orchestrator.wire.messages import CreditReturn


class Phase(enum.Enum):
    """How far a session has come."""

    CONNECTING = enum.auto()
    GREETING = enum.auto()
    JOINING = enum.auto()
    UP = enum.auto()


class SessionEndError(Exception):
    """The session is over; ``state`` says how."""

    def __init__(self, state: LinkState, reason: str) -> None:
        super().__init__(reason)
        self.state = state


class ClientSession:
    """The sockets of one session and their clocks; lives and dies in the agent's thread."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        keys: CurveKeys,
        hub_public: str,
        endpoints: tuple[str, str],
        now_s: float,
    ) -> None:
        self.phase = Phase.CONNECTING
        self.started_s = self.sent_s = self.heard_s = now_s
        self.heartbeat_s = 0.5
        self.lost_after_s = 4.0
        self.epoch = 0
        self.monitors: list[LinkMonitor] = []
        self.stuck: list[bytes | memoryview] | None = None
        self.credits: deque[CreditReturn] = deque()

        def watch(made: zmq.Socket[bytes]) -> None:
            self.monitors.append(LinkMonitor(made))

        with contextlib.ExitStack() as undo:
            undo.callback(self._close_monitors)
            control, bulk = endpoints
            self.control = client_socket(
                context,
                zmq.DEALER,
                keys,
                hub_public,
                control,
                max_message=CONTROL_LIMIT,
                reconnect=False,
                before_connect=watch,
            )
            undo.callback(self.control.close)
            self.bulk = client_socket(
                context,
                zmq.DEALER,
                keys,
                hub_public,
                bulk,
                max_message=BULK_LIMIT,
                receive_queue=BULK_RECEIVE_QUEUE,
                reconnect=False,
                before_connect=watch,
            )
            undo.pop_all()

    def poller(self, wake_fd: int) -> zmq.Poller:
        """Watches everything the agent's thread waits for."""
        poller = zmq.Poller()
        for each in (self.control, self.bulk, wake_fd, *(monitor.socket for monitor in self.monitors)):
            poller.register(each, zmq.POLLIN)
        return poller

    def send_control(self, message: bytes, now_s: float) -> bool:
        """True if the socket took it."""
        try:
            self.control.send(message, zmq.DONTWAIT)
        except zmq.Again:
            return False
        self.sent_s = now_s
        return True

    def send_bulk(self, table: ChannelTable) -> bool:
        """Send credits and frames until nothing may leave (True) or the socket is full (False)."""
        while True:
            if self.stuck is None:
                if self.credits:
                    self.stuck = [encode(self.credits.popleft())]
                elif (frame := table.next_frame()) is not None:
                    self.stuck = [encode(frame[0]), frame[1]]
                else:
                    return True
            try:
                self.bulk.send_multipart(self.stuck, zmq.DONTWAIT)
            except zmq.Again:
                return False
            self.stuck = None

    def _close_monitors(self) -> None:
        for monitor in self.monitors:
            monitor.close()

    def close(self) -> None:
        """Close everything; what was sent may still leave for as long as LINGER allows."""
        self._close_monitors()
        self.control.close()
        self.bulk.close()
