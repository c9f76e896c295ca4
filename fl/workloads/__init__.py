"""Learning problems by name, each from its one record (:mod:`fl.workloads.record`).

A task is named ``TASK[:MODEL][@SPLIT]``: ``digits``, ``mnist:mlp@two-shard``, ``sentiment:hybrid@iid``.  What
is left out is the task's first model and split.  There are three ways to a record:

* a folder beside this file: its ``WORKLOADS`` are ours, by the folder being there;
* an installed package registers a record of its own, or a task (:mod:`fl.workloads.own`), without a word in ours::

      [project.entry-points."qunetlab.workloads"]
      wine = "mypackage.workload:WINE"

* ``MODULE:NAME`` names either in a module that Python finds (``PYTHONPATH``).

Names are listed without importing a third party's code; what a task computes with loads when it is opened.
Importing a module runs it.  So ``MODULE:NAME`` is opened only when this machine's own operator names it; what a
server announces may name installed workloads alone.
"""

from __future__ import annotations

import importlib
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from fl.workloads.data import DataError
from fl.workloads.record import OWN, TaskSpec, UnknownTaskError, Workload, WorkloadError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from fl.workloads.base import Task

GROUP = "qunetlab.workloads"

_GRAMMAR = re.compile(r"(?P<task>[a-z0-9][a-z0-9-]*)(:(?P<model>[a-z0-9-]+))?(@(?P<split>[a-z0-9-]+))?")
_MODULE = re.compile(r"(?P<module>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*):(?P<name>[A-Za-z_]\w*)(@own)?", re.ASCII)


def folders() -> tuple[str, ...]:
    """Names of the folders that hold our workloads; nothing is imported."""
    place = Path(__file__).parent
    return tuple(sorted(each.parent.name.replace("_", "-") for each in place.glob("*/__init__.py")))


@cache
def ours() -> dict[str, Workload]:
    """Our records by name; raises WorkloadError for a folder that holds none, or one of another's name."""
    found: dict[str, Workload] = {}
    for folder in folders():
        module = f"{__name__}.{folder.replace('-', '_')}"
        records = getattr(importlib.import_module(module), "WORKLOADS", ())
        if folder not in [each.name for each in records]:
            raise WorkloadError(
                f"{module} is registered by half: its WORKLOADS hold no record named {folder}"
            )
        for each in records:
            if each.name in found:
                raise WorkloadError(f"workload {each.name} is registered twice, the second time in {module}")
            found[each.name] = each
    return found


def registered() -> dict[str, list[EntryPoint]]:
    """What installed packages register, by name; nothing of it is imported."""
    from importlib.metadata import entry_points

    found: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=GROUP):  # of each package once, however often it lies on the path
        found.setdefault(entry.name, []).append(entry)
    return found


def names() -> tuple[str, ...]:
    """Names of all workloads that can be chosen, ours first."""
    return (*ours(), *(each for each in registered() if each not in ours()))


def workload(name: str) -> Workload:
    """The record of a workload that is ours or installed.

    Raises UnknownTaskError naming those there are, WorkloadError where packages contradict each other.
    """
    entries, mine = registered().get(name, []), ours().get(name)
    if len(entries) + (mine is not None) > 1:
        owners = ["qunetlab"] * (mine is not None) + [f"{_package(each)} ({each.value})" for each in entries]
        raise WorkloadError(
            f"workload {name} is registered by {' and by '.join(owners)}; uninstall all but one"
        )
    if entries:
        from fl.workloads.own import installed

        return installed(name, entries[0].value, _package(entries[0]), entries[0].load)
    if mine is None:
        raise UnknownTaskError(
            f"no task is called {name!r}; there are {', '.join(names())}, and MODULE:NAME for one of your own"
        )
    return mine


def _package(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown package"


def parse_task(name: str) -> TaskSpec:
    """What ``TASK[:MODEL][@SPLIT]`` names; raises UnknownTaskError saying which names there are.

    ``MODULE:NAME`` is taken apart and not opened.
    """
    match = _GRAMMAR.fullmatch(name)
    if match is not None and (match["task"] in ours() or match["task"] in registered()):
        return workload(match["task"]).spec(match["model"], match["split"])
    own = _MODULE.fullmatch(name)
    if own is None or own["module"] in ours() or own["module"] in registered():
        return workload(name).spec()
    return TaskSpec(own["module"], own["name"], OWN)


def record_of(name: str, *, trusted: str | None = None) -> tuple[Workload, TaskSpec]:
    """The record behind a task's name, and which of its models and splits that is.

    ``trusted`` is the name that this machine's operator gave: a module that nobody installed is opened only if it is
    that one, for importing it runs it.  Raises UnknownTaskError, WorkloadError.
    """
    spec = parse_task(name)
    if spec.split != OWN or spec.task in registered():
        return workload(spec.task), spec
    if trusted is None or parse_task(trusted) != spec:
        raise UnknownTaskError(
            f"{spec.task}:{spec.model} is a module that would run on this machine, and it was not its operator who "
            f"named it: name it with --task {spec.task}:{spec.model} if it is to be trained, or install it as a workload"
        )
    from fl.workloads.own import found_in

    record = found_in(spec.task, spec.model)
    return record, record.spec()


def open_task(name: str, data_folder: Path | None = None) -> Task:
    """:func:`load_task` for a name that comes from this machine's operator."""
    return load_task(name, data_folder, trusted=name)


def load_task(name: str, data_folder: Path | None = None, *, trusted: str | None = None) -> Task:
    """The task called ``name`` from its record; ``data_folder`` is where its files lie, for tasks that have files.

    ``trusted``: see :func:`record_of`.  Raises UnknownTaskError, WorkloadError, DataError.
    """
    record, spec = record_of(name, trusted=trusted)
    if data_folder is not None and not data_folder.exists():
        raise DataError(f"data {data_folder}: there is no such file or folder")
    if data_folder is not None and data_folder.is_file() and not record.own_files:
        taking = ", ".join(f"{each.name} ({each.own_files})" for each in ours().values() if each.own_files)
        raise DataError(
            f"data {data_folder} is a file, and {record.name} reads a folder; {taking} take files of your own"
        )
    return record.open(spec, data_folder)


def full_name(task: str, model: str | None = None, split: str | None = None) -> str:
    """``TASK:MODEL@SPLIT`` of an experiment from a name and options; raises UnknownTaskError or ValueError."""
    name = task
    for mark, value, option in ((":", model, "--model"), ("@", split, "--split")):
        if value is None:
            continue
        if mark in name:
            raise ValueError(f"{task} already says what {option} {value} says; give one of them")
        head, at, tail = name.partition("@") if mark == ":" else (name, "", "")
        name = f"{head}:{value}{at}{tail}" if mark == ":" else f"{name}@{value}"
    spec = parse_task(name)
    if ":" not in name and (usual := workload(spec.task).experiment.model):
        return str(TaskSpec(spec.task, usual, spec.split))
    return str(spec)
