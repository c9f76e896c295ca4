"""Training on a simulated ring with real processes: keys are made while rounds run, and faults only cost time.

Each test starts the dozen processes of a run; blocks are short, so that a pair is keyed in a second or two.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from command_line import QUNETLAB

from lab.runs.audit.auditing import audited, lines
from lab.runs.supervising.supervisor import Supervisor
from lab.runs.testbeds.folder import create_folder, template_path
from lab.testbed import load_testbed, write_testbed

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
SMALL = {"slots_per_frame": 1 << 20, "pulses_per_block": 1 << 25}


@pytest.fixture
def small_testbed(tmp_path: Path) -> Path:
    data = tomllib.loads(template_path("simulated-four-node").read_text(encoding="utf-8"))
    data["protocol"] |= SMALL
    path = tmp_path / "small.toml"
    write_testbed(data, path)
    return path


def asked(command: list[str]) -> list[str]:
    """What a process of ours was asked to do; nothing of another process."""
    return command[command.index("lab.cli.main") + 1 :] if "lab.cli.main" in command else []


class Training:
    """A running ``qunetlab train``; its progress lines are collected."""

    def __init__(self, tmp_path: Path, *arguments: str) -> None:
        self.private = tmp_path / "private"
        self.private.mkdir(exist_ok=True)
        self.process = subprocess.Popen(
            [*QUNETLAB, "train", "digits", "--json", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(self.private)},
        )
        self.lines: list[str] = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines.extend(self.process.stderr)

    def until(self, condition: Callable[[], object], what: str, timeout_s: float = 180.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert self.process.poll() is None, "".join(self.lines)
            assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}\n{''.join(self.lines)}"
            time.sleep(0.05)

    def says(self, text: str) -> bool:
        return any(text in line for line in self.lines)

    def role(self, *words: str) -> int:
        """The process of one role of this run."""
        (found,) = [pid for pid, command in self.children() if asked(command)[: len(words)] == list(words)]
        return found

    def children(self) -> list[tuple[int, list[str]]]:
        found = []
        for entry in Path("/proc").iterdir():
            try:
                command = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if entry.name.isdigit() and any(str(self.private) in word for word in command):
                found.append((int(entry.name), command))
        return found

    def end(self, timeout_s: float = 400.0) -> dict[str, Any]:
        """The results of a run that ended as it should."""
        assert self.process.stdout is not None
        out = self.process.stdout.read()
        assert self.process.wait(timeout_s) == 0, "".join(self.lines)
        results: dict[str, Any] = json.loads(out)
        return results


@contextmanager
def training(tmp_path: Path, *arguments: str) -> Iterator[Training]:
    run = Training(tmp_path, *arguments)
    try:
        yield run
    finally:
        run.process.terminate()
        try:
            run.process.wait(60)
        finally:
            run.process.kill()
    assert not run.children()


def test_faults_in_a_lease_delay_rounds_and_corrupt_none(small_testbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with training(
        tmp_path, "--testbed", str(small_testbed), "--live", "--rounds", "4", "--out", str(out)
    ) as run:
        run.until(lambda: run.says("waiting for keys"), "a round that waits for keys")
        simulator = run.role("simulate")
        os.kill(simulator, signal.SIGSTOP)  # every instrument falls silent in the middle of a lease
        try:
            run.until(lambda: run.says("instrument fault"), "the fault is told", 60)
        finally:
            os.kill(simulator, signal.SIGCONT)
        relay = run.role("relay")
        os.kill(relay, signal.SIGKILL)
        results = run.end()
    assert [row["round"] for row in results["rounds"]] == [1, 2, 3, 4]
    assert [row["exact"] for row in results["rounds"]] == [True] * 4
    stalls = {stall["cause"]: stall["seconds"] for stall in results["stalls"]}
    assert stalls["instrument fault"] > 0.5
    assert stalls["waiting for keys"] > 0.5
    assert any("relay was started again 1x" in note for note in results["notes"])
    assert any("every instrument of this testbed is simulated" in note for note in results["notes"])
    assert not any("NOT in their safe state" in note for note in results["notes"])
    reference = results["baselines"]["float32"]["final"]["accuracy_mean"]
    assert results["final"]["accuracy_mean"] == pytest.approx(reference, abs=0.03)
    assert (results["key_supply"], results["security"]) == ("live", "information-theoretic")
    bits = 18_100 * 6
    record = results["key_budget"]["record"]
    assert record["used_bits"] == 4 * bits
    assert sum(row["delivered"] for row in record["ledgers"]) == record["used_bits"] + record["burnt_bits"]
    assert all(row["missing_bits"] == 4 * 18_100 for row in results["key_budget"]["forecast"]["pairs"])
    audit = audited(out)
    assert audit.passed, "\n".join(lines(audit))
    assert [check.name for check in audit.checks if check.state == "not checkable here"] == ["sealed key"]


def test_an_interrupted_live_run_goes_on_with_its_next_round(small_testbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with training(
        tmp_path, "--testbed", str(small_testbed), "--live", "--rounds", "6", "--out", str(out)
    ) as run:
        state = out / "state" / "fl-server"
        run.until(
            lambda: any(len(json.loads(p.read_text())["rounds"]) >= 2 for p in state.glob("*/run.json")),
            "two rounds",
        )
        run.process.send_signal(signal.SIGINT)
        assert run.process.wait(90) == 130
        run.reader.join(10)
        assert run.says(f"--resume {out}")
    left = json.loads((out / "results.json").read_text())
    assert not left["complete"]
    done = len(left["rounds"])
    with training(tmp_path, "--resume", str(out)) as run:
        results = run.end()
    assert results["complete"]
    assert len(results["rounds"]) == 6
    assert results["rounds"][:done] == left["rounds"]
    assert all(row["exact"] is True for row in results["rounds"])
    audit = audited(out)
    assert audit.passed, "\n".join(lines(audit))
    with pytest.raises(AssertionError), training(tmp_path, "--resume", str(out), "--rounds", "9") as run:
        run.end()
    assert run.says("rounds is 6 there, not 9")


def test_stock_serves_without_light_and_a_shortage_is_never_silent(
    small_testbed: Path, tmp_path: Path
) -> None:
    data = tomllib.loads(small_testbed.read_text(encoding="utf-8"))
    data["protocol"]["pulses_per_block"] *= 3  # one block of a pair is enough for two rounds and what follows
    write_testbed(data, small_testbed)
    home = tmp_path / "bench"
    create_folder(home, small_testbed)
    base = ["--testbed", str(home), "--no-baselines"]
    with training(tmp_path, *base, "--live", "--rounds", "1", "--out", str(tmp_path / "live")) as run:
        assert run.end()["key_supply"] == "live"
    with training(tmp_path, *base, "--rounds", "1", "--out", str(tmp_path / "store")) as run:
        results = run.end()
    assert (results["key_supply"], results["security"]) == ("store", "information-theoretic")
    assert results["rounds"][0]["exact"] is True
    assert results["key_budget"]["forecast"]["verdict"] == "in-stock"
    with (
        pytest.raises(AssertionError),
        training(tmp_path, *base, "--rounds", "900", "--out", str(tmp_path / "short")) as run,
    ):
        run.end()
    assert run.process.returncode == 1
    assert run.says("nothing makes key for it; nothing was spent")
    with training(
        tmp_path, *base, "--rounds", "20", "--if-short", "expanded", "--out", str(tmp_path / "expanded")
    ) as run:
        results = run.end()
    assert (results["mode"], results["security"]) == ("expanded", "computational")
    assert any("mode expanded was taken instead of otp" in note for note in results["notes"])
    assert {row["key_bits"] for row in results["rounds"]} == {6 * 256}
    assert all(row["exact"] is True for row in results["rounds"])


def free_base(count: int) -> int:
    """A port from which on ``count`` ports were free a moment ago."""
    for base in range(20_000 + os.getpid() % 5000, 60_000, count):
        with ExitStack() as stack:
            try:
                for port in range(base, base + count):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return base
    raise AssertionError("no free ports")


def test_on_a_testbed_at_work_only_learning_is_started(small_testbed: Path, tmp_path: Path) -> None:
    home = tmp_path / "bench"
    path = create_folder(home, small_testbed, host="127.0.0.1", port=free_base(7))
    supervisor = Supervisor(tmp_path)
    roles = ["orchestrator", "relay", *load_testbed(path).user_names()]
    try:
        supervisor.start("simulate", "simulate", str(path), "--json", "--resolved", str(path))
        supervisor.ready(["simulate"], 90)
        for role in roles:
            command = [role] if role in ("orchestrator", "relay") else ["node", role]
            supervisor.start(role, *command, str(path))
        supervisor.ready(roles, 90)
        out = tmp_path / "out"
        base = ["--testbed", str(home), "--rounds", "2", "--no-baselines"]
        with pytest.raises(AssertionError), training(tmp_path, *base, "--out", str(tmp_path / "no")) as run:
            run.end()
        assert run.says("its ring makes key on demand: add --live")
        with training(tmp_path, *base, "--live", "--out", str(out)) as run:
            run.until(lambda: len(run.children()) >= 4, "the clients")
            started = [command for _, command in run.children()]
            assert {asked(command)[0] for command in started if asked(command)} == {"fl"}
            # besides, the one that removes the private folder if this run is killed
            assert sum("lab.cli.main" not in command for command in started) <= 1
            results = run.end()
        assert [row["exact"] for row in results["rounds"]] == [True, True]
        assert (results["key_supply"], results["testbed"]) == ("live", "simulated-four-node")
        assert results["key_budget"]["record"]["used_bits"] == 2 * 6 * 18_100
        assert (out / "logs" / "fl-alice.log").exists()
        assert all(supervisor.children[role].process.poll() is None for role in roles)
    finally:
        supervisor.stop_all([roles[2:], ["relay"], ["orchestrator"], ["simulate"]])
