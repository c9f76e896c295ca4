"""Lost frames: kept in step at the relay, recorded by each user, settled by both before a basis is told, paid for in key."""

from __future__ import annotations

import hashlib
import threading
import tomllib
from dataclasses import replace
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rehearsal import Side, honest_sides, rehearse

from lab.runs.testbeds.folder import template_path
from lab.testbed import parse_testbed
from orchestrator.keystore.lanes import PairEnd
from orchestrator.light.block_record import BlockRecord, Lost
from orchestrator.light.in_step import UsersInStep
from orchestrator.light.messages import (
    LOST,
    Armed,
    Finished,
    FrameLost,
    LightAbort,
    LightAborted,
    LightMessage,
    LightOn,
    announce,
    read_light_message,
)
from orchestrator.light.symbols import SymbolFrame
from orchestrator.postprocessing import messages as m
from orchestrator.postprocessing.block import BlockResult
from orchestrator.postprocessing.cascade import compile_kernels
from orchestrator.postprocessing.conversation import BlockAborted
from orchestrator.postprocessing.lost_frames import frame_digests, frames_lost
from orchestrator.protocols.base import BlockCounts, binary_entropy
from orchestrator.protocols.block_planning import plan_for
from orchestrator.protocols.four_phase.planner import FourPhasePlan, block_plan
from orchestrator.protocols.four_phase.symbols import FourPhases
from orchestrator.wire.codec import decode, encode
from orchestrator.wire.memory_channel import MemoryChannel, memory_channel_pair

FRAMES, PULSES = 8, 10**6
SLOTS = PULSES // FRAMES
BOTH, ALICE, BOB, NEITHER, TOLD_DIFFERENTLY = "both", "alice", "bob", "neither", "told differently"
"""Who recorded a frame."""

Pattern = tuple[str, ...]
PATTERNS = st.lists(
    st.sampled_from((BOTH, BOTH, BOTH, BOTH, ALICE, BOB, NEITHER, TOLD_DIFFERENTLY)),
    min_size=FRAMES,
    max_size=FRAMES,
).map(tuple)


def recorded(pattern: Pattern) -> tuple[list[bytes], list[bytes]]:
    """The announcements as alice and bob have them."""
    alice = [
        f"frame {i}".encode() if who in (BOTH, ALICE, TOLD_DIFFERENTLY) else LOST
        for i, who in enumerate(pattern)
    ]
    bob = [
        b"another story" if who == TOLD_DIFFERENTLY else f"frame {i}".encode() if who in (BOTH, BOB) else LOST
        for i, who in enumerate(pattern)
    ]
    return alice, bob


# -- settlement -----------------------------------------------------------------------------------------


@given(PATTERNS)
def test_a_frame_is_lost_unless_both_recorded_the_same(pattern: Pattern) -> None:
    alice, bob = map(frame_digests, recorded(pattern))
    lost = frozenset(i for i, who in enumerate(pattern) if who != BOTH)
    assert frames_lost(alice, bob) == frames_lost(bob, alice) == lost


def test_digests_are_those_of_the_bytes_that_came() -> None:
    assert frame_digests([b"abc", LOST]) == hashlib.sha256(b"abc").digest() + bytes(32)


def test_lists_of_other_lengths_settle_nothing() -> None:
    with pytest.raises(ValueError, match="shorter"):
        frames_lost(bytes(64), bytes(32))


@cache
def small_plan() -> FourPhasePlan:
    compile_kernels()
    return block_plan(2, 2, n_pulses=PULSES, visibility=0.99, dark_count=1e-7, eps_sec=1e-3)


def sides_of(pattern: Pattern) -> dict[PairEnd, Side]:
    """An honest block of eight frames, of which the users recorded what ``pattern`` says."""
    sides = honest_sides(small_plan(), 1)
    for side, announcements, has in zip(
        sides.values(),
        recorded(pattern),
        ((BOTH, ALICE, TOLD_DIFFERENTLY), (BOTH, BOB, TOLD_DIFFERENTLY)),
        strict=True,
    ):
        clicks = side.clicks
        clicks.frame, clicks.slot = clicks.slot // np.uint32(SLOTS), clicks.slot % np.uint32(SLOTS)
        clicks.drop({i for i, who in enumerate(pattern) if who not in has})
        side.announcements = announcements
    return sides


class Listening:
    """A channel end that keeps what this side sent."""

    def __init__(self, inner: MemoryChannel) -> None:
        self.inner = inner
        self.sent: list[m.BlockMessage] = []

    def send(self, payload: bytes) -> None:
        self.sent.append(decode(payload, m.BlockMessage))
        self.inner.send(payload)

    def recv(self, timeout_s: float) -> bytes:
        return self.inner.recv(timeout_s)


