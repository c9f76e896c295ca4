"""A runner of the same signature as the cohort's, in this process: quantised averaging without masks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from fl.carriers.in_process.results import CohortEvent, CohortResult, CohortRound
from fl.experiments.reference import train_reference
from fl.rounds.config import FLConfig
from fl.workloads import load_task


class SmallCohort:
    """Trains by :mod:`fl.experiments.reference`; ``stop_after`` rounds in all, it is told to stop."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after = stop_after
        self.calls: list[tuple[str, bool]] = []
        self.trained = 0

    def __call__(
        self,
        config: FLConfig,
        *,
        data_folder: Path | None,
        workers: int,
        drop_outs: int,
        folder: Path | None,
        stop: threading.Event,
        report: Callable[[CohortEvent], None],
        float32: bool,
    ) -> CohortResult:
        assert folder is not None
        self.calls.append((config.run_id, float32))
        task = load_task(config.task, data_folder)
        kept = folder / "rounds.json"
        before = msgspec.json.decode(kept.read_bytes(), type=int) if kept.exists() else 0
        run = train_reference(
            task,
            config.n_clients,
            config.rounds,
            config.seed,
            quantiser=None if float32 else config.quantiser,
        )
        rounds = []
        for number, evaluation in enumerate(run.rounds, start=1):
            if number > before:
                if stop.is_set():
                    break
                self.trained += 1
            row = CohortRound(
                number, evaluation.accuracy, evaluation.loss, 100, 60, drop_outs, True, 0.1, 0.1, 0.1, 0.1
            )
            rounds.append(row)
            if number > before:
                report(row)
                if self.trained == self.stop_after:
                    stop.set()
        kept.write_bytes(msgspec.json.encode(len(rounds)))
        stopped = len(rounds) < config.rounds
        return CohortResult(tuple(rounds), run.parameters, stopped, 0, "simulated", "information-theoretic")


@pytest.fixture
def small_cohort() -> type[SmallCohort]:
    return SmallCohort
