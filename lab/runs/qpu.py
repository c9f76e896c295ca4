"""A run of a circuit on a quantum processor or its stand-in, from its request to the folder that it works in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from fl.qpu import backends
from fl.qpu.evaluate import cost_of
from fl.qpu.journal import QpuFolder
from fl.qpu.prepare import prepare
from fl.qpu.request import QpuRequest, keep_request, kept_request, refuse_used, trained_model
from lab.runs.own_folder import own_folder

if TYPE_CHECKING:
    from fl.qpu.cost import CostEstimate
    from fl.qpu.model import CircuitModel
    from fl.qpu.options import Mitigation, RunOptions
    from fl.workloads.base import CircuitTask, Parameters


@dataclass(frozen=True)
class Start:
    """A run that is about to begin or to go on: its locked folder, request, device, task and trained parameters."""

    folder: QpuFolder
    resumed: bool
    request: QpuRequest
    device: backends.Device
    task: CircuitTask
    parameters: Parameters
    say: Callable[[str], None]


@contextmanager
def begun(
    asked: QpuRequest, model: Path | None, out: Path | None, say: Callable[[str], None]
) -> Iterator[Start]:
    """A new run in a folder of its own; raises OptionsError for a folder that is in use."""
    path = out or own_folder("qpu")
    refuse_used(path)
    device = backends.open_device(asked.backend, asked.account)
    request, task, parameters = trained_model(asked, model, say)
    with QpuFolder(path) as folder:
        keep_request(path, request, parameters)
        yield Start(folder, False, request, device, task, parameters, say)


def costs_of(
    circuit: CircuitModel, device: backends.Device, options: RunOptions, mitigations: Sequence[Mitigation]
) -> list[CostEstimate]:
    """What a run of ``circuit`` would cost with each of these mitigations; transpiles, submits nothing."""
    prepared = prepare(circuit, device, options)
    return [
        cost_of(prepared, device, msgspec.structs.replace(options, mitigation=each)) for each in mitigations
    ]


@contextmanager
def resumed(path: Path, purpose: str, say: Callable[[str], None]) -> Iterator[Start]:
    """A run that goes on in its folder; ``purpose`` is "run" or "train"."""
    request, task, parameters = kept_request(path, purpose)
    with QpuFolder(path) as folder:
        device = backends.open_device(request.backend, request.account)
        yield Start(folder, True, request, device, task, parameters, say)
