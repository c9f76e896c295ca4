"""Units of this machine put where they belong, for the roles whose secrets are here."""

from __future__ import annotations

import grp
import os
import pwd
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from lab.runs.here import home_of, roles_here
from lab.runs.services.units import (
    CLAIMS,
    CREDENTIAL,
    DEVICE_GROUPS,
    GROWING_PAUSES,
    SIMULATE,
    TARGET,
    Places,
    UnitError,
    claims,
    file_name,
    has_instruments,
    own_folders,
    target,
    unit,
)
from lab.runs.testbeds.folder import SECRETS, TESTBED_FILE
from lab.runs.testbeds.role_secrets import roles_with_secrets
from lab.runs.testbeds.store_key import KEY_FILE
from lab.testbed import Testbed, load_testbed
from orchestrator.durable import make_folder, replace_file

PACKAGES = Path(__file__).resolve().parents[3]


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
    home, loaded, chosen = _asked(testbed, roles)
    here = roles_with_secrets(loaded, home / SECRETS)
    for role in chosen:
        if role != SIMULATE and role in loaded.roles() and role not in here:
            raise UnitError(
                f"the secrets of {role} are not in {home / SECRETS}: write its unit on its own machine"
            )
        if sealed_store and role in loaded.user_names() and not (home / SECRETS / role / CREDENTIAL).exists():
            key = home / SECRETS / role / KEY_FILE
            raise UnitError(
                f"{key.with_name(CREDENTIAL)} is not there: make it with `systemd-creds encrypt --name={KEY_FILE} {key} "
                f"{key.with_name(CREDENTIAL)}`, then destroy the key with `shred -u {key}`"
            )
    name = _runner(home, user)
    places = Places(
        home,
        (sys.executable, "-P", "-m", "lab.cli.main"),
        (Path(sys.prefix), Path(sys.base_prefix), PACKAGES),
        name,
        systemd_version(),
        sealed_store,
        tuple(each.gr_name for each in grp.getgrall() if each.gr_name in DEVICE_GROUPS),
    )
    written = {file_name(role): unit(loaded, role, places) for role in chosen}
    if any(has_instruments(loaded, role) for role in chosen):
        written[CLAIMS] = claims()
    return {**written, TARGET: target(chosen)} if len(chosen) > 1 else written


def _asked(testbed: Path, roles: Sequence[str]) -> tuple[Path, Testbed, list[str]]:
    """The folder, its testbed, and the roles that are named, or all that `qunetlab up` runs here."""
    home = home_of(testbed).resolve()
    loaded = load_testbed(home / TESTBED_FILE)
    simulated = [SIMULATE] if loaded.simulation is not None else []
    return home, loaded, list(roles) or [*simulated, *roles_here(home, loaded)]


def make_ready(testbed: Path, roles: Sequence[str], *, user: str | None = None) -> None:
    """Give the roles their state folders, which units look for before they run; whoever runs them may write there, and go to
    the program.

    Raises FolderError or UnitError.
    """
    home, loaded, chosen = _asked(testbed, roles)
    name = _runner(home, user)
    _require_runnable(home, name)
    for role in chosen:
        for folder in own_folders(loaded, role):
            for place in (home / folder).parent, home / folder:
                if not place.exists():
                    make_folder(place)
                    shutil.chown(place, name)


def _require_runnable(home: Path, name: str) -> None:
    """Whoever runs the roles owns the folder, and may go to it and to the program; raises UnitError."""
    if home.owner() != name:
        raise UnitError(
            f"{home} belongs to {home.owner()}, and {name} is to run its roles: `chown -R {name} {home}`"
        )
    known = pwd.getpwnam(name)
    groups = os.getgrouplist(name, known.pw_gid)
    for place in (home, Path(sys.executable), Path(sys.executable).resolve(), PACKAGES):
        for folder in reversed(place.parents):
            found = folder.stat()
            mine = found.st_uid == known.pw_uid, found.st_gid in groups
            needed = stat.S_IXUSR if mine[0] else stat.S_IXGRP if mine[1] else stat.S_IXOTH
            if known.pw_uid and not found.st_mode & needed:
                raise UnitError(
                    f"{name} cannot reach {place}: {folder} is closed to others; put it where they may go, a testbed folder "
                    "below /srv, the program below /opt, with an interpreter that is in nobody's home"
                )


def _runner(home: Path, user: str | None) -> str:
    """Who runs the roles of a folder; raises UnitError where it should be nobody, or is nobody."""
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
    return name


def write_units(units: dict[str, str], folder: Path) -> list[Path]:
    """Put units into ``folder``; each whole or as it was."""
    for name, text in units.items():
        replace_file(folder / name, text.encode(), 0o644)
    return [folder / name for name in units]
