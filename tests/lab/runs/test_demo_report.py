"""What a demo says of itself at its end: the terminal, ``report.json`` and the page say the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fl.experiments.notes import TWO_CLIENTS_NOTE, notes_for
from fl.rounds.config import FLConfig
from lab.runs.demo import summary
from lab.runs.pages.demo_report import render_report


def report(users: tuple[str, ...], **more: Any) -> dict[str, Any]:
    pairs = [(one, other) for index, one in enumerate(users) for other in users[index + 1 :]]
    row = {
        "loss_db": 9.0, "pulses": 1, "sifted_bits": 1, "qber": 0.01, "planned_qber": 0.01, "f_ec": 1.1,
        "secret_bits": 9, "ring_s": 1.0, "secret_bits_per_ring_second": 9.0, "secret_bits_per_wall_second": 9.0,
        "planned_bits_per_ring_second": 9.0, "aborted_blocks": 0, "abort_reasons": [], "consumed_bits": 1,
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
