"""The commands of ``qunetlab alarms``; what they do stands in :mod:`lab.cli.alarms`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lab.cli.keys_app import ShowByDefault
from lab.cli.options import FolderOption, Json, SecretsPath, StatePath, TestbedPath

AlarmArgument = Annotated[
    str, typer.Argument(metavar="ID", help="As it is listed, such as alice/low-water/bob.")
]

alarms_app = typer.Typer(
    cls=ShowByDefault,
    no_args_is_help=True,
    help="Alarms that stand (`alarms TESTBED`), with what to do; acknowledge or shelve one.",
)


@alarms_app.command()
def show(
    testbed: TestbedPath, secrets: SecretsPath = None, state: StatePath = None, as_json: Json = False
) -> None:
    """Every alarm, of all roles; exit code 1 if one stands that is not shelved."""
    from lab.cli.alarms import list_alarms

    raise typer.Exit(list_alarms(testbed, secrets, state, as_json))


@alarms_app.command()
def acknowledge(alarm: AlarmArgument, testbed: FolderOption = Path(), state: StatePath = None) -> None:
    """You have seen it; one that is over already goes."""
    from lab.cli.alarms import acknowledge_alarm

    raise typer.Exit(acknowledge_alarm(alarm, testbed, state))


@alarms_app.command()
def shelve(
    alarm: AlarmArgument,
    for_: Annotated[
        str, typer.Option("--for", help="How long: 90s, 30m, 2h; at most 24h; 0 brings it back.")
    ],
    testbed: FolderOption = Path(),
    state: StatePath = None,
) -> None:
    """Keep it out of the way for a while."""
    from lab.cli.alarms import shelve_alarm

    raise typer.Exit(shelve_alarm(alarm, for_, testbed, state))
