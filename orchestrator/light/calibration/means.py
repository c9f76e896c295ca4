"""What a user's calibration may use: light phases with a partner who stands at rest.

The relay's own means are a :class:`~orchestrator.light.calibration.relay_bench.RelayBench`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from lab.calibration.book import Book
from lab.testbed import Testbed
from orchestrator.light.clicks import LevelClicks
from orchestrator.light.timing import FrameTiming
from orchestrator.light.user import ScannedFrame

Levels = npt.NDArray[np.float32]
"""Of private frames: float32 of shape (256,), in [-1, 1] of amplitude/2."""
OnFrame = Callable[[int], None]
Pair = tuple[str, str]


class UserMeans(Protocol):
    """Of a user, in light phases with one partner; nobody else learns a level before its clicks are announced."""

    testbed: Testbed
    book: Book

    def framed(self, pair: Pair, levels: Levels, n_frames: int, on_frame: OnFrame) -> LevelClicks:
        """A light phase in which the user plays private levels: clicks by level."""

    def scanned(
        self, pair: Pair, levels: Levels, timings: Sequence[FrameTiming], on_frame: OnFrame
    ) -> list[ScannedFrame]:
        """The same with a time for every frame: each with its levels."""
