"""Static: threads, clocks, queues and futures are had through ``orchestrator/runtime`` only.

Whatever else waited for a thread, or looked at a clock, would stand still or run away in a simulation.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("orchestrator", "fl/rounds", "fl/modes", "fl/keys", "fl/carriers/zeromq")
SEAM = "orchestrator/runtime/"
TRANSPORTS = {"orchestrator/delivery/http/": {"asyncio"}}
"""What waits for sockets of other people's programs, which no simulation holds."""

MODULES = {
    *("threading", "_thread", "queue", "time", "sched", "asyncio", "select", "selectors", "signal"),
    *("concurrent", "concurrent.futures", "multiprocessing"),
}


def means(source: str) -> Iterator[tuple[int, str]]:
    """(line, module) wherever ``source`` has a thread or a clock from elsewhere."""
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        yield from ((node.lineno, name) for name in names if name in MODULES)


def test_threads_and_clocks_are_had_through_the_seam() -> None:
    seen = 0
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if name.startswith(SEAM):
                continue
            seen += 1
            allowed = {
                each for folder, some in TRANSPORTS.items() if name.startswith(folder) for each in some
            }
            for line, module in means(path.read_text(encoding="utf-8")):
                if module in allowed:
                    continue
                raise AssertionError(f"{name}:{line} imports {module}; use orchestrator.runtime")
    assert seen > 100


@pytest.mark.parametrize(
    "planted",
    [
        "import threading",
        "from threading import Lock",
        "from time import monotonic as clock",
        "import queue as boxes",
        "from concurrent.futures import Future",
        "import asyncio",
        "def late():\n    import time\n    time.sleep(1)",
    ],
)
def test_a_thread_or_clock_beside_the_seam_is_found(planted: str) -> None:
    assert list(means(planted))


def test_the_seam_itself_is_none() -> None:
    assert not list(means("from orchestrator import runtime\nruntime.sleep(1)\n"))
