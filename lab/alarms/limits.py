"""How severe a value is: limits with a dead band, staleness, drift.

A value at or beyond a major limit is major, at or beyond a minor one minor; the higher severity wins.  A value that came back
by less than :data:`DEAD_BAND` of its limit keeps its severity, so that noise at a limit is one alarm.  What cannot be read,
is no number, or is older than it may be is *invalid*: nobody knows, which is worse than knowing.  Drift is the distance from
the value that was there when the watch began, or was acknowledged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

Severity: TypeAlias = Literal["none", "minor", "major", "invalid"]
Condition: TypeAlias = Literal["", "high", "low", "drift", "stale", "unreadable", "state"]
RANK: dict[Severity, int] = {"none": 0, "minor": 1, "major": 2, "invalid": 3}
DEAD_BAND = 0.05
"""Of a limit's magnitude."""


@dataclass(frozen=True)
class Limits:
    """Between which values nothing is wrong; None where there is no limit.  ``drift`` and ``stale_s`` are minor and invalid."""

    low_major: float | None = None
    low_minor: float | None = None
    high_minor: float | None = None
    high_major: float | None = None
    drift: float | None = None
    stale_s: float | None = None

    def __post_init__(self) -> None:
        given = [
            each
            for each in (self.low_major, self.low_minor, self.high_minor, self.high_major)
            if each is not None
        ]
        if given != sorted(given):
            raise ValueError(
                f"limits must rise from low_major over low_minor and high_minor to high_major, got {given}"
            )
        if (self.drift is not None and not self.drift > 0) or (
            self.stale_s is not None and not self.stale_s > 0
        ):
            raise ValueError(f"drift and stale_s must be above 0, got {self.drift} and {self.stale_s}")


@dataclass(frozen=True)
class Judged:
    """A severity, why, and the limit that was passed."""

    severity: Severity = "none"
    condition: Condition = ""
    limit: float | None = None


GOOD = Judged()


def judge(
    limits: Limits,
    value: float | None,
    age_s: float,
    *,
    reference: float | None = None,
    before: Judged = GOOD,
) -> Judged:
    """What a value of this age is; None could not be read.  ``before`` is what it was judged the last time."""
    if value is None or not math.isfinite(value):
        return Judged("invalid", "unreadable")
    if limits.stale_s is not None and age_s > limits.stale_s:
        return Judged("invalid", "stale", limits.stale_s)
    for severity, condition, limit in (
        ("major", "high", limits.high_major),
        ("major", "low", limits.low_major),
        ("minor", "high", limits.high_minor),
        ("minor", "low", limits.low_minor),
    ):
        found = Judged(severity, condition, limit)  # type: ignore[arg-type]
        if limit is None:
            continue
        stays = RANK[before.severity] >= RANK[found.severity] and before.condition == condition
        margin = DEAD_BAND * abs(limit) if stays else 0.0
        if value >= limit - margin if condition == "high" else value <= limit + margin:
            return found
    if limits.drift is not None and reference is not None and abs(value - reference) > limits.drift:
        return Judged("minor", "drift", limits.drift)
    return GOOD
