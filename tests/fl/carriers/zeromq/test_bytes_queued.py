"""What a client leaves unread, or says faster than it is heard, costs the learning server a bounded number of bytes."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import zmq

from fl.carriers.zeromq.server import UNHEARD_BYTES, UNREAD_BYTES, largest_frame
from fl.rounds.config import FLConfig
from fl.rounds.messages import (
    MESSAGE_LIMIT,
    PROTOCOL_VERSION,
    FromServer,
    Join,
    Progress,
    Ready,
    Welcome,
)
from orchestrator.events.learning import RoundStarted, WaitingForKeys
from orchestrator.wire.budget import messages_within
from orchestrator.wire.codec import decode, encode
from orchestrator.wire.curve import client_socket
from orchestrator.wire.links import CONTROL_LIMIT, QueueLimits, Target

MIB = 1 << 20
N_PARAMETERS = MIB


def resident_bytes() -> int:
    """Memory of this process that is in RAM."""
    return 4096 * int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])


class Glutton:
    """A client by hand that asks for models and reads none; almost nothing waits on its own side."""

    def __init__(self, world: Any, name: str) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        limits = QueueLimits(MESSAGE_LIMIT, unsent=1, unread=1)
        target = Target(world.endpoint, world.server_keys.public, limits)
        self.socket = client_socket(self.context, world.client_keys[name], target)
        assert self.socket.poll(10_000, zmq.POLLOUT)
        self.say(Join(PROTOCOL_VERSION))
        assert isinstance(decode(self.frames()[0], FromServer), Welcome)

    def say(self, message: Any) -> None:
        self.socket.send(encode(message))

    def frames(self) -> list[bytes]:
        assert self.socket.poll(10_000)
        return self.socket.recv_multipart()

    def close(self) -> None:
        self.socket.close(linger=0)
        self.context.term()


def test_models_that_a_client_does_not_read_do_not_pile_up(world: Any) -> None:
    """It says Ready 150 times in a round, and every time the 4 MiB of the model are due."""
    world.server_task._n = N_PARAMETERS
    world.settings(client_timeout_s=60.0)
    world.start_server()
    clients = [Glutton(world, name) for name in world.names]
    try:
        ready = Ready(world.config.run_id, N_PARAMETERS, world.server_task.fingerprint)
        for client in clients:
            client.say(ready)
        world.wait_for(lambda: world.of(RoundStarted), "a round")
        gc.collect()
        before = resident_bytes()
        for _ in range(150):
            clients[0].say(ready)
        clients[0].say(Progress(world.config.run_id, 1, "waiting for keys"))
        world.wait_for(lambda: world.of(WaitingForKeys), "the last word of the client")
        assert resident_bytes() - before < UNREAD_BYTES + 64 * MIB
    finally:
        for client in clients:
            client.close()


def test_queues_follow_from_bytes_and_the_largest_message() -> None:
    assert messages_within(64 * MIB, 5 * MIB, least=4, most=256) == 12
    assert messages_within(64 * MIB, 40 * MIB, least=4, most=256) == 4
    assert messages_within(64 * MIB, 100, least=4, most=256) == 256


@pytest.mark.parametrize("mode", ["plain", "otp", "lightsecagg"])
def test_no_frame_is_larger_than_what_a_run_needs(mode: Any) -> None:
    config = FLConfig(run_id="run", task="t", clients=("a", "b", "c", "d"), mode=mode)
    assert CONTROL_LIMIT + 4000 <= largest_frame(config, 1000) < CONTROL_LIMIT + 20_000
    assert largest_frame(config, 10**9) == MESSAGE_LIMIT
    assert messages_within(UNHEARD_BYTES, largest_frame(config, 1000), least=2, most=16) * 2 * MIB <= 32 * MIB
