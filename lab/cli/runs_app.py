"""The commands of ``qunetlab runs``; what they do stands in :mod:`lab.cli.runs`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import click
import typer
from typer.core import TyperGroup

from lab.cli.completing import known_pairs
from lab.cli.options import FolderOption, Json


class ListByDefault(TyperGroup):
    """``runs`` lists; the other commands have names."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] != "--help"):
            args = ["list", *args]
        return super().parse_args(ctx, args)


runs_app = typer.Typer(
    cls=ListByDefault,
    help="What was done on a ring: blocks, calibrations, orders of key, trainings, and how each run ended; `runs show ID` says all of one.",
)


@runs_app.command("list")
def list_command(
    testbed: FolderOption = Path(),
    pair: Annotated[
        str | None, typer.Option(autocompletion=known_pairs, help="Of this pair alone, such as alice-bob.")
    ] = None,
    kind: Annotated[
        str | None, typer.Option(help="Of this kind alone: block, calibration, order, training or run.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="From then on: 30m, 2h or 3d ago, or a date such as 2026-03-01.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List them, oldest first; 1 if something could not be read.

    qunetlab runs --testbed bench --kind block --since 2h --json > blocks.json, and pandas.read_json("blocks.json").
    """
    from lab.cli.runs import list_runs

    raise typer.Exit(list_runs(testbed, pair, kind, since, as_json))


@runs_app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="ID", help="As it is listed, such as block/7/3.")],
    testbed: FolderOption = Path(),
    as_json: Json = False,
) -> None:
    """Everything on record about one of them: qunetlab runs show calibration/alice/4 --testbed bench."""
    from lab.cli.runs import show_run

    raise typer.Exit(show_run(testbed, name, as_json))
