"""What the tests of the ID900 have beside it: a host of their own, and light."""

from __future__ import annotations

import random
import threading
from typing import Any

import numpy as np
import numpy.typing as npt


def own_host() -> str:
    """A loopback host of this test's own, so that the vendor's fixed stream ports are free."""
    pick = random.SystemRandom().randint
    return f"127.{pick(1, 250)}.{pick(1, 250)}.{pick(1, 250)}"


class Light:
    """Clicks for the twin: ``clicks`` per channel; ``go`` holds a record back until it is set."""

    def __init__(self) -> None:
        self.clicks: dict[int, Any] = {}
        self.records: list[tuple[int, int]] = []
        self.go = threading.Event()
        self.go.set()

    def __call__(self, duration_ps: int, index: int) -> dict[int, npt.NDArray[np.uint64]]:
        self.records.append((duration_ps, index))
        assert self.go.wait(30)
        return {channel: np.asarray(times, dtype=np.uint64) for channel, times in self.clicks.items()}
