"""Options that several commands share, how a command prints, and the exit code of one that was interrupted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from fl.workloads import folders
from lab.runs.shown import echo
from lab.runs.testbeds.store_key import HELP as STORE_KEY_HELP

TestbedPath = Annotated[Path, typer.Argument(metavar="TESTBED", help="Testbed file, or its folder.")]
SecretsPath = Annotated[
    Path | None, typer.Option("--secrets", help="Secrets folder; default: beside the testbed file.")
]
StatePath = Annotated[
    Path | None, typer.Option("--state", help="State folder; default: `state` beside the testbed file.")
]
StoreKeyOption = Annotated[
    str,
    typer.Option("--store-key", help=f"Where the key comes from that seals the key store: {STORE_KEY_HELP}"),
]
TASKS = f"TASK:MODEL@SPLIT of {', '.join(folders())}, of an installed workload, or your own MODULE:NAME"
DataPath = Annotated[
    Path | None,
    typer.Option(
        "--data", help="Folder of the data set, or your own images as an NPZ file or a folder of IDX files."
    ),
]
EXIT_INTERRUPTED = 130

Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


def show(data: Any, as_json: bool, text: str | None = None) -> None:
    """Print ``data`` as one JSON line, or ``text`` for people."""
    echo(json.dumps(data) if as_json or text is None else text)
