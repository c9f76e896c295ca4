"""``qunetlab status`` as real processes at a real orchestrator: several observers, a hub that is killed, a relay that goes.

Relay and nodes are agents of this process that only keep their links, so nothing here makes light.
"""

from __future__ import annotations

import json
import queue
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import jsonschema
import pytest
from command_line import QUNETLAB

from lab.cli.status import show_status
from lab.runs.following.document import SCHEMA
from lab.runs.testbeds.folder import create_folder, template_path
from lab.testbed import load_testbed, write_testbed
from orchestrator.events.status import Alarm, BlockReport, Learning, Ready
from orchestrator.hub.agent import Agent
from orchestrator.hub.connect import connect_agent
from orchestrator.wire.messages import Demand

pytestmark = [pytest.mark.early, pytest.mark.timeout(180)]
TOLD_S = 5.0
"""The promise is a few seconds; starting a command on a busy machine is not part of it."""
PATIENCE_S = 40.0


class Process:
    """A command with its lines as they come."""

    def __init__(self, stack: ExitStack, *arguments: str) -> None:
        self.child = subprocess.Popen(
            [sys.executable, "-u", *QUNETLAB[1:], *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        stack.callback(self.end)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self._errors = threading.Thread(target=self._drain)
        self._errors.start()

    def _read(self) -> None:
        assert self.child.stdout is not None
        for line in self.child.stdout:
            self.lines.put(line.rstrip("\n"))

    def _drain(self) -> None:
        assert self.child.stderr is not None
        self.child.stderr.read()

    def until(self, wanted: Callable[[str], bool], what: str) -> float:
        """Wait for a line; returns how long it took."""
        started = time.monotonic()
        seen = []
        while time.monotonic() - started < PATIENCE_S:
            try:
                seen.append(self.lines.get(timeout=0.5))
            except queue.Empty:
                assert self.child.poll() is None, f"ended while waiting for {what}: {seen}"
                continue
            if wanted(seen[-1]):
                return time.monotonic() - started
        raise AssertionError(f"no {what} in {seen}")

    def end(self) -> None:
        self.child.kill()
        self.child.wait()
        self._reader.join()
        self._errors.join()


class Bench:
    """A folder with fixed endpoints, its orchestrator, and the links of relay and nodes."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.stack = stack
        self.path = create_folder(folder / "bench", template_path("simulated-reference"))
        data = tomllib.loads(self.path.read_text(encoding="utf-8"))
        with ExitStack() as probes:
            found = [probes.enter_context(socket.socket()) for _ in range(2)]
            for each in found:
                each.bind(("127.0.0.1", 0))
            control, bulk = (f"tcp://127.0.0.1:{each.getsockname()[1]}" for each in found)
        data["hub"] = {"control": control, "bulk": bulk}
        write_testbed(data, self.path)
        self.testbed = load_testbed(self.path)
        self.agents: dict[str, Agent] = {}
        self.start_hub()

    def start_hub(self) -> None:
        self.hub = Process(self.stack, "orchestrator", str(self.path))
        self.hub.until(lambda line: json.loads(line).get("ready") is True, "ready line")

    def join(self, *roles: str) -> None:
        for role in roles:
            agent = connect_agent(self.testbed, role, self.path.parent / "secrets" / role)
            self.stack.callback(agent.close)
            self.agents[role] = agent
            assert agent.wait_up(PATIENCE_S)

    def watch(self, *options: str) -> Process:
        return Process(self.stack, "status", str(self.path), "--watch", *options)

    def check(self, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
        """``status --check``: its exit code and its line."""
        code = show_status(self.path, None, False, check=True)
        (line,) = capsys.readouterr().out.splitlines()
        return code, line

    def check_until(self, wanted: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, float]:
        """Check until the line has ``wanted``; the exit code, and how long that took."""
        started = time.monotonic()
        while time.monotonic() - started < PATIENCE_S:
            code, line = self.check(capsys)
            if wanted in line:
                return code, time.monotonic() - started
        raise AssertionError(f"never {wanted!r}, but {line!r}")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(tmp_path, stack)


def test_two_watch_while_the_hub_is_killed_and_the_relay_goes(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    users = bench.testbed.user_names()
    bench.join("relay", *users)
    assert bench.check_until("IDLE", capsys)[0] == 0
    watching = [bench.watch(), bench.watch("--json")]

    def both(state: str, words: str) -> None:
        watching[0].until(lambda line: line.startswith(words), words)
        watching[1].until(lambda line: json.loads(line).get("verdict", {}).get("state") == state, state)

    both("idle", "IDLE")
    bench.hub.end()
    both("no answer", "NO ANSWER")
    bench.start_hub()
    both("idle", "IDLE")
    bench.agents["relay"].close()
    code, took_s = bench.check_until("relay gone", capsys)
    assert code == 3
    assert took_s < TOLD_S
    both("stopped", "RING STOPPED")
    assert all(each.child.poll() is None for each in watching)


def test_hostile_text_through_a_real_hub_does_nothing_to_a_terminal(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    """Everything with text that a relay and a node may say, and names that are not theirs."""
    first, second = bench.testbed.user_names()[:2]
    bench.join("relay", first, second)
    hostile = "\x1b[2J\x1b]0;x\x07\u202eIDLE\r\nIDLE 0 s: all is well<script>\u2028"
    node = bench.agents[first]
    node.control_send(BlockReport(1, 1, first, second, False, hostile))
    node.control_send(Alarm("store", hostile, second))
    node.control_send(Ready(False, hostile, (hostile,)))
    node.control_send(Demand(first, second, 100, purpose=hostile))
    bench.agents["relay"].control_send(Ready(False, hostile))
    bench.agents["relay"].control_send(Learning(hostile, hostile[:20], "finished", 1, reason=hostile))
    bench.check_until("relay not ready", capsys)
    shown = []
    for options in ({"as_json": False}, {"as_json": True}, {"as_json": False, "check": True}):
        show_status(bench.path, None, **options)
        shown.append(capsys.readouterr().out)
    page, document, line = shown
    schema = json.loads((Path(__file__).parents[2] / "docs/status.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(json.loads(document), schema)
    assert page.count("\\u001b[2J\\u001b]0;x\\u0007\\u202eIDLE") >= 4
    assert "refused: 1 messages of relay" in page
    assert line.count("\n") == 1
    assert not [each for each in page.splitlines() if each.startswith("IDLE")]
    assert hostile in {item["data"].get("reason") for item in json.loads(document)["items"]}
    for text in shown:
        assert all(each.isprintable() or each == "\n" for each in text)


def test_without_an_orchestrator_the_check_says_so_in_one_line(
    bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lab.cli.status.CONNECT_TIMEOUT_S", 0.5)
    bench.hub.end()
    code, line = bench.check(capsys)
    assert code == 3
    assert line.startswith("NO ANSWER 0 s: the orchestrator at tcp://127.0.0.1:")


def test_the_check_for_scripts_has_one_shape_with_and_without_an_orchestrator(
    bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lab.cli.status.CONNECT_TIMEOUT_S", 0.5)
    for hub_runs, state, text in (
        (True, "stopped", "relay gone"),
        (False, "no answer", "the orchestrator at"),
    ):
        if not hub_runs:
            bench.hub.end()
        code = show_status(bench.path, None, True, check=True)
        document = json.loads(capsys.readouterr().out)
        assert document.keys() == {"schema", "verdict"}
        assert (document["schema"], document["verdict"]["state"]) == (SCHEMA, state)
        assert document["verdict"]["text"].startswith(text)
        assert code == document["verdict"]["exit_code"] == 3


@pytest.mark.long
def test_key_that_is_asked_for_of_parties_that_refuse_is_no_running_ring(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    """Agents that answer no offer: every lease is withdrawn, and the ring stands still though all are here."""
    users = bench.testbed.user_names()
    bench.join("relay", *users)
    bench.agents[users[0]].control_send(Demand(users[0], users[1], 10**6))
    assert bench.check_until(f"s: {users[0]}-{users[1]}: no answer from", capsys)[0] == 3


@pytest.mark.long
def test_a_training_run_that_lost_its_server_is_not_shown_as_if_it_went_on(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.join("relay", *bench.testbed.user_names())
    settings = bench.path.with_name("server.toml")
    settings.write_text('run-id = "r1"')
    server = Process(bench.stack, "fl", "server", str(bench.path), "--config", str(settings))
    server.until(lambda line: json.loads(line).get("ready") is True, "ready line")
    started = time.monotonic()
    page = ""
    while "training r1 (otp): waiting, 0 of" not in page:
        assert time.monotonic() - started < PATIENCE_S, page
        show_status(bench.path, None, False)
        page = capsys.readouterr().out
    server.end()
    assert bench.check_until("training r1 was left by its server", capsys)[0] == 1
