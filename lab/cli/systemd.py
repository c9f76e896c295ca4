"""``qunetlab systemd``: units of the roles of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lab.cli.options import FolderOption, Json, show


def systemd(
    roles: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ROLE]...", help="Such as relay, alice, fl-alice or simulate."),
    ] = None,
    testbed: FolderOption = Path(),
    every: Annotated[
        bool,
        typer.Option("--all", help="All roles that `qunetlab up` would run here, and a target for them."),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder to write to, such as /etc/systemd/system; shown only without."),
    ] = None,
    user: Annotated[
        str | None, typer.Option("--user", help="Who runs them; the owner of the testbed folder without.")
    ] = None,
    store_key: Annotated[
        str, typer.Option("--store-key", help="file, or credential: sealed by systemd-creds.")
    ] = "file",
    as_json: Json = False,
) -> None:
    """Write systemd units: ready and alive by word, restarted with growing pauses, and little else of the machine in reach."""
    from lab.runs.services.writing import make_ready, units_here, write_units

    if bool(roles) == every:
        raise ValueError("name roles, or --all for those whose secrets are here")
    if store_key not in ("file", "credential"):
        raise ValueError(f"--store-key {store_key}: a service asks nobody; give file or credential")
    units = units_here(testbed, roles or (), user=user, sealed_store=store_key == "credential")
    if out is None:
        text = "\n".join(f"# {name}\n{unit}" for name, unit in units.items())
        show({"units": units, "written": []}, as_json, text)
        return
    make_ready(testbed, roles or (), user=user)
    written = write_units(units, out)
    names = " ".join(path.name for path in written if path.suffix == ".target") or " ".join(
        path.name for path in written
    )
    text = "\n".join(
        [
            *(f"written: {path}" for path in written),
            f"then: systemctl daemon-reload && systemctl enable --now {names}",
        ]
    )
    show({"units": units, "written": [str(path) for path in written]}, as_json, text)
