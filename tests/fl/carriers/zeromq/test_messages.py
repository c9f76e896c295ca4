"""Bytes from the wire are a message with the right frames, or a WireError; arrays fit their headers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl.rounds.config import ConfigError, FLConfig, check_config
from fl.rounds.messages import (
    ArrayHeader,
    FromClient,
    FromServer,
    Join,
    Progress,
    RoundStart,
    Upload,
    Welcome,
    frame_of,
    header_of,
    read_float32,
    read_uint8,
    split_message,
)
from orchestrator.wire.codec import WireError, encode

MODEL = np.arange(6, dtype=np.float32)
CONFIG = FLConfig(run_id="r", task="digits", clients=("alice", "bob"))
START = RoundStart("r", 1, ("alice", "bob"), (1, 1), 1, header_of(MODEL))


@given(st.lists(st.binary(max_size=80), max_size=4))
@settings(max_examples=200, deadline=None)
def test_arbitrary_frames_are_refused_with_one_typed_error(frames: list[bytes]) -> None:
    for kind in (FromClient, FromServer):
        with pytest.raises(WireError):
            split_message(frames, kind)


@given(cut=st.integers(0, 200), flip=st.integers(0, 8 * 200))
@settings(max_examples=150, deadline=None)
def test_damaged_messages_are_a_message_or_a_wire_error(cut: int, flip: int) -> None:
    data = bytearray(encode(Upload("r", 1, bytes(32), 1, 6, 10, 60, ArrayHeader("|u1", (8,)))))
    data[(flip // 8) % len(data)] ^= 1 << (flip % 8)
    try:
        split_message([bytes(data[: max(cut, 1)] if cut < 100 else data), bytes(8)], FromClient)
    except WireError:
        return


def test_messages_travel_with_their_arrays() -> None:
    message, frame = split_message([encode(START), frame_of(MODEL)], FromServer)
    assert message == START
    assert frame is not None
    assert np.array_equal(read_float32(START.header, frame), MODEL)
    packed = np.array([1, 2, 255], np.uint8)
    assert np.array_equal(read_uint8(header_of(packed), frame_of(packed)), packed)
    assert split_message([encode(Welcome(1, CONFIG))], FromServer) == (Welcome(1, CONFIG), None)


def test_a_frame_too_many_or_too_few_is_refused() -> None:
    for frames in ([encode(START)], [encode(Join(1)), b""], [encode(START), b"", b""], []):
        with pytest.raises(WireError):
            split_message(frames, FromServer | FromClient)  # type: ignore[operator]


def test_a_message_for_the_other_direction_is_refused() -> None:
    with pytest.raises(WireError):
        split_message([encode(START), frame_of(MODEL)], FromClient)


@pytest.mark.parametrize("size", [0, 23, 25])
def test_a_buffer_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(WireError, match="needs 24 bytes"):
        read_float32(header_of(MODEL), bytes(size))


def test_an_array_of_another_type_is_refused() -> None:
    with pytest.raises(WireError, match="expected"):
        read_uint8(header_of(MODEL), bytes(24))
    with pytest.raises(WireError, match="expected"):
        read_float32(ArrayHeader("|u1", (24,)), bytes(24))
    with pytest.raises(TypeError):
        header_of(np.zeros(3, np.float64))  # type: ignore[arg-type]


def test_a_huge_shape_does_not_overflow() -> None:
    with pytest.raises(WireError):
        read_float32(ArrayHeader("<f4", (1 << 40, 1 << 40)), b"")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"clients": ("alice", "alice")}, "named twice"),
        ({"clients": ("alice",)}, "at least two clients"),
        ({"min_clients": 3}, "only 2 clients"),
        ({"client_timeout_s": 0.6}, "lost heartbeat"),
        ({"rounds": 0}, "rounds is 0: it must be at least 1"),
        ({"clip": float("inf")}, "clip is inf: it must be a finite number"),
        ({"run_id": "no spaces"}, "run_id is 'no spaces'"),
        ({"mode": "open"}, "mode is 'open'"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_the_reason(
    changes: dict[str, object], words: str
) -> None:
    fields = {name: getattr(CONFIG, name) for name in CONFIG.__struct_fields__}
    with pytest.raises((ConfigError, ValueError), match=words):
        check_config(FLConfig(**{**fields, **changes}))  # type: ignore[arg-type]


def test_good_settings_pass_and_two_clients_may_form_a_quorum() -> None:
    check_config(CONFIG)
    assert CONFIG.quorum == 2
    assert FLConfig(run_id="r", task="t", clients=("a", "b", "c", "d")).quorum == 3
    assert FLConfig(run_id="r", task="t", clients=("a", "b", "c", "d"), min_clients=4).quorum == 4


def test_a_phase_outside_the_list_is_refused() -> None:
    bad = Progress("r", 1, "sleeping")  # type: ignore[arg-type]
    with pytest.raises(WireError):
        split_message([encode(bad)], FromClient)
