"""R4, live part: garbage on open sockets is refused and counted, and everybody else goes on."""

from __future__ import annotations

import random
import socket
import time
from typing import Any

import pytest

from orchestrator.events.status import LaneStock, Ready, Stock
from orchestrator.wire.budget import ITEM_BYTES, decoded_cost
from orchestrator.wire.codec import encode, packed
from orchestrator.wire.messages import (
    BulkHello,
    CreditReturn,
    Hello,
    LeaseDone,
    Post,
    Said,
)

SAMPLES = [
    encode(message)
    for message in (
        Hello("relay", 1, "0" * 32),
        LeaseDone(1, 2, True),
        Said(packed(Stock([LaneStock("bob", "mask", 4096)]))),
        Said(packed(Ready(False, "laser"))),
        BulkHello("0" * 32),
        Post("bob", "t", 3),
        CreditReturn("bob", 1000),
    )
]


def frames(rng: random.Random) -> list[bytes]:
    """Between one and four frames, random or made of damaged messages."""
    made = []
    for _ in range(rng.choice((1, 1, 2, 3, 4))):
        raw = bytearray(rng.choice(SAMPLES) if rng.random() < 0.7 else rng.randbytes(rng.randrange(2000)))
        if raw and rng.random() < 0.8:
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        made.append(bytes(raw))
    return made


def live_frames(world: Any, count: int) -> None:
    """A member with a valid key sends garbage on both planes while two others talk."""
    rng = random.Random(7)
    alice, bob = world.agent("alice"), world.agent("bob")
    mallory = world.raw("relay").join()
    out, into = alice.channel("bob", "talk"), bob.channel("alice", "talk")
    for number in range(count):
        target = mallory.control if rng.random() < 0.5 else mallory.bulk
        target.send_multipart(frames(rng))
        while target.poll(0):
            target.recv_multipart()
        if number % 50 == 0:
            out.send(b"%d" % number)
            assert into.recv(10.0) == b"%d" % number
    out.send(b"end")
    assert into.recv(10.0) == b"end"
    deadline = time.monotonic() + 30.0
    while world.hub.counters.malformed < count // 3 and time.monotonic() < deadline:
        for target in (mallory.control, mallory.bulk):
            while target.poll(10):
                target.recv_multipart()
    assert world.hub.counters.malformed >= count // 3
    assert alice.epoch == bob.epoch == 1


def streams(world: Any, count: int) -> None:
    """Raw TCP connections that send anything, from nothing to a proper ZMTP greeting gone wrong."""
    rng = random.Random(11)
    alice, bob = world.agent("alice"), world.agent("bob")
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"CURVE".ljust(20, b"\0") + b"\0" + bytes(31)
    addresses = []
    for endpoint in (world.hub.control_endpoint, world.hub.bulk_endpoint):
        host, port = endpoint.removeprefix("tcp://").rsplit(":", 1)
        addresses.append((host, int(port)))
    for number in range(count):
        data = rng.randbytes(rng.randrange(300))
        if rng.random() < 0.6:
            data = greeting + data
        with socket.create_connection(addresses[number % 2], timeout=10.0) as raw:
            raw.sendall(data)
    alice.channel("bob", "talk").send(b"untouched")
    assert bob.channel("alice", "talk").recv(10.0) == b"untouched"
    deadline = time.monotonic() + 30.0
    while world.hub.counters.handshake_failures < count // 4 and time.monotonic() < deadline:
        alice.channel("bob", "talk").send(b"tick")
        assert bob.channel("alice", "talk").recv(10.0) == b"tick"
    assert world.hub.counters.handshake_failures >= count // 4
    assert world.hub.counters.lost_peers == 0


def test_live_frames(hub_world: Any) -> None:
    live_frames(hub_world, 1_500)


def test_raw_streams(hub_world: Any) -> None:
    streams(hub_world, 100)


@pytest.mark.long
def test_50000_live_frames(hub_world: Any) -> None:
    live_frames(hub_world, 50_000)


@pytest.mark.long
def test_3000_raw_streams(hub_world: Any) -> None:
    streams(hub_world, 3_000)


def test_a_flood_of_control_messages_is_refused_beyond_a_limit(make_hub_world: Any) -> None:
    from orchestrator.hub.events import HubLimits

    cost = decoded_cost(len(encode(Said(packed(Ready(True))))))
    world = make_hub_world(limits=HubLimits(event_bytes_per_peer=100 * cost + ITEM_BYTES))
    mallory = world.raw("relay").join()
    for _ in range(200):
        mallory.say(Said(packed(Ready(True))))
    refusals = 0
    while (answer := mallory.hear(300)) is not None:
        assert answer.code == "overload"
        refusals += 1
    assert refusals == world.hub.counters.overloads == 100
