"""From options to the plan of an experiment."""

from __future__ import annotations

from pathlib import Path

from fl.experiments.base import Plan
from fl.experiments.options import TrainOptions
from fl.workloads import parse_task
from fl.workloads.base import Task
from fl.workloads.own import OwnTask

USUAL_MODEL = {"mnist": "mlp"}
"""The model of an experiment where it is not the task's first."""


def full_name(task: str, model: str | None = None, split: str | None = None) -> str:
    """``TASK:MODEL@SPLIT`` from a name and options; raises UnknownTaskError or ValueError."""
    name = task
    for mark, value, option in ((":", model, "--model"), ("@", split, "--split")):
        if value is None:
            continue
        if mark in name:
            raise ValueError(f"{task} already says what {option} {value} says; give one of them")
        head, at, tail = name.partition("@") if mark == ":" else (name, "", "")
        name = f"{head}:{value}{at}{tail}" if mark == ":" else f"{name}@{value}"
    spec = parse_task(name)
    if ":" not in name and spec.task in USUAL_MODEL:
        return f"{spec.task}:{USUAL_MODEL[spec.task]}@{spec.split}"
    return str(spec)


def plan_for(options: TrainOptions, task: Task, data_folder: Path | None) -> Plan:
    """The experiment of the task named in ``options``; raises ConfigError, QuantisationError, OptionsError."""
    workload = parse_task(options.task).task
    if workload == "mnist":
        from fl.workloads.mnist.experiment import plan as mnist

        return mnist(options, task)
    if workload == "quantum-states":
        from fl.workloads.quantum_states.experiment import plan as quantum_states

        return quantum_states(options, task)
    if workload in ("sentiment", "sentiment-imdb"):
        from fl.workloads.sentiment.experiment import plan as sentiment

        return sentiment(options, task, data_folder)
    if isinstance(task, OwnTask):
        from fl.workloads.own_experiment import plan as own

        return own(options, task, task.title)
    from fl.workloads.digits.experiment import plan as digits

    return digits(options, task)
