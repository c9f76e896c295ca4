"""A relay that lies (R8): whatever it announces, fires or shines, the two users lose key at most.

The users' own code runs from light to key store: the light phase against instruments in memory, the block over
a channel, the deposit into two real stores.  Only the relay, and the few lines of optics behind it, belong to
the test; every lie is a subclass of the honest :class:`Relay`.
"""

from __future__ import annotations

import itertools
import math
import threading
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from station_in_memory import StationInMemory, sensor_w, slot_phases

from drivers.links.errors import InstrumentError
from lab.runs.testbeds.folder import template_path
from lab.testbed import Testbed, parse_testbed
from orchestrator.keystore.agreement import deposit_block
from orchestrator.keystore.auth import AuthKeys
from orchestrator.keystore.lanes import PairEnd
from orchestrator.keystore.pair_macs import MAC_KEY_BITS
from orchestrator.keystore.sealing import Kek
from orchestrator.keystore.store import KeyStore
from orchestrator.light.clicks import BOTH, D1_ONLY
from orchestrator.light.messages import (
    LOST,
    Announcement,
    Armed,
    Finished,
    FrameLost,
    LightAborted,
    LightOff,
    LightOn,
    StationIn,
    announce,
)
from orchestrator.light.messages import read_light_message as read
from orchestrator.light.own_station import OWN_DIRECTION
from orchestrator.light.user import UserLight
from orchestrator.postprocessing import messages as m
from orchestrator.postprocessing.block import BlockResult, run_block
from orchestrator.postprocessing.cascade import compile_kernels
from orchestrator.postprocessing.conversation import BlockAborted
from orchestrator.protocols.block_planning import plan_for
from orchestrator.protocols.four_phase.planner import FourPhasePlan
from orchestrator.secret import SecretBits
from orchestrator.wire.channel import ChannelBrokenError, ChannelError
from orchestrator.wire.codec import decode, encode
from orchestrator.wire.memory_channel import MemoryChannel, memory_channel_pair

PAIR = ("alice", "bob")
PAIR_ENDS: tuple[PairEnd, PairEnd] = ("first", "second")
SLOTS = 1 << 16
N_FRAMES = 16
LANE_BYTES = 8192
TIMEOUT_S = 5.0

Slots = npt.NDArray[np.uint32]
Outcomes = npt.NDArray[np.uint8]


@cache
def small_testbed() -> Testbed:
    """The bundled testbed with a short, bright and well known ring, so that a small block makes key."""
    compile_kernels()
    data = tomllib.loads(template_path("simulated-four-node").read_text(encoding="utf-8"))
    data["ring"] |= {"fibre_loss_db_per_km": 0.02, "bypass_loss_db": 0.1, "relay_loss_db": 0.1}
    data["uncertainty"] |= {
        "sensor_scale_db": 0.02,
        "sensor_zero_pw": 0.005,
        "attenuator_db": 0.01,
        "phase_rad": 0.002,
    }
    data["protocol"] |= {"slots_per_frame": SLOTS, "pulses_per_block": SLOTS * N_FRAMES, "eps_sec": 1e-3}
    return parse_testbed(data, Path("small.toml"))


@cache
def plan() -> FourPhasePlan:
    return plan_for(small_testbed(), *PAIR)


@dataclass
class Wire:
    """The line between the nodes as the hub has it: keeps what passes, and may change it."""

    inner: MemoryChannel
    change: Callable[[bytes], bytes] = lambda data: data
    sent: list[bytes] = field(default_factory=list)

    def send(self, payload: bytes) -> None:
        self.sent.append(payload)
        self.inner.send(self.change(payload))

    def recv(self, timeout_s: float) -> bytes:
        return self.inner.recv(timeout_s)


