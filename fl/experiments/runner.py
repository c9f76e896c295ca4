"""Runs the cells of a plan over its seeds, keeps what is finished, and goes on where it was stopped.

Seeds are the outer loop: after every seed all cells of it can be compared.  The outcome of a cell and seed
is one file, written in one step; a federated cell that is interrupted keeps its own checkpoint beside it
(:mod:`fl.carriers.in_process`).  Nothing is ever run twice and no finished number is overwritten.
"""

from __future__ import annotations

import inspect
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

import msgspec

from fl.carriers.in_process.results import (
    CohortError,
    CohortEvent,
    CohortPhase,
    CohortResult,
    InexactSumError,
)
from fl.experiments.base import Cell, Plan
from fl.experiments.results import AbortedRow, RoundRow, RoundTimes, SeedRun
from fl.rounds.config import FLConfig
from fl.workloads import open_task
from fl.workloads.base import Evaluation, Task
from orchestrator.decoding import from_json
from orchestrator.durable import replace_file
from orchestrator.events.learning import Clipping

CELLS = "cells"


class ExperimentStoppedError(Exception):
    """The run was stopped before its last cell; what is finished is kept."""


class ExperimentError(Exception):
    """A cell cannot be run."""


@dataclass(frozen=True)
class CellStarted:
    """A cell begins, or goes on, with one seed."""

    cell: Cell
    seed: int


@dataclass(frozen=True)
class RoundDone:
    """One round of a cell; ``cell.steps`` are to come in all."""

    cell: Cell
    seed: int
    round: int
    accuracy: float
    clipping: Clipping | None = None


@dataclass(frozen=True)
class WithinRound:
    """How far a round is: ``done`` of ``of`` clients are through with ``phase``."""

    cell: Cell
    seed: int
    round: int
    phase: str
    done: int
    of: int


@dataclass(frozen=True)
class CellDone:
    """A cell is finished with one seed; ``resumed`` if an earlier attempt had finished it."""

    cell: Cell
    seed: int
    run: SeedRun
    resumed: bool


ExperimentEvent: TypeAlias = CellStarted | RoundDone | WithinRound | CellDone
Outcome: TypeAlias = dict[str, dict[int, SeedRun]]
"""Finished runs by cell and seed."""


class CohortRunner(Protocol):
    """The signature of :func:`fl.carriers.in_process.run.run_cohort`."""

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
    ) -> CohortResult: ...


