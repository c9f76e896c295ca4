"""What a demo says of itself at its end: the terminal, ``report.json`` and the page say the same."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fl.experiments.notes import TWO_CLIENTS_NOTE, notes_for
from fl.rounds.config import FLConfig
from lab.runs.demo import event_warnings, summary
from lab.runs.following.progress import RunProgress, show_event
from lab.runs.pages.demo_report import render_report
from lab.runs.supervising.supervised import Run
from orchestrator.events.common import Unknown
from orchestrator.events.process import event_of


def report(users: tuple[str, ...], **more: Any) -> dict[str, Any]:
    pairs = [(one, other) for index, one in enumerate(users) for other in users[index + 1 :]]
    row = {
        "loss_db": 9.0, "pulses": 1, "lost_frames": 0, "sifted_bits": 1, "qber": 0.01, "planned_qber": 0.01, "f_ec": 1.1,
        "secret_bits": 9, "ring_s": 1.0, "secret_bits_per_ring_second": 9.0, "secret_bits_per_wall_second": 9.0,
        "planned_bits_per_ring_second": 9.0, "predicted_bits_per_ring_second": 8.5, "aborted_blocks": 0, "abort_reasons": [], "consumed_bits": 1,
        "stored_bits": 8, "authentication_bits": 1, "burnt_bits": 0,
        "epsilon": {"sec": 1e-10, "cor": 7e-27, "auth": 1e-26, "total": 1e-10},
    }  # fmt: skip
    config = FLConfig("r", "digits", users)
    return {
        "testbed": {"name": "ring", "description": "a ring"},
        "task": "digits",
        "seed": 1,
        "epsilon": {"sec": 1e-10, "cor": 1e-15},
        "warnings": [],
        "notes": list(notes_for(config)),
        "pairs": [{"pair": list(pair), **row} for pair in pairs],
        "rounds": [{"round": 1, "accuracy": 0.5, "loss": 1.0, "upload_bytes": 10, "key_bits_used": 10}],
        "aggregation": {"mode": "otp", "ring_width": config.ring_width, "exact": True, "parameters": 3},
        "reference": [{"round": 1, "accuracy": 0.5}],
        "key_demand_bits_per_pair": 3,
        "instruments": {"safe": True, "unsafe": [], "states": {}},
        "versions": {"qunetlab": "0"},
        "verdict": {
            "state": "idle",
            "age_s": 2.0,
            "text": "",
            "exit_code": 0,
            "line": "IDLE 2 s: all is <well>",
        },
        "wall_s": 1.0,
        **more,
    }


@pytest.mark.usefixtures("no_figures")
def test_two_users_are_told_that_each_learns_the_others_update() -> None:
    told = report(("alice", "bob"))
    assert TWO_CLIENTS_NOTE in summary(told, Path("out"))
    assert "each learns the other&#x27;s update" in render_report(told)
    silent = report(("alice", "bob", "carol"))
    assert "learns" not in summary(silent, Path("out"))
    assert "learns" not in render_report(silent)
    assert notes_for(FLConfig("r", "t", ("a", "b"), mode="plain")) == ()


@pytest.mark.usefixtures("no_figures")
def test_terminal_and_page_show_the_verdict_on_the_ring() -> None:
    told = report(("alice", "bob"))
    assert "ring at the end of training: IDLE 2 s: all is <well>" in summary(told, Path("out"))
    assert "IDLE 2 s: all is &lt;well&gt;" in render_report(told)


@pytest.mark.usefixtures("no_figures")
def test_six_pairs_have_six_names_also_where_names_hold_hyphens() -> None:
    """Users a, a-b, b-c, c: (a, b-c) and (a-b, c) both read "a-b-c", and a bar of that name would stand for both."""
    html = render_report(report(("a", "a-b", "b-c", "c")))
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
