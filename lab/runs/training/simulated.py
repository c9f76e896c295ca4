"""``qunetlab train``: a whole experiment of one workload, from its checks to its report.

Everything that can be wrong is looked for before the first number is drawn: names, the no-wrap rule,
thresholds, data, the folder, the key that all rounds will need.  What is finished is kept; Ctrl-C ends a run
cleanly and ``--resume`` goes on with it.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from fl.experiments.base import Plan, continued, read_plan, write_plan
from fl.experiments.options import OptionsError, TrainOptions
from fl.experiments.results import Results, write_results
from fl.keys.budget import counted, quantity
from lab.runs.shown import echo
from lab.runs.supervising.signals import handled
from lab.runs.training.folder import earlier, folder_for, held, resume_hint, told
from lab.runs.training.words import accuracy, against_float32, exactness, points, supply

if TYPE_CHECKING:
    from fl.carriers.in_process.plan import CohortPlan
    from fl.experiments.assemble import Surroundings
    from fl.experiments.runner import Outcome
    from fl.workloads.base import Task

EXIT_INTERRUPTED = 130
REPORT_FILE = "report.html"
PACKAGES = (
    "qunetlab",
    "torch",
    "numpy",
    "scipy",
    "pennylane",
    "transformers",
    "cryptography",
    "scikit-learn",
)

SIMULATED_NOTE = (
    "key supply simulated: no quantum key was used; pads come from a generator and count as the key that "
    "a network would have spent"
)

STOPPING = b"\nstopping; what is finished is kept (Ctrl-C again: at once)\n"


class TrainError(Exception):
    """The run could not be brought to its end."""


def run_train(
    asked: TrainOptions,
    *,
    out: Path | None,
    resume: Path | None,
    data: Path | None,
    workers: int | None,
    as_json: bool,
) -> int:
    """The train command; returns the exit code."""
    started = time.monotonic()
    tell_preparations()
    folder = folder_for(asked, out, resume)
    options = asked if resume is None else continued(read_plan(resume), asked)
    if options.testbed is not None:
        from lab.runs.training.on_testbed import run_on_testbed

        return run_on_testbed(options, folder, resuming=resume is not None, data=data, as_json=as_json)
    if options.if_short != "wait" or options.max_wait_s is not None:
        raise OptionsError("--if-short and --max-wait belong to --testbed: simulated keys never run short")
    if options.live:
        raise OptionsError("--live needs --testbed NAME, FILE or FOLDER: the ring whose keys are used")
    plan, task = prepare(options, data)
    if resume is not None and read_plan(folder) != plan:
        raise OptionsError(
            f"{folder} was planned by another version of the experiment and cannot be continued by this one"
        )
    workers = usual_workers(plan) if workers is None else workers
    about = surroundings(plan, task, workers)
    with held(folder, new=resume is None):
        if resume is None:
            write_plan(plan, folder)
        say(plan, about, folder, resuming=resume is not None)
        try:
            results, interrupted = train(plan, about, folder, data, workers, started)
        except KeyboardInterrupt:
            results, interrupted = None, True
    if interrupted:
        hint = resume_hint(folder, plan.options.task, data)
        echo(f"interrupted; what is finished is kept. {hint}", err=True)
        return EXIT_INTERRUPTED
    assert results is not None
    echo(msgspec.json.encode(results).decode() if as_json else summary(results, folder))
    return 0 if all(row.exact is not False for row in results.rounds) else 1


def tell_preparations() -> None:
    """What tasks say of long preparations (embeddings, generator circuits) is shown to whoever waits."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("fl.workloads")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logging.getLogger("fl.carriers.in_process").addHandler(logging.NullHandler())  # the display tells it


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
        versions=versions(),
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        notes=(
            *(() if config.mode == "plain" else (SIMULATED_NOTE, COHORT_NOTE)),
            *notes_for(config),
        ),
    )


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


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


@contextmanager
def stopping_on_signals(stop: threading.Event) -> Iterator[None]:
    """Ctrl-C and SIGTERM set ``stop``; a second one ends the program on the spot."""

    def on_signal(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        os.write(2, STOPPING)  # buffered streams must not be used in here

    with handled((signal.SIGINT, signal.SIGTERM), on_signal):
        yield


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
    from lab.runs.pages.run_report import write_report

    if not outcome[plan.primary.name]:
        return None
    if (before := earlier(folder)) is not None:
        wall_s += before.wall_s
        about = replace(about, started_at=before.started_at)
    results = results_of(plan, outcome, replace(about, wall_s=wall_s))
    write_results(results, folder)
    write_report(results, folder / REPORT_FILE)
    return results


def summary(results: Results, folder: Path) -> str:
    """The run in a few lines."""
    compression, rounds = results.compression, counted(len(results.rounds), "round")
    lines = [
        *results.warnings,
        f"{results.title}: {accuracy(results.final.accuracy_mean, results.final.accuracy_ci95)} after {rounds}, "
        f"{results.clients} clients, {counted(results.final.seeds, 'seed')}",
    ]
    lines += [
        f"  {arm.title}: {accuracy(arm.final.accuracy_mean, arm.final.accuracy_ci95)}"
        for arm in results.baselines.values()
    ]
    lines += [
        f"  {each.title}: {points(each.difference_mean, each.difference_ci95)}"
        for each in results.comparisons.values()
    ]
    saving = f"{against_float32(compression.saving_vs_float32)} than float32"
    lines.append(
        f"upload {compression.upload_bytes_per_client:,.0f} bytes per client and round, {saving}; "
        f"{key_used(results)}"
    )
    lines.append(
        f"mode {results.mode}: {results.security}; key supply {supply(results)}; sum exact: {exactness(results)}"
    )
    lines += [f"note: {note}" for note in results.notes]
    lines.append(f"{results.wall_s:.0f} s; report in {folder / REPORT_FILE}")
    return "\n".join(lines)


def key_used(results: Results) -> str:
    """The key of the run over all pairs; every seed is a run of its own and uses as much."""
    used_bits = results.key_budget.record.used_bits if results.key_budget.record else 0
    if not used_bits:
        return "no key"
    return (
        f"key {quantity(used_bits)} over all pairs{' and rounds of a seed' if len(results.runs) > 1 else ''}"
    )