class User:
    """One user: its instruments, its store, and how its block ended."""

    def __init__(self, index: int, folder: Path, lanes: tuple[bytes, bytes], seed: int) -> None:
        self.index, self.name, self.peer = index, PAIR[index], PAIR[1 - index]
        self.pair_end: PairEnd = PAIR_ENDS[index]
        self.station, self.direction = StationInMemory(), OWN_DIRECTION[index]
        self.generator, self.attenuator = self.station.generator, self.station.attenuator
        self.sensor = self.station.sensor(self.direction)
        self.station.shine(self.planned_w)
        rng = np.random.default_rng([seed, index])
        self._rng = rng

        def random_into(buffer: memoryview) -> None:
            buffer[:] = rng.bytes(len(buffer))

        generator: Any = self.generator
        self.light = UserLight(
            small_testbed(),
            self.name,
            generator,
            self.station.owned,
            random_into=random_into,
            timeout_s=TIMEOUT_S,
        )
        self.store = KeyStore.create(folder / f"{self.name}.sqlite", self.name, Kek(bytes(32)))
        keys = [SecretBits.from_bytes(lane) for lane in lanes]
        self.store.install_initial_secret(self.peer, *keys, pair_end=self.pair_end)
        self.result: BlockResult | None = None
        self.error: Exception | None = None
        self.announcements: list[bytes] = []

    @property
    def mu(self) -> float:
        """What is planned to leave this user."""
        return (plan().mu_a, plan().mu_b)[self.index]

    @property
    def planned_w(self) -> float:
        """What its sensor reads then."""
        return sensor_w(small_testbed(), self.name, self.direction, self.mu)

    def mu_emitted(self) -> float:
        """What really leaves this user now."""
        return self.station.output_photons(small_testbed(), self.name, self.direction)

    def run(self, light: MemoryChannel, wire: Wire, n_frames: int) -> None:
        try:
            clicks, self.announcements = self.light.run(
                light,
                symbols=plan().symbols,
                mu=self.mu,
                direction=self.direction,
                n_frames=n_frames,
            )
            self.result = run_block(
                pair_end=self.pair_end,
                channel=wire,
                clicks=clicks,
                announcement_transcript=self.announcements,
                plan=plan(),
                session=(1, 1),
                pair=PAIR,
                auth=self.store.auth(self.peer),
                random_bytes=self._rng.bytes,
                timeout_s=TIMEOUT_S,
            )
            if self.result.key is not None:
                deposit_block(
                    self.store,
                    wire,
                    self.pair_end,
                    self.peer,
                    "block/1/1",
                    self.result.key,
                    timeout_s=TIMEOUT_S,
                )
        except (LightAborted, InstrumentError, ChannelError, BlockAborted) as error:
            self.error = error
        finally:
            light.close()
            wire.inner.close()

    @property
    def produced_bits(self) -> int:
        """Bits that blocks have put into the store."""
        return self.store.ledger(self.peer).produced - 2 * (8 * LANE_BYTES - MAC_KEY_BITS)


class Relay:
    """An honest relay: fires once per frame and announces what its detectors saw."""

    def __init__(self, users: tuple[User, User], seed: int) -> None:
        self.users = users
        self.rng = np.random.default_rng([seed, 9])
        self.singles: list[int] = []

    def run(self, channels: tuple[MemoryChannel, MemoryChannel], n_frames: int) -> None:
        try:
            for channel in channels:
                assert read(channel.recv(TIMEOUT_S)) == StationIn()
            for channel in channels:
                channel.send(encode(LightOn()))
            for frame in range(n_frames):
                for channel in channels:
                    assert read(channel.recv(TIMEOUT_S)) == Armed(frame)
                slots, outcomes = self.clicks(frame)
                self.singles.append(int(np.count_nonzero(outcomes != BOTH)))
                for side, channel in enumerate(channels):
                    for data in self.words(side, frame, slots, outcomes):
                        channel.send(data)
            for channel in channels:
                assert read(channel.recv(TIMEOUT_S)) == Finished()
        except (ChannelError, LightAborted):
            pass  # a user gave up: the lease ends for both
        finally:
            for channel in channels:
                channel.send(encode(LightOff()))
                channel.close()

    def clicks(self, frame: int) -> tuple[Slots, Outcomes]:
        return self.expose()

    def words(self, side: int, frame: int, slots: Slots, outcomes: Outcomes) -> list[bytes]:
        return [announce(frame, slots, outcomes)]

    def expose(self) -> tuple[Slots, Outcomes]:
        """Trigger once; interference of the two pulses on the splitter (docs/formulas.md, Light and clicks)."""
        phases, powers = [], []
        for user, arm_db in zip(self.users, self._arms_db(), strict=True):
            samples = user.generator.trigger()
            if samples is None:
                raise ChannelBrokenError(f"{user.name} has given up")
            phases.append(slot_phases(small_testbed(), user.name, user.direction, samples))
            powers.append(user.mu_emitted() * 10 ** (-arm_db / 10))
        mean, beat = sum(powers) / 2, plan().channel.visibility * math.sqrt(powers[0] * powers[1])
        mean += plan().channel.dark_count + plan().channel.backscatter * mean  # what comes at any time alike
        cosine = np.cos(phases[0] - phases[1])
        d1 = self.rng.random(SLOTS) < 1 - np.exp(-(mean + beat * cosine))
        d2 = self.rng.random(SLOTS) < 1 - np.exp(-(mean - beat * cosine))
        outcomes = d1.astype(np.uint8) + 2 * d2.astype(np.uint8)
        slots = np.flatnonzero(outcomes).astype(np.uint32)
        return slots, outcomes[slots]

    @staticmethod
    def _arms_db() -> tuple[float, float]:
        return plan().channel.loss_a_db, plan().channel.loss_b_db

    def bases_and_bits(self, slots: Slots) -> tuple[list[npt.NDArray[np.bool_]], list[npt.NDArray[np.int64]]]:
        """What no relay can know: the users' symbols, for lies that are granted more than physics allows."""
        bases, bits = [], []
        for user in self.users:
            samples = user.generator.waveforms[user.generator.armed or 0]
            phases = slot_phases(small_testbed(), user.name, user.direction, samples)[slots]
            quarter = np.rint(2 * phases / np.pi).astype(np.int64)
            bases.append(quarter % 2 == 1)
            bits.append((quarter % 4 >= 2).astype(np.int64))
        return bases, bits


