"""What the commands of ``qunetlab qpu`` print while they work, and the confirmation that they ask for."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from lab.runs.shown import echo

if TYPE_CHECKING:
    from fl.qpu.backends import Device
    from fl.qpu.cost import CostEstimate
    from fl.qpu.journal import QpuFolder
    from fl.qpu.request import QpuRequest
    from fl.qpu.runner import QpuEvent
    from fl.workloads.base import CircuitTask, Parameters

RUNS_FOLDER = "qunetlab-runs"
EXIT_INTERRUPTED = 130


@dataclass(frozen=True)
class Start:
    """A run that is about to begin or to go on: its locked folder, request, device, task and trained parameters."""

    folder: QpuFolder
    resumed: bool
    request: QpuRequest
    device: Device
    task: CircuitTask
    parameters: Parameters
    say: Callable[[str], None]


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
