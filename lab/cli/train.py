"""``qunetlab train``: a whole experiment of one workload, from its checks to its report.

Everything that can be wrong is looked for before the first number is drawn: names, the no-wrap rule,
thresholds, data, the folder, the key that all rounds will need.  What is finished is kept; Ctrl-C ends a run
cleanly and ``--resume`` goes on with it.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
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
import typer

from fl.experiments.base import PLAN_FILE, Plan, continued, read_plan, write_plan
from fl.experiments.options import OptionsError, TrainOptions
from fl.key_budget import quantity
from fl.results import RESULTS_FILE, Results, ResultsError, write_results

if TYPE_CHECKING:
    from fl.cohort.plan import CohortPlan
    from fl.experiments.assemble import Surroundings
    from fl.experiments.runner import Outcome
    from fl.tasks.base import Task

RUNS_FOLDER = "qunetlab-runs"
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

OS_RANDOM_NOTE = (
    "LightSecAgg's masks are drawn from the operating system's generator: computational in that respect, "
    "the transport of shares and answers is information-theoretic"
)
SIMULATED_NOTE = (
    "key supply simulated: no quantum key was used; pads come from a generator and count as the key that "
    "a network would have spent"
)


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
    options = asked if resume is None else continued(read_plan(resume), asked)
    if options.testbed is not None:
        from lab.cli.live import run_on_testbed

        return run_on_testbed(options, out=out, resume=resume, data=data, as_json=as_json)
    if options.if_short != "wait" or options.max_wait_s is not None:
        raise OptionsError("--if-short and --max-wait belong to --testbed: simulated keys never run short")
    if options.live:
        raise OptionsError("--live needs --testbed NAME, FILE or FOLDER: the ring whose keys are used")
    folder = resume or out or default_folder(options)
    plan, task = prepare(options, data, folder, resuming=resume is not None)
    workers = usual_workers(plan) if workers is None else workers
    about = surroundings(plan, task, data, workers)
    say(plan, about, folder, resuming=resume is not None)
    results, interrupted = train(plan, about, folder, data, workers, started)
    if interrupted:
        typer.echo(resume_hint(folder, plan.options.task), err=True)
        return EXIT_INTERRUPTED
    if results is None:
        raise TrainError(f"no seed was finished; the run is in {folder}")
    typer.echo(msgspec.json.encode(results).decode() if as_json else summary(results, folder))
    return 0 if all(row.exact is not False for row in results.rounds) else 1


def tell_preparations() -> None:
    """What tasks say of long preparations (embeddings, generator circuits) is shown to whoever waits."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("fl.tasks")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


def usual_workers(plan: Plan) -> int:
    """One process per core up to four; none where starting them takes longer than they would save."""
    if plan.primary.config.task.startswith("digits"):
        return 0
    return max(1, min(4, os.cpu_count() or 1, plan.primary.config.n_clients))


def default_folder(options: TrainOptions) -> Path:
    """A folder of its own for every run."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    return Path(RUNS_FOLDER) / f"{options.task.split(':')[0]}-{stamp}"


def prepare(options: TrainOptions, data: Path | None, folder: Path, *, resuming: bool) -> tuple[Plan, Task]:
    """The plan, after every check that needs no training; the run's folder exists when this returns."""
    from fl.experiments.catalogue import plan_for
    from fl.tasks import load_task

    task = load_task(options.task, data)
    plan = plan_for(options, task, data)
    simulated_plan(plan, task)
    task.client_data(0, plan.primary.config.n_clients, plan.seeds[0])  # missing or damaged data is told here
    if resuming:
        if read_plan(folder) != plan:
            raise OptionsError(
                f"{folder} was planned by another version of the experiment and cannot be continued by this one"
            )
    else:
        claim(folder)
        write_plan(plan, folder)
    return plan, task


def simulated_plan(plan: Plan, task: Task) -> CohortPlan:
    """The numbers of the run with simulated clients; raises OptionsError where it could not work."""
    from fl.cohort.plan import make_plan
    from fl.cohort.results import CohortError

    try:
        return make_plan(plan.primary.config, task.n_parameters, drop_outs=plan.primary.drop_outs)
    except CohortError as error:
        raise OptionsError(str(error)) from error


def claim(folder: Path) -> None:
    """Make the folder of a new run; raises OptionsError if it holds one already, OSError if it cannot be."""
    for name in (PLAN_FILE, RESULTS_FILE):
        if (folder / name).exists():
            raise OptionsError(
                f"{folder} already holds a run; go on with it (--resume {folder}) or choose another --out"
            )
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / ".writable"
    probe.touch()
    probe.unlink()


