"""Every metric: one row each, and nothing else in the product names one.

``docs/metrics.md`` is written from it, and dashboard and alert rules are held against it.
"""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.metrics.keys import KEYS
from orchestrator.metrics.learning import LEARNING
from orchestrator.metrics.process import PROCESS
from orchestrator.metrics.ring import RING
from orchestrator.metrics.rows import Metric

UNITS = {"bits", "bytes", "seconds", "ratio", "hertz", "bits per second", ""}


class MetricsError(Exception):
    """A row of the table that cannot stand."""


def checked(rows: Iterable[Metric]) -> tuple[Metric, ...]:
    """The rows; raises MetricsError for a name that is there twice or that Prometheus's rules speak against."""
    seen: set[str] = set()
    for row in rows:
        if row.name in seen:
            raise MetricsError(f"{row.name} is there twice")
        seen.add(row.name)
        if row.unit not in UNITS:
            raise MetricsError(
                f"{row.name} has the unit {row.unit!r}, which is no base unit: {sorted(UNITS)}"
            )
        bare = row.name.removesuffix("_total")
        if row.is_counter != (bare != row.name):
            raise MetricsError(f"{row.name}: a counter ends in _total, and nothing else does")
        if row.unit and not bare.endswith("_" + row.unit.replace(" ", "_")):
            raise MetricsError(f"{row.name} does not end in its unit, {row.unit}")
    return tuple(rows)


TABLE = checked((*KEYS, *RING, *LEARNING, *PROCESS))
