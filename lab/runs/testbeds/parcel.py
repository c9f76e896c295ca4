"""A *parcel*: what one machine needs of a testbed folder, to be carried there; secrets are moved, never copied.

``parcel.json``       what it holds: release, roles, and the SHA-256 of every file
``testbed.toml``      public, and ``calibration.toml`` where there is one
``secrets/FOLDER/*``  the folders of its roles, and nothing of another role

It is a folder (0700) or a ``.tar`` (0600) where nobody else may read.  Initial pair secrets are one-time bits: two machines that
start from the same ones would use them twice.  So the order of leaving is: the parcel whole under a hidden name, a note in
``secrets`` that it is about to get its name, the name, then the folders here are overwritten and removed.  What was
interrupted is undone or finished by the next export, by whether the parcel got its name.  Arriving is the other way round: every
file is in place and checked before the parcel is destroyed.
"""

from __future__ import annotations

import hashlib
import io
import stat
import tarfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path, PurePosixPath

import msgspec

from lab.agreed import agreed_on
from lab.calibration.book import BOOK_FILE
from lab.runs.testbeds.folder import SECRETS, STATE, TESTBED_FILE, FolderError, check_down, own_testbed
from lab.runs.testbeds.role_secrets import faults_of, folders_of
from lab.testbed import load_testbed
from orchestrator.decoding import from_json
from orchestrator.durable import (
    create_file,
    destroy_file,
    destroy_folder,
    make_folder,
    move_file,
    read_kept,
    write_kept,
)
from orchestrator.keystore.database import NETWORK_FILE_SYSTEMS, file_system_type
from orchestrator.processes.node_store import STORE_FILE

LIST_FILE = "parcel.json"
LEAVING_FILE = ".leaving"
"""In ``secrets``: the note of a parcel that is being made."""
ARRIVING = ".qunetlab-arriving"
LARGEST_BYTES = 64 << 20
"""A testbed file and a few keys; what is longer is something else."""
PUBLIC_FILES = (TESTBED_FILE, BOOK_FILE)


