"""One connection of an agent to the hub: two links and their clocks.

A session is used by the agent's thread only and thrown away as a whole when anything about it breaks, so
nothing that is still on the way can reach a later one.
"""

from __future__ import annotations

import enum
from collections import deque
from contextlib import ExitStack

from orchestrator.hub.table import ChannelTable
from orchestrator.wire.codec import encode
from orchestrator.wire.curve import CurveKeys
from orchestrator.wire.links import Frame, LinkBusyError, LinkState, QueueLimits, Target, Transport, Waiter
from orchestrator.wire.messages import BULK_LIMIT, CreditReturn

BULK_QUEUES = QueueLimits(BULK_LIMIT, unread=32)


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
    """The links of one session and their clocks; lives and dies in the agent's thread."""

    def __init__(
        self,
        transport: Transport,
        waiter: Waiter,
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
        self.credits: deque[CreditReturn] = deque()
        self._stuck: tuple[Frame, ...] = ()
        control, bulk = endpoints
        with ExitStack() as undo:
            self.control = transport.connect(waiter, keys, Target(control, hub_public, reconnect=False))
            undo.callback(self.control.close)
            self.bulk = transport.connect(
                waiter, keys, Target(bulk, hub_public, BULK_QUEUES, reconnect=False)
            )
            undo.pop_all()

    def send_control(self, message: bytes, now_s: float) -> bool:
        """True if the link took it; raises LinkBrokenError."""
        try:
            self.control.send(message)
        except LinkBusyError:
            return False
        self.sent_s = now_s
        return True

    def send_bulk(self, table: ChannelTable) -> bool:
        """Send credits and frames until nothing may leave (True) or no more is taken (False)."""
        while True:
            if not self._stuck:
                if self.credits:
                    self._stuck = (encode(self.credits.popleft()),)
                elif (frame := table.next_frame()) is not None:
                    self._stuck = (encode(frame[0]), frame[1])
                else:
                    return True
            try:
                self.bulk.send(*self._stuck)
            except LinkBusyError:
                return False
            self._stuck = ()

    def close(self) -> None:
        """Close both links; what was sent still leaves."""
        self.control.close()
        self.bulk.close()
