"""R4, decoder part: whatever bytes come, decoding gives a message or a WireError."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.events.status import (
    Alarm,
    BlockReport,
    LaneStock,
    Learning,
    PeerItem,
    PeerStatus,
    Ready,
    RingStatus,
    StatusItem,
    Stock,
)
from orchestrator.wire.codec import WireError, decode, encode, packed
from orchestrator.wire.messages import (
    BulkFromHub,
    BulkFromPeer,
    BulkHello,
    BulkWelcome,
    CreditReturn,
    Delivery,
    Demand,
    FromHub,
    FromPeer,
    Hello,
    LeaseDone,
    LeaseOffer,
    LightStatistics,
    PeerChange,
    Post,
    Refused,
    ReportedBefore,
    Rest,
    Said,
    TelemetryItem,
    Welcome,
    calibration,
)

UNIONS: tuple[Any, ...] = (FromPeer, PeerItem, FromHub, StatusItem, BulkFromPeer, BulkFromHub)
ROLE = st.from_regex(r"\A[a-z0-9][a-z0-9._-]{0,63}\Z")
COUNT = st.integers(0, 1 << 62)
REASON = st.text(max_size=300)
TOPIC = st.text(min_size=1, max_size=200)
INSTANCE = st.text("0123456789abcdef", min_size=16, max_size=64)

STATISTICS = st.builds(LightStatistics, frames=COUNT, pulses=COUNT, light_s=st.floats(0, 1e6))
PEER_ITEM = st.one_of(
    st.builds(BlockReport, epoch=COUNT, lease_number=COUNT, first=ROLE, second=ROLE, stored=st.booleans()),
    st.builds(
        Stock, lanes=st.lists(st.builds(LaneStock, peer=ROLE, lane=st.just("mask"), bits=COUNT), max_size=5)
    ),
    st.builds(Ready, ready=st.booleans(), reason=REASON, instruments=st.lists(ROLE, max_size=4).map(tuple)),
    st.builds(Alarm, name=st.just("low-water"), text=REASON, peer=ROLE | st.none(), on=st.booleans()),
    st.builds(
        Learning,
        run_id=st.text(max_size=64),
        mode=st.text(max_size=32),
        state=st.sampled_from(["running", "waiting", "finished", "failed"]),
        rounds=COUNT,
        accuracy=st.none() | st.floats(0, 1),
    ),
)
STATUS_ITEM = (
    PEER_ITEM
    | st.builds(PeerStatus, peer=ROLE, present=st.booleans(), reason=REASON)
    | st.builds(RingStatus, phase=st.just("granted"), for_s=st.floats(0, 1e9), first=ROLE, second=ROLE)
)
FROM_PEER = st.one_of(
    st.builds(Hello, role=ROLE, version=COUNT, instance=INSTANCE),
    st.builds(LeaseDone, epoch=COUNT, number=COUNT, ok=st.booleans(), reason=REASON, statistics=STATISTICS),
    st.builds(Demand, first=ROLE, second=ROLE, bits=COUNT, deadline_s=st.none() | st.floats(0, 1e9)),
    st.builds(Said, packed=PEER_ITEM.map(packed)),
)
FROM_HUB = st.one_of(
    st.builds(Welcome, role=ROLE, epoch=COUNT, heartbeat_s=st.floats(0, 10), lost_after_s=st.floats(0, 10)),
    st.builds(Refused, code=st.text(max_size=32), detail=REASON),
    st.builds(LeaseOffer, epoch=COUNT, number=COUNT, first=ROLE, second=ROLE, n_frames=COUNT),
    st.builds(
        TelemetryItem,
        role=ROLE,
        seq=COUNT,
        age_s=st.floats(0, 1e9),
        packed=STATUS_ITEM.map(packed),
    ),
)
BULK_FROM_PEER = st.one_of(
    st.builds(Post, to=ROLE, topic=TOPIC, seq=COUNT, session=COUNT, more=st.booleans(), end=st.booleans()),
    st.builds(CreditReturn, to=ROLE, amount=COUNT),
    st.builds(BulkHello, instance=INSTANCE),
)
BULK_FROM_HUB = st.one_of(
    st.builds(Delivery, sender=ROLE, topic=TOPIC, seq=COUNT, more=st.booleans(), end=st.booleans()),
    st.builds(PeerChange, role=ROLE, up=st.booleans(), session=COUNT, reason=REASON),
    st.builds(BulkWelcome, peers=st.dictionaries(ROLE, COUNT, max_size=5)),
)
PLANES = [
    (PEER_ITEM, PeerItem),
    (STATUS_ITEM, StatusItem),
    (FROM_PEER, FromPeer),
    (FROM_HUB, FromHub),
    (BULK_FROM_PEER, BulkFromPeer),
    (BULK_FROM_HUB, BulkFromHub),
]
ANY_MESSAGE = st.one_of(*(messages for messages, _ in PLANES))


@pytest.mark.parametrize(
    ("messages", "union"), PLANES, ids=["peer-item", "status-item", "peer", "hub", "bulk-peer", "bulk-hub"]
)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_message_survives_the_wire(messages: Any, union: Any, data: st.DataObject) -> None:
    message = data.draw(messages)
    assert decode(encode(message), union) == message


def check(data: bytes) -> None:
    for union in UNIONS:
        try:
            message = decode(data, union)
        except WireError:
            continue
        # What was accepted is a proper message: it can be written and read again.
        encode(decode(encode(message), union))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_or_understood(data: bytes) -> None:
    check(data)


@settings(max_examples=300, deadline=None)
@given(ANY_MESSAGE, st.data())
def test_damaged_messages_are_refused_or_understood(message: Any, data: st.DataObject) -> None:
    raw = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    check(bytes(raw[: data.draw(st.integers(0, len(raw)))]))
    check(bytes(raw))


def damaged(rng: random.Random, samples: list[bytes]) -> bytes:
    """Random bytes, or a real message with some of it changed, cut, doubled or joined with another."""
    kind = rng.randrange(5)
    if kind == 0:
        return rng.randbytes(rng.randrange(200))
    raw = bytearray(rng.choice(samples))
    if kind == 1:
        for _ in range(rng.randrange(1, 5)):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
    elif kind == 2:
        del raw[rng.randrange(len(raw)) :]
    elif kind == 3:
        at = rng.randrange(len(raw))
        raw[at:at] = rng.randbytes(rng.randrange(1, 9))
    else:
        raw += rng.choice(samples)
    return bytes(raw)


SAMPLES = [
    encode(message)
    for message in (
        Hello("alice", 1, "0" * 32),
        LeaseDone(1, 2, True, "fine", LightStatistics(frames=4, light_s=0.5)),
        BlockReport(1, 2, "alice", "bob", True, secret_bits=1000, qber=0.02),
        Stock([LaneStock("bob", "mask", 4096), LaneStock("carol", "mask", 0)]),
        Learning("run", "otp", "running", 10, 3, accuracy=0.5),
        Post("bob", "block/1/2", 17, 3, True, False),
        Delivery("alice", "block/1/2", 17, True, False),
        BulkWelcome({"alice": 1, "bob": 2}),
        LeaseOffer(1, 2, "alice", "bob", 24),
        LeaseOffer(1, 2, "alice", "bob", 24, calibration("phase")),
        ReportedBefore([BlockReport(1, 2, "alice", "bob", True, secret_bits=1000)], ((1, 3),)),
        Rest(True, "olga holds the queue"),
    )
]


def test_mutated_messages_reduced_count() -> None:
    rng = random.Random(20240611)
    for _ in range(5_000):
        check(damaged(rng, SAMPLES))


@pytest.mark.long
def test_a_million_decoder_inputs() -> None:
    rng = random.Random(20240612)
    for _ in range(250_000):
        check(damaged(rng, SAMPLES))
