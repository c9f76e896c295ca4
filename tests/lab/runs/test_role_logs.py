"""What a role prints and logs: events with their kind, its name and its version, never a formatted secret."""

from __future__ import annotations

import json
import logging
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from lab.runs.roles.logs import JsonFormatter
from lab.runs.roles.runtime import Runtime
from lab.runs.testbeds.folder import template_path
from orchestrator.events.process import LightProgress, NodeServing, event_of
from orchestrator.events.status import Alarm, BlockReport

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
    logged = [event for record in caplog.records if (event := getattr(record, "event", None)) is not None]
    assert logged == events[:3], "mere progress fills no log"