class World:
    """Alice, bob, a relay between them, and the line for their messages."""

    def __init__(self, folder: Path, seed: int = 1) -> None:
        rng = np.random.default_rng([seed, 7])
        lanes = (rng.bytes(LANE_BYTES), rng.bytes(LANE_BYTES))
        self.users = (User(0, folder, lanes, seed), User(1, folder, lanes, seed))
        self.seed = seed
        ends = memory_channel_pair()
        self.wires = (Wire(ends[0]), Wire(ends[1]))

    def run(self, relay: type[Relay] = Relay, *, n_frames: int = N_FRAMES) -> Relay:
        lights = [memory_channel_pair() for _ in PAIR]
        made = relay(self.users, self.seed)
        threads = [
            threading.Thread(target=user.run, args=(light[1], wire, n_frames), name=user.name)
            for user, light, wire in zip(self.users, lights, self.wires, strict=True)
        ]
        for thread in threads:
            thread.start()
        made.run((lights[0][0], lights[1][0]), n_frames)
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        return made

    def stored_nothing(self) -> tuple[str, str]:
        """Both aborted, no store holds a bit of the block, no symbol is left; returns why."""
        for user in self.users:
            assert user.error is not None
            assert user.produced_bits == 0
            assert not user.generator.holds_symbols
        return str(self.users[0].error), str(self.users[1].error)

    def bases_left_a_node(self) -> bool:
        said = [decode(data, m.BlockMessage) for wire in self.wires for data in wire.sent]
        return any(isinstance(message, m.Labels) for message in said)

    def same_key(self) -> int:
        """Bits of the key that both stored alike."""
        assert [user.error for user in self.users] == [None, None]
        first, second = (user.result for user in self.users)
        assert first is not None
        assert second is not None
        assert first.key is not None
        assert second.key is not None
        assert first.key.same_as(second.key)
        assert self.users[0].produced_bits == self.users[1].produced_bits == first.secret_bits
        return first.secret_bits

    @property
    def lost_frames(self) -> int:
        """How many frames both settled to be lost."""
        first, second = (user.result for user in self.users)
        assert first is not None
        assert second is not None
        assert first.lost_frames == second.lost_frames
        return first.lost_frames

    def close(self) -> None:
        for user in self.users:
            user.store.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def test_an_honest_relay_gives_both_users_the_same_key(world: World) -> None:
    world.run()
    first, second = world.users
    assert first.error is second.error is None
    assert first.result is not None
    assert second.result is not None
    assert first.result.key is not None
    assert second.result.key is not None
    assert first.result.key.same_as(second.result.key)
    assert first.produced_bits == second.produced_bits == first.result.secret_bits > 1000
    assert first.result.qber == pytest.approx(plan().qber, rel=0.5)
    assert first.store.ledger("bob") == second.store.ledger("alice")
    assert not first.generator.holds_symbols


