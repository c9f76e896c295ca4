"""Numbers over time, for trends: ten minutes by the second, a day by the minute, thirty days by the quarter of an hour.

Every value goes into all three at once, so that a mean is that of the values and not of other means; a stretch of time in
which nothing came has no point.  A series holds no more points than :data:`TIERS` say, and there are no more than :data:`SERIES`
series: the one that has been silent longest makes room.  Memory is bounded however long the dashboard runs, and grows only as
it is used.

Times are seconds of the board's clock, which never jumps; what is older than the newest stretch is left out, as it comes from
a hub that tells again what it told before.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from orchestrator.events.status import BlockReport, Learning, LightNow, PairStatus, Readings, StatusItem

NUMBERS: dict[type[StatusItem], tuple[str, ...]] = {
    LightNow: ("d1_cps", "d2_cps", "backscatter_cps"),
    Readings: ("value",),
    PairStatus: ("stock_bits", "rate_bps"),
    BlockReport: ("qber", "phase_error_upper", "secret_bits"),
    Learning: ("accuracy",),
}
"""The fields of items that make series."""
SERIES = 320
LONGEST_KEY = 400


@dataclass(frozen=True)
class Tier:
    """``kept`` points, one every ``step_s``."""

    step_s: float
    kept: int

    @property
    def span_s(self) -> float:
        """What all of them cover."""
        return self.step_s * self.kept


TIERS = (Tier(1.0, 600), Tier(60.0, 1440), Tier(900.0, 2880))


class Point(msgspec.Struct, frozen=True, array_like=True):
    """What came in one stretch that begins ``at_s``."""

    at_s: float
    mean: float
    low: float
    high: float


class Trend(msgspec.Struct, frozen=True):
    """A series as a page gets it: points in the order of time, a stretch of ``step_s`` each; ``now_s`` is the board's clock."""

    key: str
    step_s: float
    now_s: float
    points: tuple[Point, ...]


class _Ring:
    """The newest ``tier.kept`` stretches of one series."""

    def __init__(self, tier: Tier) -> None:
        self._tier = tier
        self._rows: npt.NDArray[np.float64] = np.empty((tier.kept, 5))
        """Number of the stretch, count, mean, least, greatest; pages of memory come as they are written."""
        self._next = self._used = 0

    def add(self, at_s: float, value: float) -> None:
        stretch = math.floor(at_s / self._tier.step_s)
        newest = self._rows[self._next - 1] if self._used else None
        if newest is None or stretch > newest[0]:
            self._rows[self._next] = stretch, 1, value, value, value
            self._next = (self._next + 1) % self._tier.kept
            self._used = min(self._used + 1, self._tier.kept)
        elif stretch == newest[0]:
            newest[1] += 1
            newest[2] += (value - newest[2]) / newest[1]
            newest[3], newest[4] = min(newest[3], value), max(newest[4], value)

    def points(self, since_s: float) -> tuple[Point, ...]:
        order = [(self._next - self._used + place) % self._tier.kept for place in range(self._used)]
        rows = self._rows[order]
        starts = rows[:, 0] * self._tier.step_s
        rows = rows[starts > since_s - self._tier.step_s]
        return tuple(
            Point(stretch * self._tier.step_s, mean, low, high)
            for stretch, _, mean, low, high in rows.tolist()
        )


class Series:
    """All series of a dashboard; may be used from any thread."""

    def __init__(self, tiers: tuple[Tier, ...] = TIERS, at_most: int = SERIES) -> None:
        self._tiers, self._at_most = tiers, at_most
        self._rings: OrderedDict[str, list[_Ring]] = OrderedDict()
        self._lock = threading.Lock()

    def note(self, key: str, item: StatusItem, at_s: float) -> None:
        """The numbers of an item that stands on the board under ``key``; each has the series ``key/FIELD``."""
        for field in NUMBERS.get(type(item), ()):
            value = getattr(item, field)
            if value is not None:
                self.add(f"{key}/{field}", float(value), at_s)

    def add(self, key: str, value: float, at_s: float) -> None:
        """One value; what is no finite number has no place in a trend."""
        if not (math.isfinite(value) and math.isfinite(at_s)):
            return
        with self._lock:
            rings = self._rings.setdefault(key, [])
            if not rings:
                rings += [_Ring(tier) for tier in self._tiers]
            self._rings.move_to_end(key)
            while len(self._rings) > self._at_most:
                self._rings.popitem(last=False)
            for ring in rings:
                ring.add(at_s, value)

    def keys(self) -> list[str]:
        """Of every series, in the order of the alphabet."""
        with self._lock:
            return sorted(self._rings)

    def trend(self, key: str, span_s: float, now_s: float) -> Trend | None:
        """The last ``span_s`` of a series, as fine as they are kept; None where there is no such series."""
        place = next((n for n, tier in enumerate(self._tiers) if tier.span_s >= span_s), len(self._tiers) - 1)
        with self._lock:
            rings = self._rings.get(key)
            if rings is None:
                return None
            return Trend(key, self._tiers[place].step_s, now_s, rings[place].points(now_s - span_s))
