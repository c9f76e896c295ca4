"""``qunetlab qpu mitigation``: what each mitigation takes away on simulated devices, and what it costs."""

from __future__ import annotations

from typing import Annotated

import typer

from lab.cli.options import Json
from lab.cli.qpu_options import (
    DataOption,
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
from lab.cli.qpu_talk import progress
from lab.runs.own_folder import own_folder
from lab.runs.shown import echo


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

    from fl.qpu.mitigations import Mitigated, compare_mitigations, simulated_devices
    from fl.qpu.options import MITIGATIONS
    from fl.qpu.request import refuse_used, trained_model
    from fl.qpu.tasks import circuit_model
    from lab.runs.pages.mitigation import HEADINGS, PAGE_FILE, cells, write_mitigation
    from lab.runs.qpu import costs_of

    chosen = given(locals())
    say = progress()
    folder = out or own_folder("mitigation")
    refuse_used(folder)
    devices = simulated_devices(backend)
    request, opened, parameters = trained_model(request_from(devices[0].name, chosen), model, say)
    circuit = circuit_model(opened, parameters, request.sentences, request.options.seed)
    for device in devices:
        for cost in costs_of(circuit, device, request.options, MITIGATIONS):
            say(f"{device.name}: {cost.text()}")
    rows = compare_mitigations(
        circuit,
        devices,
        request.options,
        folder,
        lambda row: say(f"{row.backend}, {row.mitigation}: mean |error| {row.mean_error:.4f}"),
    )
    write_mitigation(rows, circuit.name, request.model, folder)
    if as_json:
        echo(msgspec.json.encode(Mitigated(str(folder), request.model, rows)).decode())
        return
    lines = [HEADINGS, *map(cells, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    for line in lines:
        echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    echo(f"{circuit.name}, {rows[0].examples} examples; report in {folder / PAGE_FILE}")
