"""Transcript tags: every change to what was said, to whom and when gives another tag."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from rehearsal import MemoryAuthKeys, memory_lanes

from orchestrator.keystore.errors import LaneShortError, ReplayError
from orchestrator.postprocessing.authentication import BlockId, Transcript
from orchestrator.protocols.epsilons import forgery_bound
from orchestrator.secret import SecretBits

BLOCK = BlockId("alice", "bob", epoch=3, lease_number=14, block=1)
KEY = bytes(range(32))


def transcript(
    block: BlockId = BLOCK,
    announcements: tuple[bytes, ...] = (b"frame 0", b"frame 1"),
    first: tuple[bytes, ...] = (b"bases", b"labels"),
    second: tuple[bytes, ...] = (b"bases of bob",),
) -> Transcript:
    made = Transcript(block, list(announcements))
    for message in second:
        made.add("second", message)
    for message in first:
        made.add("first", message)
    return made


def tag(made: Transcript, offset: int = 256) -> bytes:
    return made.tag(SecretBits.from_bytes(KEY), "first", offset)


def test_the_same_talk_gives_the_same_tag_in_any_interleaving() -> None:
    other = Transcript(BLOCK, [b"frame 0", b"frame 1"])
    other.add("first", b"bases")
    other.add("second", b"bases of bob")
    other.add("first", b"labels")
    assert tag(other) == tag(transcript())


CHANGES: dict[str, Callable[[], Transcript]] = {
    "epoch": lambda: transcript(replace(BLOCK, epoch=4)),
    "lease_number": lambda: transcript(replace(BLOCK, lease_number=15)),
    "block": lambda: transcript(replace(BLOCK, block=2)),
    "first": lambda: transcript(replace(BLOCK, first="alicf")),
    "second": lambda: transcript(replace(BLOCK, second="carol")),
    "names moved": lambda: transcript(replace(BLOCK, first="aliceb", second="ob")),
    "users swapped": lambda: transcript(replace(BLOCK, first="bob", second="alice")),
    "announcement changed": lambda: transcript(announcements=(b"frame 0", b"frame 2")),
    "announcement missing": lambda: transcript(announcements=(b"frame 0",)),
    "announcements swapped": lambda: transcript(announcements=(b"frame 1", b"frame 0")),
    "announcements joined": lambda: transcript(announcements=(b"frame 0frame 1",)),
    "message changed": lambda: transcript(first=(b"bases", b"lacels")),
    "message dropped": lambda: transcript(first=(b"bases",)),
    "message added": lambda: transcript(first=(b"bases", b"labels", b"")),
    "message repeated": lambda: transcript(first=(b"bases", b"labels", b"labels")),
    "messages swapped": lambda: transcript(first=(b"labels", b"bases")),
    "border moved": lambda: transcript(first=(b"base", b"slabels")),
    "message in the other stream": lambda: transcript(first=(b"bases",), second=(b"bases of bob", b"labels")),
    "streams swapped": lambda: transcript(first=(b"bases of bob",), second=(b"bases", b"labels")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_gives_another_tag(change: str) -> None:
    assert tag(CHANGES[change]()) != tag(transcript())


def test_direction_and_key_offset_are_bound() -> None:
    key = SecretBits.from_bytes(KEY)
    assert transcript().tag(key, "first", 0) != transcript().tag(key, "second", 0)
    assert transcript().tag(key, "first", 0) != transcript().tag(key, "first", 256)


def test_the_bytes_themselves_are_under_the_tag() -> None:
    long = bytes(10_000)
    assert transcript(first=(long,)).n_bytes > 10_000


def test_lanes_match_and_never_go_back() -> None:
    first, second = memory_lanes(np.random.default_rng(1))
    offset, key = first.take_outgoing(256)
    assert offset == 0
    assert second.peek_incoming(0, 256).same_as(key)
    assert second.take_incoming(0, 256).same_as(key)
    with pytest.raises(ReplayError, match="were used"):
        second.take_incoming(0, 256)
    with pytest.raises(ReplayError, match="were used"):
        second.peek_incoming(255, 256)
    first.take_outgoing(256)  # lost on the way: the peer skips it
    offset, key = first.take_outgoing(256)
    assert second.take_incoming(offset, 256).same_as(key)


def test_empty_lanes_refuse() -> None:
    lanes = MemoryAuthKeys(SecretBits.from_bytes(bytes(40)), SecretBits.from_bytes(bytes(40)))
    lanes.take_outgoing(256)
    with pytest.raises(LaneShortError):
        lanes.take_outgoing(256)
    with pytest.raises(LaneShortError):
        lanes.take_incoming(128, 256)


def test_forgery_bound_of_a_long_block() -> None:
    assert forgery_bound(10**8) < 1e-24 < forgery_bound(10**9)
