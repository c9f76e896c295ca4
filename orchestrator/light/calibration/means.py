"""What a calibration may use, whoever runs it: one process that has everything, or the parties of a lease."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np
import numpy.typing as npt

from lab.calibration.book import Book
from lab.testbed import Testbed
from orchestrator.light.calibration.exposures import Exposures
from orchestrator.light.calibration.relay_bench import Lit
from orchestrator.light.clicks import LevelClicks
from orchestrator.light.timing import FrameTiming
from orchestrator.light.user import ScannedFrame

Levels = npt.NDArray[np.float32]
"""Of private frames: float32 of shape (256,), in [-1, 1] of amplitude/2."""
OnFrame = Callable[[int], None]
Pair = tuple[str, str]


class RelayMeans(Protocol):
    """Of the relay; see :class:`~orchestrator.light.calibration.relay_bench.RelayBench`."""

    testbed: Testbed

    def lit(self, pair: Pair) -> AbstractContextManager[Lit]:
        """The planned light of a pair, at rest, while it lasts."""

    def bypassed(self, arriving: float) -> AbstractContextManager[Exposures]:
        """Pulses of about so many counts a slot around the ring with nobody in it, while it lasts."""

    def bias(self, bias_ua: Sequence[float]) -> None:
        """Bias the detectors, from no bias at all."""

    def dark(self) -> Exposures:
        """The detectors with the launch closed, biased as they are."""


class UserMeans(Protocol):
    """Of a user, in light phases with one partner; nobody else learns a level before its clicks are announced."""

    testbed: Testbed
    book: Book

    def framed(
        self, pair: Pair, levels: Mapping[str, Levels], n_frames: int, on_frame: OnFrame
    ) -> dict[str, LevelClicks]:
        """A light phase in which a user plays private levels and the partner stands at rest: clicks by level."""

    def scanned(
        self, pair: Pair, user: str, levels: Levels, timings: Sequence[FrameTiming], on_frame: OnFrame
    ) -> list[ScannedFrame]:
        """The same with a time for every frame: each with its levels."""