class ParcelList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a parcel holds; ``files`` maps the name of each to its SHA-256.

    ``anew``: for roles whose machine was lost; a user's secrets with others come from their machines.
    """

    release: str
    roles: tuple[str, ...]
    files: dict[str, str]
    anew: bool = False
    format: int = 1


class Leaving(msgspec.Struct, frozen=True):
    """A parcel in the making: its place, the folders that go with it, and whether it is about to get its name."""

    to: str
    folders: tuple[str, ...]
    naming: bool = False
    format: int = 1


class Parcel(msgspec.Struct, frozen=True):
    """One that was made, or has arrived: its roles, the folders of secrets, and what must still be destroyed by hand."""

    place: str
    roles: tuple[str, ...]
    folders: tuple[str, ...]


def export_roles(home: Path, roles: Sequence[str], to: Path) -> Parcel:
    """Move what the machine of ``roles`` needs from the testbed folder ``home`` into a parcel at ``to``.

    Raises FolderError or ValueError saying what to do; the secrets are then still here.  OSError as it comes.
    """
    file = own_testbed(home)
    home, to = file.parent, to.absolute()
    check_down(home)
    secrets = home / SECRETS
    _settle_leaving(secrets)
    testbed = load_testbed(file)
    folders = tuple(dict.fromkeys(name for role in roles for name in folders_of(testbed, secrets, role)))
    _check_leaving(secrets, home / STATE, roles, folders)
    check_place(to, secrets)
    for role in (name for name in folders if name in testbed.roles()):
        if faults := faults_of(testbed, secrets, home / STATE, role):
            raise FolderError(f"{role} cannot leave as it is: {'; '.join(faults)}")
    content = {name: (home / name).read_bytes() for name in PUBLIC_FILES if (home / name).exists()}
    for name in folders:
        content |= files_below(secrets / name, home)
    note = Leaving(str(to), folders)
    write_kept(secrets / LEAVING_FILE, note, 0o600)
    try:
        stage = staged(to, roles, content)
    except BaseException:
        (secrets / LEAVING_FILE).unlink()
        raise
    write_kept(secrets / LEAVING_FILE, Leaving(str(to), folders, naming=True), 0o600)
    move_file(stage, to)
    _settle_leaving(secrets)
    return Parcel(str(to), tuple(roles), folders)


def staged(to: Path, roles: Sequence[str], content: dict[str, bytes], *, anew: bool = False) -> Path:
    """The parcel for ``to`` under its hidden name, whole and on the disk; without it where that fails."""
    listed = ParcelList(
        version("qunetlab"), tuple(roles), {name: _sha256(data) for name, data in content.items()}, anew
    )
    stage = _stage(to)
    try:
        packed = {LIST_FILE: msgspec.json.format(msgspec.json.encode(listed), indent=1), **content}
        _write(stage, to.suffix == ".tar", packed)
        _check_modes(stage)
    except BaseException:
        _destroy(stage)
        raise
    return stage


def files_below(folder: Path, home: Path) -> dict[str, bytes]:
    """Every file below ``folder``, by its name from ``home``."""
    return {
        path.relative_to(home).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def import_parcel(place: Path, folder: Path) -> Parcel:
    """Put what a parcel holds into the testbed folder ``folder`` of this machine, check it, and destroy the parcel.

    A folder that has the testbed already takes further roles.  Raises FolderError; the parcel is then as it was.
    """
    content = _read(place)
    listed = _listed(place, content)
    target = folder / TESTBED_FILE
    arriving = folder / ARRIVING
    if arriving.exists():
        destroy_folder(arriving)
    make_folder(arriving)
    try:
        for name, data in content.items():
            make_folder((arriving / name).parent)
            create_file(arriving / name, data, 0o600)
        _check_modes(arriving)
        testbed = load_testbed(arriving / TESTBED_FILE)
        if target.exists():
            here = agreed_on(load_testbed(target))
            if why := here.objection("the parcel", agreed_on(testbed)):
                raise FolderError(
                    f"{folder} belongs to another testbed: {why.replace('the hub', 'this folder')}"
                )
        names = sorted({PurePosixPath(name).parts[1] for name in content if name.startswith(f"{SECRETS}/")})
        for role in (name for name in names if name in testbed.roles()):
            faults = faults_of(testbed, arriving / SECRETS, arriving / STATE, role, keys_alone=listed.anew)
            if faults:
                raise FolderError(f"{place} is not whole: {'; '.join(faults)}")
        for name in names:
            _check_free(folder, name, arriving / SECRETS / name)
        make_folder(folder / SECRETS)
        for name in PUBLIC_FILES:
            if (arriving / name).exists() and not (folder / name).exists():
                move_file(arriving / name, folder / name)
        for name in names:
            if not (folder / SECRETS / name).exists():
                move_file(arriving / SECRETS / name, folder / SECRETS / name)
    finally:
        destroy_folder(arriving)
    _destroy(place)
    return Parcel(str(folder), listed.roles, tuple(names))


def _settle_leaving(secrets: Path) -> None:
    """Undo a parcel that did not get its name; of one that did, destroy what is left here."""
    note = secrets / LEAVING_FILE
    if not note.exists():
        return
    left = read_kept(note, Leaving, 1)
    to = Path(left.to)
    stage = _stage(to)
    if left.naming and not stage.exists():
        if not to.exists():
            raise FolderError(
                f"the parcel {to} with {', '.join(left.folders)} was being finished when the command was interrupted, and "
                f"is not there: bring its place back and repeat the command; if the parcel has left, destroy "
                f"{', '.join(str(secrets / name) for name in left.folders)} and {note} by hand"
            )
        for name in left.folders:
            if (secrets / name).exists():
                destroy_folder(secrets / name)
    else:
        _destroy(stage)
    note.unlink()


def _check_leaving(secrets: Path, state: Path, roles: Sequence[str], folders: Sequence[str]) -> None:
    """Everything that is to leave is here, and nobody has begun to use it."""
    for role in roles:
        if not (secrets / role).is_dir():
            raise FolderError(
                f"the secrets of {role} are not in {secrets}: they have left, or never were here"
            )
    for name in folders:
        if (store := state / name / STORE_FILE).exists():
            raise FolderError(
                f"{name} has run here and keeps its key in {store}, which never moves: go on here, or begin anew on the other "
                f"machine with keys of `qunetlab init {secrets.parent.name} --anew {name}`"
            )


def check_place(to: Path, secrets: Path) -> None:
    """Nobody else may read, or put something else, where the parcel is to lie."""
    if to.exists():
        raise FolderError(f"{to} is there already: name another place")
    if not to.parent.is_dir():
        raise FolderError(f"there is no folder {to.parent}: make it (mode 0700), or name another place")
    if to.is_relative_to(secrets.absolute()):
        raise FolderError(f"{to} lies among the secrets that stay here: name another place")
    if (kind := file_system_type(to.parent)) in NETWORK_FILE_SYSTEMS:
        raise FolderError(
            f"{to.parent} lies on {kind}, which others read on its server: name a local place, and carry the parcel by "
            "hand or through scp"
        )
    mode = to.parent.stat().st_mode
    if mode & 0o022 and not mode & stat.S_ISVTX:
        raise FolderError(
            f"others may write in {to.parent} (mode {stat.S_IMODE(mode):o}): run chmod go-w on it, or name another place"
        )


def _check_modes(stage: Path) -> None:
    """The file system keeps others out; one without owners and modes, as on most USB sticks, does not."""
    for path in (stage, *stage.rglob("*")) if stage.is_dir() else (stage,):
        if path.stat().st_mode & 0o077:
            raise FolderError(
                f"others can read {path.parent}: its file system keeps no modes (a USB stick with FAT?): name a place on a "
                "disk of this machine, and carry the parcel through scp or on an encrypted medium"
            )


def _check_free(folder: Path, name: str, arriving: Path) -> None:
    """The role has no other secrets here; an arrival that was interrupted left the same ones."""
    present = folder / SECRETS / name
    if present.exists() and files_below(present, present) != files_below(arriving, arriving):
        raise FolderError(
            f"{present} is there already, and not as in the parcel: a role's secrets arrive once; move them away if this "
            "parcel is to replace them"
        )
    if (store := folder / STATE / name / STORE_FILE).exists():
        raise FolderError(
            f"{name} has run here and keeps its key in {store}: for a pair that lost its other end, see "
            "`qunetlab keys reseed`"
        )


def _stage(to: Path) -> Path:
    return to.with_name(f".{to.name}.part")


def _write(stage: Path, as_tar: bool, content: dict[str, bytes]) -> None:
    if not as_tar:
        make_folder(stage)
        for name, data in content.items():
            make_folder((stage / name).parent)
            create_file(stage / name, data, 0o600)
        return
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, data in content.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o600
            tar.addfile(entry, io.BytesIO(data))
    create_file(stage, packed.getvalue(), 0o600)


def _read(place: Path) -> dict[str, bytes]:
    """Every file of a parcel; names and kinds are looked at before anything is written."""
    if place.is_dir():
        return files_below(place, place)
    if not place.exists():
        raise FolderError(
            f"there is no parcel {place}: `qunetlab init FOLDER --export ROLE --to {place}` makes one"
        )
    try:
        with tarfile.open(place, mode="r:") as tar:
            found = {}
            for entry in tar:
                file = tar.extractfile(entry) if entry.isreg() else None
                if file is None or entry.size > LARGEST_BYTES:
                    raise FolderError(f"{place} holds {entry.name[:80]!r}, which belongs into no parcel")
                found[entry.name] = file.read()
            return found
    except tarfile.TarError as error:
        raise FolderError(f"{place} is no parcel, or was cut short: {error}; carry it once more") from None


def _listed(place: Path, content: dict[str, bytes]) -> ParcelList:
    """The parcel's list, after every file was held against it."""
    try:
        listed = from_json(content[LIST_FILE], ParcelList)
    except KeyError:
        raise FolderError(f"{place} is no parcel: it has no {LIST_FILE}") from None
    except (ValueError, RecursionError) as error:
        raise FolderError(f"{place} is no parcel of this release: {LIST_FILE}: {error}") from None
    if listed.release != version("qunetlab"):
        raise FolderError(
            f"{place} was made by qunetlab {listed.release}, this machine has {version('qunetlab')}: install the same release"
        )
    for name in listed.files:
        parts = PurePosixPath(name).parts
        if name not in PUBLIC_FILES and (parts[:1] != (SECRETS,) or len(parts) < 3 or ".." in parts):
            raise FolderError(f"{place} holds {name[:80]!r}, which belongs into no parcel")
    del content[LIST_FILE]
    wrong = [name for name in listed.files if _sha256(content.get(name, b"")) != listed.files[name]]
    if TESTBED_FILE not in listed.files or wrong or set(content) != set(listed.files):
        which = ", ".join([*wrong, *sorted(set(content) - set(listed.files))][:5]) or TESTBED_FILE
        raise FolderError(f"{place} is not whole ({which}): carry it once more from where it was made")
    return listed


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _destroy(place: Path) -> None:
    if place.is_dir():
        destroy_folder(place)
    elif place.exists():
        destroy_file(place)
