"""What the benchmarks share: a line of output, and the median of repeated runs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any, TypeAlias

Figure: TypeAlias = Mapping[str, Any]
"""``value``, ``unit``, the conditions it holds for, and ``checks_passed`` where something was checked."""


def emit(what: str, **figures: object) -> None:
    """Print one JSON line: what was measured, and its figures."""
    print(json.dumps({"what": what, **figures}), flush=True)


def median_s(
    action: Callable[[], object], repeats: int = 7, clock: Callable[[], float] = time.perf_counter
) -> float:
    """The median duration of ``action`` on ``clock`` in seconds, after one warm-up."""
    action()
    durations = []
    for _ in range(repeats):
        begin = clock()
        action()
        durations.append(clock() - begin)
    return median(durations)
