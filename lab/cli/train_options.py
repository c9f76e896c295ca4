"""The options of ``qunetlab train``: one table, from which command line, configuration file, help and page derive.

What is kept with a run is declared in :class:`fl.experiments.options.TrainOptions`; :class:`Asked` adds what stands in a
command or a file besides.  A file (``--config FILE``, TOML) holds the same options by the same names, without dashes in front::

    task = "digits"
    rounds = 20
    clip-of = { "head.*" = 0.5 }

Whatever is given on the command line wins over the file; ``--no-quick`` takes back a ``quick = true``.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeAlias, get_args

import click
import msgspec
import typer
from msgspec import Meta
from msgspec.inspect import BoolType, DictType, FloatType, IntType

from fl.experiments.options import (
    MACHINE,
    WHAT,
    OptionsError,
    Row,
    TrainOptions,
    rows_of,
    said,
)
from fl.experiments.options_file import options_in
from fl.modes.table import MODES, IfShort
from fl.workloads import full_name, ours, parse_task, record_of
from lab.cli.naming import known_testbeds
from lab.cli.options import DATA_HELP, TASKS

VAR_KEYWORD = inspect.Parameter.VAR_KEYWORD
Given: TypeAlias = dict[str, Any]
"""Options that were given, by the names of their fields."""


class Asked(TrainOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What may be asked besides: parts of the task's name, and what belongs to this machine and not to the run."""

    model: Annotated[str | None, said("Model of the task.", WHAT)] = None
    dataset: Annotated[str | None, said("Which data set, of a task that has several.", WHAT)] = None
    split: Annotated[str | None, said("How the data is shared out.", WHAT)] = None
    workers: Annotated[
        Annotated[int, Meta(ge=0, le=64)] | None,
        said("Processes that train; 0 trains in this one.", MACHINE),
    ] = None
    data: Annotated[str | None, said(DATA_HELP, MACHINE, metavar="PATH")] = None
    out: Annotated[
        str | None, said("Folder of the run; qunetlab-runs/... without.", MACHINE, metavar="FOLDER")
    ] = None
    dashboard: Annotated[
        bool, said("Show the ring in a browser meanwhile; the address is printed.", MACHINE)
    ] = False


ROWS = {row.field: row for row in rows_of(Asked)}
ROWS["task"] = msgspec.structs.replace(ROWS["task"], text=f"{TASKS}.")
GROUPS = tuple(dict.fromkeys(row.group for row in ROWS.values()))


# The command line


Command: TypeAlias = Callable[..., None]


def taking_options(*fields: str) -> Callable[[Command], Command]:
    """A command with those options of the table as arguments of its own, all without names; None where one was not given.

    Its own arguments come last in help.
    """

    def taking(command: Command) -> Command:
        own = inspect.signature(command, eval_str=True).parameters.values()
        rows = [ROWS[field] for field in fields or ROWS]
        takes = [each for each in own if each.default is inspect.Parameter.empty and each.kind != VAR_KEYWORD]
        takes += [_parameter(row) for row in sorted(rows, key=_place)]
        takes += [each for each in own if each not in takes and each.kind != VAR_KEYWORD]
        command.__signature__ = inspect.Signature(takes)  # type: ignore[attr-defined]
        command.__annotations__ = {each.name: each.annotation for each in takes}
        return command

    return taking


def _place(row: Row) -> int:
    """The task first, then group by group, in the order in which they first occur."""
    return -1 if row.field == "task" else GROUPS.index(row.group)


def _parameter(row: Row) -> inspect.Parameter:
    more: dict[str, Any] = {"help": row.text + _default_shown(row), "show_default": False}
    if row.field == "task":
        more |= {"help": f"{row.text} It may stand in the file of --config.", "metavar": "[TASK]"}
        declared: Any = typer.Argument(**more)
    else:
        if isinstance(row.kind, IntType | FloatType):
            more |= {"min": row.kind.ge, "max": row.kind.le}
        words = f"--{row.name}/--no-{row.name}" if isinstance(row.kind, BoolType) else f"--{row.name}"
        more |= {"metavar": row.metavar or None, "rich_help_panel": row.group}
        more |= {"click_type": click.Path()} if row.metavar in ("PATH", "FOLDER") else {}
        more |= {"autocompletion": known_testbeds} if row.field == "testbed" else {}
        declared = typer.Option(words, **more)
    kind: Any = Annotated[_type(row) | None, declared]
    return inspect.Parameter(
        row.field, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=kind
    )


def like(field: str) -> Any:
    """An option of another command that is the same as this one of the table."""
    row = ROWS[field]
    limits: dict[str, Any] = {}
    if isinstance(row.kind, IntType | FloatType):
        limits = {"min": row.kind.ge, "max": row.kind.le}
    return typer.Option(f"--{row.name}", help=row.text, **limits)


def _default_shown(row: Row) -> str:
    shown = default_of(row)
    return f" Default: {shown}." if shown else ""


