"""How a training run is shown beside the ring: what did not give a sum is never called finished."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from fl.rounds.config import FLConfig
from fl.workloads import load_task
from lab.runs.following.learning_status import NO_SUM, after, begun, ended
from orchestrator.events.learning import (
    AbortRecord,
    RoundAborted,
    RoundCompleted,
    RoundRecord,
    RoundStarted,
    RunFinished,
    RunStarted,
    WaitingForClients,
    WaitingForKeys,
)
from orchestrator.events.status import Learning


@pytest.fixture(scope="module")
def config() -> FLConfig:
    task = load_task("digits")
    return FLConfig.for_task(task, ("alice", "bob", "carol"), run_id="run-1", rounds=3)


def completed(number: int) -> RoundCompleted:
    return RoundCompleted(RoundRecord(number, 0.75, 0.1, 10, 20, ("alice", "bob", "carol"), "otp", 1.0, 0.5))


def aborted(number: int) -> RoundAborted:
    return RoundAborted(AbortRecord(number, "bob left", 5, ("alice", "bob", "carol")))


STARTED = RunStarted("run-1", "digits", 10, "otp", 1, 0, key_bits_per_pair=100)
COST = {"round_bits": 100, "key_bits": 20, "upload_bytes": 10}


def follow(config: FLConfig, *events: Any) -> Learning:
    status = begun(config)
    for event in events:
        status = after(status, event)
    return status


def test_a_run_that_goes_well(config: FLConfig) -> None:
    base = begun(config)
    assert (base.state, base.done, base.rounds) == ("waiting", 0, 3)
    assert follow(config, STARTED, RoundStarted(1, ())) == replace(base, state="running", round_bits=100)
    said = follow(
        config, STARTED, completed(1), WaitingForKeys(2, "bob", {"carol": 7}, "7 bits with carol", 2.5)
    )
    assert said == replace(
        base,
        state="waiting",
        done=1,
        accuracy=0.75,
        reason="bob waits for keys: 7 bits with carol",
        waits=(("bob", "carol"),),
        eta_s=2.5,
        **COST,
    )
    said = follow(config, STARTED, *(completed(n) for n in (1, 2, 3)), RunFinished("run-1", 3, ""))
    assert said == replace(base, state="finished", done=3, accuracy=0.75, **COST)


def test_a_run_without_a_sum_has_failed_whatever_its_server_says(config: FLConfig) -> None:
    said = follow(config, STARTED, aborted(1), aborted(2), aborted(3), RunFinished("run-1", 0, ""))
    assert (said.state, said.done, said.aborted, said.reason) == ("failed", 0, 3, NO_SUM)
    assert (said.key_bits, said.upload_bytes) == (5, 0)


def test_a_run_that_ended_early_says_why(config: FLConfig) -> None:
    said = follow(config, STARTED, completed(1), RunFinished("run-1", 1, "stopped"))
    assert (said.state, said.reason) == ("failed", "stopped")
    waiting = follow(config, WaitingForClients(("carol",)))
    assert waiting.reason == "waiting for carol"
    assert ended(waiting, "x" * 5000).reason == "x" * 400


def test_what_was_waited_for_is_over_with_the_round(config: FLConfig) -> None:
    waits = WaitingForKeys(1, "bob", {"carol": 7}, "7 bits with carol", 2.5)
    for end in (completed(1), aborted(1), RoundStarted(2, ()), WaitingForClients(("carol",))):
        said = follow(config, STARTED, waits, end)
        assert (said.waits, said.eta_s) == ((), None)
