"""What a task learns from, checked before anything is trained, and as results and consents name it."""

from __future__ import annotations

from pathlib import Path

from fl.workloads import record_of
from fl.workloads.base import Task, told_sources
from fl.workloads.data import DataSource
from fl.workloads.images import OWN_FILES
from fl.workloads.own import OwnTask


def learnt_from(task: Task) -> tuple[DataSource, ...]:
    """The data behind a run's results; of a task that says nothing, a digest of what it hands out."""
    return told_sources(task) or ((task.handed_out(),) if isinstance(task, OwnTask) else ())


def on_own_files(task: Task) -> bool:
    """Whether the task learns from files of the user's own in the place of its registered data."""
    return any(each.source == OWN_FILES for each in told_sources(task))


def verify_data(name: str, task: Task, data: Path | None) -> None:
    """Raise DataError for a registered file that is missing or damaged, whoever reads it, and when.

    ``name`` is that under which ``task`` was opened with ``data``.
    """
    record, _ = record_of(name, trusted=name)
    if not on_own_files(task):
        record.verify(data)


def check_data(name: str, task: Task, data: Path | None, n_clients: int, seed: int) -> None:
    """:func:`verify_data`; raises ValueError as well for too little for so many clients."""
    verify_data(name, task, data)
    for index in (0, n_clients - 1):
        task.client_data(index, n_clients, seed)
