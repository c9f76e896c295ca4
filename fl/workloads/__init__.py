"""Learning problems by name; a task's libraries (torch, PennyLane, transformers) load only when it is opened.

A task is named ``TASK[:MODEL][@SPLIT]``: ``digits``, ``mnist:mlp@two-shard``, ``sentiment:hybrid@iid``.  What
is left out is the task's first model and the even, independent split.  ``MODULE:CLASS`` and the names that
packages register are workloads that are not ours (:mod:`fl.workloads.own`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from fl.workloads.base import Task, UnknownTaskError
from fl.workloads.own import OWN, open_own, own_parts, registered

MODELS: dict[str, tuple[str, ...]] = {
    "digits": ("mlp",),
    "mnist": ("small-cnn", "mlp", "cnn"),
    "quantum-states": ("entanglement", "magic"),
    "sentiment": ("hybrid", "classical", "linear", "hybrid-lora", "classical-lora"),
    "sentiment-imdb": ("hybrid", "classical", "linear"),
}
"""Models of every task, the default first."""

SPLITS: dict[str, tuple[str, ...]] = {
    "digits": ("iid",),
    "mnist": ("iid", "two-shard"),
    "quantum-states": ("iid", "mixed", "one-generator"),
    "sentiment": ("iid", "skewed", "validation"),
    "sentiment-imdb": ("iid", "skewed", "validation"),
}
"""Ways of sharing the training data out, the default first."""

TASK_NAMES = tuple(MODELS)

_GRAMMAR = re.compile(r"(?P<task>[a-z0-9-]+)(:(?P<model>[a-z0-9-]+))?(@(?P<split>[a-z0-9-]+))?")


@dataclass(frozen=True)
class TaskSpec:
    """A task with its model and split, all of them known names; of a workload that is not ours, module and class."""

    task: str
    model: str
    split: str

    @property
    def own(self) -> bool:
        """Whether it is a workload that is not ours."""
        return self.split == OWN

    def __str__(self) -> str:
        return f"{self.task}:{self.model}@{self.split}"


def parse_task(name: str) -> TaskSpec:
    """What ``TASK[:MODEL][@SPLIT]`` names; raises UnknownTaskError saying which names there are."""
    match = _GRAMMAR.fullmatch(name)
    if match is None or match["task"] not in MODELS:
        if (own := own_parts(name)) is not None and own[0] not in MODELS:
            return TaskSpec(*own, OWN)
        raise UnknownTaskError(
            f"no task is called {name!r}; there are {', '.join((*TASK_NAMES, *registered()))}, and MODULE:CLASS "
            "for one of your own"
        )
    task = match["task"]
    return TaskSpec(
        task,
        _known(task, "model", match["model"], MODELS[task]),
        _known(task, "split", match["split"], SPLITS[task]),
    )


def _known(task: str, kind: str, name: str | None, names: tuple[str, ...]) -> str:
    if name is not None and name not in names:
        raise UnknownTaskError(f"task {task} has no {kind} {name!r}; there are {', '.join(names)}")
    return name or names[0]


def open_task(name: str, data_folder: Path | None = None) -> Task:
    """:func:`load_task` for a name that comes from this machine's operator."""
    return load_task(name, data_folder, trusted=name)


def load_task(name: str, data_folder: Path | None = None, *, trusted: str | None = None) -> Task:
    """The task called ``name``; ``data_folder`` is where its files lie, for tasks that have files.

    ``trusted`` is the name that this machine's operator gave: a module is opened only if it is that one, for
    importing it runs it.  Raises UnknownTaskError, DataError.
    """
    spec = parse_task(name)
    if spec.own:
        allowed = trusted is not None and parse_task(trusted) == spec
        return open_own(spec.task, spec.model, data_folder, modules=allowed)
    if spec.task == "digits":
        from fl.workloads.digits.task import Digits

        return Digits()
    if spec.task == "mnist":
        from fl.workloads.mnist.task import MnistTask

        return MnistTask(data_folder, spec.model, spec.split)
    if spec.task == "quantum-states":
        from fl.workloads.quantum_states.task import QuantumStatesTask

        return QuantumStatesTask(spec.model, spec.split, data_folder)
    if spec.task in ("sentiment", "sentiment-imdb"):
        from fl.workloads.sentiment.task import SentimentTask

        return SentimentTask(
            spec.model,
            spec.split,
            data_folder,
            dataset="imdb" if spec.task == "sentiment-imdb" else "rotten-tomatoes",
        )
    raise AssertionError(f"task {spec.task} is listed and cannot be opened")