@pytest.mark.long
def test_honest_blocks_are_hardly_ever_given_up(tmp_path: Path) -> None:
    aborted = 0
    for seed in range(300):
        folder = tmp_path / str(seed)
        folder.mkdir()
        world = World(folder, seed)
        world.run()
        aborted += any(user.error is not None or not user.produced_bits for user in world.users)
        world.close()
    assert aborted < 3


# -- different stories ----------------------------------------------------------------------------------


class FlipsOutcomeForBob(Relay):
    """Bob hears D2 where alice hears D1, in one slot of one frame."""

    def words(self, side: int, frame: int, slots: Slots, outcomes: Outcomes) -> list[bytes]:
        if side == 1 and frame == 3:
            outcomes = outcomes.copy()
            one = np.flatnonzero(outcomes != 3)[0]
            outcomes[one] = 3 - outcomes[one]
        return [announce(frame, slots, outcomes)]


class HidesAClickFromBob(Relay):
    def words(self, side: int, frame: int, slots: Slots, outcomes: Outcomes) -> list[bytes]:
        keep = slice(1, None) if side == 1 and frame == 3 else slice(None)
        return [announce(frame, slots[keep], outcomes[keep])]


class MovesAClickForBob(Relay):
    """The same number of clicks, one of them a slot later."""

    def words(self, side: int, frame: int, slots: Slots, outcomes: Outcomes) -> list[bytes]:
        if side == 1 and frame == 3:
            slots = slots.copy()
            slots[np.flatnonzero(np.diff(slots) > 1)[0]] += 1
        return [announce(frame, slots, outcomes)]


STORIES = [FlipsOutcomeForBob, HidesAClickFromBob, MovesAClickForBob]


@pytest.mark.parametrize("relay", STORIES)
def test_a_frame_told_differently_to_the_two_users_is_lost_for_both(relay: type[Relay], world: World) -> None:
    world.run(relay)
    assert world.same_key() > 1000
    assert world.lost_frames == 1


class TwoStoriesOfEveryFrame(Relay):
    """Bob never hears of the first click."""

    def words(self, side: int, frame: int, slots: Slots, outcomes: Outcomes) -> list[bytes]:
        return [announce(frame, slots[side:], outcomes[side:])]


def test_different_stories_of_too_many_frames_end_the_block(world: World) -> None:
    world.run(TwoStoriesOfEveryFrame)
    for reason in world.stored_nothing():
        assert "16 of 16 frames are lost" in reason
    assert not world.bases_left_a_node()


def cover_up(world: World) -> None:
    """The hub tells each user that the other recorded exactly what it did."""
    digests: dict[int, bytes] = {}
    both = threading.Barrier(2)

    def covering(side: int) -> Callable[[bytes], bytes]:
        def change(data: bytes) -> bytes:
            message = decode(data, m.BlockMessage) if not digests.get(side) else None
            if not isinstance(message, m.Opening):
                return data
            digests[side] = message.digests
            both.wait(TIMEOUT_S)
            return encode(msgspec.structs.replace(message, digests=digests[1 - side]))

        return change

    for side, wire in enumerate(world.wires):
        wire.change = covering(side)


@pytest.mark.parametrize("relay", [FlipsOutcomeForBob, MovesAClickForBob])
def test_a_hub_that_covers_up_for_the_relay_hears_no_basis(relay: type[Relay], world: World) -> None:
    cover_up(world)
    world.run(relay)
    assert "not genuine" in " ".join(world.stored_nothing())
    assert not world.bases_left_a_node()


