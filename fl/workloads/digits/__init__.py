"""``digits``: the first run on a fresh machine, with no data to fetch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fl.workloads.data import DataSet
from fl.workloads.record import Experiment, TaskSpec, Workload

if TYPE_CHECKING:
    from fl.workloads.base import Task


def _open(spec: TaskSpec, data: Path | None) -> Task:
    from fl.workloads.digits.task import Digits

    return Digits(data)


DATA = DataSet(
    "digits",
    "E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI repository; bundled with scikit-learn",
    "CC BY 4.0",
    state=lambda: (True, "bundled with scikit-learn"),
)
SHA256 = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
"""Of the images and then the labels, one byte a value."""

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
