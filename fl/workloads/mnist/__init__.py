"""``mnist``: hundreds of clients, and how few bytes an update can have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fl.workloads.mnist.sources import DATA
from fl.workloads.record import Experiment, TaskSpec, Workload

if TYPE_CHECKING:
    from fl.experiments.base import Beside, Cell
    from fl.experiments.options import TrainOptions
    from fl.workloads.base import Task


def _open(spec: TaskSpec, data: Path | None) -> Task:
    from fl.workloads.mnist.task import MnistTask

    return MnistTask(data, spec.model, spec.split)


def _beside(options: TrainOptions, primary: Cell, task: Task, data: Path | None) -> Beside:
    from fl.workloads.mnist.experiment import beside

    return beside(options, primary, task)


WORKLOADS = (
    Workload(
        "mnist",
        "Handwritten digits (MNIST)",
        _open,
        (DATA,),
        models=("small-cnn", "mlp", "cnn"),
        splits=("iid", "two-shard"),
        experiment=Experiment(200, 40, 3, 12, 1, model="mlp"),
        beside=_beside,
        own_files="28x28 images",
    ),
)
