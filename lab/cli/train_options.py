"""From the command line of ``qunetlab train`` to options whose names are known to exist."""

from __future__ import annotations

import math
from typing import get_args

from fl.experiments.options import OptionsError, TrainOptions
from fl.modes.table import MODES, IfShort
from fl.workloads import full_name, ours, parse_task, record_of


def asked_options(
    *,
    task: str,
    model: str | None,
    dataset: str | None,
    split: str | None,
    mode: str | None,
    if_short: str,
    **rest: object,
) -> TrainOptions:
    """The options; raises ValueError naming what there is for a task, model, split or mode that is not."""
    for option, value in (("--model", model), ("--split", split), ("--dataset", dataset)):
        if value == "":
            raise OptionsError(f"{option} is empty: name one, or leave the option away")
    if mode is not None and mode not in MODES:
        raise OptionsError(f"no mode is called {mode!r}; there are {', '.join(MODES)}")
    if if_short not in get_args(IfShort):
        raise OptionsError(f"--if-short is {', '.join(get_args(IfShort))}, not {if_short!r}")
    if dataset is not None:
        task, model = with_dataset(task, dataset, model)
    return TrainOptions(
        task=full_name(task, model, split),
        mode=mode,
        if_short=if_short,
        **rest,  # type: ignore[arg-type]
    )


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


def clips_of_arrays(given: list[str] | None) -> dict[str, float] | None:
    """What ``--clip-of ARRAY=CLIP`` says, option by option; raises OptionsError for anything else."""
    found = {}
    for text in given or []:
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
