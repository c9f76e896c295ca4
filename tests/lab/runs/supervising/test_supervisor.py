"""What a supervisor reads from the processes that it started: events as structs, also of other versions."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from lab.runs.supervising.supervisor import ChildError, Supervisor
from orchestrator.durable import is_full
from orchestrator.events.common import Serving, Unknown
from orchestrator.events.process import Ended, Failed, NodeServing, Printed, ProcessEvent, line_of
from orchestrator.events.status import BlockReport

READY = NodeServing(delivery="tcp://127.0.0.1:5", role="alice", version="1")
BLOCK = BlockReport(1, 2, "alice", "bob", True, secret_bits=5)


@pytest.fixture
def printing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A supervisor whose child ``alice`` prints these lines and ends."""
    start = subprocess.Popen

    def printing(*lines: str) -> Supervisor:
        script = f"print({chr(10).join(lines)!r})"
        monkeypatch.setattr(
            subprocess, "Popen", lambda command, **more: start([sys.executable, "-c", script], **more)
        )
        supervisor = Supervisor(tmp_path)
        supervisor.start("alice", "node", "alice")
        return supervisor

    return printing


def test_lines_become_events_and_what_is_no_event_is_kept(printing: Any) -> None:
    supervisor = printing("a warning", '{"type": "Decoyed"}', line_of(READY), line_of(BLOCK))
    seen: list[tuple[str, ProcessEvent]] = []
    supervisor.wait_for(lambda name, event: isinstance(event, Ended), 30, "lines", lambda *e: seen.append(e))
    kinds = [event if not isinstance(event, Unknown) else event.kind for _, event in seen]
    assert kinds == [Printed("a warning"), "Decoyed", READY, BLOCK, Ended()]


def test_a_first_line_of_a_newer_version_is_a_clear_error_and_not_a_timeout(printing: Any) -> None:
    newer = line_of(READY).replace("NodeServing", "MeshNodeServing")
    with pytest.raises(
        ChildError, match=r"starting alice: unknown event MeshNodeServing from alice \(a newer"
    ):
        printing(newer).ready(["alice"], 30)
    more = line_of(READY)[:-1] + ',"etsi020":"https://127.0.0.1:6"}'
    with pytest.raises(ChildError, match=r"unknown event NodeServing from alice .*etsi020"):
        printing(more).ready(["alice"], 30)


def test_the_end_of_a_child_that_was_replaced_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = ["print(1)", f"print({line_of(READY)!r}, flush=True); input()"]
    start, (no_more, more) = subprocess.Popen, os.pipe()

    def begin(command: list[str], **given: Any) -> subprocess.Popen[str]:
        return start([sys.executable, "-c", scripts.pop(0)], **given | {"stdin": no_more})

    monkeypatch.setattr(subprocess, "Popen", begin)
    supervisor = Supervisor(tmp_path)
    supervisor.start("alice")
    supervisor.join_readers()
    supervisor.restart("alice")
    heard: list[dict[str, Serving]] = []
    waiting = threading.Thread(target=lambda: heard.append(supervisor.ready(["alice"], 30)), daemon=True)
    waiting.start()
    waiting.join(10)
    os.close(more)  # the second child ends
    assert heard == [{"alice": READY}], "who waits for it has not heard it before its end"
    os.close(no_more)


def test_first_lines_are_told_by_name(printing: Any) -> None:
    assert printing(line_of(READY)).ready(["alice"], 30) == {"alice": READY}


@pytest.mark.parametrize("disk_full", [True, False])
def test_a_failure_is_told_in_the_words_of_the_process_and_a_full_disk_is_known_without_them(
    printing: Any, disk_full: bool
) -> None:
    supervisor = printing(line_of(Failed("error: kein Platz mehr", disk_full)))
    supervisor.wait_for(lambda name, event: isinstance(event, Ended), 30, "the end")
    with pytest.raises(
        ChildError, match="starting: alice ended with exit code 0: error: kein Platz mehr"
    ) as caught:
        supervisor.raise_ended("alice", "starting")
    assert is_full(caught.value) == disk_full


def test_a_command_that_fails_tells_its_supervisor_why(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path)
    supervisor.start("alice", "node", "alice", str(tmp_path / "no" / "testbed.toml"))
    with pytest.raises(ChildError, match=r"alice ended with exit code 2: error: .*testbed.toml"):
        supervisor.ready(["alice"], 60)


def test_a_process_that_dies_of_a_fault_of_the_machine_tells_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        "import os, resource, signal\n"
        "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
        "def in_a_kernel(): os.kill(os.getpid(), signal.SIGSEGV)\n"
        "in_a_kernel()"
    )
    start = subprocess.Popen
    monkeypatch.setattr(
        subprocess,
        "Popen",
        lambda command, **more: start([*command[: command.index("-m")], "-c", script], **more),
    )
    supervisor = Supervisor(tmp_path)
    supervisor.start("alice", "node", "alice")
    with pytest.raises(ChildError, match=r"exit code -11.*(?s:.*)Segmentation fault(?s:.*) in in_a_kernel"):
        supervisor.ready(["alice"], 30)


def test_a_child_is_replaced_by_another_program_without_an_end_being_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []
    start = subprocess.Popen
    script = f"print({line_of(READY)!r}, flush=True)\nimport time\ntime.sleep(60)"

    def popen(command: list[str], **more: Any) -> subprocess.Popen[str]:
        commands.append(command[command.index("-m") + 1 :])
        return start([sys.executable, "-c", script], **more)

    monkeypatch.setattr(subprocess, "Popen", popen)
    supervisor = Supervisor(tmp_path)
    honest = supervisor.start("alice", "node", "alice")
    supervisor.wait_for(lambda name, event: event == READY, 30, "its first line")
    liar = supervisor.replace("alice", ("attacks", "lying-relay"))
    try:
        assert commands == [["lab.cli.main", "node", "alice"], ["attacks", "lying-relay", "node", "alice"]]
        assert honest.process.poll() is not None
        assert supervisor.children["alice"] is liar
        assert supervisor.ready(["alice"], 30) == {"alice": READY}
        assert supervisor.drain() == []
    finally:
        supervisor.stop(["alice"])