@pytest.mark.parametrize("relay", [FlipsOutcomeForBob, MovesAClickForBob])
def test_a_hub_that_forges_openings_meets_the_transcript_tags(
    relay: type[Relay], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Granted that HMAC-SHA-256 is broken: key does not rest on it, because the announcements are under the tags."""
    monkeypatch.setattr(AuthKeys, "mac_fits", lambda self, data, mac: True)
    cover_up(world)
    world.run(relay)
    assert world.bases_left_a_node()
    assert "transcript tag mismatch" in " ".join(world.stored_nothing())


# -- frames that are lost -------------------------------------------------------------------------------


class LosesFrames(Relay):
    """Says of a few frames that it has no record of them."""

    lost = frozenset({3, 7, 8})

    def words(self, side: int, frame: int, slots: Slots, outcomes: Outcomes) -> list[bytes]:
        if frame in self.lost:
            return [encode(FrameLost(frame))]
        return super().words(side, frame, slots, outcomes)


class LosesOtherFramesForEach(LosesFrames):
    """Each user hears of the frames that the other lost."""

    def words(self, side: int, frame: int, slots: Slots, outcomes: Outcomes) -> list[bytes]:
        if (frame, side) in ((2, 0), (9, 1), (15, 1)):
            return [encode(FrameLost(frame))]
        return [announce(frame, slots, outcomes)]


class MissesATrigger(Relay):
    """The trigger of one frame does not reach bob's generator; the clicks are announced."""

    def expose(self) -> tuple[Slots, Outcomes]:
        clicks = super().expose()
        if self.users[1].generator.frames_armed == 6:
            self.users[1].generator.triggers = 0
        return clicks


@pytest.mark.parametrize(
    ("relay", "n_lost"), [(LosesFrames, 3), (LosesOtherFramesForEach, 3), (MissesATrigger, 1)]
)
def test_a_lost_frame_does_not_lose_the_block(
    relay: type[Relay], n_lost: int, world: World, tmp_path: Path
) -> None:
    honest = secret_bits(other(tmp_path), Relay)
    world.run(relay)
    assert 0 < world.same_key() < honest
    assert world.lost_frames == n_lost
    announced = [len(user.announcements) - user.announcements.count(LOST) for user in world.users]
    assert min(announced) >= N_FRAMES - n_lost


@pytest.mark.parametrize("relay", [LosesFrames, LosesOtherFramesForEach, MissesATrigger])
def test_nothing_of_a_lost_frame_is_revealed(relay: type[Relay], world: World) -> None:
    """As many labels leave a node as there are single clicks in the frames that both recorded, and no more."""
    made = world.run(relay)
    said = [decode(wire.sent[1], m.BlockMessage) for wire in world.wires]
    labels = [len(message.labels) for message in said if isinstance(message, m.Labels)]
    recorded = [
        frame for frame in range(N_FRAMES) if all(user.announcements[frame] != LOST for user in world.users)
    ]
    singles = sum(made.singles[frame] for frame in recorded)
    assert labels == [(singles + 7) // 8] * 2
    assert len(recorded) < N_FRAMES


class LosesAll(LosesFrames):
    lost = frozenset(range(N_FRAMES))


class LosesMoreThanAQuarter(LosesFrames):
    lost = frozenset({0, 4, 5, 9, 15})


@pytest.mark.parametrize("relay", [LosesAll, LosesMoreThanAQuarter])
def test_too_many_lost_frames_end_the_block_before_any_basis_is_told(
    relay: type[Relay], world: World
) -> None:
    world.run(relay)
    assert "5 of 16 frames are lost, at most 4 may be" in " ".join(world.stored_nothing())
    assert not world.bases_left_a_node()


class LosesMoreThanAQuarterBetweenThem(LosesFrames):
    """Neither user loses too many; both together do."""

    def words(self, side: int, frame: int, slots: Slots, outcomes: Outcomes) -> list[bytes]:
        lost = frame in ((1, 4, 9) if side else (2, 5, 10))
        return [encode(FrameLost(frame))] if lost else [announce(frame, slots, outcomes)]


def test_the_limit_holds_for_what_both_lost_together(world: World) -> None:
    world.run(LosesMoreThanAQuarterBetweenThem)
    for reason in world.stored_nothing():
        assert "6 of 16 frames are lost, more than the plan allows" in reason
    assert not world.bases_left_a_node()


class SaysNothing(Relay):
    """One frame is not spoken of to alice in time, and then all the same."""

    def words(self, side: int, frame: int, slots: Slots, outcomes: Outcomes) -> list[bytes]:
        words = super().words(side, frame, slots, outcomes)
        if (side, frame) == (0, 3):
            self.late = words
            return []
        return [*self.late, *words] if (side, frame) == (0, 4) else words


def test_a_frame_of_which_nothing_comes_is_given_up_and_a_late_word_changes_nothing(world: World) -> None:
    for user in world.users:
        user.light._timeout_s = 0.5 + 3 * user.index
    world.run(SaysNothing)
    assert world.same_key() > 1000
    assert world.lost_frames == 1
    assert world.users[0].announcements[3] == LOST


class TriggersTwiceInALostFrame(LosesFrames):
    """A lost frame is no licence to put its symbols on fresh light."""

    lost = frozenset({4})

    def clicks(self, frame: int) -> tuple[Slots, Outcomes]:
        clicks = self.expose()
        if frame == 4:
            self.users[0].generator.trigger()
        return clicks


def test_an_extra_trigger_ends_the_block_in_a_lost_frame_too(world: World) -> None:
    world.run(TriggersTwiceInALostFrame)
    assert "more than one trigger in frame 4" in world.stored_nothing()[0]
    assert not world.bases_left_a_node()


def test_frames_dropped_once_a_basis_is_known_end_the_block(world: World) -> None:
    """The hub holds bob's opening back until it has bob's labels, and then tells alice of other lost frames."""
    held: list[bytes] = []
    there = threading.Event()

    def hold(data: bytes) -> bytes:
        message = decode(data, m.BlockMessage)
        if isinstance(message, m.Opening):
            held.append(data)
            return b""
        if isinstance(message, m.Labels):
            opening = decode(held[0], m.BlockMessage)
            digests = bytes(32) + opening.digests[32:]
            world.wires[1].inner.send(encode(msgspec.structs.replace(opening, digests=digests)))
            there.set()
        return data

    send = world.wires[1].inner.send
    world.wires[1].inner.send = lambda data: send(data) if data else None  # type: ignore[method-assign]
    world.wires[1].change = hold
    world.run()
    assert there.is_set(), "bob told his bases after alice's genuine opening"
    assert "not genuine" in world.stored_nothing()[0]
    said = [decode(data, m.BlockMessage) for data in world.wires[0].sent]
    assert not any(isinstance(message, m.Labels) for message in said), "alice told none"


# -- announcements out of turn --------------------------------------------------------------------------


class ChangesItsMind(Relay):
    """A second, different announcement of a frame follows the first."""

    def words(self, side: int, frame: int, slots: Slots, outcomes: Outcomes) -> list[bytes]:
        first = announce(frame, slots, outcomes)
        return [first, announce(frame, slots[1:], outcomes[1:])] if frame == 2 else [first]


class LosesWhatItAnnounced(Relay):
    """Takes an announcement back."""

    def words(self, side: int, frame: int, slots: Slots, outcomes: Outcomes) -> list[bytes]:
        words = super().words(side, frame, slots, outcomes)
        return [*words, encode(FrameLost(frame))] if frame == 2 else words


class AnnouncesAnotherFrame(Relay):
    def words(self, side: int, frame: int, slots: Slots, outcomes: Outcomes) -> list[bytes]:
        return [announce(frame + (frame == 2), slots, outcomes)]


class AnnouncesASlotTwice(Relay):
    def words(self, side: int, frame: int, slots: Slots, outcomes: Outcomes) -> list[bytes]:
        if frame != 2:
            return [announce(frame, slots, outcomes)]
        twice = np.insert(slots, 1, slots[0])
        return [announce(frame, twice, np.insert(outcomes, 1, outcomes[0]))]


class AnnouncesSlotsBeyondTheFrame(Relay):
    def words(self, side: int, frame: int, slots: Slots, outcomes: Outcomes) -> list[bytes]:
        return [announce(frame, slots + np.uint32(SLOTS * (frame == 2)), outcomes)]


class AnnouncesWithoutFiring(Relay):
    """Clicks before the light: the frame would be played after its announcement."""

    def clicks(self, frame: int) -> tuple[Slots, Outcomes]:
        if frame != 2:
            return self.expose()
        return np.arange(0, SLOTS, 30, dtype=np.uint32), np.full(-(-SLOTS // 30), D1_ONLY, np.uint8)


@pytest.mark.parametrize(
    ("relay", "text"),
    [
        (ChangesItsMind, "expected the announcement of frame 3, got frame 2"),
        (LosesWhatItAnnounced, "expected the announcement of frame 3, got FrameLost"),
        (AnnouncesAnotherFrame, "expected the announcement of frame 2, got frame 3"),
        (AnnouncesASlotTwice, "out of order"),
        (AnnouncesSlotsBeyondTheFrame, "out of range"),
    ],
)
def test_announcements_out_of_turn_end_the_block_before_any_basis_is_told(
    relay: type[Relay], text: str, world: World
) -> None:
    world.run(relay)
    assert text in " ".join(world.stored_nothing())
    assert not world.bases_left_a_node()


def test_an_announcement_without_light_is_no_record(world: World) -> None:
    world.run(AnnouncesWithoutFiring)
    assert world.same_key() > 1000
    assert world.lost_frames == 1


class AddsAfterTheEnd(Relay):
    """The complete announcement is in; another follows."""

    def words(self, side: int, frame: int, slots: Slots, outcomes: Outcomes) -> list[bytes]:
        words = [announce(frame, slots, outcomes)]
        return [*words, announce(frame, slots[:1], outcomes[:1])] if frame == N_FRAMES - 1 else words


def test_an_announcement_after_the_last_one_changes_nothing(world: World) -> None:
    world.run(AddsAfterTheEnd)
    for user in world.users:
        assert user.error is None
        assert len(user.announcements) == N_FRAMES
        last = read(user.announcements[-1])
        assert isinstance(last, Announcement)
        assert len(last.outcomes) > 1
    assert world.users[0].produced_bits == world.users[1].produced_bits > 0


def test_a_block_cut_short_is_given_up_by_the_users_own_count(world: World) -> None:
    world.run(n_frames=N_FRAMES - 1)
    assert f"{SLOTS * (N_FRAMES - 1)} pulses were emitted" in " ".join(world.stored_nothing())
    assert not world.bases_left_a_node()


# -- invented and deleted clicks ------------------------------------------------------------------------


class RandomClicks(Relay):
    """As many clicks as expected, in random slots and detectors."""

    part = 1.0

    def clicks(self, frame: int) -> tuple[Slots, Outcomes]:
        slots, outcomes = self.expose()
        invented = self.rng.random(slots.size) < self.part
        outcomes = np.where(invented, self.rng.integers(1, 3, slots.size), outcomes).astype(np.uint8)
        moved = np.where(invented, self.rng.integers(0, SLOTS, slots.size), slots)
        slots, first = np.unique(moved, return_index=True)
        return slots.astype(np.uint32), outcomes[first]


class AFifthRandom(RandomClicks):
    part = 0.2


class AFewRandom(RandomClicks):
    part = 0.03


class AVeryFewRandom(RandomClicks):
    part = 0.004


@pytest.mark.parametrize("relay", [RandomClicks, AFifthRandom])
def test_random_clicks_give_no_key(relay: type[Relay], world: World) -> None:
    world.run(relay)
    assert "error rate" in " ".join(world.stored_nothing())


def test_more_errors_than_the_calibrated_ring_has_give_no_key(world: World) -> None:
    world.run(AFewRandom)
    assert "does not fit the calibrated channel" in " ".join(world.stored_nothing())


def test_errors_that_the_calibrated_ring_might_have_cost_key(world: World, tmp_path: Path) -> None:
    honest, lied = secret_bits(world, Relay), secret_bits(other(tmp_path), AVeryFewRandom)
    assert lied < 0.97 * honest


class DeletesD2(Relay):
    """Only detector 1 is announced."""

    part = 1.0

    def clicks(self, frame: int) -> tuple[Slots, Outcomes]:
        slots, outcomes = self.expose()
        keep = (outcomes == D1_ONLY) | (self.rng.random(slots.size) >= self.part)
        return slots[keep], outcomes[keep]


class DeletesSomeD2(DeletesD2):
    part = 0.15


class KnowsAndDeletesY(Relay):
    """Granted the bases, which no relay has: it hides half of the rounds that test."""

    def clicks(self, frame: int) -> tuple[Slots, Outcomes]:
        slots, outcomes = self.expose()
        bases, _ = self.bases_and_bits(slots)
        keep = ~(bases[0] & bases[1]) | (self.rng.random(slots.size) < 0.5)
        return slots[keep], outcomes[keep]


class KnowsAndDeletesX(Relay):
    """Granted the bases: it hides half of the rounds that make key, so that the test looks larger."""

    def clicks(self, frame: int) -> tuple[Slots, Outcomes]:
        slots, outcomes = self.expose()
        bases, _ = self.bases_and_bits(slots)
        keep = bases[0] | bases[1] | (self.rng.random(slots.size) < 0.5)
        return slots[keep], outcomes[keep]


@pytest.mark.parametrize(
    ("relay", "text"),
    [(DeletesD2, "announced clicks"), (KnowsAndDeletesY, "YY rounds"), (KnowsAndDeletesX, "XX rounds")],
)
def test_selective_deletion_beyond_the_count_windows_gives_no_key(
    relay: type[Relay], text: str, world: World
) -> None:
    world.run(relay)
    reasons = " ".join(world.stored_nothing())
    assert text in reasons
    assert "do not fit the calibrated channel" in reasons


def test_deletion_within_the_windows_costs_key_and_leaves_it_unbiased(world: World, tmp_path: Path) -> None:
    honest = secret_bits(world, Relay)
    deleted = other(tmp_path)
    assert 0 < secret_bits(deleted, DeletesSomeD2) < honest
    result = deleted.users[0].result
    assert result is not None
    assert result.key is not None
    ones = int(np.unpackbits(result.key.reveal()).sum())
    assert abs(ones - len(result.key) / 2) < 5 * math.sqrt(len(result.key) / 4)


def other(folder: Path) -> World:
    (folder / "other").mkdir()
    return World(folder / "other")


def secret_bits(world: World, relay: type[Relay]) -> int:
    """Key of a block that both users stored alike."""
    world.run(relay)
    assert [user.error for user in world.users] == [None, None]
    assert world.users[0].produced_bits == world.users[1].produced_bits
    return world.users[0].produced_bits


# -- triggers and light ---------------------------------------------------------------------------------


class FiresTwice(Relay):
    """A second trigger, to get the same phases on fresh light."""

    def clicks(self, frame: int) -> tuple[Slots, Outcomes]:
        clicks = self.expose()
        if frame == 4:
            assert self.users[0].generator.trigger() is None, "the extra trigger must find nothing secret"
        return clicks


def test_an_extra_trigger_ends_the_block(world: World) -> None:
    world.run(FiresTwice)
    assert "more than one trigger in frame 4" in world.stored_nothing()[0]
    assert isinstance(world.users[0].error, LightAborted)
    assert not world.bases_left_a_node()


class Brightens(Relay):
    """After the attenuators are set, from frame 4 on, alice gets this much of her light."""

    factor = 1.1

    def clicks(self, frame: int) -> tuple[Slots, Outcomes]:
        if frame == 4:
            self.users[0].sensor.source = lambda: self.users[0].planned_w * self.factor
        return self.expose()


class Dims(Brightens):
    factor = 0.5


class ShinesNaN(Brightens):
    factor = math.nan


class FlashesWhileItPlays(Relay):
    """Bright only between arming and announcement, when the pulses that count pass the modulator."""

    def __init__(self, users: tuple[User, User], seed: int) -> None:
        super().__init__(users, seed)
        self.announced = 0
        alice = users[0]

        def source() -> float:
            playing = alice.generator.frames_armed > max(self.announced, 4)
            return alice.planned_w * (100 if playing else 1)

        alice.sensor.source = source

    def words(self, side: int, frame: int, slots: Slots, outcomes: Outcomes) -> list[bytes]:
        self.announced = frame + 1
        return super().words(side, frame, slots, outcomes)


@pytest.mark.parametrize("relay", [Brightens, Dims, ShinesNaN, FlashesWhileItPlays])
def test_light_off_the_bound_of_the_proof_ends_the_block(relay: type[Relay], world: World) -> None:
    for user in world.users:
        user.light._clock = itertools.count().__next__  # a bench is slower: a reading is due in every frame
    world.run(relay)
    reason = world.stored_nothing()[0]
    assert isinstance(world.users[0].error, LightAborted)
    assert "dB off the planned" in reason or "no light arrives" in reason
    assert not world.bases_left_a_node()


@pytest.mark.parametrize(("power_w", "text"), [(1e-14, "dB off the planned"), (0.0, "no light arrives")])
def test_too_little_light_is_found_before_a_frame_is_armed(power_w: float, text: str, world: World) -> None:
    world.users[0].sensor.source = lambda: power_w
    world.run()
    assert text in world.stored_nothing()[0]
    assert world.users[0].generator.frames_armed == 0


@pytest.mark.parametrize("reading_db", [math.nan, math.inf])
def test_an_attenuator_that_reads_nonsense_ends_the_block(reading_db: float, world: World) -> None:
    world.users[1].attenuator.attenuation_db = lambda value=None: reading_db  # type: ignore[method-assign]
    world.run()
    assert "dB off the planned" in world.stored_nothing()[1]
    assert world.users[1].generator.frames_armed == 0
