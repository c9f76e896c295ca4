"""When a user reads its own light: often enough, at moments that the relay cannot foresee, and without holding up a frame.

A sensor that sees picowatts averages for up to ten seconds, so each reading runs in a thread of its own while frames go
on.  A frame has three places for it to begin: armed, before the next frame is loaded; after that; and when the frame is
over.  Each time a reading is due, the place is drawn anew.  The block is over only with a reading that ended after the
last frame.

A reading that is bright is taken again at once, and the mean of all is judged, of eight at the most: the noise of a single
one is not far below the bound, that of eight is a third of it.  Light that brightens in between is in the mean.  Whoever trimmed
light by single readings would darken it, reading by reading, by their noise.  Light that is missing costs key, not security, and the launch is closed for a moment where a detector has to be brought back: it is waited
for.
"""

from __future__ import annotations

from collections.abc import Callable

from orchestrator import runtime
from orchestrator.light.messages import LightMissing
from orchestrator.light.symbols import RandomInto

PLACES = 3
MISSING_S, PACE_S = 3.0, 0.05
"""How long missing light is waited for, and the least from one look to the next."""
TOGETHER = 8
"""As many readings are judged by their mean where it is bright: with four, one block in fifty of an honest ring ended as too bright
where a user's light was usually .05 dB above its plan."""


class IntensityWatch:
    """``read`` gives a reading or raises LightMissing; ``judge`` raises it too, and LightAborted for what is too bright.

    ``is_bright`` says of which one more is taken; what is too bright is bright.  A reading is due ``every_s`` after the last one ended.
    """

    def __init__(
        self,
        read: Callable[[], float],
        is_bright: Callable[[float], bool],
        judge: Callable[[float], object],
        random_into: RandomInto,
        clock: Callable[[], float],
        every_s: float,
    ) -> None:
        self._take = read
        self._is_bright = is_bright
        self._judge = judge
        self._random_into = random_into
        self._clock = clock
        self._every_s = every_s
        self._running: runtime.Future[float] | None = None
        self._settled: float | None = None
        self._ended_s = -every_s
        self._place = 0
        self._over = False

    def begin(self) -> None:
        """Have a reading under way."""
        if self._running is None:
            self._running = runtime.call(self._read, name="intensity")

    def at(self, place: int) -> None:
        """Begin a reading if it is due and this is the place; raises what an earlier one found."""
        if self._running is not None and self._running.done():
            self._settle()
        if self._running is None and place == self._place and self._clock() - self._ended_s >= self._every_s:
            self.begin()

    def finish(self) -> None:
        """Wait for a reading that ends after this call; raises what it found."""
        self.begin()
        self._settle()

    def taken(self) -> float | None:
        """What the latest reading came to; None where it was asked for already."""
        settled, self._settled = self._settled, None
        return settled

    def close(self) -> None:
        """Wait until the sensor is free, whatever it reads; nothing is waited for or taken again any more."""
        self._over = True
        if self._running is not None:
            self._running.exception()
            self._running = None

    def _settle(self) -> None:
        running, self._running = self._running, None
        assert running is not None
        self._settled = running.result()
        self._ended_s = self._clock()
        drawn = bytearray(1)
        self._random_into(memoryview(drawn))
        self._place = drawn[0] % PLACES

    def _read(self) -> float:
        until_s = self._clock() + MISSING_S
        readings: list[float] = []
        while True:
            try:
                readings.append(self._take())
                mean = sum(readings) / len(readings)
                if len(readings) < TOGETHER and not self._over and self._is_bright(mean):
                    continue
                self._judge(mean)
            except LightMissing:
                if self._over or self._clock() > until_s:
                    raise
                readings.clear()
                runtime.sleep(PACE_S)
            else:
                return mean
