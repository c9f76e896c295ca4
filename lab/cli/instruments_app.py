"""``qunetlab instruments``: what is configured, and what is there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lab.cli.completing import known_roles
from lab.cli.first_contact_app import record_command, replay_command
from lab.cli.options import Json, TestbedPath, optional_testbed


class ListsByDefault(TyperGroup):
    """``instruments TESTBED`` means ``instruments list TESTBED``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments behind ``instruments``."""
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


instruments_app = typer.Typer(
    cls=ListsByDefault,
    no_args_is_help=True,
    help="Identify every configured instrument and show its parameters; look for instruments; record and replay a first session.",
)


@instruments_app.command("list")
def list_command(
    testbed: TestbedPath,
    owner: Annotated[
        str | None, typer.Option(autocompletion=known_roles, help="Only the instruments of this role.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Identify every configured instrument and show its parameters; `instruments TESTBED` for short."""
    from lab.cli.instruments import list_instruments

    raise typer.Exit(list_instruments(testbed, owner, as_json))


@instruments_app.command("scan")
def scan_command(
    testbed: Annotated[Path | None, optional_testbed("whose addresses and hosts are looked at too.")] = None,
    host: Annotated[list[str] | None, typer.Option(help="A host to look at; repeatable.")] = None,
    as_json: Json = False,
) -> None:
    """List what answers on VISA, on serial ports and at hosts; asks for identities, changes nothing."""
    from lab.cli.scan import show_scan

    show_scan(testbed, host or [], as_json)


instruments_app.command("record")(record_command)
instruments_app.command("replay")(replay_command)