@dataclass
class Runner:
    """How cells are run; ``run_cohort`` and ``open_task`` can be replaced by tests."""

    folder: Path
    data_folder: Path | None
    workers: int
    stop: threading.Event
    report: Callable[[ExperimentEvent], None] = lambda event: None
    run_cohort: CohortRunner | None = None
    open_task: Callable[[str, Path | None], Task] = open_task
    clock: Callable[[], float] = time.monotonic

    def run(self, plan: Plan) -> Outcome:
        """All cells and seeds of ``plan``.  Raises ExperimentStoppedError once ``stop`` is set."""
        outcome = self.finished(plan)
        for seed in plan.seeds:
            for cell in plan.cells:
                if (done := outcome[cell.name].get(seed)) is not None:
                    self.report(CellDone(cell, seed, done, True))
                    continue
                if self.stop.is_set():
                    raise ExperimentStoppedError(f"stopped before {cell.title}, seed {seed}")
                self.report(CellStarted(cell, seed))
                run = self._cell(cell, seed)
                self._keep(cell, run)
                outcome[cell.name][seed] = run
                self.report(CellDone(cell, seed, run, False))
        return outcome

    def finished(self, plan: Plan) -> Outcome:
        """What earlier attempts have finished; raises ExperimentError for a file that cannot be read."""
        outcome: Outcome = {cell.name: {} for cell in plan.cells}
        for cell in plan.cells:
            for seed in plan.seeds:
                path = self._file(cell, seed)
                if not path.exists():
                    continue
                try:
                    run = from_json(path.read_bytes(), SeedRun)
                    _check_whole(run, cell, seed)
                except (OSError, ValueError) as error:
                    raise ExperimentError(
                        f"cannot use {path}: {error}; remove it to run that cell again"
                    ) from error
                outcome[cell.name][seed] = run
        return outcome

    def _file(self, cell: Cell, seed: int) -> Path:
        return self.folder / CELLS / f"{cell.name}-{seed}.json"

    def _keep(self, cell: Cell, run: SeedRun) -> None:
        path = self._file(cell, run.seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, msgspec.json.encode(run))

    def _cell(self, cell: Cell, seed: int) -> SeedRun:
        started = self.clock()
        if cell.kind in ("federated", "float32"):
            return self._federated(cell, seed, started)
        task = self.open_task(cell.config.task, self.data_folder)
        method = "train_centralised" if cell.kind == "centralised" else "oracle_accuracy"
        if not hasattr(task, method):
            raise ExperimentError(f"task {task.name} has no {cell.kind} baseline")
        if cell.kind == "centralised":
            evaluation = _centralised(task, seed, cell.config.rounds)
            row = _row(cell.config.rounds, evaluation.accuracy, evaluation.loss)
        else:
            row = _row(cell.config.rounds, float(task.oracle_accuracy(seed)), None)  # type: ignore[attr-defined]
        self.report(RoundDone(cell, seed, 1, row.accuracy))
        return SeedRun(seed, (row,), seconds=self.clock() - started)

    def _federated(self, cell: Cell, seed: int, started: float) -> SeedRun:
        run_cohort = self.run_cohort
        if run_cohort is None:
            from fl.carriers.in_process.run import run_cohort as real

            run_cohort = real
        checkpoint = self.folder / CELLS / f"{cell.name}-{seed}"
        checkpoint.mkdir(parents=True, exist_ok=True)

        def on_event(event: CohortEvent) -> None:
            if isinstance(event, CohortPhase):
                self.report(WithinRound(cell, seed, event.round, event.phase, event.done, event.of))
            else:
                self.report(RoundDone(cell, seed, event.round, event.accuracy, event.clipping))

        try:
            result = run_cohort(
                cell.seeded(seed),
                data_folder=self.data_folder,
                workers=self.workers,
                drop_outs=cell.drop_outs,
                folder=checkpoint,
                stop=self.stop,
                report=on_event,
                float32=cell.kind == "float32",
            )
        except InexactSumError:
            raise
        except CohortError as error:
            raise ExperimentError(
                f"{cell.title}, seed {seed}: {error} (remove {checkpoint} to begin this cell again)"
            ) from error
        if result.stopped or len(result.rounds) < cell.config.rounds:
            raise ExperimentStoppedError(
                f"stopped in {cell.title}, seed {seed}, after {len(result.rounds)} of {cell.config.rounds} rounds"
            )
        return seed_run(seed, result, self.clock() - started)


def _check_whole(run: SeedRun, cell: Cell, seed: int) -> None:
    """Raise ValueError if that is not the outcome of the cell with this seed."""
    if run.seed != seed or len(run.rounds) != cell.steps:
        raise ValueError(
            f"it holds {len(run.rounds)} rounds of seed {run.seed}, not {cell.steps} of seed {seed}"
        )


def seed_run(seed: int, result: CohortResult, seconds: float) -> SeedRun:
    """A cohort's result as one seed of an arm."""
    rows, times = [], []
    for each in result.rounds:
        rows.append(
            RoundRow(
                each.round,
                each.accuracy,
                each.loss,
                each.upload_bytes_per_client,
                each.key_bits,
                each.dropped,
                each.exact,
                each.clipping,
            )
        )
        times.append(RoundTimes(each.train_s, each.protect_s, each.aggregate_s, each.evaluate_s))
    aborted = tuple(
        AbortedRow(number, "the run was interrupted; tried again under fresh key", bits)
        for number, tries in sorted(Counter(result.interrupted).items())
        if (bits := tries * result.rounds[number - 1].key_bits)
    )
    return SeedRun(seed, tuple(rows), tuple(times), aborted, seconds)


def _centralised(task: Task, seed: int, rounds: int) -> Evaluation:
    """Training in one place; as many epochs as the rounds have, for tasks that count in epochs."""
    train: Callable[..., Evaluation] = task.train_centralised  # type: ignore[attr-defined]
    if "rounds" in inspect.signature(train).parameters:
        return train(seed, rounds=rounds)
    return train(seed)


def _row(number: int, accuracy: float, loss: float | None) -> RoundRow:
    """A training without rounds, shown after the last one."""
    return RoundRow(number, accuracy, loss, 0.0, 0, 0, None)
