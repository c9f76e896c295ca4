"""Learning problems by name; a task's libraries (torch, scikit-learn) load only when it is opened."""

from __future__ import annotations

from pathlib import Path

from fl.tasks.base import Task

TASK_NAMES = ("digits", "mnist")


class UnknownTaskError(ValueError):
    """No task has this name."""


def load_task(name: str, data_folder: Path | None = None) -> Task:
    """The task called ``name``; ``data_folder`` is where its files lie, for tasks that have files."""
    if name == "digits":
        from fl.tasks.digits import Digits

        return Digits()
    if name == "mnist":
        from fl.tasks.mnist import MnistTask

        return MnistTask(data_folder)
    raise UnknownTaskError(f"no task is called {name!r}; there are {', '.join(TASK_NAMES)}")
