"""R5: everybody who is not who they should be is turned away, and sees it within two seconds."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import zmq

from orchestrator.hub.agent import LinkUp
from orchestrator.wire.channel import ChannelBrokenError
from orchestrator.wire.codec import encode
from orchestrator.wire.curve import client_socket, generate_keys
from orchestrator.wire.links import Link, LinkState, Target, Waiter
from orchestrator.wire.messages import PROTOCOL_VERSION, BulkHello, Delivery, Hello, PeerChange, Post

VISIBLE_WITHIN_S = 2.0


def assert_turned_away(agent: Any, state: LinkState) -> None:
    assert agent.wait_for(state, VISIBLE_WITHIN_S), agent.link_state
    assert agent.epoch is None
    assert agent.control_recv(0.0) is None


def test_unknown_key(hub_world: Any) -> None:
    stranger = hub_world.agent("alice", wait=False, keys=generate_keys())
    assert_turned_away(stranger, LinkState.REFUSED)
    assert hub_world.hub.gate.refused >= 1
    assert hub_world.hub.recv(0.0) is None


def test_wrong_server_key(hub_world: Any) -> None:
    misled = hub_world.agent("alice", wait=False, hub_public_key=generate_keys().public)
    assert_turned_away(misled, LinkState.WRONG_SERVER_KEY)


def test_no_curve(hub_world: Any) -> None:
    plain = hub_world.context.socket(zmq.DEALER)
    plain.setsockopt(zmq.IMMEDIATE, 1)
    plain.connect(hub_world.hub.control_endpoint)
    deadline = time.monotonic() + VISIBLE_WITHIN_S
    while hub_world.hub.counters.handshake_failures == 0:
        assert time.monotonic() < deadline
        assert not plain.poll(10, zmq.POLLOUT)
    with pytest.raises(zmq.Again):
        plain.send(encode(Hello("alice", PROTOCOL_VERSION, "0" * 32)), zmq.DONTWAIT)


def test_valid_key_with_the_name_of_another(hub_world: Any) -> None:
    bob = hub_world.agent("bob")
    impostor = hub_world.agent("bob", wait=False, keys=hub_world.keys["alice"])
    assert_turned_away(impostor, LinkState.REFUSED)
    assert bob.link_state is LinkState.UP


def test_valid_key_with_the_routing_id_of_another(hub_world: Any) -> None:
    """Whatever routing id a connection claims, its messages are those of its key."""
    hub, keys = hub_world.hub, hub_world.keys
    bob, carol = hub_world.raw("bob").join(), hub_world.raw("carol").join()
    assert bob.get() == PeerChange("carol", True, 2)

    def claim(made: zmq.Socket[bytes]) -> None:
        made.setsockopt(zmq.ROUTING_ID, b"bob")

    instance = "a" * 32
    links = [
        client_socket(hub_world.context, keys["alice"], Target(endpoint, keys["orchestrator"].public), claim)
        for endpoint in (hub.control_endpoint, hub.bulk_endpoint)
    ]
    assert all(link.poll(5000, zmq.POLLOUT) for link in links)
    links[0].send(encode(Hello("alice", PROTOCOL_VERSION, instance)))
    assert links[0].poll(5000)
    links[1].send(encode(BulkHello(instance)))
    assert carol.get() == PeerChange("alice", True, 3)
    links[1].send_multipart([encode(Post("carol", "t", 0)), b"I am bob"])
    assert carol.get() == Delivery("alice", "t", 0)


def test_no_zap_handler(hub_world: Any) -> None:
    hub_world.hub.gate.close()
    nobody = hub_world.agent("alice", wait=False)
    assert_turned_away(nobody, LinkState.SILENT)


def test_a_zap_handler_that_never_was(hub_world: Any) -> None:
    from orchestrator.hub.agent import Agent
    from orchestrator.wire.curve import server_socket

    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    hub_world.stack.callback(context.destroy, linger=0)
    server = hub_world.keys["orchestrator"]
    (control, control_at), (bulk, bulk_at) = (server_socket(context, server, "auto") for _ in range(2))
    nobody = Agent("alice", hub_world.keys["alice"], server.public, control_at, bulk_at)
    nobody.start()
    hub_world.stack.callback(nobody.close)
    assert_turned_away(nobody, LinkState.WRONG_SERVER_KEY)
    assert not control.poll(0)
    assert not bulk.poll(0)


def test_revoked_key(hub_world: Any) -> None:
    alice, bob = hub_world.agent("alice"), hub_world.agent("bob")
    channel = bob.channel("alice", "t")
    alice.channel("bob", "t").send(b"before")
    assert channel.recv(10.0) == b"before"
    assert isinstance(alice.control_recv(5.0), LinkUp)
    hub_world.hub.gate.revoke("alice")
    assert alice.wait_for(LinkState.REFUSED, VISIBLE_WITHIN_S)
    with pytest.raises(ChannelBrokenError, match="revoked"):
        channel.recv(VISIBLE_WITHIN_S)
    assert not alice.wait_up(1.0)
    assert hub_world.hub.gate.refused >= 1


def test_a_revoked_client_of_the_delivery_service(tmp_path: Path) -> None:
    """Connected without a word, it is cut off within two seconds, and stays out when the service comes back."""
    from orchestrator.delivery.service import DeliveryService
    from orchestrator.keystore.sealing import Kek
    from orchestrator.keystore.store import KeyStore
    from orchestrator.wire.revoked import RevokedKeys
    from orchestrator.wire.zeromq import ZeroMQ

    node, client = generate_keys(), generate_keys()

    def reserve(peer: str, n_bits: int, context: bytes) -> Any:
        raise AssertionError("nobody asks for key here")

    def connect(service: DeliveryService, stack: ExitStack) -> tuple[Link, Waiter]:
        transport = stack.enter_context(ZeroMQ())
        waiter = transport.waiter()
        link = transport.connect(waiter, client, Target(service.endpoint, node.public))
        stack.callback(link.close)
        while link.state is LinkState.CONNECTING:
            waiter.wait(10.0)
        return link, waiter

    with KeyStore.create(tmp_path / "alice.sqlite", "alice", Kek(bytes(32))) as store, ExitStack() as stack:
        for expected in (LinkState.UP, LinkState.REFUSED):
            made = {"keys": node, "client_key": client.public, "client_role": "fl-alice"}
            with DeliveryService(store, [], reserve, revoked=RevokedKeys(tmp_path), **made) as service:
                link, waiter = connect(service, stack)
                assert link.state is expected
                if expected is LinkState.UP:
                    started = time.monotonic()
                    service.gate.revoke("fl-alice")
                    while link.state is not LinkState.REFUSED:
                        waiter.wait(VISIBLE_WITHIN_S)
                    assert time.monotonic() - started < VISIBLE_WITHIN_S
