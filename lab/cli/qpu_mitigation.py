"""``qunetlab qpu mitigation``: what each mitigation takes away on simulated devices, and what it costs."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lab.cli.qpu_options import (
    DataOption,
    Json,
    ModelOption,
    OutOption,
    PerJobOption,
    SeedOption,
    SentencesOption,
    ShotsOption,
    TaskOption,
    TrialsOption,
    given,
    request_from,
)
from lab.cli.qpu_talk import RUNS_FOLDER, progress
from lab.runs.shown import echo, html_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fl.qpu.mitigations import MitigationRow

PAGE_FILE = "report.html"
HEADINGS = (
    "backend",
    "mitigation",
    "mean |error|",
    "largest",
    "RMS",
    "standard error",
    "agreement",
    "circuits",
    "shots",
)


def mitigation_command(
    backend: Annotated[
        list[str], typer.Option("--backend", help="A backend simulated here; may be repeated.")
    ] = ["fake_manila", "fake_brisbane"],  # noqa: B006 - typer reads it, nothing changes it
    model: ModelOption = None,
    task: TaskOption = None,
    sentences: SentencesOption = None,
    shots: ShotsOption = None,
    sets_per_job: PerJobOption = None,
    layout_trials: TrialsOption = None,
    seed: SeedOption = None,
    data: DataOption = None,
    out: OutOption = None,
    as_json: Json = False,
) -> None:
    """Compare none, trex and zne on simulated devices: error of the expectation values, and shots."""
    import msgspec

    from fl.qpu.evaluate import cost_of
    from fl.qpu.mitigations import compare_mitigations, simulated_devices
    from fl.qpu.options import MITIGATIONS
    from fl.qpu.prepare import prepare
    from fl.qpu.request import refuse_used, trained_model
    from fl.qpu.tasks import circuit_model

    chosen = given(locals())
    say = progress()
    folder = out or Path(RUNS_FOLDER) / f"mitigation-{datetime.now(UTC).strftime('%Y%m%d-%H%M%S')}"
    refuse_used(folder)
    devices = simulated_devices(backend)
    request, opened, parameters = trained_model(request_from(devices[0].name, chosen), model, say)
    circuit = circuit_model(opened, parameters, request.sentences, request.options.seed)
    for device in devices:
        prepared = prepare(circuit, device, request.options)
        for mitigation in MITIGATIONS:
            options = msgspec.structs.replace(request.options, mitigation=mitigation)
            say(f"{device.name}: {cost_of(prepared, device, options).text()}")
    rows = compare_mitigations(
        circuit,
        devices,
        request.options,
        folder,
        lambda row: say(f"{row.backend}, {row.mitigation}: mean |error| {row.mean_error:.4f}"),
    )
    write_page(rows, circuit.name, request.model, folder)
    if as_json:
        echo(json.dumps({"folder": str(folder), "origin": request.model, "rows": msgspec.to_builtins(rows)}))
        return
    lines = [HEADINGS, *map(_cells, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    for line in lines:
        echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    echo(f"{circuit.name}, {rows[0].examples} examples; report in {folder / PAGE_FILE}")


def write_page(rows: Sequence[MitigationRow], name: str, origin: str, folder: Path) -> None:
    """``report.html`` with the table."""
    from lab.runs.pages.page import page, table
    from orchestrator.durable import replace_file

    content = page(
        f"qunetlab: error mitigation of {name}",
        [
            f"<h1>Error mitigation of {html_text(name)}</h1>",
            f"<p class='lead'>{rows[0].examples} examples, simulated on this machine; model: {html_text(origin)}</p>",
            "<p class='warn'>Local testing mode: no quantum processor took part.</p>",
            table(list(HEADINGS), [[html_text(cell) for cell in _cells(row)] for row in rows]),
            "<p class='note'>|error| is measured minus exact expectation value, over all examples and observables; "
            "the standard error is what the measurement claims for itself; shots are those of all circuits "
            "together. trex: twirled readout, divided by its calibration; zne: that, and gates at 1, 3 and 5 times "
            "their noise, carried back to none.</p>",
        ],
    )
    replace_file(folder / PAGE_FILE, content.encode())


def _cells(row: MitigationRow) -> tuple[str, ...]:
    numbers = (row.mean_error, row.largest_error, row.rms_error, row.standard_error)
    return (
        row.backend,
        row.mitigation,
        *(f"{number:.4f}" for number in numbers),
        f"{row.agreement:.3f}",
        f"{row.circuits:,}",
        f"{row.shots:,}",
    )
