"""A learning server that says what a test tells it to: what it asks is a lie, the clients and their link are real."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import zmq

from fl.rounds.following import packed_sum
from fl.rounds.messages import (
    PROTOCOL_VERSION,
    FromClient,
    Join,
    Ready,
    RoundStart,
    RoundSum,
    Welcome,
    frame_of,
    header_of,
    split_message,
)
from orchestrator.wire.codec import encode
from orchestrator.wire.curve import server_socket
from orchestrator.wire.zeromq import ZapGate


class ScriptedServer:
    """Says what the test tells it to; keeps what clients send."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        allowed = {keys.public: name for name, keys in world.client_keys.items()}
        self.gate = ZapGate(self.context, allowed)
        self.socket, world.endpoint = server_socket(self.context, world.server_keys, "auto")
        self.routes: dict[str, bytes] = {}
        self.backlog: list[tuple[str, Any, bytes | None]] = []

    def close(self) -> None:
        self.socket.close()
        self.gate.close()
        self.context.term()

    def receive(self, timeout_s: float) -> tuple[str, Any, bytes | None] | None:
        if not self.socket.poll(int(timeout_s * 1000)):
            return None
        frames = self.socket.recv_multipart(copy=False)
        name = self.gate.role_of(frames[0])
        self.routes[name] = frames[0].bytes
        return name, *split_message([frame.bytes for frame in frames[1:]], FromClient)

    def expect(self, kind: type[Any], name: str) -> tuple[Any, bytes | None]:
        """The next message of this kind from this client; what others say is kept for later."""
        for index, (who, message, buffer) in enumerate(self.backlog):
            if who == name and isinstance(message, kind):
                del self.backlog[index]
                return message, buffer
        deadline_s = time.monotonic() + 10.0
        while time.monotonic() < deadline_s:
            received = self.receive(1.0)
            if received is not None and received[0] == name and isinstance(received[1], kind):
                return received[1], received[2]
            if received is not None and received[0] != name:
                self.backlog.append(received)
        raise AssertionError(f"no {kind.__name__} from {name}")

    def send(self, name: str, message: Any, array: np.ndarray | None = None) -> None:
        frames = [self.routes[name], encode(message)]
        self.socket.send_multipart(frames if array is None else [*frames, frame_of(array)])

    def welcome(self, name: str, **client_options: Any) -> None:
        self.world.start_client(name, **client_options)
        self.expect(Join, name)
        self.send(name, Welcome(PROTOCOL_VERSION, self.world.announced))
        self.expect(Ready, name)

    def start(self, name: str, number: int, participants: tuple[str, ...], **changes: Any) -> None:
        first = self.world.server_task.initial_parameters(self.world.config.seed)
        model = changes.pop("model", first)
        weights = changes.pop("weights", (1,) * len(participants))
        message = RoundStart("test", number, participants, weights, 1, header_of(model))
        self.send(name, message, model)

    def publish(self, number: int, total: np.ndarray, survivors: tuple[str, ...]) -> None:
        """Tell every client that this is the sum of a round."""
        packed = packed_sum(self.world.announced, total)
        for name in self.routes:
            self.send(name, RoundSum(self.world.config.run_id, number, survivors, header_of(packed)), packed)


@pytest.fixture
def server(world: Any) -> Iterator[ScriptedServer]:
    made = ScriptedServer(world)
    yield made
    world.close()
    made.close()
