"""What a demo says of itself at its end: the terminal, ``report.json`` and the page say the same."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from made_reports import demo_report

from fl.experiments.notes import TWO_CLIENTS_NOTE, notes_for
from fl.rounds.config import FLConfig
from lab.runs.demo import event_warnings, summary
from lab.runs.following.progress import RunProgress, show_event
from lab.runs.pages.demo_report import render_report
from lab.runs.supervising.supervised import Run
from orchestrator.events.common import Unknown
from orchestrator.events.process import event_of


@pytest.mark.usefixtures("no_figures")
def test_two_users_are_told_that_each_learns_the_others_update() -> None:
    told = demo_report(("alice", "bob"))
    assert TWO_CLIENTS_NOTE in summary(told, Path("out"))
    assert "each learns the other&#x27;s update" in render_report(told)
    silent = demo_report(("alice", "bob", "carol"))
    assert "learns" not in summary(silent, Path("out"))
    assert "learns" not in render_report(silent)
    assert notes_for(FLConfig("r", "t", ("a", "b"), mode="plain")) == ()


@pytest.mark.usefixtures("no_figures")
def test_terminal_and_page_show_the_verdict_on_the_ring() -> None:
    told = demo_report(("alice", "bob"))
    assert "ring at the end of training: IDLE 2 s: all is <well>" in summary(told, Path("out"))
    assert "IDLE 2 s: all is &lt;well&gt;" in render_report(told)


@pytest.mark.usefixtures("no_figures")
def test_six_pairs_have_six_names_also_where_names_hold_hyphens() -> None:
    """Users a, a-b, b-c, c: (a, b-c) and (a-b, c) both read "a-b-c", and a bar of that name would stand for both."""
    html = render_report(demo_report(("a", "a-b", "b-c", "c")))
    for name in ("a:a-b", "a:b-c", "a-c", "a-b:b-c", "a-b:c", "b-c:c"):
        assert f">{name}<" in html, name


def test_events_of_a_newer_version_are_counted_and_told_at_the_end() -> None:
    run: Any = SimpleNamespace(alarms={}, unknown=Counter())
    for _ in range(3):
        Run.note(run, "alice", event_of('{"type": "Decoyed", "rate": 0.1}'))
    assert event_warnings(run) == ["unknown event Decoyed from alice (a newer version?): came 3x"]
    progress = RunProgress(pairs={})
    show_event(progress, "alice", Unknown("Decoyed"))
    assert progress.warning == "unknown event Decoyed from alice (a newer version?)"
