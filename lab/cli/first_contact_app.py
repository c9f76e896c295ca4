"""The arguments of ``qunetlab instruments record`` and ``replay``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lab.cli.options import FolderOption, Json


class Part(StrEnum):
    """What a transcript is held against."""

    driver = "driver"
    twin = "twin"


def record_command(
    name: Annotated[str, typer.Argument(help="Name in the testbed file, or with ADDRESS a model.")],
    out: Annotated[Path, typer.Option("--out", help="File to write; never written over.")],
    address: Annotated[
        str | None, typer.Argument(help="Address of an instrument that is in no file.")
    ] = None,
    testbed: FolderOption = Path(),
    option: Annotated[
        list[str] | None, typer.Option(help="With ADDRESS: an option of the driver, NAME=VALUE; repeatable.")
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Ask only; set nothing.")] = False,
    interactive: Annotated[
        bool, typer.Option("--interactive", help="Record lines of your own, from standard input, as well.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before anything is sent.")] = False,
) -> None:
    """Keep the transcript of a session with an instrument, so that others can test against it."""
    from lab.cli.first_contact import record

    raise typer.Exit(
        record(
            name, address, out, testbed, option or [], read_only=read_only, interactive=interactive, yes=yes
        )
    )


def replay_command(
    transcript: Annotated[Path, typer.Argument(help="File that `instruments record` wrote.")],
    only: Annotated[Part | None, typer.Option(help="Hold it against one of them only.")] = None,
    as_json: Json = False,
) -> None:
    """Hold a transcript against driver and twin: does the driver send the same, does the twin answer alike."""
    from lab.cli.first_contact import replay

    raise typer.Exit(replay(transcript, only, as_json))
