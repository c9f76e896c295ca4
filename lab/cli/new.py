"""``qunetlab new``: a Flower app that trains under quantum keys, ready to run and to be changed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lab.cli.options import Json, show
from lab.runs.extras import how_to_install
from lab.runs.new_app import make_app, missing

NODES = "See its README: a run with keys of a ring needs testbed, run-id and each user's consent."


def new(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to make, such as my-app.")],
    keys: Annotated[
        str,
        typer.Option(
            help="simulated-ring: a generator stands for the ring, which every run says; nodes: keys of a ring's nodes."
        ),
    ] = "simulated-ring",
    as_json: Json = False,
) -> None:
    """Make a Flower app of your own, for example `qunetlab new my-app`: it runs as it is, and task.py is yours to change."""
    package = make_app(folder, keys)
    run = "flwr run . --stream --federation-config 'num-supernodes=4'"
    simulated = keys == "simulated-ring"
    lines = [f"Made {folder}: your model and data go into {folder / package / 'task.py'}."]
    if simulated:
        lines.append(f"Run it:  cd {folder} && {run}")
        lines.append("Its keys are simulated: they cost nothing and protect nothing.")
    else:
        lines.append(NODES)
    lacks = missing()
    if lacks:
        lines.append(f"warning: {', '.join(lacks)} not installed here: {how_to_install('learning,flower')}")
    answer = {
        "folder": str(folder),
        "package": package,
        "run": run if simulated else "",
        "missing": list(lacks),
    }
    show(answer, as_json, "\n".join(lines))