def surroundings(plan: Plan, task: Task, data: Path | None, workers: int) -> Surroundings:
    """What is known before the first round."""
    from fl.experiments.assemble import Surroundings
    from fl.experiments.sources import data_files
    from fl.key_budget import simulated_forecast

    config, costs = plan.primary.config, simulated_plan(plan, task)
    return Surroundings(
        n_parameters=task.n_parameters,
        values_per_round=costs.n_values,
        wire_bits=costs.value_bits,
        key_supply="simulated",
        forecast=simulated_forecast(config.mode, config.rounds, config.n_clients, costs.key_bits_per_pair),
        workers=workers,
        data=data_files(config.task, data),
        versions=versions(),
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        notes=notes_for(config.mode),
    )


def notes_for(mode: str) -> tuple[str, ...]:
    """What must be said of a run whose keys are simulated."""
    notes = () if mode == "plain" else (SIMULATED_NOTE,)
    return (*notes, OS_RANDOM_NOTE) if mode == "lightsecagg" else notes


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    found = {}
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
        f"{config.rounds} rounds, {len(plan.seeds)} seed{'s' if len(plan.seeds) != 1 else ''}; in {folder}",
        *(note for note in plan.notes),
    ]
    if about.forecast is not None:
        lines.append(f"key: {about.forecast.text}")
    typer.echo("\n".join(lines), err=True)


@contextmanager
def stopping_on_signals(stop: threading.Event) -> Iterator[None]:
    """Ctrl-C and SIGTERM set ``stop``; a second one ends the program on the spot."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, on_signal) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def train(
    plan: Plan, about: Surroundings, folder: Path, data: Path | None, workers: int, started: float
) -> tuple[Results | None, bool]:
    """Run the plan; the results of what is finished, and whether it was interrupted."""
    from fl.experiments.runner import ExperimentStoppedError, Runner
    from lab.cli.train_progress import TrainDisplay

    stop = threading.Event()
    interrupted = False
    with stopping_on_signals(stop), TrainDisplay(plan) as display:
        runner = Runner(folder, data, workers, stop, display.event)
        try:
            outcome = runner.run(plan)
        except ExperimentStoppedError as error:
            interrupted = True
            typer.echo(f"{error}", err=True)
            outcome = runner.finished(plan)
    return keep(plan, outcome, about, folder, time.monotonic() - started), interrupted


def keep(plan: Plan, outcome: Outcome, about: Surroundings, folder: Path, wall_s: float) -> Results | None:
    """Write results and report of what is finished; None while there is nothing to report."""
    from fl.experiments.assemble import results_of
    from lab.cli.run_report import write_report

    if not outcome[plan.primary.name]:
        return None
    results = results_of(plan, outcome, replace(about, wall_s=earlier_s(folder) + wall_s))
    write_results(results, folder)
    write_report(results, folder / REPORT_FILE)
    return results


def earlier_s(folder: Path) -> float:
    """Wall time of earlier attempts at this run."""
    from fl.results import read_results

    try:
        return read_results(folder).wall_s
    except ResultsError:
        return 0.0


def resume_hint(folder: Path, task: str) -> str:
    """How to go on."""
    return f"interrupted; what is finished is kept. Go on with: qunetlab train {task} --resume {folder}"


def summary(results: Results, folder: Path) -> str:
    """The run in a few lines."""
    compression, rounds = results.compression, len(results.rounds)
    lines = [
        f"{results.title}: {accuracy(results.final.accuracy_mean, results.final.accuracy_ci95)} after {rounds} "
        f"rounds, {results.clients} clients, {results.final.seeds} seed{'s' if results.final.seeds != 1 else ''}",
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
        f"key {quantity(results.key_budget.record.used_bits) if results.key_budget.record else 'none'} over all pairs"
    )
    lines.append(
        f"mode {results.mode}: {results.security}; key supply {results.key_supply}; sum exact: {exactness(results)}"
    )
    lines += [f"note: {note}" for note in results.notes]
    lines.append(f"{results.wall_s:.0f} s; report in {folder / REPORT_FILE}")
    return "\n".join(lines)


def against_float32(saving: float) -> str:
    """How the upload compares with that of float32; shares and answers can make it the larger one."""
    return f"{100 * abs(saving):.2f} % {'less' if saving >= 0 else 'more'}"


def accuracy(mean: float, interval: tuple[float, float] | None) -> str:
    """An accuracy in percent with its 95 % interval."""
    if interval is None:
        return f"{100 * mean:.2f} %"
    return f"{100 * mean:.2f} % (95 %: {100 * interval[0]:.2f} to {100 * interval[1]:.2f})"


def points(mean: float, interval: tuple[float, float] | None) -> str:
    """A difference of accuracies in points."""
    if interval is None:
        return f"{100 * mean:+.2f} points"
    return f"{100 * mean:+.2f} points (95 %: {100 * interval[0]:+.2f} to {100 * interval[1]:+.2f})"


def exactness(results: Results) -> str:
    """Whether the aggregate was the plain sum."""
    checks = {row.exact for row in results.rounds}
    if False in checks:
        return "NO"
    return "not checked" if None in checks else "yes, in every round"
