"""What an experiment is: a few *cells* run with the same seeds, one of them the run that was asked for.

A cell is one way of training - so many clients, a mode, a compression - and everything in a plan is decided
before the first number is drawn.  Cells of one seed share data, shards and first model, so that their
accuracies can be compared pair by pair (:func:`fl.experiments.results.compare`).  The plan is written beside the results;
a run is resumed only into the very same plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from fl.experiments.options import OptionsError, TrainOptions, option_of
from fl.experiments.results import Kind
from fl.keys.budget import counted
from fl.modes.table import DEFAULT_MODE, MODES, Security
from fl.rounds.config import MAX_CLIENTS, FLConfig
from fl.rounds.settings import kinds_of, refusal
from fl.workloads import record_of
from fl.workloads.base import Task
from fl.workloads.provenance import on_own_files
from fl.workloads.record import Experiment
from orchestrator.durable import read_kept, write_kept

PLAN_FILE = "plan.json"
FORMAT = 2

SETTINGS = ("levels", "clip", "clip_decay", "keep", "error_feedback", "ring_width", "colluders", "survivors")
"""Options that are settings of the federated run as well."""


class Cell(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One way of training.

    ``config`` is that of the first seed; for a centralised cell or an oracle only its task and rounds count.
    """

    name: str
    title: str
    kind: Kind
    config: FLConfig
    drop_outs: int = 0

    def seeded(self, seed: int) -> FLConfig:
        """The settings for one seed."""
        return msgspec.structs.replace(self.config, seed=seed, run_id=f"{self.name}-{seed}")

    @property
    def mode(self) -> str:
        """How updates are protected; "none" where nothing is sent."""
        return self.config.mode if self.kind == "federated" else "none"

    @property
    def security(self) -> Security:
        return MODES[self.mode].security if self.kind == "federated" else "none"

    @property
    def steps(self) -> int:
        """Rounds to be run, for progress."""
        return self.config.rounds if self.kind in ("federated", "float32") else 1


