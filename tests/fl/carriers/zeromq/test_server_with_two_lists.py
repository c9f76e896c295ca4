"""The attack range's learning server: no client takes part in a round whose list leaves one out, and no round gives a sum."""

from __future__ import annotations

from typing import Any

import pytest

from fl.carriers.zeromq.round_server import RoundServer
from lab.runs.attacks.lies import lie
from orchestrator.events.learning import RoundAborted


@pytest.mark.parametrize("told_short", [1, 3])
def test_two_lists_end_in_a_refused_round(
    world: Any, monkeypatch: pytest.MonkeyPatch, told_short: int
) -> None:
    monkeypatch.setattr(RoundServer, "_send_start", RoundServer._send_start)
    lie("two-list-server", told_short)
    world.settings(rounds=1, max_aborts_in_a_row=2)
    world.start_all()
    outcome = world.outcome("server")
    assert "2 rounds in a row were aborted" in str(outcome)
    assert world.rounds_done() == []
    aborts = [event.record.reason for event in world.of(RoundAborted)]
    assert len(aborts) == 2
    assert all("leaves out dora: a sum without one tells" in reason for reason in aborts)