@settings(max_examples=12, deadline=None)
@given(PATTERNS)
def test_any_loss_within_the_limit_leaves_both_the_same_key_of_what_is_left(pattern: Pattern) -> None:
    sides, ends = sides_of(pattern), tuple(map(Listening, memory_channel_pair()))
    lost = {i for i, who in enumerate(pattern) if who != BOTH}
    whole = honest_sides(small_plan(), 1)["first"].clicks
    left = ~np.isin(whole.slot // SLOTS, list(lost))
    single = int(np.count_nonzero((whole.outcome != 3) & left))
    rehearse(sides, channels=(ends[0], ends[1]))
    labels = [message.labels for end in ends for message in end.sent if isinstance(message, m.Labels)]
    assert not any(side.clicks.symbol.any() for side in sides.values())
    if len(lost) > FRAMES // 4:
        for side in sides.values():
            assert isinstance(side.outcome, BlockAborted)
            assert f"{len(lost)} of {FRAMES} frames are lost" in side.outcome.reason
        assert not labels
        return
    first, second = (sides[end].result for end in ("first", "second"))
    assert [len(each) for each in labels] == [(single + 7) // 8] * 2
    assert first.lost_frames == second.lost_frames == len(lost)
    assert first.key is not None
    assert first.key.same_as(second.key)


def test_the_symbols_of_a_frame_that_the_peer_lost_are_overwritten_at_once() -> None:
    clicks = sides_of((BOTH,) * FRAMES)["first"].clicks
    symbols, lost = clicks.symbol, int(np.count_nonzero(clicks.frame == 3))
    before = clicks.symbol.size
    clicks.drop({3})
    assert not symbols.any()
    assert clicks.symbol.size == before - lost
    assert clicks.n_pulses == PULSES
    assert 3 not in clicks.frame


@pytest.mark.parametrize("changed", ["digests", "mac"])
def test_no_basis_is_told_to_an_opening_that_is_not_genuine(changed: str) -> None:
    sides, ends = sides_of((BOTH,) * FRAMES), tuple(map(Listening, memory_channel_pair()))

    def forge(payload: bytes) -> None:
        message = decode(payload, m.BlockMessage)
        if isinstance(message, m.Opening):
            value = getattr(message, changed)
            message = msgspec.structs.replace(message, **{changed: bytes([value[0] ^ 1]) + value[1:]})
        forward(encode(message))

    forward, ends[1].inner.send = ends[1].inner.send, forge  # type: ignore[method-assign]
    rehearse(sides, channels=(ends[0], ends[1]))
    outcome = sides["first"].outcome
    assert isinstance(outcome, BlockAborted)
    assert "not genuine" in outcome.reason
    assert not any(isinstance(message, m.Labels) for message in ends[0].sent)


def test_an_opening_spends_no_lane_bits_of_a_block_that_comes_to_nothing() -> None:
    sides = sides_of((BOTH,) * 5 + (NEITHER,) * 3)
    rehearse(sides)
    for side in sides.values():
        assert isinstance(side.outcome, BlockAborted)
        assert side.auth.outgoing_head == side.auth.incoming_head == 0


def test_the_same_opening_is_genuine_for_one_block_only() -> None:
    """The MAC's key is used again and again, so it is bound to lease, block, pair and direction."""
    sides, ends = sides_of((BOTH,) * FRAMES), tuple(map(Listening, memory_channel_pair()))
    rehearse(sides, channels=(ends[0], ends[1]))
    assert isinstance(sides["first"].outcome, BlockResult)
    (old,) = (message for message in ends[1].sent if isinstance(message, m.Opening))
    again = sides_of((BOTH,) * FRAMES)["first"]
    again.session, again.auth = (1, 2), sides["first"].auth
    ours, theirs = memory_channel_pair()
    theirs.send(encode(msgspec.structs.replace(old, lease_number=2)))
    rehearse(
        {"first": again, "second": replace(again)}, channels=(ours, memory_channel_pair()[1]), timeout_s=0.3
    )
    assert isinstance(again.outcome, BlockAborted)
    assert "not genuine" in again.outcome.reason


# -- what it costs --------------------------------------------------------------------------------------


def expected_bits(plan: FourPhasePlan, lost: int, n_frames: int) -> int:
    """The key of a block in which everything comes out as expected of the frames that are left."""
    left, finite = 1 - lost / n_frames, plan.finite
    counts = BlockCounts(
        n_pulses=plan.n_pulses,
        n_announced=round(left * plan.announced),
        n_key=round(left * finite.n_x),
        n_test=round(left * finite.n_y),
        n_drawn=round(left * (finite.n_s - finite.n_y)),
        test_errors=round(left * finite.m_y),
        leak_bits=round(left * 1.1 * finite.n_x * binary_entropy(plan.qber)),
        lost_pulses=round(plan.n_pulses * lost / n_frames),
    )
    length = plan.secret_length(counts)
    assert not length.reason
    return length.bits


def test_one_of_24_frames_costs_about_11_percent_of_key() -> None:
    """Lost frames stay in the pulses that were emitted; what is charged for uncertain values makes that dearer."""
    data = tomllib.loads(template_path("simulated-four-node").read_text(encoding="utf-8"))
    charged = parse_testbed(data, Path("t"))
    data["uncertainty"] = dict.fromkeys(data["uncertainty"], 0.0)
    data["carver"]["extinction_db"] = 80.0
    testbed = parse_testbed(data, Path("t"))
    n_frames = testbed.frames_per_block()
    assert n_frames == 24
    for pair in testbed.pairs():
        plan = plan_for(testbed, *pair)
        whole = expected_bits(plan, 0, n_frames)
        assert whole == pytest.approx(plan.expected_bits, rel=0.02)
        left = expected_bits(plan, 1, n_frames) / whole
        assert left == pytest.approx(0.89, abs=0.015)
        dear = plan_for(charged, *pair)
        assert left - 0.03 < expected_bits(dear, 1, n_frames) / expected_bits(dear, 0, n_frames) < left


def test_clicks_that_are_missing_without_a_lost_frame_are_refused() -> None:
    """A quarter of the counts is within the drift allowed; two fifths are not, unless their frames are lost."""
    plan, finite = small_plan(), small_plan().finite
    counts = BlockCounts(
        n_pulses=PULSES,
        n_announced=round(0.6 * plan.announced),
        n_key=round(0.6 * finite.n_x),
        n_test=round(0.6 * finite.n_y),
        n_drawn=round(0.6 * (finite.n_s - finite.n_y)),
        test_errors=0,
        leak_bits=0,
    )
    assert "announced clicks do not fit" in plan.violations(counts)[0].reason
    assert plan.violations(replace(counts, lost_pulses=round(0.4 * PULSES))) == ()
    assert "announced clicks" in plan.violations(replace(counts, lost_pulses=round(0.8 * PULSES)))[0].reason


# -- the relay keeps both in step -----------------------------------------------------------------------


class Lease:
    """The relay's ends of the light channels of two users who say what a test lets them say."""

    def __init__(self, n_frames: int = 4, patience_s: float = 0.2) -> None:
        ends = [memory_channel_pair() for _ in range(2)]
        self.users = [user for _, user in ends]
        self.steps = UsersInStep((ends[0][0], ends[1][0]), n_frames, patience_s)

    def say(self, side: int, *messages: LightMessage) -> None:
        for message in messages:
            self.users[side].send(encode(message))

    def told(self, side: int) -> LightMessage:
        return read_light_message(self.users[side].recv(1.0))


def test_the_relay_fires_what_both_have_armed() -> None:
    lease = Lease(n_frames=2)
    for frame in range(2):
        lease.say(1, Armed(frame))
        lease.say(0, Armed(frame))
        assert lease.steps.next_frame() == frame
    lease.say(0, Finished())
    lease.say(1, Finished())
    assert lease.steps.next_frame() is None


def test_a_user_that_gave_frames_up_is_followed_by_the_other() -> None:
    lease = Lease()
    lease.say(0, Armed(0), Armed(1), Armed(2))
    lease.say(1, Armed(0))
    found: list[int | None] = []
    relay = threading.Thread(target=lambda: found.append(lease.steps.next_frame()))
    relay.start()
    for frame in (0, 1):
        assert lease.told(1) == FrameLost(frame, "the other user is at frame 2")
        lease.say(1, Armed(frame + 1))
    relay.join()
    assert found == [2]


def test_a_word_that_came_meanwhile_is_heard_before_the_trigger() -> None:
    """Alice gave frame 0 up while bob was slow: it must not be fired into her frame 1."""
    lease = Lease(patience_s=5.0)
    lease.say(0, Armed(0))
    found: list[int | None] = []
    relay = threading.Thread(target=lambda: found.append(lease.steps.next_frame()))
    relay.start()
    lease.say(0, Armed(1))
    lease.say(1, Armed(0))
    assert lease.told(1) == FrameLost(0, "the other user is at frame 1")
    lease.say(1, Armed(1))
    relay.join()
    assert found == [1]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((Armed(1), Armed(1)), "from frame 1 to 1"),
        ((Armed(2), Armed(0)), "from frame 2 to 0"),
        ((Armed(5),), "to 5 of 4"),
        ((LightOn(),), "got LightOn"),
    ],
)
def test_a_user_out_of_turn_ends_the_lease(words: tuple[LightMessage, ...], text: str) -> None:
    lease = Lease()
    lease.say(0, *words)
    lease.say(1, Armed(0))
    with pytest.raises(LightAborted, match=text):
        lease.steps.next_frame()


