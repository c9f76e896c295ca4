"""Messages to bytes and back."""

from __future__ import annotations

import msgspec
import pytest

from orchestrator.events.status import Learning, PeerItem
from orchestrator.wire.codec import Message, WireError, decode, encode
from orchestrator.wire.control_socket import Failed
from orchestrator.wire.messages import Demand, FromHub, FromPeer, Heartbeat, Hello, LeaseDone


class Point(Message, frozen=True):
    x: int
    label: str = ""


def test_a_message_comes_back_equal() -> None:
    for message in (
        Heartbeat(),
        LeaseDone(3, 9, False, "laser off"),
        Demand("alice", "bob", 4096, 12.5),
        Learning("run", "otp", "running", 10, accuracy=None),
    ):
        assert decode(encode(message), FromPeer | PeerItem) == message


PACK = msgspec.msgpack.encode
MALFORMED = {
    "nothing": b"",
    "reserved byte": b"\xc1",
    "cut short": encode(Point(3))[:-1],
    "bytes left over": encode(Point(3)) + b"\x00",
    "another type": encode(Heartbeat()),
    "another tag": PACK({"type": "Line", "x": 3}),
    "unknown field": PACK({"type": "Point", "x": 3, "y": 4}),
    "missing field": PACK({"type": "Point"}),
    "wrong field type": PACK({"type": "Point", "x": "three"}),
    "integer beyond 64 bits": b"\x82\xa4type\xa5Point\xa1x\xcf" + b"\xff" * 8 + b"\xff",
    "text that is not UTF-8": b"\x83\xa4type\xa5Point\xa1x\x01\xa5label\xa2\xff\xfe",
    "four billion elements": b"\x82\xa4type\xa5Point\xa1x\xdd\xff\xff\xff\xff",
    "nested a million deep": b"\x91" * 1_000_000,
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_input_is_one_typed_error(data: bytes) -> None:
    with pytest.raises(WireError):
        decode(data, Point)


@pytest.mark.parametrize(
    "data",
    [
        PACK({"type": "Point", "x": 1, "hunter2hunter2": 1}),
        PACK({"type": "hunter2hunter2"}),
        PACK({"type": "Point", "x": "hunter2hunter2"}),
        PACK({"type": "Point", "x": 1, "label": 7, "hunter2hunter2": 0}),
    ],
)
def test_the_error_repeats_nothing_that_was_sent(data: bytes) -> None:
    with pytest.raises(WireError) as caught:
        decode(data, Point | Heartbeat)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("role", ["", "Alice", "a" * 65, "alice\n", "../alice", "-alice"])
def test_names_of_roles_are_limited(role: str) -> None:
    with pytest.raises(WireError):
        decode(encode(Hello(role, 1, "0" * 32)), FromPeer)


def test_a_peer_cannot_say_what_only_the_hub_says() -> None:
    from orchestrator.wire.messages import LeaseGrant

    grant = encode(LeaseGrant(1, 1, 60.0))
    assert decode(grant, FromHub) == LeaseGrant(1, 1, 60.0)
    with pytest.raises(WireError, match="tag"):
        decode(grant, FromPeer)


def test_messages_are_immutable() -> None:
    with pytest.raises(AttributeError):
        Point(1).x = 2  # type: ignore[misc]


def test_a_name_that_is_not_utf_8_cannot_be_sent_and_is_a_typed_error() -> None:
    """Linux lets a file be called anything; Python shows such names with lone surrogates."""
    with pytest.raises(WireError, match="text in this Failed is not UTF-8"):
        encode(Failed("cannot read " + b"caf\xe9.secret".decode(errors="surrogateescape")))
