"""``qunetlab train``: one experiment, with simulated keys or those of a testbed; ``--resume`` goes on with it."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import msgspec

from fl.experiments.base import continued, read_plan
from fl.experiments.options import OptionsError
from lab.cli.dashboard import tell_dashboard
from lab.cli.options import EXIT_INTERRUPTED
from lab.cli.train_options import Asked, of_run
from lab.runs.shown import echo, shown
from lab.runs.training.folder import folder_for, resume_hint
from lab.runs.training.outcome import INTERRUPTED, summary


def run_train(asked: Asked, *, resume: Path | None, as_json: bool) -> int:
    """The train command; returns the exit code."""
    tell_preparations()
    out, data = (None if each is None else Path(each) for each in (asked.out, asked.data))
    options = of_run(asked)
    folder = folder_for(options, out, resume)
    if resume is not None:
        options = continued(read_plan(resume), options)
    if asked.dashboard and options.testbed is None:
        raise OptionsError("--dashboard shows a ring: name the testbed whose keys are used with --testbed")
    resuming = resume is not None
    if options.testbed is not None:
        from lab.runs.training.on_testbed import train_on_testbed

        outcome = train_on_testbed(
            options,
            folder,
            resuming=resuming,
            data=data,
            dashboard=partial(tell_dashboard, as_json=as_json) if asked.dashboard else None,
        )
    else:
        from lab.runs.training.simulated import train_simulated

        outcome = train_simulated(options, folder, resuming=resuming, data=data, workers=asked.workers)
    if outcome.reason:
        why = INTERRUPTED if outcome.reason == INTERRUPTED else f"error: {shown(outcome.reason)}"
        echo(f"{why}; what is finished is kept. {resume_hint(folder, options.task, data)}", err=True)
    if outcome.results is not None:
        echo(msgspec.json.encode(outcome.results).decode() if as_json else summary(outcome.results, folder))
    if outcome.reason == INTERRUPTED:
        return EXIT_INTERRUPTED
    return 0 if outcome.healthy and not outcome.reason else 1


def tell_preparations() -> None:
    """What tasks say of long preparations (embeddings, generator circuits) is shown to whoever waits."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("fl.workloads")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logging.getLogger("fl.carriers.in_process").addHandler(logging.NullHandler())  # the display tells it
