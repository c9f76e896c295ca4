"""Every mitigation on every backend, side by side: what is left of the error, and what it costs in shots.

One trained circuit on the same examples; each pair of backend and mitigation is a run of its own, in a folder
of its own.  Only for backends that are simulated here: elsewhere every run is decided on by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from fl.qpu.backends import Device, open_device
from fl.qpu.evaluate import QpuReport, evaluate
from fl.qpu.journal import QpuFolder
from fl.qpu.model import CircuitModel
from fl.qpu.options import MITIGATIONS, Mitigation, RunOptions, RunOptionsError
from orchestrator.durable import write_kept

TABLE_FILE = "mitigation.json"


class MitigationRow(msgspec.Struct, frozen=True):
    """One mitigation on one backend: sizes of measured minus exact expectation values over all examples and
    observables, the standard error that the measurement itself claims (root mean square), and the cost."""

    backend: str
    mitigation: Mitigation
    examples: int
    mean_error: float
    largest_error: float
    rms_error: float
    standard_error: float
    agreement: float
    circuits: int
    shots: int
    wall_s: float


class Mitigated(msgspec.Struct, frozen=True):
    """A row for each mitigation and device, of a model that came from ``origin``; ``folder`` holds the page."""

    folder: str
    origin: str
    rows: tuple[MitigationRow, ...]


def simulated_devices(names: Sequence[str]) -> list[Device]:
    """The backends called ``names``; raises RunOptionsError for one that is not simulated here, or named twice."""
    if len(set(names)) != len(names):
        raise RunOptionsError(f"a backend is named twice: {', '.join(names)}")
    devices = [open_device(name) for name in names]
    for device in devices:
        if not device.local:
            raise RunOptionsError(
                f"{device.name} is not simulated here and its time is paid for: compare there with "
                "`qunetlab qpu run --mitigation none`, `trex` and `zne`, one at a time"
            )
    return devices


def compare_mitigations(
    model: CircuitModel,
    devices: Sequence[Device],
    options: RunOptions,
    folder: Path,
    report: Callable[[MitigationRow], None] = lambda row: None,
) -> tuple[MitigationRow, ...]:
    """Run ``model`` with every mitigation on every device; the rows are also kept as ``mitigation.json``."""
    rows: list[MitigationRow] = []
    for device in devices:
        for mitigation in MITIGATIONS:
            chosen = msgspec.structs.replace(options, mitigation=mitigation)
            with QpuFolder(folder / f"{device.name.replace(':', '-')}-{mitigation}") as run:
                rows.append(row_of(evaluate(model, device, chosen, run)))
            report(rows[-1])
    write_kept(folder / TABLE_FILE, rows)
    return tuple(rows)


def row_of(outcome: QpuReport) -> MitigationRow:
    """The row of a run."""
    deviation = outcome.comparison.deviation
    return MitigationRow(
        backend=outcome.backend,
        mitigation=outcome.options.mitigation,
        examples=outcome.comparison.examples,
        mean_error=deviation.absolute,
        largest_error=deviation.largest,
        rms_error=deviation.rms,
        standard_error=deviation.shot_noise,
        agreement=outcome.comparison.agreement,
        circuits=outcome.cost.circuits,
        shots=outcome.cost.executions,
        wall_s=outcome.wall_s,
    )
