"""Workloads that are not ours: a record or a task of the user's own module, or what a package registers.

A package of one's own hands over a :class:`~fl.workloads.record.Workload`, or more shortly whatever makes a
:class:`~fl.workloads.base.Task` when it is called.  Such a task tells of itself what a report says about it:
``title``, a line of text, and ``sources``, a sequence of :class:`~fl.workloads.data.DataSource`; both may be missing.
If the call takes ``data_folder``, it is given the folder of ``--data``.

What a task hands over is checked where it enters, so that an array of the wrong shape is told in the words of the task
rather than as a wrong sum; files of a record are verified before the first example is asked for.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import re
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from fl.workloads.base import Evaluation, Examples, Parameters, Task, TaskDefaults, TaskError
from fl.workloads.data import DataSet, DataSource
from fl.workloads.record import OWN, UnknownTaskError, Workload, WorkloadError

METHODS = {
    "initial_parameters": ("seed",),
    "client_data": ("client_index", "n_clients", "seed"),
    "local_train": ("parameters", "data", "seed"),
    "evaluate": ("parameters",),
}
"""What a task can do, with its arguments in order."""
READING = ("client_data", "evaluate")
"""The methods that read the data."""
OPTIONAL = ("array_sizes", "train_centralised", "oracle_accuracy")
"""What a task may offer besides: see :class:`~fl.workloads.base.NamesArrays` and :mod:`fl.experiments.runner`."""


def installed(name: str, value: str, package: str, load: Callable[[], Any]) -> Workload:
    """The record that ``package`` registers as ``name``; raises UnknownTaskError, WorkloadError with its place."""
    where = f"workload {name} ({value} of package {package})"
    record = _record(name, where, load)
    if record.name != name:
        raise WorkloadError(f"{where} is registered by half: its record is named {record.name}")
    return record


def found_in(module: str, name: str) -> Workload:
    """The record of ``MODULE:NAME``, which is imported; raises UnknownTaskError saying what is missing."""
    return _record(
        name.lower().strip("_").replace("_", "-"), f"{module}:{name}", lambda: _object_in(module, name)
    )


def _record(name: str, where: str, load: Callable[[], Any]) -> Workload:
    """What ``load`` finds as a record whose tasks are checked."""
    try:
        made = load()
    except UnknownTaskError:
        raise
    except (Exception, SystemExit) as error:
        raise UnknownTaskError(f"{where} cannot be opened: {_told(error)}") from error
    if isinstance(made, Workload):
        return replace(
            made, open=lambda spec, folder: _opened(where, made.data, folder, lambda: made.open(spec, folder))
        )

    def make(folder: Path | None) -> Any:
        if not callable(made):
            return made
        return made(data_folder=folder) if "data_folder" in inspect.signature(made).parameters else made()

    titles = [
        text for each in ("title", "name") if isinstance(text := getattr(made, each, None), str) and text
    ]
    return Workload(
        name=name,
        title=(*titles, where)[0],
        open=lambda spec, folder: _opened(where, (), folder, lambda: make(folder)),
        data=(DataSet(OWN, f"what {where} hands out", "not told", state=lambda: (True, "its own")),),
        models=(OWN,),
        splits=(OWN,),
        own_files="what it reads",
    )


def _opened(where: str, data: tuple[DataSet, ...], folder: Path | None, make: Callable[[], Any]) -> OwnTask:
    """The task; raises UnknownTaskError saying what it lacks and what a task must offer."""
    try:
        made = make()
    except (Exception, SystemExit) as error:
        raise UnknownTaskError(f"{where} cannot be opened: {_told(error)}") from error
    if problems := problems_of(made):
        offers = ", ".join(f"{name}({', '.join(takes)})" for name, takes in METHODS.items())
        raise UnknownTaskError(
            f"{where} is no task: {'; '.join(problems)}. A task has name, n_parameters, fingerprint, defaults, "
            f"{offers}: see Task in fl/workloads/base.py"
        )
    return OwnTask(where, made, data, folder)


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
    """A task of somebody else's: what it reads and hands over is checked, its errors are told with their place."""

    def __init__(
        self, where: str, task: Task, data: tuple[DataSet, ...] = (), folder: Path | None = None
    ) -> None:
        self._where = where
        self._task = task
        self._unverified = data
        self._folder = folder
        self.name = task.name
        self.n_parameters = int(task.n_parameters)
        self.fingerprint = task.fingerprint
        self.defaults = task.defaults
        told: Sequence[DataSource] = getattr(task, "sources", ())
        self.sources = tuple(told) or tuple(source for each in data for source in each.sources)
        for name in OPTIONAL:
            if hasattr(task, name):
                setattr(self, name, getattr(task, name))

    def handed_out(self) -> DataSource:
        """A digest of the training examples, for a workload that does not say where they come from."""
        examples = self.client_data(0, 1, 0)
        digest = hashlib.sha256(examples.inputs.tobytes() + examples.labels.tobytes()).hexdigest()
        return DataSource(f"training examples of {self._where}, as it hands them out", digest)

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
        if method in READING:
            while self._unverified:
                self._unverified[0].verify(self._folder)
                self._unverified = self._unverified[1:]
        try:
            return getattr(self._task, method)(*arguments)
        except (Exception, SystemExit) as error:
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


def _object_in(module: str, name: str) -> Any:
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


def _told(error: BaseException) -> str:
    """The error with the line of the user's code that it comes from."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"


def _is_count(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) >= 1


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{0,64}", value) is not None
