"""Interrupted cohorts: they go on where they were, end as they would have, and never reuse a key."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl.carriers.in_process.checkpoint import STATE_FILE
from fl.carriers.in_process.results import CohortError, CohortEvent, CohortPhase, CohortRound
from fl.carriers.in_process.run import run_cohort
from fl.experiments.runner import seed_run
from fl.keys.simulated import SimulatedKeySupply
from fl.rounds.config import FLConfig

Settings = Callable[..., FLConfig]
COMPRESSED = {"keep": 0.3, "levels": 2, "error_feedback": True, "rounds": 5}


class Interruption(Exception):
    """What happens to a run from outside."""


def interrupt_at(number: int, phase: str) -> Callable[[CohortEvent], None]:
    def report(event: CohortEvent) -> None:
        if isinstance(event, CohortPhase) and (event.round, event.phase) == (number, phase):
            raise Interruption

    return report


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The attempts whose keys were drawn, in order."""
    opened: list[int] = []
    original = SimulatedKeySupply.open_attempt

    def open_attempt(self: SimulatedKeySupply, attempt: int) -> None:
        opened.append(attempt)
        original(self, attempt)

    monkeypatch.setattr(SimulatedKeySupply, "open_attempt", open_attempt)
    return opened


@pytest.mark.parametrize("mode", ["otp", "lightsecagg"])
@pytest.mark.parametrize("phase", ["training", "protecting", "aggregating", "evaluating"])
def test_an_interrupted_run_ends_as_it_would_have(
    settings: Settings, targets: Any, tmp_path: Path, mode: str, phase: str, attempts: list[int]
) -> None:
    config = settings(6, mode=mode, **COMPRESSED)
    whole = run_cohort(config, workers=0, task=targets())
    attempts.clear()
    with pytest.raises(Interruption):
        run_cohort(config, workers=0, task=targets(), folder=tmp_path, report=interrupt_at(3, phase))
    resumed = run_cohort(config, workers=0, task=targets(), folder=tmp_path)
    assert np.array_equal(resumed.parameters, whole.parameters)
    assert [r.loss for r in resumed.rounds] == [r.loss for r in whole.rounds]
    assert len(attempts) == len(set(attempts)), "no attempt number serves twice"
    tries = 5 if phase == "training" else 6
    assert resumed.key_bits_spent == tries * whole.rounds[0].key_bits
    assert resumed.interrupted == (3,) * (tries - 5)
    assert whole.key_bits_spent == 5 * whole.rounds[0].key_bits


def test_every_interruption_of_a_round_is_counted(settings: Settings, targets: Any, tmp_path: Path) -> None:
    config = settings(6, **COMPRESSED)
    for number in (2, 2, 4):
        with pytest.raises(Interruption):
            run_cohort(
                config,
                workers=0,
                task=targets(),
                folder=tmp_path,
                report=interrupt_at(number, "aggregating"),
            )
    run = run_cohort(config, workers=0, task=targets(), folder=tmp_path)
    assert run.interrupted == (2, 2, 4)
    (twice, once) = seed_run(0, run, 1.0).aborted
    each = run.rounds[0].key_bits
    assert [(row.round, row.key_bits_burnt) for row in (twice, once)] == [(2, 2 * each), (4, each)]
    assert run.key_bits_spent == 8 * each


def test_an_attempt_is_durable_before_its_first_key_is_drawn(
    settings: Settings, targets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(self: SimulatedKeySupply, attempt: int) -> None:
        assert f'"attempts": {attempt}' in (tmp_path / STATE_FILE).read_text()
        raise Interruption

    monkeypatch.setattr(SimulatedKeySupply, "open_attempt", cut)
    with pytest.raises(Interruption):
        run_cohort(settings(4, mode="otp"), workers=0, task=targets(), folder=tmp_path)


def test_a_finished_run_is_handed_back_without_work(settings: Settings, targets: Any, tmp_path: Path) -> None:
    config = settings(4, mode="otp")
    first = run_cohort(config, workers=0, task=targets(), folder=tmp_path)
    events: list[CohortEvent] = []
    again = run_cohort(config, workers=0, task=targets(), folder=tmp_path, report=events.append)
    assert again.rounds == first.rounds
    assert np.array_equal(again.parameters, first.parameters)
    assert not [event for event in events if isinstance(event, CohortRound)]


def test_a_stopped_run_goes_on(settings: Settings, targets: Any, tmp_path: Path) -> None:
    config, stop = settings(4, **COMPRESSED), threading.Event()

    def report(event: CohortEvent) -> None:
        if isinstance(event, CohortRound) and event.round == 2:
            stop.set()

    stopped = run_cohort(config, workers=0, task=targets(), folder=tmp_path, stop=stop, report=report)
    assert (stopped.stopped, len(stopped.rounds)) == (True, 2)
    resumed = run_cohort(config, workers=0, task=targets(), folder=tmp_path)
    assert np.array_equal(resumed.parameters, run_cohort(config, workers=0, task=targets()).parameters)


@pytest.mark.parametrize("change", [{"levels": 3}, {"seed": 9}, {"mode": "plain"}])
def test_a_folder_serves_one_run(
    settings: Settings, targets: Any, tmp_path: Path, change: dict[str, Any]
) -> None:
    run_cohort(settings(4, mode="otp"), workers=0, task=targets(), folder=tmp_path)
    with pytest.raises(CohortError, match="other settings"):
        run_cohort(settings(4, **({"mode": "otp"} | change)), workers=0, task=targets(), folder=tmp_path)


def test_a_damaged_folder_is_named(settings: Settings, targets: Any, tmp_path: Path) -> None:
    config = settings(4)
    run_cohort(config, workers=0, task=targets(), folder=tmp_path)
    (tmp_path / "model-00004.npy").write_bytes(b"nothing")
    with pytest.raises(CohortError, match=r"cannot read .*model-00004\.npy"):
        run_cohort(config, workers=0, task=targets(), folder=tmp_path)
    (tmp_path / STATE_FILE).write_text("{")
    with pytest.raises(CohortError, match=r"cannot read .*cohort\.json"):
        run_cohort(config, workers=0, task=targets(), folder=tmp_path)


def test_only_the_last_round_stays_on_disk(settings: Settings, targets: Any, tmp_path: Path) -> None:
    run_cohort(settings(4, **COMPRESSED), workers=0, task=targets(), folder=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        STATE_FILE,
        "model-00005.npy",
        "residuals-00005.npy",
    ]
