"""``digits``: the first run on a fresh machine, with no data to fetch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fl.workloads.digits.sources import DATA
from fl.workloads.record import Experiment, TaskSpec, Workload

if TYPE_CHECKING:
    from fl.workloads.base import Task


def _open(spec: TaskSpec, data: Path | None) -> Task:
    from fl.workloads.digits.task import Digits

    return Digits(data)


WORKLOADS = (
    Workload(
        "digits",
        "Handwritten digits, 8x8",
        _open,
        (DATA,),
        models=("mlp",),
        experiment=Experiment(in_process=True),
        own_files="8x8 images",
    ),
)
