"""A whole experiment of one workload with simulated clients and keys, from its checks to its report.

Everything that can be wrong is looked for before the first number is drawn: names, the no-wrap rule,
thresholds, data, the folder, the key that all rounds will need.  What is finished is kept; Ctrl-C ends a run
cleanly and ``--resume`` goes on with it.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from fl.experiments.base import Plan, read_plan, write_plan
from fl.experiments.options import OptionsError, TrainOptions
from fl.experiments.results import Results, all_exact
from fl.keys.budget import counted
from lab.runs.records.ending import on_record
from lab.runs.shown import echo
from lab.runs.software import versions
from lab.runs.supervising.signals import stopping_on_signals
from lab.runs.training.folder import earlier, held, resume_hint, told
from lab.runs.training.outcome import INTERRUPTED, PACKAGES, RunOutcome, ending_of, keep_results

if TYPE_CHECKING:
    from fl.carriers.in_process.plan import CohortPlan
    from fl.experiments.assemble import Surroundings
    from fl.experiments.runner import Outcome
    from fl.workloads.base import Task

SIMULATED_NOTE = (
    "key supply simulated: no quantum key was used; pads come from a generator and count as the key that "
    "a network would have spent"
)


class TrainError(Exception):
    """The run could not be brought to its end."""


def train_simulated(
    options: TrainOptions, folder: Path, *, resuming: bool, data: Path | None, workers: int | None
) -> RunOutcome:
    """Train with simulated clients and keys; raises OptionsError before the first number is drawn, TrainError."""
    started = time.monotonic()
    if options.if_short != "wait" or options.max_wait_s is not None:
        raise OptionsError("--if-short and --max-wait belong to --testbed: simulated keys never run short")
    if options.live:
        raise OptionsError("--live needs --testbed NAME, FILE or FOLDER: the ring whose keys are used")
    plan, task = prepare(options, data)
    if resuming and read_plan(folder) != plan:
        raise OptionsError(
            f"{folder} was planned by another version of the experiment and cannot be continued by this one"
        )
    workers = usual_workers(plan) if workers is None else workers
    about = surroundings(plan, task, workers)
    with held(folder, new=not resuming), on_record(folder, "train", options.task) as ending:
        if not resuming:
            write_plan(plan, folder)
        say(plan, about, folder, resuming=resuming)
        try:
            results, interrupted = train(plan, about, folder, data, workers, started)
        except KeyboardInterrupt:
            results, interrupted = None, True
        ending_of(ending, INTERRUPTED if interrupted else "")
    if interrupted or results is None:
        return RunOutcome(None, INTERRUPTED)
    return RunOutcome(results, healthy=all_exact(results.rounds) is not False)


def usual_workers(plan: Plan) -> int:
    """One process per core up to four; none where starting them takes longer than they would save."""
    from fl.workloads import record_of

    task = plan.primary.config.task
    if record_of(task, trusted=task)[0].experiment.in_process:
        return 0
    return max(1, min(4, os.cpu_count() or 1, plan.primary.config.n_clients))


def prepare(options: TrainOptions, data: Path | None) -> tuple[Plan, Task]:
    """The plan, after every check that needs no training."""
    from fl.experiments.base import plan_for
    from fl.workloads import open_task
    from fl.workloads.provenance import check_data

    task = open_task(options.task, data)
    plan = plan_for(options, task, data)
    simulated_plan(plan, task)
    check_data(options.task, task, data, plan.primary.config.n_clients, plan.seeds[0])
    return plan, task


def simulated_plan(plan: Plan, task: Task) -> CohortPlan:
    """The numbers of the run with simulated clients; raises OptionsError where it could not work."""
    from fl.carriers.in_process.plan import make_plan
    from fl.carriers.in_process.results import CohortError

    try:
        return make_plan(plan.primary.config, task.n_parameters, drop_outs=plan.primary.drop_outs)
    except CohortError as error:
        raise OptionsError(str(error)) from error


def surroundings(plan: Plan, task: Task, workers: int) -> Surroundings:
    """What is known before the first round."""
    from fl.experiments.assemble import Surroundings
    from fl.experiments.notes import COHORT_NOTE, notes_for
    from fl.keys.budget import simulated_forecast
    from fl.workloads.provenance import learnt_from

    config, costs = plan.primary.config, simulated_plan(plan, task)
    return Surroundings(
        n_parameters=task.n_parameters,
        values_per_round=costs.n_values,
        wire_bits=costs.value_bits,
        key_supply="simulated",
        forecast=simulated_forecast(config.mode, config.rounds, config.n_clients, costs.key_bits_per_pair),
        workers=workers,
        data=learnt_from(task),
        versions=versions(PACKAGES),
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        notes=(
            *(() if config.protection.cipher is None else (SIMULATED_NOTE, COHORT_NOTE)),
            *notes_for(config),
        ),
    )


def say(plan: Plan, about: Surroundings, folder: Path, *, resuming: bool) -> None:
    """Tell what is about to happen."""
    config = plan.primary.config
    verb = "going on with" if resuming else "training"
    lines = [
        f"{verb} {config.task}: {config.n_clients} clients, mode {config.mode} ({plan.primary.security}), "
        f"{counted(config.rounds, 'round')}, {counted(len(plan.seeds), 'seed')}; in {folder}",
        *(note for note in plan.notes),
    ]
    if about.forecast is not None:
        lines.append(f"key: {about.forecast.text}")
    echo("\n".join(lines), err=True)


def train(
    plan: Plan, about: Surroundings, folder: Path, data: Path | None, workers: int, started: float
) -> tuple[Results | None, bool]:
    """Run the plan; the results of what is finished, and whether it was interrupted.

    Raises TrainError where it fails half-way; results of what was finished are written then as well.
    """
    from fl.carriers.in_process.results import CohortError
    from fl.experiments.runner import ExperimentError, ExperimentStoppedError, Runner
    from fl.rounds.quantise import QuantisationError
    from fl.workloads.data import DataError
    from lab.runs.following.train_progress import TrainDisplay

    failures = (CohortError, DataError, ExperimentError, QuantisationError, OSError)
    stop = threading.Event()
    interrupted = False

    def so_far() -> Results | None:
        return keep(plan, runner.finished(plan), about, folder, time.monotonic() - started)

    with stopping_on_signals(stop):
        try:
            with TrainDisplay(plan) as display:
                runner = Runner(folder, data, workers, stop, display.event)
                try:
                    runner.run(plan)
                except ExperimentStoppedError as error:
                    interrupted = True
                    echo(f"{error}", err=True)
            return so_far(), interrupted
        except failures as error:
            try:
                so_far()
                kept = "what is finished is kept"
            except failures as further:
                kept = f"finished parts are kept, but not their report: {told(further, folder)}"
            hint = resume_hint(folder, plan.options.task, data)
            raise TrainError(f"{told(error, folder)}; {kept}. {hint}") from error


def keep(plan: Plan, outcome: Outcome, about: Surroundings, folder: Path, wall_s: float) -> Results | None:
    """Write results and report of what is finished; None while there is nothing to report."""
    from fl.experiments.assemble import results_of

    if not outcome[plan.primary.name]:
        return None
    if (before := earlier(folder)) is not None:
        wall_s += before.wall_s
        about = replace(about, started_at=before.started_at)
    results = results_of(plan, outcome, replace(about, wall_s=wall_s))
    keep_results(results, folder)
    return results
