"""The channels of one process: mailboxes on the way in, credit-limited queues on the way out.

:class:`ChannelTable` is the meeting point of the threads that use channels and the agent's thread that moves
frames; it owns one lock and does no I/O.  A channel is named (peer, topic).  Frames for a channel that
nobody opened yet are kept within limits, those for a closed one are dropped.  A missing frame, a peer that
left or a lost hub breaks the channel for good.  A topic is used once per connection of the two peers: after
one of them was away, the same name starts afresh.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator import runtime
from orchestrator.hub.flow import CreditBook, FlowError, Inflow, Outflow
from orchestrator.wire.budget import ByteBudget, waiting_cost
from orchestrator.wire.channel import (
    ChannelBrokenError,
    ChannelClosedError,
    ChannelError,
    ChannelTimeoutError,
)
from orchestrator.wire.messages import MESSAGE_LIMIT, Delivery, Post


@dataclass(frozen=True)
class TableLimits:
    """Bounds on what a peer can make this process store; every frame costs its length and an overhead
    (:func:`~orchestrator.wire.budget.waiting_cost`), so that empty ones fill a mailbox too."""

    queued_bytes_per_peer: int = 4 * MESSAGE_LIMIT
    mailbox_bytes: int = 4 * MESSAGE_LIMIT
    unopened_bytes_per_peer: int = 2 * MESSAGE_LIMIT
    unread_bytes: int = 8 * MESSAGE_LIMIT
    """All mailboxes of all peers together."""
    unopened_topics_per_peer: int = 64
    closed_topics_remembered: int = 1000


class AgentChannel:
    """A :class:`~orchestrator.wire.channel.Channel` to ``peer`` under ``topic``; any thread may use it."""

    def __init__(self, table: ChannelTable, peer: str, topic: str) -> None:
        self._table = table
        self.peer = peer
        self.topic = topic
        self.opened = False
        self.held_bytes = 0
        self.broken: str | None = None
        self.closed = False
        self._inbox: runtime.Queue[tuple[bytes, int] | ChannelError] = runtime.queue()
        self._inflow = Inflow()
        self._partial_cost = 0

    def __repr__(self) -> str:
        return f"<AgentChannel {self.topic} to {self.peer}>"

    def send(self, payload: bytes) -> None:
        """Queue one message of up to 64 MiB; raises ChannelClosedError or ChannelBrokenError."""
        if len(payload) > MESSAGE_LIMIT:
            raise ValueError(f"a channel message is at most {MESSAGE_LIMIT} bytes, got {len(payload)}")
        self._table.push(self, payload)

    def recv(self, timeout_s: float) -> bytes:
        """The next message; raises ChannelTimeoutError, ChannelClosedError or ChannelBrokenError.

        Messages that were complete before the channel broke are delivered first.
        """
        self.check_open()
        try:
            item = self._inbox.get(timeout=max(0.0, timeout_s))
        except runtime.Empty:
            raise ChannelTimeoutError(
                f"nothing from {self.peer} on {self.topic} within {timeout_s:g} s"
            ) from None
        if isinstance(item, ChannelError):
            self._inbox.put(item)
            raise type(item)(*item.args)
        message, cost = item
        self._table.taken(self, cost)
        return message

    def close(self) -> None:
        """Close this end; the peer reads what was sent and then gets ChannelBrokenError."""
        self._table.close(self.peer, self.topic, self)

    def check_open(self) -> None:
        """Raise ChannelClosedError if this side closed the channel."""
        if self.closed:
            raise ChannelClosedError(f"channel {self.topic} to {self.peer} was closed here")

    def deliver(self, seq: int, more: bool, payload: bytes, limit: int, budget: ByteBudget) -> None:
        """Take in one frame (agent's thread); raises FlowError."""
        if self.broken is not None:
            return
        message = self._inflow.add(seq, more, payload)
        cost = waiting_cost(len(payload))
        if self.held_bytes + cost > limit or not budget.take(self.peer, cost):
            raise FlowError(f"more than {min(limit, budget.total)} bytes arrived unread")
        self.held_bytes += cost
        self._partial_cost += cost
        if message is not None:
            self._inbox.put((message, self._partial_cost))
            self._partial_cost = 0

    def break_off(self, reason: str) -> None:
        """Nothing more can come or go."""
        if self.broken is None and not self.closed:
            self.broken = f"channel {self.topic} to {self.peer}: {reason}"
            self._inbox.put(ChannelBrokenError(self.broken))

    def shut(self) -> None:
        """Closed by this side: wake whoever waits in recv."""
        self.closed = True
        self._inbox.put(ChannelClosedError(f"channel {self.topic} to {self.peer} was closed here"))


class ChannelTable:
    """All channels of one agent.

    ``on_output`` is called when something waits to leave, ``on_waiting(peer, topic)`` when a first frame came
    for a channel that nobody opened.
    """

    def __init__(
        self, on_output: Callable[[], None], on_waiting: Callable[[str, str], None], limits: TableLimits
    ) -> None:
        self._on_output = on_output
        self._on_waiting = on_waiting
        self._limits = limits
        self._lock = runtime.lock()
        self._channels: dict[tuple[str, str], AgentChannel] = {}
        self._closed: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._outflows: dict[str, Outflow] = {}
        self._credits = CreditBook()
        self._unread = ByteBudget(limits.unread_bytes)
        self._shut_down = False
        self.dropped_frames = 0

    # -- for the users of channels -------------------------------------------------------------------

    def open(self, peer: str, topic: str) -> AgentChannel:
        """The channel to ``peer`` under ``topic``; opening it twice gives the same object."""
        with self._lock:
            if self._shut_down:
                raise ChannelClosedError("the agent is closed")
            if (peer, topic) in self._closed:
                raise ChannelClosedError(f"channel {topic} to {peer} was closed here; use a fresh topic")
            channel = self._channels.get((peer, topic))
            if channel is None:
                channel = self._channels[peer, topic] = AgentChannel(self, peer, topic)
            channel.opened = True
            return channel

    def push(self, channel: AgentChannel, payload: bytes) -> None:
        """Queue a message of an open channel."""
        with self._lock:
            channel.check_open()
            if channel.broken is not None:
                raise ChannelBrokenError(channel.broken)
            outflow = self._outflows.setdefault(channel.peer, Outflow(channel.peer))
            if outflow.waiting_bytes + len(payload) > self._limits.queued_bytes_per_peer:
                outflow.drop(channel.topic)
                channel.break_off(f"{channel.peer} does not take its messages")
                raise ChannelBrokenError(str(channel.broken))
            outflow.push(channel.topic, payload)
        self._on_output()

    @property
    def unread_bytes(self) -> int:
        """What waits in all mailboxes, with the overhead of every frame."""
        return self._unread.held()

    def taken(self, channel: AgentChannel, cost: int) -> None:
        """A message that cost so much was read; one of a channel that has left the table is paid for already."""
        with self._lock:
            self._free(channel, min(cost, channel.held_bytes))

    def close(self, peer: str, topic: str, only: AgentChannel | None = None) -> None:
        """Close a channel, opened or not: what it queued still leaves, later arrivals are dropped.

        With ``only``, a channel of the same name that has taken its place meanwhile is left alone.
        """
        with self._lock:
            if only is not None and self._channels.get((peer, topic)) is not only:
                only.shut()
                return
            channel = self._channels.pop((peer, topic), None)
            if channel is not None:
                self._free(channel, channel.held_bytes)
                outflow = self._outflows.setdefault(peer, Outflow(peer))
                if channel.broken is None:
                    outflow.end(topic)
                else:
                    outflow.drop(topic)
                channel.shut()
            self._remember_closed(peer, topic)
        self._on_output()

    def shut_down(self) -> None:
        """Close everything at once."""
        with self._lock:
            self._shut_down = True
            for channel in self._channels.values():
                self._free(channel, channel.held_bytes)
                channel.shut()
            self._channels.clear()
            self._outflows.clear()

    # -- for the agent's thread ----------------------------------------------------------------------

    def next_frame(self) -> tuple[Post, memoryview] | None:
        """The next frame that may leave now."""
        with self._lock:
            for outflow in self._outflows.values():
                if (frame := outflow.next_frame()) is not None:
                    return frame
        return None

    def deliver(self, delivery: Delivery, payload: bytes) -> int:
        """Sort one frame into its mailbox; the credit to return to the sender at once, or 0."""
        key = delivery.sender, delivery.topic
        with self._lock:
            owed = self._credits.took(delivery.sender, len(payload))
            channel = self._channels.get(key)
            if channel is None and key not in self._closed:
                self._make_room(delivery.sender)
                channel = self._channels[key] = AgentChannel(self, *key)
                self._on_waiting(*key)
            if channel is None:
                self.dropped_frames += 1
                return owed
            try:
                if delivery.end:
                    channel.break_off(f"{delivery.sender} closed it")
                else:
                    room = self._room_for(channel)
                    channel.deliver(delivery.seq, delivery.more, payload, room, self._unread)
            except FlowError as error:
                channel.break_off(str(error))
        return owed

    def credit(self, peer: str, amount: int) -> None:
        """``peer`` took ``amount``."""
        with self._lock:
            if peer in self._outflows:
                self._outflows[peer].credit(amount)

    def refused(self, peer: str, topic: str, reason: str) -> None:
        """The hub did not pass on a frame of this channel."""
        with self._lock:
            if (peer, topic) in self._channels:
                self._channels[peer, topic].break_off(reason)
            if peer in self._outflows:
                self._outflows[peer].drop(topic)

    def peer_present(self, peer: str, session: int) -> None:
        """Address what is sent to ``peer`` from here on to its session ``session``."""
        with self._lock:
            self._outflows.setdefault(peer, Outflow(peer)).session = session

    def disconnected(self, reason: str, peer: str | None = None) -> None:
        """``peer``, or with None the hub, is gone: channels break and leave the table, so do queues and names."""
        with self._lock:
            for key in [key for key in self._channels if peer is None or key[0] == peer]:
                channel = self._channels.pop(key)
                self._free(channel, channel.held_bytes)
                channel.break_off(reason)
            for key in [key for key in self._closed if peer is None or key[0] == peer]:
                del self._closed[key]
            for name in [peer] if peer is not None else list(self._outflows):
                self._outflows.pop(name, None)
            self._credits.forget(peer)

    # -- under the lock ------------------------------------------------------------------------------

    def _free(self, channel: AgentChannel, cost: int) -> None:
        self._unread.give_back(channel.peer, cost)
        channel.held_bytes -= cost

    def _remember_closed(self, peer: str, topic: str) -> None:
        self._closed[peer, topic] = None
        while len(self._closed) > self._limits.closed_topics_remembered:
            self._closed.popitem(last=False)

    def _unopened(self, peer: str) -> list[AgentChannel]:
        return [c for key, c in self._channels.items() if key[0] == peer and not c.opened]

    def _make_room(self, peer: str) -> None:
        """Before keeping frames for a channel nobody opened: give up the peer's oldest such channel."""
        unopened = self._unopened(peer)
        if len(unopened) >= self._limits.unopened_topics_per_peer:
            oldest = unopened[0]
            self._free(oldest, oldest.held_bytes)
            del self._channels[peer, oldest.topic]
            self._remember_closed(peer, oldest.topic)

    def _room_for(self, channel: AgentChannel) -> int:
        if channel.opened:
            return self._limits.mailbox_bytes
        others = sum(c.held_bytes for c in self._unopened(channel.peer) if c is not channel)
        return self._limits.unopened_bytes_per_peer - others
