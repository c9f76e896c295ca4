"""What a workload is: one record of its title, task, models, data and experiment, from which all else is derived.

Every folder of ours holds its records as ``WORKLOADS`` in its ``__init__.py``, which imports nothing heavy: what
opens the task or lays out the experiment is imported when it is called.  A third party's package registers one
through the entry point (:mod:`fl.workloads`).  A record that lacks something is refused when it is made.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fl.workloads.data import DataSet

if TYPE_CHECKING:
    from fl.experiments.base import Beside, Cell
    from fl.experiments.options import TrainOptions
    from fl.workloads.base import Task

NAME = re.compile(r"[a-z0-9][a-z0-9-]*")

OWN = "own"
"""Split of a task that was named by its module."""


class UnknownTaskError(ValueError):
    """No task, or no model or split of a task, has this name, or what has it is no task."""


class WorkloadError(ValueError):
    """A workload is registered twice or by half."""


@dataclass(frozen=True)
class TaskSpec:
    """A task with its model and split; of a module that nobody registered, module and name, and one split."""

    task: str
    model: str
    split: str

    def __str__(self) -> str:
        return f"{self.task}:{self.model}@{self.split}"


@dataclass(frozen=True)
class Experiment:
    """How ``qunetlab train`` runs a workload where the user says nothing.

    Rounds None are as many as the task's own settings say, and the quick ones never more than the full.
    ``model`` is the model where that is not the first.  ``in_process``: training is so short that starting
    processes for it would take longer.
    """

    clients: int = 4
    rounds: int | None = None
    seeds: int = 5
    quick_rounds: int | None = 5
    quick_seeds: int = 2
    model: str = ""
    in_process: bool = False

    def problems(self, models: tuple[str, ...]) -> Iterator[str]:
        """What no run could be laid out with; ``models`` are the workload's."""
        for name, or_none in (
            ("clients", False),
            ("rounds", True),
            ("seeds", False),
            ("quick_rounds", True),
            ("quick_seeds", False),
        ):
            value = getattr(self, name)
            if not (value is None and or_none) and not (type(value) is int and value >= 1):
                yield f"its experiment has {name} {value!r:.60}, it must be a whole number from 1 on"
        if self.model not in ("", *models):
            yield f"its experiment has model {self.model!r:.60}, it must be one of its models"


Baselines = Callable[["TrainOptions", "Cell", "Task", Path | None], "Beside"]
"""(options, the run that was asked for, its task, folder of the data) -> what stands beside it."""


@dataclass(frozen=True)
class Workload:
    """One workload.

    ``title`` is what reports call it, with ``{model}`` for the model.  ``open`` makes the task of a known model
    and split from the files in a folder (None: each data set's usual one).  ``models`` and ``splits`` begin with the default.
    ``datasets`` are values of ``--dataset``, each with the ``TASK[:MODEL]`` that it means.
    ``beside`` lays out what an experiment shows beside the run that was asked for; without it that is the same
    training in float32.  ``circuit_models`` are those whose trained circuit a QPU can run (:mod:`fl.qpu.tasks`).
    ``own_files`` says which files of the user's own it takes in the place of its data (:mod:`fl.workloads.images`);
    without it the user can name a folder only.
    Raises WorkloadError saying everything that is missing.
    """

    name: str
    title: str
    open: Callable[[TaskSpec, Path | None], Task]
    data: tuple[DataSet, ...]
    models: tuple[str, ...]
    splits: tuple[str, ...] = ("iid",)
    datasets: Mapping[str, str] = field(default_factory=dict)
    experiment: Experiment = Experiment()
    beside: Baselines | None = None
    circuit_models: tuple[str, ...] = ()
    own_files: str = ""

    def __post_init__(self) -> None:
        problems = [
            f"its {name} is {getattr(self, name)!r:.60}, it must be {text}"
            if getattr(self, name)
            else f"it has no {name}"
            for name, text, right, needed in (
                ("name", "of the letters a-z, 0-9 and -", lambda value: NAME.fullmatch(str(value)), True),
                ("title", "a text", lambda value: isinstance(value, str), True),
                ("open", "what opens a task", callable, True),
                ("data", "a tuple of DataSet", lambda value: _all_are(value, DataSet), True),
                ("models", "a tuple of names", _are_names, True),
                ("splits", "a tuple of names", _are_names, True),
                ("datasets", "a mapping of names to tasks", _maps_names, False),
                ("experiment", "an Experiment", lambda value: isinstance(value, Experiment), True),
                (
                    "beside",
                    "what lays out an experiment",
                    lambda value: value is None or callable(value),
                    False,
                ),
                (
                    "circuit_models",
                    "a tuple of its models",
                    lambda value: _are_names(value) and {*value} <= {*self.models},
                    False,
                ),
                ("own_files", "a text", lambda value: isinstance(value, str), False),
            )
            if (needed and not getattr(self, name)) or not right(getattr(self, name))
        ]
        problems = problems or [problem for each in self.data for problem in each.problems()]
        problems = problems or list(self.experiment.problems(self.models))
        if problems:
            raise WorkloadError(f"workload {self.name!r} is registered by half: {'; '.join(problems)}")

    def spec(self, model: str | None = None, split: str | None = None) -> TaskSpec:
        """Model and split by name, or the first of each; raises UnknownTaskError naming those there are."""
        for kind, name, names in (("model", model, self.models), ("split", split, self.splits)):
            if name is not None and name not in names:
                raise UnknownTaskError(
                    f"task {self.name} has no {kind} {name!r}; there are {', '.join(names)}"
                )
        return TaskSpec(self.name, model or self.models[0], split or self.splits[0])

    def verify(self, folder: Path | None) -> None:
        """Raise DataError for a file of the data that is missing or another than registered."""
        for each in self.data:
            each.verify(folder)


def _are_names(value: object) -> bool:
    return _all_are(value, str)


def _maps_names(value: object) -> bool:
    return isinstance(value, Mapping) and _are_names((*value.keys(), *value.values()))


def _all_are(value: object, kind: type) -> bool:
    return isinstance(value, tuple) and all(isinstance(each, kind) for each in value)