def default_of(row: Row) -> str:
    """As it is written on the command line; empty where the task's experiment has it, or nothing happens."""
    if isinstance(row.kind, BoolType):
        return f"--{row.name}" if row.default else ""
    return "" if row.default is None else str(row.default)


def _type(row: Row) -> Any:
    kinds: dict[type, Any] = {IntType: int, FloatType: float, BoolType: bool, DictType: list[str]}
    return kinds.get(type(row.kind), str)


def on_command_line(options: Mapping[str, Any]) -> Given:
    """Those of the table that were given."""
    given = {name: value for name, value in options.items() if name in ROWS and value is not None}
    if "clips" in given:
        given["clips"] = clips_of_arrays(given["clips"])
    return given


def clips_of_arrays(given: list[str]) -> dict[str, float] | None:
    """What ``--clip-of ARRAY=CLIP`` says, option by option; raises OptionsError for anything else."""
    found: dict[str, float] = {}
    for text in given:
        pattern, equals, number = text.rpartition("=")
        try:
            clip = float(number)
        except ValueError:
            clip = math.nan
        if not (pattern and equals and 0 <= clip < math.inf):
            raise OptionsError(
                f"--clip-of {text}: give ARRAY=CLIP, with a number of at least 0 (0: not in the sum)"
            )
        found[pattern] = clip
    return found or None


# The configuration file


def in_file(path: Path) -> Given:
    """The options that a file holds; raises OptionsError as :func:`fl.experiments.options_file.options_in`."""
    return options_in(path, ROWS.values(), "qunetlab train")


def as_file(asked: Asked) -> str:
    """A configuration file that asks for just this; what is left to the task's experiment stands in it as a comment."""
    import tomli_w

    lines = ["# The options of a run: qunetlab train --config FILE. The command line wins over them."]
    for row in sorted(ROWS.values(), key=_place):
        value = getattr(asked, row.field)
        lines += ["", f"# {row.text}"]
        lines += [f"# {row.name}: not set"] if value is None else [_line(row.name, value, tomli_w.dumps)]
    return "\n".join(lines)


def _line(name: str, value: object, dumps: Callable[[Mapping[str, Any]], str]) -> str:
    """A key with its value on one line."""
    if isinstance(value, dict):
        return f"{name} = {{ {', '.join(dumps({key: each}).strip() for key, each in value.items())} }}"
    return dumps({name: value}).strip()


def as_data(asked: Asked) -> dict[str, Any]:
    """The same for programs, without what is left to the experiment."""
    return {row.name: value for row in ROWS.values() if (value := getattr(asked, row.field)) is not None}


# From what was given to a run


def asked_now(line: Given, config: Path | None, resume: Path | None) -> Asked:
    """What command line, file and, for its task, a run to go on with ask for together; raises ValueError."""
    given = {**(in_file(config) if config else {}), **line}
    if resume is not None and "task" not in given:
        from fl.experiments.base import read_plan

        given["task"] = read_plan(resume).options.task
    return asked_options(given)


def asked_options(given: Mapping[str, Any]) -> Asked:
    """The options, the whole name of the task in one of them.

    Raises ValueError naming what there is for a task, model, split or mode that is not.
    """
    for name in ("model", "split", "dataset"):
        if given.get(name) == "":
            raise OptionsError(f"--{name} is empty: name one, or leave the option away")
    if "task" not in given:
        raise OptionsError("say what is trained: qunetlab train TASK, or task = ... in the file of --config")
    asked = Asked(**given)
    if asked.mode is not None and asked.mode not in MODES:
        raise OptionsError(f"no mode is called {asked.mode!r}; there are {', '.join(MODES)}")
    if asked.if_short not in get_args(IfShort):
        raise OptionsError(f"--if-short is {', '.join(get_args(IfShort))}, not {asked.if_short!r}")
    task, model = asked.task, asked.model
    if asked.dataset is not None:
        task, model = with_dataset(task, asked.dataset, model)
    named = full_name(task, model, asked.split)
    return msgspec.structs.replace(asked, task=named, model=None, dataset=None, split=None)


def of_run(asked: Asked) -> TrainOptions:
    """What is kept with the run."""
    return TrainOptions(**{name: getattr(asked, name) for name in TrainOptions.__struct_fields__})


def with_dataset(task: str, dataset: str, model: str | None) -> tuple[str, str | None]:
    """Task and model that ``--dataset`` means."""
    name = parse_task(task).task
    datasets = record_of(task, trusted=task)[0].datasets
    if not datasets:
        having = [each.name for each in ours().values() if each.datasets]
        raise OptionsError(f"task {name} has one data set; --dataset is for {', '.join(having)}")
    if dataset not in datasets:
        raise OptionsError(f"--dataset of {name} is {' or '.join(datasets)}, not {dataset!r}")
    meant, _, of_model = datasets[dataset].partition(":")
    if of_model and model not in (None, of_model):
        raise OptionsError(f"--dataset {dataset} and --model {model} contradict each other")
    return task.replace(name, meant, 1), of_model or model