class Versus(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A comparison of two cells by name, ``first`` minus ``second``."""

    name: str
    title: str
    first: str
    second: str


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole experiment; the first cell is the run that was asked for, the others its baselines."""

    title: str
    options: TrainOptions
    cells: tuple[Cell, ...]
    seeds: tuple[int, ...]
    comparisons: tuple[Versus, ...] = ()
    notes: tuple[str, ...] = ()
    format: int = FORMAT

    @property
    def primary(self) -> Cell:
        return self.cells[0]

    @property
    def steps(self) -> int:
        """Rounds of all cells and seeds."""
        return len(self.seeds) * sum(cell.steps for cell in self.cells)


@dataclass(frozen=True)
class Beside:
    """What an experiment shows beside the run that was asked for."""

    cells: tuple[Cell, ...] = ()
    comparisons: tuple[Versus, ...] = ()
    notes: tuple[str, ...] = ()


def plan_for(options: TrainOptions, task: Task, data_folder: Path | None) -> Plan:
    """The experiment of the workload named in ``options``; raises ConfigError, QuantisationError, OptionsError."""
    record, spec = record_of(options.task, trusted=options.task)
    primary = federated_cell(options, task, record.experiment)
    own = ", on own files" if on_own_files(task) else ""
    beside = (
        record.beside(options, primary, task, data_folder)
        if record.beside
        else float32_beside(options, primary)
    )
    return Plan(
        record.title.replace("{model}", spec.model) + own,
        options,
        (primary, *beside.cells),
        chosen_seeds(options, record.experiment),
        beside.comparisons,
        (*quick_notes(options, record.experiment, task), *beside.notes),
    )


def chosen_rounds(options: TrainOptions, experiment: Experiment, task: Task) -> int:
    """The rounds of a run."""
    full = experiment.rounds or task.defaults.rounds
    return options.rounds or (min(experiment.quick_rounds or full, full) if options.quick else full)


def quick_notes(options: TrainOptions, experiment: Experiment, task: Task) -> tuple[str, ...]:
    """What a shortened run says about itself."""
    rounds = chosen_rounds(TrainOptions(task=options.task), experiment, task)
    full = f"{counted(experiment.seeds, 'seed')} of {counted(rounds, 'round')}"
    return (f"--quick: this is NOT the full experiment, which is {full}",) if options.quick else ()


def chosen_seeds(options: TrainOptions, experiment: Experiment) -> tuple[int, ...]:
    """The seeds of a run."""
    count = options.seeds or (experiment.quick_seeds if options.quick else experiment.seeds)
    return tuple(range(options.first_seed, options.first_seed + count))


def federated_cell(options: TrainOptions, task: Task, experiment: Experiment, **more: Any) -> Cell:
    """The run that was asked for; ``more``: see :func:`federated_config`."""
    config = federated_config(task, options.task, options, experiment, **more)
    return Cell("federated", config.title, "federated", config, options.drop_outs)


def float32_beside(options: TrainOptions, primary: Cell) -> Beside:
    """The same clients, averaged as they are: neither clipped, quantised nor protected."""
    if not options.baselines:
        return Beside()
    title = f"{primary.config.n_clients} clients, float32, unprotected"
    versus = Versus("federated-float32", "protected minus float32", "federated", "float32")
    return Beside((Cell("float32", title, "float32", primary.config, primary.drop_outs),), (versus,))


def client_names(count: int) -> tuple[str, ...]:
    """Names of simulated clients."""
    return tuple(f"client-{index:03d}" for index in range(count))


def federated_config(
    task: Task,
    name: str,
    options: TrainOptions,
    experiment: Experiment,
    users: Sequence[str] | None = None,
    *,
    run_id: str = "plan",
    **more: Any,
) -> FLConfig:
    """The settings of the run that was asked for, by simulated clients or by the first of ``users``.

    Options win over what suits the experiment (where neither names a mode it is ``otp``), and that over what suits the
    task; ``more`` are further settings.
    Raises OptionsError, ConfigError or QuantisationError if they cannot work, in the words of the options.
    """
    count = options.clients or experiment.clients
    if count > MAX_CLIENTS:  # before so many are given names
        raise OptionsError(f"--clients is {count}: it must be at least 1 and at most {MAX_CLIENTS:,}")
    config = FLConfig.for_task(
        task,
        client_names(count) if users is None else users[:count],
        run_id=run_id,
        name=name,
        clips=options.clips,
        named=option_of,
        **{setting: getattr(options, setting) for setting in SETTINGS},
        rounds=chosen_rounds(options, experiment, task),
        mode=options.mode or DEFAULT_MODE,
        seed=options.first_seed,
        **more,
    )
    last = chosen_seeds(options, experiment)[-1]
    if refusal(kinds_of(FLConfig)["seed"], last):
        raise OptionsError(
            f"--seed {options.first_seed} with {last - options.first_seed + 1} seeds ends at {last}, and seeds are "
            f"less than {1 << 62:,}: begin lower"
        )
    return config


def write_plan(plan: Plan, folder: Path) -> None:
    """Keep the plan of a run."""
    write_kept(folder / PLAN_FILE, plan)


def read_plan(folder: Path) -> Plan:
    """The plan of a run; raises OptionsError if there is none."""
    path = folder / PLAN_FILE
    try:
        return read_kept(path, Plan, FORMAT)
    except OSError as error:
        raise OptionsError(
            f"{folder} holds no run that could be resumed: {error.strerror}: {path}"
        ) from error
    except ValueError as error:
        raise OptionsError(f"{path} is not a plan that this version can resume: {error}") from error


def continued(plan: Plan, asked: TrainOptions) -> TrainOptions:
    """The options of ``plan``, after checking that ``asked`` contradicts them nowhere.

    What is left at its default in ``asked`` is not compared.  Raises OptionsError naming every setting that
    differs.
    """
    effective = {
        **msgspec.structs.asdict(plan.options),
        **{name: getattr(plan.primary.config, name) for name in SETTINGS},
        "mode": plan.primary.config.mode,
        "clients": plan.primary.config.n_clients,
        "rounds": plan.primary.config.rounds,
        "seeds": len(plan.seeds),
    }
    defaults = {each.name: each.default for each in msgspec.structs.fields(TrainOptions)}
    wrong = [
        f"{name} is {effective[name]} there, not {getattr(asked, name)}"
        for name in defaults
        if getattr(asked, name) != defaults[name] and getattr(asked, name) != effective[name]
    ]
    if wrong:
        raise OptionsError("the run to be resumed has other settings: " + "; ".join(wrong))
    return plan.options
