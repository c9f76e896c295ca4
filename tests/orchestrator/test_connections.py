"""Which connections are ended because they flood: those that bring bytes and no message, and no others."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import zmq

from orchestrator.wire.connections import MARGIN_BYTES, Connections

PART = bytes(1 << 20)


@pytest.fixture
def ends() -> Iterator[tuple[zmq.Socket[bytes], zmq.Socket[bytes], str]]:
    """A client, a server and the endpoint between them."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    server = context.socket(zmq.ROUTER)
    port = server.bind_to_random_port("tcp://127.0.0.1")
    endpoint = f"tcp://127.0.0.1:{port}"
    client = context.socket(zmq.DEALER)
    client.connect(endpoint)
    yield client, server, endpoint
    context.destroy(linger=0)


class Unwatched(Connections):
    """Looks when it is told to, so that a look can come late."""

    def _watching(self) -> None:
        return


def test_messages_that_came_before_the_first_look_are_no_flood(
    ends: tuple[zmq.Socket[bytes], zmq.Socket[bytes], str],
) -> None:
    client, server, endpoint = ends
    connections = Unwatched()
    connections.serve(endpoint, unread_bytes=0)
    for _ in range(2 * MARGIN_BYTES // len(PART)):
        client.send(PART)
        frames = server.recv_multipart(copy=False)
        connections.heard(frames[-1], "alice")
    connections.end_floods()
    connections.end_floods()
    assert connections.floods == 0
    connections.close()


def test_bytes_without_a_message_are_a_flood_also_after_honest_ones(
    ends: tuple[zmq.Socket[bytes], zmq.Socket[bytes], str],
) -> None:
    client, server, endpoint = ends
    connections = Unwatched()
    connections.serve(endpoint, unread_bytes=0)
    client.send(b"honest")
    connections.heard(server.recv_multipart(copy=False)[-1], "alice")
    connections.end_floods()
    for _ in range(2 * MARGIN_BYTES // len(PART)):
        client.send(PART)  # which nobody takes out: to the watch, as good as parts without end
    while not connections.floods:
        connections.end_floods()
    connections.close()
