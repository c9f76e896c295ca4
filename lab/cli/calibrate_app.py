"""The arguments of ``qunetlab calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lab.calibration.steps import Step
from lab.cli.options import Json, StatePath


def calibrate_command(
    steps: Annotated[
        list[Step] | None,
        typer.Argument(
            metavar="[STEP...]", help=f"What to calibrate: {', '.join(Step)}; default: what is due."
        ),
    ] = None,
    testbed: Annotated[Path, typer.Option(help="Testbed file, or its folder.")] = Path(),
    pair: Annotated[
        list[str] | None,
        typer.Option(
            help="FIRST,SECOND (or FIRST-SECOND) in ring order: calibrate for this pair; several times for several, default: for all."
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
    from lab.runs.testbeds.folder import find_testbed

    named: list[tuple[str, str]] = []
    for each in pair or ():
        first, mark, second = each.partition("," if "," in each else "-")
        if not mark:
            raise typer.BadParameter(f"--pair takes FIRST,SECOND or FIRST-SECOND, got {each!r}")
        named.append((first.strip(), second.strip()))
    code = run_calibrate(
        find_testbed(testbed), steps or [], named, state=state, dry_run=dry_run, as_json=as_json
    )
    raise typer.Exit(code)
