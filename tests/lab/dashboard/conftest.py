"""A dashboard that serves in a thread, asked through real sockets."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from served_dashboard import LIMIT_S, Served

from lab.dashboard import serving
from lab.dashboard.board import Board
from lab.dashboard.series import Series
from lab.runs.testbeds.folder import create_folder, template_path
from lab.runs.testbeds.machine import Machine


@pytest.fixture(scope="session")
def made_ring(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A testbed folder; only copies of it are used."""
    return create_folder(
        tmp_path_factory.mktemp("rings") / "bench", template_path("simulated-reference")
    ).parent


@pytest.fixture
def machine(made_ring: Path, tmp_path: Path) -> Machine:
    """A ring on this machine of which no role runs."""
    shutil.copytree(made_ring, tmp_path / "bench")
    return Machine(tmp_path / "bench", None)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Served]]:
    """Starts dashboards, and ends them."""
    boards: list[Board] = []
    series: list[Series] = []

    def keeping(kept: list[Any], kind: Callable[..., Any]) -> Callable[..., Any]:
        def make(*args: Any) -> Any:
            kept.append(kind(*args))
            return kept[-1]

        return make

    monkeypatch.setattr(serving, "Board", keeping(boards, Board))
    monkeypatch.setattr(serving, "Series", keeping(series, Series))
    with ExitStack() as stack:

        def start(machine: Machine, listen: str = "127.0.0.1:0") -> Served:
            stop, ready = threading.Event(), threading.Event()
            told: list[str] = []

            def tell(url: str, text: str) -> None:
                told.extend((url, text))
                ready.set()

            thread = threading.Thread(target=serving.serve, args=(machine, None, listen, stop, tell))
            thread.start()
            stack.callback(thread.join)
            stack.callback(stop.set)
            assert ready.wait(LIMIT_S)
            return Served(told[0], told[1], boards[-1], machine, series[-1])

        yield start
