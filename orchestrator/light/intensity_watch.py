"""When a user reads its own light: often enough, and at moments that the relay cannot foresee.

A frame has three places for a reading: armed, before the next frame is loaded; after that; and when the frame is over.
Each time a reading is due, the place is drawn anew.
"""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.light.symbols import RandomInto

PLACES = 3


class IntensityWatch:
    """``check`` reads and raises; a reading is due ``every_s`` after the last one."""

    def __init__(
        self, check: Callable[[], object], random_into: RandomInto, clock: Callable[[], float], every_s: float
    ) -> None:
        self._check = check
        self._random_into = random_into
        self._clock = clock
        self._every_s = every_s
        self._read_s = -every_s
        self._place = 0

    def read(self) -> None:
        """Read at once."""
        self._check()
        self._read_s = self._clock()
        drawn = bytearray(1)
        self._random_into(memoryview(drawn))
        self._place = drawn[0] % PLACES

    def maybe_read(self, place: int) -> None:
        """Read if it is due and this is the place."""
        if place == self._place and self._clock() - self._read_s >= self._every_s:
            self.read()
