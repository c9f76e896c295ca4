"""``init --export`` and ``init --import``: what one machine needs of a testbed folder, moved to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lab.cli.options import show


def export_parcel(folder: Path, roles: Sequence[str], to: Path | None, as_json: bool) -> None:
    """Move what the machine of ``roles`` needs into a parcel; ``FOLDER-ROLE.tar`` beside the folder unless told."""
    from lab.runs.testbeds.parcel import export_roles

    place = to or folder.absolute().with_name(f"{folder.absolute().name}-{'-'.join(roles)}.tar")
    made = export_roles(folder, roles, place)
    text = (
        f"{made.place} holds what the machine of {' and '.join(roles)} needs (0600).\n"
        f"Erased here: {', '.join(f'secrets/{name}' for name in made.folders)}. What stood in their blocks may survive on an SSD, in a "
        "snapshot or in a backup of this folder: destroy those too.\n"
        f"There: `qunetlab init {folder.name} --import {Path(made.place).name}`, which destroys the parcel; destroy every other copy "
        "that carrying it left."
    )
    show({"parcel": made.place, "roles": list(made.roles), "erased": list(made.folders)}, as_json, text)


def arrive(folder: Path, parcel: Path, as_json: bool) -> None:
    """Put a parcel in its place on this machine, check it, destroy it."""
    from lab.runs.testbeds.parcel import import_parcel

    made = import_parcel(parcel, folder)
    text = (
        f"{folder} has what {' and '.join(made.roles)} needs here; the parcel is destroyed.\n"
        f"Look at it with `qunetlab check {folder}`; `qunetlab systemd {made.roles[0]} --testbed {folder}` shows a unit that runs it."
    )
    show({"testbed": str(folder), "roles": list(made.roles), "secrets": list(made.folders)}, as_json, text)
