"""The page of an audit: what does not fit stands first, and a good one says so; the command writes it where it is told."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from made_reports import AUDITED
from msgspec.structs import replace

from lab.runs.audit import auditing
from lab.runs.pages.audit_page import render_audit

if TYPE_CHECKING:
    from tests.lab.conftest import Command

AT = "2026-03-01T12:00:00Z"


def test_what_does_not_fit_stands_before_every_check_and_is_quoted() -> None:
    page = render_audit(AUDITED, AT)
    order = [page.index(each) for each in ("1 of their facts", "What does not fit", "Every check", "Notes")]
    assert order == sorted(order)
    for text in (
        "one of the two &lt;lies&gt;",
        "<span class='bad'>failed</span>",
        "1,204",
        "2026-03-01 12:00:00 UTC",
        "1 passed, 1 failed",
    ):
        assert text in page, text
    assert "Nothing contradicts itself" not in page
    assert "<lies>" not in page


def test_records_that_fit_are_said_to_fit() -> None:
    good = replace(AUDITED, passed=True, checks=tuple(c for c in AUDITED.checks if c.state == "passed"))
    page = render_audit(good, AT)
    assert "Nothing contradicts itself" in page
    assert "alarm'>" not in page
    assert "<h2>Notes</h2>" not in page


def test_the_command_writes_it_and_ends_with_what_was_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, qunetlab: Command
) -> None:
    monkeypatch.setattr(auditing, "audited", lambda run, data: AUDITED)
    said = qunetlab("audit", str(tmp_path), "--out", str(tmp_path / "page.html"))
    assert said.returncode == 1
    assert said.stdout.endswith(f"page in {tmp_path / 'page.html'}\n")
    assert "What does not fit" in (tmp_path / "page.html").read_text(encoding="utf-8")
    refused = qunetlab("audit", str(tmp_path), "--out", str(tmp_path / "none" / "page.html"))
    assert refused.returncode == 2
    assert "cannot be written" in refused.stderr
