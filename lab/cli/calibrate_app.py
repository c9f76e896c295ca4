"""The arguments of ``qunetlab calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lab.calibration.steps import Step
from lab.cli.completing import known_pairs
from lab.cli.options import FolderOption, Json, StatePath


def calibrate_command(
    steps: Annotated[
        list[Step] | None,
        typer.Argument(
            metavar="[STEP...]", help=f"What to calibrate: {', '.join(Step)}; default: what is due."
        ),
    ] = None,
    testbed: FolderOption = Path(),
    pair: Annotated[
        list[str] | None,
        typer.Option(
            autocompletion=known_pairs,
            help="Calibrate for this pair, such as alice-bob; several times for several, default: for all.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, touch nothing.")
    ] = False,
    state: StatePath = None,
    as_json: Json = False,
) -> None:
    """Measure a ring with its own instruments while no role runs, and keep the values beside the testbed file."""
    from lab.cli.calibrate import run_calibrate
    from lab.runs.testbeds.folder import find_testbed, own_testbed

    path = find_testbed(testbed) if dry_run or state else own_testbed(testbed)
    code = run_calibrate(path, steps or [], pair or [], state=state, dry_run=dry_run, as_json=as_json)
    raise typer.Exit(code)