def test_when_one_gives_up_the_other_may_see_it_first_and_both_are_told_of() -> None:
    """Bob darkens his station, and alice's light goes out before the relay reads what bob said."""
    lease = Lease()
    lease.say(1, Armed(0), LightAbort("bob: the sensor does not answer"))
    lease.say(0, LightAbort("alice: no light"))
    with pytest.raises(LightAborted, match=r"alice: no light; .*bob: the sensor does not answer"):
        lease.steps.next_frame()


# -- a user's record ------------------------------------------------------------------------------------


class Recording:
    """A record of frames of 16 slots, and the relay's end of its channel."""

    def __init__(self, n_frames: int = 8, limit: float = 0.5) -> None:
        self.relay, self.user = memory_channel_pair()
        self.record = BlockRecord(16, n_frames, limit)
        self.symbols = SymbolFrame(16, FourPhases(0.5).of_bytes)
        self.symbols.draw(lambda buffer: buffer.__setitem__(slice(None), b"\x03" * len(buffer)))

    def hear(self, *said: bytes) -> bool:
        """Whether the next frame was recorded after these words."""
        for each in said:
            self.relay.send(each)
        heard = self.record.hear(self.user, 0.05)
        if isinstance(heard, Lost):
            self.record.lose(self.symbols, heard.reason)
            return False
        self.record.keep(heard, self.symbols)
        return True


