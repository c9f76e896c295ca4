"""``qunetlab instruments scan``: what answers, with the address as it goes into a testbed file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from lab.runs.shown import echo
from lab.runs.testbeds.folder import find_testbed
from lab.scanning import Found, scan
from lab.testbed import load_testbed


def show_scan(path: Path | None, hosts: Sequence[str], as_json: bool) -> None:
    """Print one line for every place where something may be."""
    entries = load_testbed(find_testbed(path)).instruments if path else ()
    found = scan(entries, hosts)
    if as_json:
        echo(json.dumps({"found": [asdict(each) for each in found]}))
        return
    for each in found:
        echo(_text(each))
    if not found:
        echo("nothing found: no VISA resource, no serial port; name hosts with --host, or a testbed file")


def _text(found: Found) -> str:
    head = f"{found.address:42s} {found.model or '-':22s}"
    said = found.identity
    who = f"{said.vendor} {said.model}, serial {said.serial_number or '-'}" if said else "no answer"
    more = "; ".join(filter(None, [f"{found.name} of the testbed file" if found.name else "", found.note]))
    return f"{head} {who}{f' ({more})' if more else ''}"
