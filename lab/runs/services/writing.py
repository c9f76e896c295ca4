"""Units of this machine put where they belong, for the roles whose secrets are here."""

from __future__ import annotations

import pwd
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from lab.runs.here import home_of, roles_here
from lab.runs.services.units import (
    CREDENTIAL,
    GROWING_PAUSES,
    SIMULATE,
    TARGET,
    Places,
    UnitError,
    file_name,
    target,
    unit,
)
from lab.runs.testbeds.folder import SECRETS
from lab.runs.testbeds.role_secrets import roles_with_secrets
from lab.testbed import load_testbed
from orchestrator.durable import replace_file


def systemd_version() -> int:
    """Of this machine; one that knows every setting where there is none, since units are then for another."""
    tool = shutil.which("systemd-analyze") or shutil.which("systemctl")
    if tool is None:
        return GROWING_PAUSES
    said = subprocess.run([tool, "--version"], capture_output=True, text=True, check=False, timeout=10).stdout
    found = re.match(r"systemd (\d+)", said)
    return int(found[1]) if found else GROWING_PAUSES


def units_here(
    testbed: Path, roles: Sequence[str], *, user: str | None = None, sealed_store: bool = False
) -> dict[str, str]:
    """Units by file name, for ``roles`` or, where none is named, for all that `qunetlab up` runs here, and the target of them.

    Raises FolderError or UnitError.
    """
    home = home_of(testbed).resolve()
    loaded = load_testbed(home / "testbed.toml")
    here = roles_with_secrets(loaded, home / SECRETS)
    simulated = [SIMULATE] if loaded.simulation is not None else []
    chosen = list(roles) or [*simulated, *roles_here(home, loaded)]
    for role in chosen:
        if role != SIMULATE and role in loaded.roles() and role not in here:
            raise UnitError(
                f"the secrets of {role} are not in {home / SECRETS}: write its unit on its own machine"
            )
        if sealed_store and role in loaded.user_names() and not (home / SECRETS / role / CREDENTIAL).exists():
            key = home / SECRETS / role / "store.key"
            raise UnitError(
                f"{key.with_name(CREDENTIAL)} is not there: make it with `systemd-creds encrypt --name=store.key {key} "
                f"{key.with_name(CREDENTIAL)}`, then destroy the key with `shred -u {key}`"
            )
    name = user or home.owner()
    if name == "root" and user is None:
        raise UnitError(
            f"{home} belongs to root, and no role needs to be root: make a user (`useradd --system qunetlab`), give the folder "
            f"to it (`chown -R qunetlab {home}`), and say --user qunetlab"
        )
    try:
        pwd.getpwnam(name)
    except KeyError:
        raise UnitError(
            f"there is no user {name!r} on this machine: `useradd --system {name}`, and give {home} to it"
        ) from None
    packages = Path(__file__).resolve().parents[3]
    places = Places(
        home,
        (sys.executable, "-P", "-m", "lab.cli.main"),
        (Path(sys.prefix), packages),
        name,
        systemd_version(),
        sealed_store,
    )
    written = {
        file_name(role): unit(loaded, role, places, [each for each in here if each != role])
        for role in chosen
    }
    return {**written, TARGET: target(chosen)} if len(chosen) > 1 else written


def write_units(units: dict[str, str], folder: Path) -> list[Path]:
    """Put units into ``folder``; each whole or as it was."""
    for name, text in units.items():
        replace_file(folder / name, text.encode(), 0o644)
    return [folder / name for name in units]
