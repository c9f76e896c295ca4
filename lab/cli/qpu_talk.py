"""What the commands of ``qunetlab qpu`` print while they work, and the confirmation that they ask for."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import typer

from lab.cli.options import EXIT_INTERRUPTED
from lab.runs.shown import echo

if TYPE_CHECKING:
    from fl.qpu.cost import CostEstimate
    from fl.qpu.runner import QpuEvent
    from lab.runs.qpu import Start


def progress() -> Callable[[str], None]:
    """Prints a line with the time since the start, on standard error."""
    started = time.monotonic()

    def say(text: str) -> None:
        echo(f"{time.monotonic() - started:6.1f} s  {text}", err=True)

    return say


def teller(say: Callable[[str], None]) -> Callable[[QpuEvent], None]:
    """Tells events of jobs."""
    return lambda event: say(f"job {event.job + 1} of {event.jobs}: {event.text}")


def consent(say: Callable[[str], None], *, yes: bool, asked_before: bool) -> Callable[[CostEstimate], bool]:
    """Shows the cost; free runs and runs agreed to before go on, others need ``--yes`` or an answer."""

    def agree(cost: CostEstimate) -> bool:
        say(cost.text())
        if cost.free or yes or asked_before:
            return True
        return sys.stdin.isatty() and typer.confirm("Submit?", err=True)

    return agree


def interrupted(start: Start, purpose: str) -> int:
    """Say how to go on; returns the exit code."""
    what = "finished jobs are kept" if start.device.local else "jobs at the service go on and are not lost"
    hint = f"qunetlab qpu {purpose} --resume {start.folder.folder}"
    echo(f"interrupted; {what}. Go on with: {hint}", err=True)
    return EXIT_INTERRUPTED
