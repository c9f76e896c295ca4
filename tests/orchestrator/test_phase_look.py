"""Looking at the loop's phase before the first frame: what user and relay say, and what either makes of a wrong word."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest

from orchestrator.light.messages import (
    Armed,
    FrameLost,
    LightAborted,
    LightOn,
    LookArmed,
    LookOver,
    LookTurn,
    announce,
)
from orchestrator.light.phase_look import MOST_LOOKS, look, quarter_turns, serve_looks
from orchestrator.light.symbols import SymbolFrame, drive_table
from orchestrator.protocols.four_phase.symbols import Y_BIT_0, Y_BIT_1, FourPhases
from orchestrator.wire.codec import Message, decode, encode
from orchestrator.wire.memory_channel import MemoryChannel, memory_channel_pair

SYMBOLS = FourPhases(0.875)
SLOTS = np.arange(0, 64, 2, dtype=np.uint32)
OUTCOMES = np.resize(np.array([1, 2, 2, 3], np.uint8), SLOTS.size)
PATIENCE_S = 5.0


class User:
    """The first user; ``moves`` are what it makes of its looks, one after the other."""

    def __init__(self, *moves: float, missed: str = "") -> None:
        self.moves, self.missed = list(moves), missed
        self.played: list[float] = []
        self.seen: list[npt.NDArray[np.int64]] = []
        self.frame = SymbolFrame(64, quarter_turns(SYMBOLS, np.zeros(256, np.float32)).of_bytes)
        self.frame.draw(lambda buffer: buffer.__setitem__(slice(None), bytes(range(64))))

    def play(self, rad: float) -> SymbolFrame:
        self.played.append(rad)
        return self.frame

    def take(self, clicks: npt.NDArray[np.int64]) -> float:
        self.seen.append(clicks)
        return self.moves.pop(0)

    def look(self, channel: MemoryChannel) -> float:
        return look(channel, self.play, lambda: self.missed, self.take, 0.0, SYMBOLS, PATIENCE_S)


def looked(user: User, *answers: bytes) -> tuple[float, list[Message]]:
    """What the user comes to with these answers of a relay, and what it said."""
    channel, relay = memory_channel_pair()
    for answer in answers:
        relay.send(answer)
    rad, said = user.look(channel), []
    for _ in range(len(user.played) + 1):
        said.append(decode(relay.recv(0.0), LookArmed | LookOver))
    return rad, said


CLICKS = announce(0, SLOTS, OUTCOMES)


def test_quarter_turns_are_the_symbols_of_basis_y_as_they_are_driven() -> None:
    drive = drive_table(SYMBOLS, v_pi_v=5.0, rf_gain=10.0, amplitude_vpp=1.25, offset_rad=0.1)
    turns = quarter_turns(SYMBOLS, drive)
    assert sorted(set(turns.of_bytes.tolist())) == [Y_BIT_0, Y_BIT_1]
    for code in (Y_BIT_0, Y_BIT_1):
        assert set(turns.drive[turns.of_bytes == code]) == set(drive[SYMBOLS.of_bytes == code])
    assert np.count_nonzero(turns.of_bytes == Y_BIT_0) == 128, "either as often: detectors cancel"


def test_what_clicked_is_counted_by_own_symbol_against_one_at_rest() -> None:
    user = User(0.02)
    rad, said = looked(user, CLICKS)
    assert (rad, said) == (0.02, [LookArmed(), LookOver()])
    (clicks,) = user.seen
    assert clicks.sum() == np.count_nonzero(OUTCOMES != 3)
    assert clicks[:, Y_BIT_0, 0].tolist() == [8, 16], "even slots drew even bytes"
    assert clicks.sum() == clicks[:, Y_BIT_0, 0].sum()


def test_a_phase_that_was_far_off_is_looked_at_again_until_it_is_not() -> None:
    user = User(0.5, 0.9, 0.91)
    rad, said = looked(user, CLICKS, CLICKS, CLICKS)
    assert rad == 0.91
    assert user.played == [0.0, 0.5, 0.9]
    assert said == [*[LookArmed()] * 3, LookOver()]


def test_a_phase_that_runs_away_is_not_run_after() -> None:
    user = User(*range(1, MOST_LOOKS + 1))
    rad, said = looked(user, *[CLICKS] * MOST_LOOKS)
    assert rad == MOST_LOOKS
    assert said[-1] == LookOver()


@pytest.mark.parametrize(
    ("user", "answer"),
    [(User(), encode(FrameLost(0, "no record"))), (User(missed="no trigger"), CLICKS)],
    ids=["at the relay", "at the own generator"],
)
def test_a_look_that_is_lost_leaves_the_phase_as_it_was_known(user: User, answer: bytes) -> None:
    assert looked(user, answer) == (0.0, [LookArmed(), LookOver()])
    assert user.seen == []


@pytest.mark.parametrize(
    "answer",
    [
        encode(LightOn()),
        announce(1, SLOTS, OUTCOMES),
        announce(0, SLOTS + 64, OUTCOMES),
        announce(0, SLOTS[::-1], OUTCOMES),
    ],
    ids=["something else", "another frame", "beyond the frame", "out of order"],
)
def test_anything_but_its_clicks_ends_the_phase(answer: bytes) -> None:
    user = User()
    with pytest.raises(LightAborted):
        looked(user, answer)
    assert user.seen == []


def served(*words: Message) -> list[int]:
    """Which frames a relay fires for a user that says this."""
    channel, user = memory_channel_pair()
    fired: list[int] = []

    def expose() -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint8]] | FrameLost:
        fired.append(len(fired))
        return FrameLost(0, "no record") if len(fired) == 2 else (SLOTS, OUTCOMES)

    for word in words:
        user.send(encode(word))
    serve_looks(channel, expose, 0.1)
    assert decode(user.recv(0.0), LookTurn) == LookTurn()
    return fired


def test_the_relay_fires_as_often_as_it_is_asked_to() -> None:
    assert served(LookOver()) == []
    assert served(LookArmed(), LookArmed(), LookArmed(), LookOver()) == [0, 1, 2]


def test_a_user_that_looks_on_and_on_or_arms_a_frame_ends_the_phase() -> None:
    with pytest.raises(LightAborted, match=f"more than {MOST_LOOKS} times"):
        served(*[LookArmed()] * (MOST_LOOKS + 1))
    with pytest.raises(LightAborted, match="expected LookArmed or LookOver, got Armed"):
        served(Armed(0))


def test_user_and_relay_together() -> None:
    channel, relay = memory_channel_pair()
    user = User(0.3, 0.31)
    with ThreadPoolExecutor(1) as pool:
        serving = pool.submit(serve_looks, relay, lambda: (SLOTS, OUTCOMES), PATIENCE_S)
        assert decode(channel.recv(PATIENCE_S), LookTurn) == LookTurn()
        assert user.look(channel) == 0.31
        serving.result()
    assert len(user.seen) == 2
