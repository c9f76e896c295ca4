"""``qunetlab keys``: stock of this machine's nodes, new secrets for a pair, and keys of roles that are refused.

All but the stock of a stopped node goes through the control sockets of the processes that run on this machine, so a
command for a pair is given on both of its machines, and a role is revoked on every machine that serves it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import click
import typer
from typer.core import TyperGroup

from lab.cli.completing import known_pairs
from lab.cli.options import FolderOption, Json, PairOption, StatePath, TestbedPath
from lab.runs.testbeds.store_key import HELP as STORE_KEY_HELP

StoreKeyOption = Annotated[
    str, typer.Option("--store-key", help=f"What opens the stores of stopped nodes: {STORE_KEY_HELP}")
]
PairArgument = Annotated[
    str, typer.Argument(metavar="PAIR", autocompletion=known_pairs, help="Two users, such as alice-bob.")
]


class ShowByDefault(TyperGroup):
    """``keys TESTBED`` shows; the other commands have names."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["show", *args]
        return super().parse_args(ctx, args)


keys_app = typer.Typer(
    cls=ShowByDefault,
    no_args_is_help=True,
    help="Key stock per pair (`keys TESTBED`), seals, use and events; new secrets for a pair, refused keys.",
)


@keys_app.command()
def show(
    testbed: TestbedPath,
    state: StatePath = None,
    store_key: StoreKeyOption = "file",
    as_json: Json = False,
) -> None:
    """Key stock per pair of the nodes on this machine, running or stopped; counts only, never bits."""
    from lab.cli.keys import show_stock

    raise typer.Exit(show_stock(testbed, state, as_json, store_key))


@keys_app.command()
def audit(
    testbed: TestbedPath,
    state: StatePath = None,
    store_key: StoreKeyOption = "file",
    as_json: Json = False,
) -> None:
    """Open every seal of the stores on this machine once, and check their books; which do not open, never bits."""
    from lab.cli.keys_looked import audit_keys

    raise typer.Exit(audit_keys(testbed, state, as_json, store_key))


@keys_app.command()
def use(
    testbed: TestbedPath,
    state: StatePath = None,
    store_key: StoreKeyOption = "file",
    as_json: Json = False,
) -> None:
    """What each application (SAE) was given by the nodes on this machine, so far and today."""
    from lab.cli.keys_looked import show_use

    raise typer.Exit(show_use(testbed, state, as_json, store_key))


@keys_app.command()
def events(
    testbed: TestbedPath,
    pair: PairOption = None,
    last: Annotated[int, typer.Option(min=1, help="How many of the latest.")] = 40,
    follow: Annotated[bool, typer.Option("--follow", help="Then show what comes, until Ctrl-C.")] = False,
    as_json: Json = False,
) -> None:
    """What became of key at the nodes on this machine: blocks stored and given up, ranges taken and burnt, starts, and
    what applications were given and refused lately by nodes that run."""
    from lab.cli.keys_events import show_events

    raise typer.Exit(show_events(testbed, pair, last, as_json, follow=follow))


@keys_app.command()
def reseed(
    pair: PairArgument,
    new: Annotated[bool, typer.Option("--new", help="Make a new secret: one file for each end.")] = False,
    secret: Annotated[
        Path | None,
        typer.Option(
            "--secret", help="The file for this machine's end; taken by its running node, destroyed."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the files of --new.")] = Path(),
    testbed: FolderOption = Path(),
    state: StatePath = None,
) -> None:
    """Renew a pair's authentication key: --new once, carry one file over, then --secret FILE at each end."""
    from lab.cli.reseed import make_secrets, take_secret_file

    if new == (secret is not None):
        raise typer.BadParameter("give either --new or --secret FILE")
    if secret is None:
        raise typer.Exit(make_secrets(pair, out, testbed, state))
    raise typer.Exit(take_secret_file(pair, secret, testbed, state))


@keys_app.command()
def meet(pair: PairArgument, testbed: FolderOption = Path(), state: StatePath = None) -> None:
    """Let a pair meet that waits for an operator because little authentication key is left."""
    from lab.cli.reseed import meet_now

    raise typer.Exit(meet_now(pair, testbed, state))


@keys_app.command()
def replace(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The .public file that `init --anew` left.")],
    out: Annotated[
        Path, typer.Option(help="Folder for the secrets that are to be carried to a user's new machine.")
    ] = Path(),
    testbed: FolderOption = Path(),
    state: StatePath = None,
) -> None:
    """Take in new keys of a role whose machine was lost, on every machine: the old ones are refused for good."""
    from lab.cli.anew import replace_keys

    raise typer.Exit(replace_keys(file, out, testbed, state))


@keys_app.command()
def revoke(
    role: Annotated[
        str | None, typer.Argument(metavar="ROLE", help="Role whose key is refused for good.")
    ] = None,
    show_list: Annotated[
        bool, typer.Option("--list", help="Show which roles are refused, and where.")
    ] = False,
    testbed: FolderOption = Path(),
    state: StatePath = None,
    as_json: Json = False,
) -> None:
    """Refuse the key of a role at every process of this machine, from here on and after every restart."""
    from lab.cli.revoke import revoke_role, show_revoked

    if (role is None) != show_list:
        raise typer.BadParameter("give either ROLE or --list")
    if role is None:
        raise typer.Exit(show_revoked(testbed, state, as_json))
    raise typer.Exit(revoke_role(role, testbed, state))
