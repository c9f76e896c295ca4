"""Static: no duration, lease, time-out or age hangs on the wall clock, which may be stepped at any time."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("drivers", "sim_backends", "lab", "orchestrator", "fl")

ALLOWED = {
    "orchestrator/wall_clock.py": "whether a certificate is valid, the day of a quota, dates of records and of the queue's entries",
    "orchestrator/delivery/certificates.py": "whether a list of revoked certificates was replaced",
    "drivers/guard_process.py": "when a line was logged, for people",
    "sim_backends/detectors/websq.py": "the instrument's own time stamp in front of its counts",
    "lab/calibration/book.py": "the age of a calibration, in hours, across machines and restarts; one ahead of the clock is stale",
    "lab/alarms/kept.py": "how much of a shelf is left after a restart, at most a day",
    "lab/interlock/latch.py": "when something was latched, for people",
    "lab/runs/first_contact/recording.py": "the day of a recording, for people",
    "lab/datasets/slow_log.py": "when a slow value was read, for people",
    "lab/readings.py": "the age of a value that QCoDeS stamped, in a record",
    "lab/dashboard/board.py": "when a page begins to count ages, by the server's clock, for people",
    "lab/runs/attacks/control.py": "which suspensions and entries, dated by the orchestrator, came under the attack that ends",
    "lab/dashboard/watching.py": "when a line of the log came, for people",
    "lab/cli/role_line.py": "when something happened to a role, for people",
    "lab/runs/roles/logs.py": "when a line was logged, for people",
    "lab/runs/made_safe.py": "when instruments were made safe, for people",
    "lab/runs/own_folder.py": "the name of a run folder",
    "lab/runs/training/on_testbed.py": "when a run began, for people",
    "lab/runs/training/simulated.py": "when a run began, for people",
    "lab/runs/roles/processes.py": "which of several unfinished runs is the newest; each can be named instead",
    "fl/qpu/runner.py": "the age of a job at a service, across restarts; believed to a day",
}
CLOCKS = {
    "datetime.now",
    "datetime.datetime.now",
    "time.time",
    "time.time_ns",
    "time.localtime",
    "time.gmtime",
    "time.ctime",
    "time.strftime",
}
METHODS = {"utcnow", "today", "st_mtime", "st_ctime", "st_atime", "st_mtime_ns"}


def readings(source: str) -> Iterator[tuple[int, str]]:
    """(line, name) wherever ``source`` reads the wall clock or what it left on files."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            name = f"{node.value.id}.{node.attr}" if isinstance(node.value, ast.Name) else node.attr
            if name in CLOCKS or node.attr in METHODS:
                yield node.lineno, name
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            names = {f"time.{alias.name}" for alias in node.names} & CLOCKS
            yield from ((node.lineno, name) for name in sorted(names))


def test_the_wall_clock_is_read_for_people_only() -> None:
    found = set()
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            for line, reading in readings(path.read_text(encoding="utf-8")):
                found.add(name)
                assert name in ALLOWED, f"{name}:{line} reads {reading}; durations take time.monotonic()"
    assert found == set(ALLOWED), "an entry of ALLOWED that nothing needs"


@pytest.mark.parametrize(
    "planted",
    [
        "deadline = time.time() + 5",
        "clock: Callable[[], float] = time.time",
        "from time import time",
        "started = datetime.now(UTC)",
        "age = path.stat().st_mtime",
        "datetime.datetime.utcnow()",
    ],
)
def test_a_reading_of_the_wall_clock_is_found(planted: str) -> None:
    assert list(readings(planted))


def test_the_monotonic_clock_is_none() -> None:
    assert not list(readings("deadline = time.monotonic() + 5\nwait(deadline - time.perf_counter())\n"))
