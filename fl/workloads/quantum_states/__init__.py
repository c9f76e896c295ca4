"""``quantum-states``: classifying entangled and magic states with a quantum convolutional network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fl.workloads.data import DataSet
from fl.workloads.quantum_states.sources import NAME, SOURCE, SPLITS
from fl.workloads.record import Experiment, TaskSpec, Workload

if TYPE_CHECKING:
    from fl.experiments.base import Beside, Cell
    from fl.experiments.options import TrainOptions
    from fl.workloads.base import Task


def _open(spec: TaskSpec, data: Path | None) -> Task:
    from fl.workloads.quantum_states.task import QuantumStatesTask

    return QuantumStatesTask(spec.model, spec.split, data)


def _beside(options: TrainOptions, primary: Cell, task: Task, data: Path | None) -> Beside:
    from fl.workloads.quantum_states.experiment import beside

    return beside(options, primary)


def _state() -> tuple[bool, str]:
    from fl.workloads.quantum_states.data_sets import kept_state

    return kept_state()


DATA = DataSet(NAME, SOURCE, "none: computed", state=_state)

WORKLOADS = (
    Workload(
        NAME,
        "Quantum states by {model}",
        _open,
        (DATA,),
        models=("entanglement", "magic"),
        splits=SPLITS,
        datasets={each: f"quantum-states:{each}" for each in ("entanglement", "magic")},
        experiment=Experiment(4, 40, 40, 15, 2),
        beside=_beside,
    ),
)
"""The paired gain of a fourth client scatters by 4 to 10 points between seeds: forty of them leave an interval of
1.5 to 3 points."""
