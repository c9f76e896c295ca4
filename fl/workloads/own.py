"""Workloads that are not ours: a class of the user's own module, or what a package registers.

``MODULE:CLASS`` names anything that makes a :class:`~fl.workloads.base.Task` when it is called, in a module that
Python finds (``PYTHONPATH``).  A package registers the same under a name of its own, without a word in ours:

    [project.entry-points."qunetlab.workloads"]
    wine = "mytask:Wine"

A workload tells of itself what a report says about it: ``title``, a line of text, and ``sources``, a sequence
of :class:`~fl.workloads.base.DataSource`; both may be missing.  If the call takes ``data_folder``, it is given the
folder of ``--data``.  What it hands over is checked where it enters, so that an array of the wrong shape is
told in the words of the task rather than as a wrong sum.

Importing a module runs it.  So ``MODULE:CLASS`` is opened only when this machine's own operator names it; what
a server announces may name installed workloads alone (:func:`fl.workloads.load_task`).
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import inspect
import re
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from fl.workloads.base import (
    DataSource,
    Evaluation,
    Examples,
    Parameters,
    Task,
    TaskDefaults,
    TaskError,
    UnknownTaskError,
)

GROUP = "qunetlab.workloads"
OWN = "own"
"""Model and split of a workload that has no such names: it knows one of each."""

MODULE_NAME = re.compile(r"(?P<module>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*):(?P<name>[A-Za-z_]\w*)(@own)?", re.ASCII)
REGISTERED_NAME = re.compile(r"(?P<name>[a-z0-9][a-z0-9-]*)(:own)?(@own)?")
METHODS = {
    "initial_parameters": ("seed",),
    "client_data": ("client_index", "n_clients", "seed"),
    "local_train": ("parameters", "data", "seed"),
    "evaluate": ("parameters",),
}
"""What a task can do, with its arguments in order."""


def registered() -> dict[str, importlib.metadata.EntryPoint]:
    """Workloads of installed packages by name."""
    return {entry.name: entry for entry in importlib.metadata.entry_points(group=GROUP)}


def own_parts(name: str) -> tuple[str, str] | None:
    """Task and model that ``name`` means if it may be a workload that is not ours; opens nothing."""
    match = REGISTERED_NAME.fullmatch(name)
    if match and match["name"] in registered():
        return match["name"], OWN
    match = MODULE_NAME.fullmatch(name)
    return (match["module"], match["name"]) if match else None


def open_own(task: str, model: str, data_folder: Path | None, *, modules: bool) -> OwnTask:
    """The workload that :func:`own_parts` gave the names of; ``modules`` allows a module that nobody installed.

    Raises UnknownTaskError saying what is missing and what a task must offer.
    """
    if model == OWN and task in registered():
        where = f"workload {task} ({registered()[task].value})"
        load: Callable[[], Any] = registered()[task].load
    else:
        where = f"{task}:{model}"
        if not modules:
            raise UnknownTaskError(
                f"{where} is a module that would run on this machine, and it was not its operator who named it: "
                f"name it with --task {where} if it is to be trained, or install it as a workload"
            )

        def load() -> Any:
            return _found_in(task, model)

    try:
        made = load()
        if callable(made):
            wants = "data_folder" in inspect.signature(made).parameters
            made = made(data_folder=data_folder) if wants else made()
    except UnknownTaskError:
        raise
    except Exception as error:
        raise UnknownTaskError(f"{where} cannot be opened: {_told(error)}") from error
    if problems := problems_of(made):
        offers = ", ".join(f"{name}({', '.join(takes)})" for name, takes in METHODS.items())
        raise UnknownTaskError(
            f"{where} is no task: {'; '.join(problems)}. A task has name, n_parameters, fingerprint, defaults, "
            f"{offers}: see Task in fl/workloads/base.py"
        )
    return OwnTask(where, made)


def problems_of(made: Any) -> list[str]:
    """What ``made`` lacks to be a task, all of it at once."""
    problems = []
    for name, text, right in (
        ("name", "a text", lambda value: isinstance(value, str) and bool(value)),
        ("n_parameters", "a whole number from 1 on", _is_count),
        ("fingerprint", "a hex digest of at most 64 digits (fl.workloads.base.fingerprint_of)", _is_digest),
        ("defaults", "a TaskDefaults", lambda value: isinstance(value, TaskDefaults)),
    ):
        if not hasattr(made, name):
            problems.append(f"it has no {name}")
        elif not right(getattr(made, name)):
            problems.append(f"its {name} is {getattr(made, name)!r:.60}, it must be {text}")
    for name, takes in METHODS.items():
        method = getattr(made, name, None)
        if not callable(method):
            problems.append(f"it has no method {name}({', '.join(takes)})")
            continue
        try:
            inspect.signature(method).bind(*takes)
        except TypeError:
            problems.append(f"its {name} does not take ({', '.join(takes)})")
    sources = getattr(made, "sources", ())
    if not isinstance(sources, Sequence) or not all(isinstance(each, DataSource) for each in sources):
        problems.append(f"its sources are {sources!r:.60}, they must be a sequence of DataSource")
    if not isinstance(getattr(made, "title", ""), str):
        problems.append(f"its title is {made.title!r:.60}, it must be a text")
    return problems


class OwnTask:
    """A workload of somebody else's, with what it hands over checked and its errors told with their place."""

    def __init__(self, where: str, task: Task) -> None:
        self._where = where
        self._task = task
        self.name = task.name
        self.n_parameters = int(task.n_parameters)
        self.fingerprint = task.fingerprint
        self.defaults = task.defaults
        self.title: str = getattr(task, "title", "") or task.name

    @property
    def sources(self) -> tuple[DataSource, ...]:
        """What the workload says it learns from; where it says nothing, a digest of what it hands out."""
        told: Sequence[DataSource] = getattr(self._task, "sources", ())
        if told:
            return tuple(told)
        examples = self.client_data(0, 1, 0)
        digest = hashlib.sha256(examples.inputs.tobytes() + examples.labels.tobytes()).hexdigest()
        return (DataSource(f"training examples of {self._where}, as it hands them out", digest),)

    def initial_parameters(self, seed: int) -> Parameters:
        return self._parameters("initial_parameters", self._call("initial_parameters", seed))

    def client_data(self, client_index: int, n_clients: int, seed: int) -> Examples:
        data = self._call("client_data", client_index, n_clients, seed)
        if not isinstance(data, Examples):
            self._refuse("client_data", f"gives a {type(data).__name__}, it must give Examples")
        return data

    def local_train(self, parameters: Parameters, data: Examples, seed: Sequence[int]) -> Parameters:
        return self._parameters("local_train", self._call("local_train", parameters, data, seed))

    def evaluate(self, parameters: Parameters) -> Evaluation:
        found = self._call("evaluate", parameters)
        if not isinstance(found, Evaluation):
            self._refuse("evaluate", f"gives a {type(found).__name__}, it must give an Evaluation")
        return found

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return getattr(self._task, method)(*arguments)
        except Exception as error:
            raise TaskError(f"{self._where}.{method} failed: {_told(error)}") from error

    def _parameters(self, method: str, values: Any) -> Parameters:
        array: npt.NDArray[Any] = np.asarray(values)
        if array.shape != (self.n_parameters,) or array.dtype.kind not in "fiu":
            self._refuse(
                method,
                f"gives {array.dtype} of shape {array.shape}, it must give float32 of shape ({self.n_parameters},)",
            )
        return np.ascontiguousarray(array, np.float32)

    def _refuse(self, method: str, text: str) -> NoReturn:
        raise TaskError(f"{self._where}.{method} {text}")


def _found_in(module: str, name: str) -> Any:
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # it is there, and something that it imports is not
        raise UnknownTaskError(
            f"no task is called {module}:{name}, and there is no module {module}: is its folder in PYTHONPATH?"
        ) from None
    if not hasattr(loaded, name):
        tasks = [each for each in vars(loaded) if hasattr(vars(loaded)[each], "local_train")]
        there = f"; it has {', '.join(tasks)}" if tasks else ""
        raise UnknownTaskError(f"module {module} ({loaded.__file__}) has no {name}{there}")
    return getattr(loaded, name)


def _told(error: Exception) -> str:
    """The error with the line of the user's code that it comes from."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"


def _is_count(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) >= 1


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{0,64}", value) is not None
