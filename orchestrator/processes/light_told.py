"""What the relay tells the hub of key light while it is on: how far the block is, and clicks per second at both detectors.

Counts are added up between two words, so that a word stands for all frames since the last one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import TracebackType
from typing import Self

import numpy as np

from orchestrator import runtime
from orchestrator.events.status import LightNow, Pair
from orchestrator.hub.agent import Agent, AgentError
from orchestrator.light.clicks import D1_ONLY, D2_ONLY
from orchestrator.light.messages import FrameLost
from orchestrator.light.relay import Clicks

logger = logging.getLogger(__name__)

EVERY_S = 1.0


class LightTold:
    """Tells of one light phase; a context, at whose end it is told that there is no light."""

    def __init__(
        self,
        agent: Agent,
        pair: Pair,
        n_frames: int,
        slots: int,
        clock_hz: float,
        clock: Callable[[], float] = runtime.now,
    ) -> None:
        """A block of ``n_frames`` frames of ``slots`` slots each."""
        self._agent, self._clock = agent, clock
        self._pair, self._slots, self._planned = pair, slots, n_frames * slots
        self._frame_s = slots / clock_hz
        self._clicks, self._frames, self._lost = np.zeros(2), 0, 0
        self._backscatter_cps: float | None = None
        self._due_s = 0.0

    def at_rest(self, backscatter_cps: float) -> None:
        """What was counted between pulses before the first frame, see :class:`LightNow`."""
        self._backscatter_cps = backscatter_cps

    def frame(self, frame: int, clicks: Clicks | FrameLost) -> None:
        """A frame is over."""
        if isinstance(clicks, FrameLost):
            self._lost += 1
        else:
            _, outcomes = clicks
            seen = [np.count_nonzero(outcomes != other) for other in (D2_ONLY, D1_ONLY)]
            self._clicks += seen
            self._frames += 1
        if (now_s := self._clock()) >= self._due_s:
            self._due_s = now_s + EVERY_S
            self._say(frame)

    def _say(self, frame: int) -> None:
        light_s = self._frames * self._frame_s
        d1_cps, d2_cps = (self._clicks / light_s).tolist() if light_s else (None, None)
        self._clicks[:], self._frames = 0.0, 0
        pulses = (frame + 1) * self._slots
        self._tell(
            LightNow(*self._pair, pulses, self._planned, self._lost, d1_cps, d2_cps, self._backscatter_cps)
        )

    def _tell(self, item: LightNow) -> None:
        try:
            self._agent.control_send(item)
        except AgentError as error:  # too much waits: who looks on sees an older one, and the light goes on
            logger.debug("the light is not told: %s", error)

    def __enter__(self) -> Self:
        self._tell(LightNow(*self._pair, planned_pulses=self._planned))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tell(LightNow())
