"""Rounds of the latest training run as the pages get them, and the audit that a page asks for."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lab.dashboard import actions
from lab.dashboard.actions import ActionError, act
from lab.dashboard.rounds import ROUNDS_KEPT, latest_rounds
from lab.runs.audit.findings import Audit, Check, Finding
from lab.runs.records.listing import Found, Kind, Listed
from lab.runs.testbeds.machine import Machine


def found(*runs: tuple[str, Kind, list[dict[str, Any]]]) -> Found:
    made = Found()
    for name, kind, records in runs:
        made.add(
            Listed(id=name, kind=kind, when=datetime(2026, 1, 1, tzinfo=UTC), ok=True, result=""), records
        )
    return made


def test_the_newest_rounds_of_the_latest_training_are_told_and_nothing_of_their_digests() -> None:
    records = [
        {"role": "fl-server", "round": number, "accuracy": 0.5, "key_bits": 9, "uploads": {"alice": "ab"}}
        for number in range(ROUNDS_KEPT + 3)
    ]
    told = latest_rounds(
        found(("training/a", "training", []), ("training/b", "training", records), ("run/1", "run", [{}]))
    )
    assert told is not None
    assert told["run_id"] == "b"
    assert told["rounds"][0] == {"round": 3, "accuracy": 0.5, "key_bits": 9}
    assert len(told["rounds"]) == ROUNDS_KEPT


def test_no_training_on_record_is_nothing() -> None:
    assert latest_rounds(found(("run/1", "run", [{}]))) is None


def test_an_audit_says_what_it_found_of_the_folder_and_goes_on_once_only(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def audited(folder: Path) -> Audit:
        asked.append(folder)
        with pytest.raises(ActionError, match="goes on already"):
            act(machine, "audit", {})
        check = Check("blocks", "failed", 2, (Finding("bits differ", "block/1/2", "one end lies"),))
        return Audit(str(folder), False, (check,))

    monkeypatch.setattr(actions, "audited", audited)
    told = act(machine, "audit", {})
    assert asked == [machine.path.parent]
    assert told["text"].endswith("1 inconsistency")
    assert told["audit"]["checks"][0]["findings"][0]["where"] == "block/1/2"
    page = machine.folder("dashboard") / "audit.html"
    assert told["page"] == "/pages/audit"
    assert "one end lies" in page.read_text(encoding="utf-8")
    page.unlink()
    page.mkdir()  # nothing can be written there
    again = act(machine, "audit", {})
    assert "1 inconsistency; " in again["text"]
    assert "audit.html cannot be written" in again["text"]
    assert "page" not in again


def test_an_audit_takes_nothing_to_be_told(machine: Machine) -> None:
    with pytest.raises(ValueError, match="folder"):
        act(machine, "audit", {"folder": "/etc"})
