"""Frames, credit and reassembly under arbitrary interleavings: nothing lost, nothing stuck, window kept."""

from __future__ import annotations

from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.hub.flow import CreditBook, Inflow, Outflow
from orchestrator.wire.messages import CHUNK_BYTES, WINDOW_BYTES, Post, chunk_cost

SIZES = st.sampled_from([0, 1, 100, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 7])
MESSAGES = st.lists(st.tuples(st.sampled_from("abc"), SIZES), max_size=12)


def content(number: int, size: int) -> bytes:
    return bytes([number % 251]) * size


@settings(max_examples=60, deadline=None)
@given(MESSAGES, st.lists(st.booleans(), max_size=200))
def test_every_message_arrives_whole_and_in_order(sent: list[tuple[str, int]], take: list[bool]) -> None:
    out = Outflow("bob")
    book = CreditBook()
    inflows = {topic: Inflow() for topic in "abc"}
    arrived: dict[str, list[bytes]] = {topic: [] for topic in "abc"}
    wire: deque[tuple[Post, bytes]] = deque()
    for number, (topic, size) in enumerate(sent):
        out.push(topic, content(number, size))
    turns = iter(take)
    in_flight = 0
    while True:
        frame = out.next_frame()
        if frame is not None:
            wire.append((frame[0], bytes(frame[1])))
            in_flight += chunk_cost(len(frame[1]))
            assert in_flight <= WINDOW_BYTES
            if next(turns, True):
                continue
        if not wire:
            break
        post, payload = wire.popleft()
        message = inflows[post.topic].add(post.seq, post.more, payload)
        if message is not None:
            arrived[post.topic].append(message)
        returned = book.took("alice", len(payload))
        in_flight -= returned
        out.credit(returned)
    expected: dict[str, list[bytes]] = {topic: [] for topic in "abc"}
    for number, (topic, size) in enumerate(sent):
        expected[topic].append(content(number, size))
    assert arrived == expected
    assert out.waiting_bytes == 0


@settings(max_examples=60, deadline=None)
@given(MESSAGES, st.sampled_from("abc"), st.integers(0, 10))
def test_dropping_a_channel_leaves_the_others_and_the_count_right(
    sent: list[tuple[str, int]], dropped: str, after: int
) -> None:
    out = Outflow("bob", window=1 << 40)
    for number, (topic, size) in enumerate(sent):
        out.push(topic, content(number, size))
    for _ in range(after):
        out.next_frame()
    out.drop(dropped)
    left = 0
    while (frame := out.next_frame()) is not None:
        assert frame[0].topic != dropped
        left += len(frame[1])
    assert out.waiting_bytes == 0


def test_topics_take_turns() -> None:
    out = Outflow("bob", window=1 << 40)
    out.push("big", bytes(4 * CHUNK_BYTES))
    out.push("small", b"x")
    topics = [frame[0].topic for frame in iter(out.next_frame, None)]
    assert topics == ["big", "small", "big", "big", "big"]


def test_the_end_comes_after_the_messages() -> None:
    out = Outflow("bob")
    out.push("t", b"last")
    out.end("t")
    posts = [frame[0] for frame in iter(out.next_frame, None)]
    assert posts == [Post("bob", "t", 0), Post("bob", "t", 1, end=True)]


def test_the_window_is_four_chunks() -> None:
    out = Outflow("bob")
    out.push("t", bytes(6 * CHUNK_BYTES))
    assert sum(1 for _ in iter(out.next_frame, None)) == 4
    out.credit(chunk_cost(CHUNK_BYTES))
    assert sum(1 for _ in iter(out.next_frame, None)) == 1
