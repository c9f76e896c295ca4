"""What a role prints and logs: events with their kind, its name and its version, never a formatted secret."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from drivers.guard_process import JsonLines
from lab.runs.roles.logs import JsonFormatter
from lab.runs.roles.runtime import Runtime
from lab.runs.testbeds.folder import template_path
from orchestrator.events.process import LightProgress, NodeServing, event_of
from orchestrator.events.status import Alarm, BlockReport
from orchestrator.log_context import known

FAILED = BlockReport(1, 2, "alice", "bob", False, "QBER 0.12 is above the bound", pulses=16, qber=0.12)


def test_a_log_record_of_an_event_carries_it_with_kind_role_and_version() -> None:
    record = logging.LogRecord("node", logging.WARNING, "", 0, "no key: %s", ("noisy",), None)
    record.event = FAILED
    entry = json.loads(JsonFormatter("alice").format(record))
    assert (entry["role"], entry["version"], entry["message"]) == (
        "alice",
        version("qunetlab"),
        "no key: noisy",
    )
    assert entry["event"]["type"] == "BlockReport"
    assert event_of(json.dumps(entry["event"])) == FAILED


def test_what_a_role_prints_is_the_struct_that_it_told_and_its_first_line_names_it(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handlers: dict[int, Any] = {}
    monkeypatch.setattr("signal.signal", handlers.__setitem__)
    monkeypatch.setattr("lab.runs.roles.runtime.set_up_logging", lambda role, **more: None)
    monkeypatch.setattr("os.umask", lambda mask: mask)
    caplog.set_level(logging.INFO)
    runtime = Runtime("alice", template_path("simulated-four-node"), tmp_path, tmp_path)
    runtime.emit(NodeServing(delivery="tcp://127.0.0.1:5"))
    runtime.emit(FAILED)
    runtime.emit(Alarm("store", "full"))
    runtime.emit(LightProgress("alice", "bob", 8, 16, 1, 2.0))
    events = [event_of(line) for line in capsys.readouterr().out.splitlines()]
    url = events[0].metrics  # type: ignore[union-attr]
    first = NodeServing(delivery="tcp://127.0.0.1:5", role="alice", version=version("qunetlab"), metrics=url)
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/metrics", url)
    assert events == [first, FAILED, Alarm("store", "full"), LightProgress("alice", "bob", 8, 16, 1, 2.0)]
    about = []
    monkeypatch.setattr(
        "lab.runs.roles.runtime.logger.info", lambda *_, **__: about.append(known().get("pair"))
    )
    for peer in ("bob", "nobody", ""):
        runtime.emit(Alarm("low-water", "low", peer=peer))
    assert about == ["alice-bob", None, None]
    logged = [event for record in caplog.records if (event := getattr(record, "event", None)) is not None]
    assert logged == events[:3], "mere progress fills no log"


CARELESS = """
import logging, sys, threading, warnings
from lab.runs.roles.logs import set_up_logging, told_at_the_end
from orchestrator.events.status import BlockReport
set_up_logging("alice")
log = logging.getLogger("careless")

class Unspeakable:
    def __str__(self):
        raise RuntimeError("no words")

class Dying:
    def __del__(self):
        raise RuntimeError("too late")

def fails():
    raise RuntimeError("in a thread")

log.info("%s", Unspeakable())
log.info("%d", "no number")
log.info("a block", extra={"event": BlockReport(1, 2, "alice", "bob", False, qber=float("nan"))})
log.info("two\\nlines \\ud800 \\x1b[31m")
warnings.warn("of a library")
thread = threading.Thread(target=fails, name="worker")
thread.start()
thread.join()
dying = Dying()
del dying
try:
    fails()
except RuntimeError as error:
    told_at_the_end("unexpected", error)
log.info("the end")
"""


def test_every_line_is_json_whatever_fails() -> None:
    ran = subprocess.run([sys.executable, "-c", CARELESS], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    lines = [json.loads(line, parse_constant=pytest.fail) for line in ran.stderr.splitlines()]
    assert all(set(line) >= {"time", "level", "role", "version", "logger", "message"} for line in lines)
    said = [line["message"] for line in lines]
    assert said[0] == "<Unspeakable, which cannot be shown: RuntimeError>"
    assert lines[2]["event"]["qber"] is None
    assert (lines[2]["pair"], lines[2]["session"]) == ("alice-bob", "1/2")
    assert "UserWarning: of a library" in said[4]
    assert "the thread worker has failed" in said[5]
    assert "RuntimeError: too late" in lines[6]["trace"]
    assert "RuntimeError: in a thread" in lines[7]["trace"]
    assert said[8:] == ["the end"]


def test_a_role_that_cannot_start_says_so_in_a_line_of_its_log(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lab.cli.main", "relay", str(tmp_path / "nowhere"), "--json"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    (line,) = (json.loads(each) for each in ran.stderr.splitlines())
    assert (ran.returncode, line["role"], line["level"]) == (2, "relay", "critical")
    assert "nowhere" in line["message"]
    assert "trace" not in line


def test_the_guard_of_a_role_logs_as_the_role_does() -> None:
    record = logging.LogRecord("drivers.guard", logging.WARNING, "", 0, "%s are safe", ("they",), None)
    role, guard = (json.loads(each("relay").format(record)) for each in (JsonFormatter, JsonLines))
    assert guard == role
