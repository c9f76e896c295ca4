"""The command line in this process, for whoever asks only what it answers."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest
from published_schema import hold_against_schema
from typer.testing import CliRunner

from lab.cli.errors import explain
from lab.cli.main import app
from lab.runs.following.observer import Observer
from lab.runs.testbeds.folder import template_path
from lab.testbed import load_testbed, parse_testbed, resolve_addresses, write_testbed
from orchestrator.wire.links import LinkState
from sim_backends.bench import Bench


@dataclass(frozen=True)
class Said:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


class Command(Protocol):
    """``qunetlab ARGUMENTS``; ``data`` is the data folder of that call."""

    def __call__(self, *arguments: str, data: Path | None = None) -> Said: ...


@pytest.fixture(scope="session")
def qunetlab() -> Command:
    """Errors are told as :func:`lab.cli.main.main` does; what is JSON is held against the published schema."""

    def call(*arguments: str, data: Path | None = None) -> Said:
        result = CliRunner(env={"QUNETLAB_DATA": str(data)} if data else None).invoke(app, arguments)
        if "--json" in arguments and result.exit_code != 2:
            hold_against_schema(arguments, result.stdout)
        if result.exception is None or isinstance(result.exception, SystemExit):
            return Said(result.exit_code, result.stdout, result.stderr)
        code, text = explain(result.exception)
        return Said(code, result.stdout, f"{result.stderr}{text}\n")

    return call


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are laid out but not drawn: half a second less for every page."""
    monkeypatch.setattr("lab.runs.pages.style.svg_of", lambda figure, name: "<svg></svg>")


class SimulatedLab:
    """A simulated bench and its testbed file, ``testbed.toml`` in ``folder``."""

    def __init__(self, folder: Path) -> None:
        data = tomllib.loads(template_path("simulated-four-node").read_text())
        self.bench = Bench(parse_testbed(data, Path("t.toml")))
        self.folder = folder
        resolved = resolve_addresses(data, self.bench.serve())
        for entry in resolved["instruments"]:
            entry["options"] = {**entry.get("options", {}), **self.bench.options.get(entry["name"], {})}
        write_testbed(resolved, folder / "testbed.toml")

    @property
    def lit(self) -> bool:
        return bool({"laser", "launch"} & set(self.bench.unsafe()))


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[SimulatedLab]:
    lab = SimulatedLab(tmp_path)
    yield lab
    lab.bench.close()


class NoGuard:
    """In the place of a guard process: instruments that are twins of this process end with it, and have nobody left to darken them.

    What the station does not make safe by itself is an error.
    """

    lives = True

    def __init__(self, owner: str, **_: object) -> None: ...

    def watch(self, watched: object) -> None: ...

    def await_ready(self) -> None: ...

    def dismiss(self) -> None: ...

    def call(self) -> bool:
        return False


@pytest.fixture
def no_guards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions with twins of this process start no guards, each of which loads all drivers: 0.7 processor seconds for every role.

    Guards of sessions: ``test_sessions.py``, ``test_bench.py`` and ``calibrating/test_interrupted.py``.
    """
    monkeypatch.setattr("lab.guard.Guard", NoGuard)


class ListeningAgent:
    """An agent whose hub says what the test wants."""

    def __init__(self, *events: Any) -> None:
        self.events = list(events)
        self.sent: list[Any] = []
        self.link_state = LinkState.UP
        self.link_reason = ""
        self.epoch = 1

    def control_recv(self, timeout_s: float) -> Any:
        return self.events.pop(0) if self.events else None

    def control_send(self, message: Any) -> None:
        self.sent.append(message)


class Moments:
    """A clock that only the test moves."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def observed() -> Callable[..., Observer]:
    """An observer of the four-node testbed whose hub says the given events, with a clock that stands still."""

    def make(*events: Any) -> Observer:
        agent: Any = ListeningAgent(*events)
        return Observer(load_testbed(template_path("simulated-four-node")), agent, Moments())

    return make