def words(frame: int) -> bytes:
    return announce(frame, np.array([1, 5], np.uint32), np.array([1, 2], np.uint8))


def test_lost_frames_stay_in_the_pulses_and_in_their_place() -> None:
    recording = Recording()
    assert recording.hear(words(0))
    assert not recording.hear(encode(FrameLost(1)))
    block = recording.record.block()
    assert recording.record.announcements == [words(0), LOST]
    assert block.n_pulses == 32
    assert block.frame.tolist() == [0, 0]
    assert not recording.symbols._raw.any(), "the symbols of the lost frame are erased"


def test_a_late_word_about_a_lost_frame_is_dropped() -> None:
    recording = Recording()
    assert not recording.hear()
    assert recording.hear(words(0), encode(FrameLost(0)), words(1))
    assert recording.record.announcements == [LOST, words(1)]


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (words(0), "expected the announcement of frame 1, got frame 0"),
        (encode(FrameLost(0)), "expected the announcement of frame 1, got FrameLost"),
        (encode(FrameLost(2)), "expected the announcement of frame 1, got FrameLost"),
        (words(2), "expected the announcement of frame 1, got frame 2"),
    ],
)
def test_a_recorded_frame_cannot_be_changed_and_none_is_lost_in_advance(said: bytes, text: str) -> None:
    recording = Recording()
    assert recording.hear(words(0))
    with pytest.raises(LightAborted, match=text):
        recording.hear(said)


def test_words_about_lost_frames_do_not_keep_a_user_for_ever() -> None:
    recording = Recording()
    recording.hear()
    for _ in range(50_000):
        recording.relay.send(encode(FrameLost(0)))
    with pytest.raises(LightAborted, match="nothing but words about lost frames"):
        recording.hear()


def test_more_lost_frames_than_the_limit_end_the_block() -> None:
    recording = Recording(n_frames=4, limit=0.25)
    assert not recording.hear()
    with pytest.raises(
        LightAborted, match="2 of 4 frames are lost, at most 1 may be; frame 1: no announcement"
    ):
        recording.hear()


def test_why_frames_are_lost_ends_the_block_in_words_that_are_marked_as_the_relays() -> None:
    recording = Recording(n_frames=4, limit=0.25)
    assert recording.hear(words(0))
    assert not recording.hear(encode(FrameLost(1, "no power")))
    assert recording.record.lost_reason == "frame 1: the relay says: no power"
    with pytest.raises(LightAborted, match=r"2 of 4 .*; frame 2: the relay says: its clock is INTERNAL"):
        recording.hear(encode(FrameLost(2, "its clock is INTERNAL")))


def test_a_reason_without_end_is_no_message() -> None:
    recording = Recording()
    with pytest.raises(LightAborted, match="malformed message"):
        recording.hear(encode(FrameLost(0, "x" * 501)))
