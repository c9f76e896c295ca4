"""``sentiment`` and ``sentiment-imdb``: a hybrid quantum-classical classifier of film reviews, and its controls."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fl.workloads.record import Experiment, TaskSpec, Workload
from fl.workloads.sentiment.sources import DATA, TASKS

if TYPE_CHECKING:
    from fl.experiments.base import Beside, Cell
    from fl.experiments.options import TrainOptions
    from fl.workloads.base import Task


def _open(spec: TaskSpec, data: Path | None) -> Task:
    from fl.workloads.sentiment.task import SentimentTask

    return SentimentTask(spec.model, spec.split, data, dataset=TASKS[spec.task])


def _beside(options: TrainOptions, primary: Cell, task: Task, data: Path | None) -> Beside:
    from fl.workloads.sentiment.experiment import beside

    return beside(options, primary, data)


_HEADS = ("hybrid", "classical", "linear")


def _record(name: str, models: tuple[str, ...]) -> Workload:
    return Workload(
        name,
        "Sentiment of film reviews",
        _open,
        (DATA,),
        models=models,
        splits=("iid", "skewed", "validation"),
        datasets={dataset: task for task, dataset in TASKS.items()},
        experiment=Experiment(quick_rounds=None),
        beside=_beside,
        circuit_models=tuple(each for each in models if each.startswith("hybrid")),
    )


WORKLOADS = (
    _record("sentiment", (*_HEADS, "hybrid-lora", "classical-lora")),
    _record("sentiment-imdb", _HEADS),
)
