"""The relay's light, lease by lease: what is told, counted and put on record, however a light phase ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lab.runs.testbeds.folder import template_path
from lab.testbed import load_testbed
from orchestrator.events.process import LightProgress
from orchestrator.events.status import Served
from orchestrator.light.messages import FrameLost
from orchestrator.light.relay import FramesServed
from orchestrator.processes.relay_light import FRAMES_PER_EVENT, LeasedLight
from orchestrator.records.kinds import LightServed
from orchestrator.scheduling.lease_party import HeldLease
from orchestrator.wire.memory_channel import memory_channel_pair
from orchestrator.wire.messages import CALIBRATIONS, LightStatistics

TESTBED = load_testbed(template_path("simulated-four-node"))
CALIBRATION = next(iter(CALIBRATIONS))
PULSES = TESTBED.protocol.slots_per_frame
PAIR = ("alice", "bob")
CLICKS = np.arange(5, dtype=np.uint32), np.zeros(5, np.uint8)


class Agent:
    """What the light of a relay asks of the hub's agent."""

    def __init__(self) -> None:
        self.said: list[object] = []

    def channel(self, peer: str, topic: str) -> Any:
        return memory_channel_pair()[0]

    def close_channel(self, peer: str, topic: str) -> None:
        pass

    def control_send(self, item: object) -> None:
        self.said.append(item)


class Light:
    """A light phase as a test wants it: ``phase`` is given the callbacks."""

    def __init__(self) -> None:
        self.phase: Callable[..., None] = lambda **_: None
        self.used: list[object] = []

    def use(self, testbed: object) -> None:
        self.used.append(testbed)

    def was_lit(self) -> bool:
        return False

    def run(self, channels: Any, n_frames: int, planned: Any, **callbacks: Any) -> FramesServed:
        self.phase(**callbacks)
        return FramesServed(announced=12, lost=(3,), announcements="d" * 64)


class World:
    """A relay's leased light between stand-ins."""

    def __init__(self) -> None:
        self.agent, self.light = Agent(), Light()
        self.told: list[Any] = []
        self.kept: list[LightServed] = []
        self.calibrated: list[HeldLease] = []
        records = SimpleNamespace(keep=self.kept.append, keep_testbed=lambda content: "digest")
        self.leased = LeasedLight(
            lambda: TESTBED,  # type: ignore[arg-type]
            self.light,  # type: ignore[arg-type]
            SimpleNamespace(),  # type: ignore[arg-type]
            SimpleNamespace(instruments=tuple),  # type: ignore[arg-type]
            self.agent,  # type: ignore[arg-type]
            SimpleNamespace(),  # type: ignore[arg-type]
            SimpleNamespace(relay=self.calibrate),  # type: ignore[arg-type]
            emit=self.told.append,
            records=records,  # type: ignore[arg-type]
        )

    def calibrate(self, lease: HeldLease, party: Any) -> LightStatistics:
        self.calibrated.append(lease)
        return LightStatistics(frames=0, lost_frames=0, pulses=0, announced=0, light_s=1.5, wall_s=2.0)

    def run(self, n_frames: int = 4, **lease: Any) -> LightStatistics:
        return self.leased.run(HeldLease(7, 1, *PAIR, n_frames, **lease))

    def counts(self) -> list[Served]:
        return [item for item in self.agent.said if isinstance(item, Served)]


@contextmanager
def refused() -> Iterator[None]:
    with pytest.raises(RuntimeError, match="no trigger"):
        yield


def test_a_light_phase_is_counted_and_on_record() -> None:
    world = World()
    statistics = world.run(4)
    light_s = 4 * PULSES / TESTBED.protocol.clock_hz
    assert (statistics.frames, statistics.lost_frames, statistics.pulses) == (4, 1, 4 * PULSES)
    assert (statistics.announced, statistics.light_s) == (12, light_s)
    (record,) = world.kept
    assert (record.ok, record.purpose, record.testbed) == (True, "key", "digest")
    assert (record.pulses, record.announced, record.lost_frames) == (4 * PULSES, 12, (3,))
    assert world.light.used == [TESTBED]
    world.run(4)
    assert world.counts() == [Served(1, 0, light_s), Served(2, 0, 2 * light_s)]


def test_an_operator_sees_every_few_frames_and_the_last_one() -> None:
    world = World()
    n_frames = FRAMES_PER_EVENT + 3

    def frames(*, on_frame: Callable[..., None], **_: Any) -> None:
        for frame in range(n_frames):
            on_frame(frame, FrameLost(frame, "no trigger") if frame == 2 else CLICKS)

    world.light.phase = frames
    world.run(n_frames)
    seen = [event for event in world.told if isinstance(event, LightProgress)]
    assert [event.pulses for event in seen] == [FRAMES_PER_EVENT * PULSES, n_frames * PULSES]
    assert {(event.planned_pulses, event.clicks) for event in seen} == {(n_frames * PULSES, 5)}
    assert {(event.lost_frames, event.lost_reason) for event in seen} == {(1, "no trigger")}


def test_a_light_phase_that_gives_up_is_counted_and_on_record_too() -> None:
    world = World()

    def gives_up(**_: Any) -> None:
        raise RuntimeError("no trigger")

    world.light.phase = gives_up
    with refused():
        world.run()
    assert world.counts() == [Served(0, 1, 0.0)]
    (record,) = world.kept
    assert (record.ok, record.reason) == (False, "RuntimeError: no trigger")


def test_detectors_that_latched_are_told_until_a_light_phase_without() -> None:
    world = World()
    world.light.phase = lambda *, on_latched, **_: on_latched("D1 was brought back")
    world.run()
    (seen,) = world.leased.brought_back()
    assert (seen.name, seen.text) == ("instrument", "alice-bob: D1 was brought back")

    def gives_up(**_: Any) -> None:
        raise RuntimeError("no trigger")

    world.light.phase = gives_up
    with refused():
        world.run()
    assert world.leased.brought_back() == [seen]
    world.light.phase = lambda **_: None
    world.run()
    assert world.leased.brought_back() == []


def test_a_calibration_is_lit_by_its_own_steps() -> None:
    world = World()
    assert world.run(purpose=CALIBRATION).light_s == 1.5
    assert [lease.pair for lease in world.calibrated] == [PAIR] == [world.leased.pair]
    (record,) = world.kept
    assert (record.purpose, record.light_s, record.announced) == (CALIBRATION, 1.5, 0)
    assert world.counts() == [Served(1, 0, 1.5)]
