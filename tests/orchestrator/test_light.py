"""Announcements and the way from time tags to slot events."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.light.clicks import tags_to_clicks
from orchestrator.light.messages import (
    Announcement,
    Armed,
    LightAbort,
    LightAborted,
    announce,
    check_announcement,
    read_light_message,
)
from orchestrator.wire.codec import encode

SLOT_PS, GATE_PS, SLOTS = 10_000.0, 1000.0, 1024
DELAYS = (31_200, 31_650)


def events(first: list[float], second: list[float]) -> dict[int, int]:
    times = (np.array(first, np.int64), np.array(second, np.int64))
    slots, outcomes = tags_to_clicks(times, DELAYS, slot_ps=SLOT_PS, gate_ps=GATE_PS, slots_per_frame=SLOTS)
    return dict(zip(slots.tolist(), outcomes.tolist(), strict=True))


def test_tags_become_slots_and_outcomes() -> None:
    first = [DELAYS[0] + 3 * SLOT_PS, DELAYS[0] + 7 * SLOT_PS + 499]
    second = [DELAYS[1] + 5 * SLOT_PS - 499, DELAYS[1] + 7 * SLOT_PS]
    assert events(first, second) == {3: 1, 5: 2, 7: 3}


def test_tags_outside_gate_or_frame_are_dropped_and_doubles_count_once() -> None:
    first = [
        DELAYS[0] + 3 * SLOT_PS + 501,
        DELAYS[0] - SLOT_PS,
        DELAYS[0] + SLOTS * SLOT_PS,
        DELAYS[0] + 9 * SLOT_PS - 100,
        DELAYS[0] + 9 * SLOT_PS + 100,
    ]
    assert events(first, []) == {9: 1}


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.integers(0, SLOTS - 1), st.integers(1, 3)))
def test_announcements_survive_the_wire(clicks: dict[int, int]) -> None:
    slots = np.array(sorted(clicks), np.uint32)
    outcomes = np.array([clicks[int(slot)] for slot in slots], np.uint8)
    read = check_announcement(read_light_message(announce(4, slots, outcomes)), 4, SLOTS)
    assert np.array_equal(read.slots, slots)
    assert np.array_equal(read.outcomes, outcomes)


def raw(slots: list[int], outcomes: list[int]) -> Announcement:
    return Announcement(0, np.array(slots, "<u4").tobytes(), bytes(outcomes))


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (raw([1, 1], [1, 1]), "out of order"),
        (raw([2, 1], [1, 1]), "out of order"),
        (raw([SLOTS], [1]), "out of range"),
        (raw([1], [0]), "unknown outcome"),
        (raw([1], [4]), "unknown outcome"),
        (raw([1, 2], [1]), "differ in number"),
        (Announcement(1, b"", b""), "got frame 1"),
        (Armed(0), "got Armed"),
    ],
)
def test_a_malformed_announcement_ends_the_block(message: Announcement | Armed, text: str) -> None:
    with pytest.raises(LightAborted, match=text):
        check_announcement(read_light_message(encode(message)), 0, SLOTS)


@pytest.mark.parametrize("data", [b"", b"\xc1", encode(LightAbort("no light"))])
def test_garbage_and_aborts_are_typed(data: bytes) -> None:
    with pytest.raises(LightAborted):
        read_light_message(data)
