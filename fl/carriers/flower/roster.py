"""Which user is behind which Flower node, as far as the server can tell.

The server greets every node that it has not seen and gets an introduction back.  With keys from nodes the
introduction is believed only with the proof of the key pair that the testbed file lists for that user
(:mod:`fl.carriers.flower.identity`).  Where keys are simulated there is nothing to prove, and the roster says so.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fl.carriers.flower.identity import Bond, IdentityError, server_bond
from fl.carriers.flower.records import (
    CONFIG,
    NONCE_BYTES,
    Hello,
    Introduction,
    KeySupply,
    open_record,
    record_of,
)
from orchestrator.randomness import local_generator, random_bytes
from orchestrator.wire.codec import WireError
from orchestrator.wire.curve import CurveKeys

POLL_S = 0.1
GREETING_S = 120.0
"""How long a node may take to introduce itself: it may have to install the app first."""

_log = logging.getLogger(__name__)


def exchange(grid: Grid, messages: Iterable[Message], timeout_s: float) -> list[Message]:
    """Send messages and collect the replies that arrive in time.

    Flower's own ``send_and_receive`` looks for replies every three seconds in deployments.
    """
    waiting = {message_id for message_id in grid.push_messages(list(messages)) if message_id}
    replies: list[Message] = []
    deadline_s = time.monotonic() + timeout_s
    while waiting:
        for reply in grid.pull_messages(waiting):
            replies.append(reply)
            waiting.discard(reply.metadata.reply_to_message_id)
        if time.monotonic() >= deadline_s:
            break
        if waiting:
            time.sleep(POLL_S)
    return replies


@dataclass
class Roster:
    """Users of one Flower run.

    ``bonds`` has one entry per user of the testbed file, in its order; None means simulated keys, where
    every introduction of a simulated client is taken as it is.
    """

    bonds: Mapping[str, Bond] | None
    nodes: dict[str, int] = field(default_factory=dict)
    _refused: set[int] = field(default_factory=set)

    @classmethod
    def of_testbed(cls, clients: Mapping[str, str], keys: CurveKeys) -> Roster:
        """A roster of ``clients`` (user -> public key of the user's learning client) with the server's keys."""
        return cls({user: server_bond(keys, public) for user, public in clients.items()})

    @property
    def key_supply(self) -> KeySupply:
        return "simulated" if self.bonds is None else "node"

    def users(self) -> tuple[str, ...]:
        """All users there can be: those of the testbed file, or the simulated clients seen so far."""
        if self.bonds is not None:
            return tuple(self.bonds)
        return tuple(sorted(self.nodes, key=lambda user: (len(user), user)))

    def present(self, node_ids: Iterable[int]) -> tuple[str, ...]:
        """The users whose nodes are connected, in the order of :meth:`users`."""
        connected = set(node_ids)
        return tuple(user for user in self.users() if self.nodes.get(user) in connected)

    def greet(self, grid: Grid) -> tuple[str, ...]:
        """Ask the nodes that are not known yet who they are; returns the users present."""
        node_ids = list(grid.get_node_ids())
        known = set(self.nodes.values()) | self._refused
        strangers = [node_id for node_id in node_ids if node_id not in known]
        nonces = {node_id: random_bytes(NONCE_BYTES) for node_id in strangers}
        hellos = [
            Message(
                RecordDict({CONFIG: record_of(self._hello(grid, node_id, nonces[node_id]), b"")}),
                dst_node_id=node_id,
                message_type=MessageType.TRAIN,
                group_id="hello",
            )
            for node_id in strangers
        ]
        for reply in exchange(grid, hellos, GREETING_S) if hellos else ():
            node_id = reply.metadata.src_node_id
            nonce = nonces.pop(node_id, b"")
            try:
                self._admit(reply, node_id, nonce, set(node_ids))
            except (IdentityError, WireError) as error:
                self._turn_away(node_id, str(error))
        for node_id in nonces:
            self._turn_away(node_id, f"it did not introduce itself within {GREETING_S:g} s")
        return self.present(node_ids)

    def _hello(self, grid: Grid, node_id: int, nonce: bytes) -> Hello:
        """A greeting with a proof for every user who may be behind the node."""
        run = int(grid.run.run_id)
        bonds = () if self.bonds is None else self.bonds.values()
        return Hello(nonce, tuple(bond.greeting(run, node_id, nonce) for bond in bonds))

    def forgive(self) -> None:
        """Greet again the nodes whose introduction was refused, in case the fault has been corrected."""
        self._refused.clear()

    def _turn_away(self, node_id: int, why: str) -> None:
        self._refused.add(node_id)
        _log.error("Flower node %d is turned away: %s", node_id, why)

    def _admit(self, reply: Message, node_id: int, nonce: bytes, connected: set[int]) -> None:
        if reply.has_error():
            raise IdentityError(f"it did not introduce itself: {reply.error.reason}")
        answer, data, tag = open_record(reply.content, Introduction)
        if answer.nonce != nonce:
            raise IdentityError("its introduction answers another greeting")
        if answer.key_supply != self.key_supply:
            raise IdentityError(f"its keys are from {answer.key_supply!r}, this run uses {self.key_supply!r}")
        if self.bonds is not None:
            if answer.user not in self.bonds:
                raise IdentityError(f"{answer.user!r} is no user of this testbed")
            self.bonds[answer.user].check(tag, "to server", reply.metadata.run_id, node_id, data)
        before = self.nodes.get(answer.user)
        if before is not None and before in connected:
            if self.bonds is None:
                raise IdentityError(f"{answer.user} is already connected as node {before}")
            # Flower takes a killed SuperNode for connected for another minute: the fresh proof counts.
            _log.warning("%s was Flower node %d, which is listened to no more", answer.user, before)
            self._refused.add(before)
        self.nodes[answer.user] = node_id
        _log.info("Flower node %d is %s (%s keys)", node_id, answer.user, self.key_supply)

    def user_of(self, node_id: int) -> str | None:
        """The user behind a node."""
        return next((user for user, known in self.nodes.items() if known == node_id), None)

    def tag(self, user: str, run: int, message: bytes, payload: bytes) -> bytes:
        """The server's proof for a message to ``user``; ``payload`` is the digest of what is beside it."""
        if self.bonds is None:
            return b""
        return self.bonds[user].tag("to client", run, self.nodes[user], message, payload)

    def check(self, user: str, run: int, tag: bytes, message: bytes, payload: bytes) -> None:
        """Raise IdentityError unless ``user`` made this message."""
        if self.bonds is not None:
            self.bonds[user].check(tag, "to server", run, self.nodes[user], message, payload)


def draw(users: tuple[str, ...], size: int) -> tuple[str, ...]:
    """A random choice of ``size`` users, in their order."""
    if size >= len(users):
        return users
    chosen = local_generator().choice(len(users), size, replace=False)
    return tuple(users[index] for index in sorted(chosen))
