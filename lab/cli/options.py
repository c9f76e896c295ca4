"""Options that several commands share, how a command prints, and the exit code of one that was interrupted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from fl.workloads import folders
from lab.cli.completing import known_pairs
from lab.cli.naming import TESTBED, TESTBED_HELP, known_testbeds
from lab.runs.shown import echo
from lab.runs.testbeds.store_key import AUTHORITY_KEY_HELP
from lab.runs.testbeds.store_key import HELP as STORE_KEY_HELP

TestbedPath = Annotated[
    Path,
    typer.Argument(
        metavar="TESTBED", click_type=TESTBED, autocompletion=known_testbeds, help=f"{TESTBED_HELP}."
    ),
]
PairOption = Annotated[
    str | None,
    typer.Option("--pair", autocompletion=known_pairs, help="Pair of the testbed, such as alice-bob."),
]
_HERE = typer.Option(
    "--testbed",
    metavar="TESTBED",
    click_type=TESTBED,
    autocompletion=known_testbeds,
    help=f"{TESTBED_HELP}; default: here.",
)
FolderOption = Annotated[Path, _HERE]
GivenFolderOption = Annotated[Path | None, _HERE]
"""The same where it matters whether it was given."""
LitOption = Annotated[
    str | None,
    typer.Option(
        "--lit",
        metavar="PAIR",
        autocompletion=known_pairs,
        help="In the planned light of this pair, such as alice-bob, with everybody's instruments; where no role runs.",
    ),
]
SourceOption = Annotated[
    str | None,
    typer.Option(
        "--testbed", metavar="TESTBED", autocompletion=known_testbeds, help=f"{TESTBED_HELP} to run on."
    ),
]
"""A testbed whose name is kept with a run, as it was given."""
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
AuthorityKeyOption = Annotated[
    str,
    typer.Option(
        "--authority-key",
        help=f"How the private key of the testbed's authority is sealed: {AUTHORITY_KEY_HELP}",
    ),
]
MetricsListen = Annotated[
    str,
    typer.Option(
        "--metrics",
        metavar="HOST:PORT",
        help="Where this process serves /metrics, /healthz and /readyz, to everybody who reaches it; port 0 is any that is free, "
        "`off` none.",
    ),
]
TASKS = f"TASK:MODEL@SPLIT of {', '.join(folders())}, of an installed workload, or your own MODULE:NAME"
DATA_HELP = "Folder of the data set, or your own images as an NPZ file or a folder of IDX files."
DataPath = Annotated[Path | None, typer.Option("--data", help=DATA_HELP)]
EXIT_INTERRUPTED = 130

Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


def optional_testbed(more: str) -> Any:
    """The argument of a command that can do without a testbed; ``more`` says what is done with one."""
    return typer.Argument(
        metavar="[TESTBED]",
        click_type=TESTBED,
        autocompletion=known_testbeds,
        help=f"{TESTBED_HELP}, {more}",
    )


def show(data: Any, as_json: bool, text: str | None = None) -> None:
    """Print ``data`` as one JSON line, or ``text`` for people."""
    echo(json.dumps(data) if as_json or text is None else text)
