"""What light is usual for a pair, by which it is told when everybody has to climb."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest

from orchestrator.light.aligning import Climber, Count, Meter, align


class Shares(Meter):
    """A meter whose light is told one reading after the other."""

    def __init__(self, *shares: float) -> None:
        super().__init__(cast("Any", None), cast("Any", None), planned_cps=1e5)
        self._shares: Iterator[float] = iter(shares)

    def share(self) -> float:
        self.readings += 1
        return next(self._shares)


def climber(meter: Shares, climbed: list[str], own_reason: str = "") -> Climber:
    """Climbs with one reading where it is told why, or has a reason of its own."""

    def climb(count: Count, why: str, roughly: bool) -> float | None:
        if not roughly and (why or own_reason):
            climbed.append(why or own_reason)
            meter.readings += 1
        return None

    return climb


@pytest.mark.parametrize(
    ("before", "after", "usual", "climbs"),
    [
        (0.95, 0.94, 1.0, 1),  # one climbed for its own reasons: what the other lost is not usual
        (0.80, 0.97, 0.97, 2),  # everybody did, so this is what there is
    ],
)
def test_light_is_usual_only_where_everybody_has_climbed(
    before: float, after: float, usual: float, climbs: int
) -> None:
    meter, climbed = Shares(before, after), list[str]()
    parties = [climber(meter, climbed, "no setting is known"), climber(meter, climbed)]
    assert align(meter, parties, usual=1.0) == usual
    assert len(climbed) == climbs
