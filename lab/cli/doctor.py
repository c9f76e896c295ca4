"""``qunetlab doctor``: whether this machine can run the stack, and what to mend."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from lab.cli.options import Json, StatePath, optional_testbed, show

MARKS = {"good": "ok", "warning": "warning", "fault": "FAULT"}


def doctor(
    testbed: Annotated[
        Path | None, optional_testbed("whose ports, state folder and certificates are looked at too.")
    ] = None,
    state: StatePath = None,
    as_json: Json = False,
) -> None:
    """Look at this machine: Python, packages, ports, serial and USB access, disk, clock; say what to mend.

    Ends with 1 where something must be mended first; warnings are no reason not to begin.
    """
    from lab.runs.doctor import examined, worst
    from lab.runs.following.terminal import columns
    from lab.runs.following.view import table
    from lab.runs.shown import shown

    folder, ports, expiring = state or Path(), list[tuple[str, int]](), None
    if testbed is not None:
        from lab.runs.certificates.here import certificate_warnings
        from lab.runs.testbeds.folder import SECRETS
        from lab.runs.testbeds.machine import Machine

        machine = Machine(testbed, state)
        folder = machine.state
        ports = [
            place
            for each in (machine.testbed.hub.control, machine.testbed.hub.bulk)
            if (place := _place(each))
        ]
        expiring = certificate_warnings(machine.testbed, machine.path.parent / SECRETS)
    rows = list(examined(folder, ports, expiring))
    width = columns(100)
    cells = [
        (MARKS[row.verdict], row.name, shown("; ".join(filter(None, (row.text, row.what_to_do)))))
        for row in rows
    ]
    answer = {"verdict": worst(rows), "rows": [msgspec.to_builtins(row) for row in rows]}
    show(answer, as_json, "\n".join(table(("", "what", ""), cells, width)))
    raise typer.Exit(1 if worst(rows) == "fault" else 0)


def _place(endpoint: str) -> tuple[str, int] | None:
    """Host and port of ``tcp://HOST:PORT``; None for one that is filled in later."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    return (host, int(port)) if host and port.isdigit() else None
