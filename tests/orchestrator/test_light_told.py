"""What the relay tells of key light: counts of both detectors over what was lit, and the end of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from orchestrator.events.status import LightNow
from orchestrator.hub.agent import AgentError
from orchestrator.light.clicks import BOTH, D1_ONLY, D2_ONLY
from orchestrator.light.messages import FrameLost
from orchestrator.light.relay import Clicks
from orchestrator.processes.light_told import LightTold

SLOTS, CLOCK_HZ = 1000, 1e6


class Hub:
    def __init__(self) -> None:
        self.told: list[LightNow] = []
        self.full = False

    def control_send(self, item: LightNow) -> None:
        if self.full:
            raise AgentError("too many wait")
        self.told.append(item)


def clicks(*outcomes: int) -> Clicks:
    return np.arange(len(outcomes), dtype=np.uint32), np.array(outcomes, np.uint8)


def light(hub: Any, now_s: list[float]) -> LightTold:
    return LightTold(hub, ("alice", "bob"), 8, SLOTS, CLOCK_HZ, clock=lambda: now_s[0])


def test_a_word_stands_for_all_frames_since_the_last_one_and_comes_once_a_second() -> None:
    hub, now_s = Hub(), [10.0]
    with light(hub, now_s) as told:
        assert hub.told == [LightNow("alice", "bob", 0, 8000)]
        told.at_rest(42.0)
        told.frame(0, clicks(D1_ONLY, D1_ONLY, BOTH, D2_ONLY))
        told.frame(1, clicks(D1_ONLY))
        told.frame(2, FrameLost(2, "no trigger"))
        now_s[0] = 11.0
        told.frame(3, clicks(D2_ONLY, BOTH))
    first, second = hub.told[1:3]
    assert first == LightNow("alice", "bob", 1000, 8000, 0, 3000.0, 2000.0, 42.0)
    assert second == LightNow("alice", "bob", 4000, 8000, 1, 1000.0, 1000.0, 42.0)
    assert hub.told[3:] == [LightNow()]


def test_a_second_of_lost_frames_has_no_rate() -> None:
    hub, now_s = Hub(), [0.0]
    with light(hub, now_s) as told:
        told.frame(0, FrameLost(0, "no trigger"))
    assert hub.told[1] == LightNow("alice", "bob", 1000, 8000, 1, None, None)


def test_light_that_fails_is_gone_too_and_a_hub_that_takes_nothing_disturbs_nobody() -> None:
    hub, now_s = Hub(), [0.0]

    def fail() -> None:
        with light(hub, now_s) as told:
            hub.full = True
            told.frame(0, clicks(D1_ONLY))
            hub.full = False
            raise RuntimeError("the laser is off")

    with pytest.raises(RuntimeError, match="the laser is off"):
        fail()
    assert hub.told == [LightNow("alice", "bob", 0, 8000), LightNow()]
