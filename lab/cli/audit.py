"""``qunetlab audit``: hold the records of a run against each other, offline, from light to model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from lab.cli.options import DataPath, Json
from lab.runs.shown import echo, shown


def audit(
    run: Annotated[
        Path, typer.Argument(help="Folder of a run, or a testbed folder whose roles are at rest.")
    ],
    out: Annotated[Path | None, typer.Option(help="HTML page of all checks, too.")] = None,
    data: DataPath = None,
    as_json: Json = False,
) -> None:
    """Re-check a run offline, from light to model, without key bits; 1 if anything contradicts itself."""
    from lab.runs.audit.auditing import audited, lines

    found = audited(run, data)
    if out is not None:
        from lab.interlock.latch import clock_for_people
        from lab.runs.pages.audit_page import render_audit
        from lab.runs.pages.page import write_out

        write_out(render_audit(found, clock_for_people()), out)
    if as_json:
        echo(msgspec.json.encode(found).decode())
    else:
        for line in lines(found):
            echo(shown(line))
        if out is not None:
            echo(f"page in {out}")
    raise typer.Exit(0 if found.passed else 1)
