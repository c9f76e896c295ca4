"""Writes docs/metrics.md: every metric, from the table that processes have.

python docs/scripts/metrics.py
"""

from __future__ import annotations

from pathlib import Path

from orchestrator.metrics.rows import Metric
from orchestrator.metrics.table import KEYS, LEARNING, PROCESS, RING, WHERE

PAGE = Path(__file__).resolve().parents[1] / "metrics.md"
TEXT = """# Metrics

What every process serves at `/metrics` ([monitoring](monitoring.md) says how it is read). Written from `orchestrator/metrics/table.py`
by `python docs/scripts/metrics.py`; *at* says which roles serve it, *from* is the kind of event of `orchestrator/events/` that a number follows from. Each has the label
`role` as well, whose word it is. Beside them stand `qunetlab_build_info` (1, with the version), `qunetlab_metrics_failures_total`
(sources that could not be asked), and what prometheus-client tells of a process: `process_cpu_seconds_total`,
`process_resident_memory_bytes`, `process_open_fds`, `process_max_fds`, `process_start_time_seconds`,
`process_virtual_memory_bytes`.

Labels are names of this testbed (`pair`, `peer`, `role`, `lane`, `instrument`) or words of closed sets; whatever else somebody says
stands as `other`. `sae` is an application that the node serves. Every counter is there from the start, at 0 for every label that can come (of statuses of HTTP those that are usual);
what nobody has said yet (a block's QBER, a round's accuracy) is not there before it is said.
"""
PARTS = (("Key", KEYS), ("Ring", RING), ("Learning", LEARNING), ("Process", PROCESS))
HEAD = "| name | type | unit | labels | at | from | what |\n|---|---|---|---|---|---|---|\n"


def page() -> str:
    """The whole page."""
    return TEXT + "".join(f"\n## {title}\n\n{HEAD}" + "".join(map(_line, rows)) for title, rows in PARTS)


def _line(row: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in row.labels)
    kind = "counter" if row.is_counter else "gauge"
    where = ", ".join(WHERE[row.source])
    return f"| `{row.name}` | {kind} | {row.unit} | {labels} | {where} | `{row.source.__name__}` | {row.what} |\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
