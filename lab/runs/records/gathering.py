"""The records of a run in its folder: copied from the roles that were here, and sealed with the digest of every file.

``records/ring-N/ROLE/``    what a role of the N-th attempt wrote, and of a node's key store everything that is no secret
``records/ring/ROLE/``      the same of a testbed folder, whose roles go on with their records from run to run
``state/fl-server/``        models, sums and records of the learning server
``records/run/``            the chain of the supervisors: how each run ended, and the digests of all these files

What roles on other machines wrote stays there.

Where they belong stands in the private folder of a run from its beginning on (:class:`Gathering`), and whoever removes that
folder gathers first: the run itself, however it ends; its sweeper, where it was killed; the next run, where that was too.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from orchestrator.decoding import from_json
from orchestrator.durable import make_folder, write_kept
from orchestrator.keystore.errors import StoreError
from orchestrator.keystore.public_books import read_books
from orchestrator.processes.node_store import STORE_FILE
from orchestrator.records.keeping import CHAIN_FILE, RECORDS

logger = logging.getLogger(__name__)

BOOKS_FILE = "books.json"
RUN_ROLE = "run"
RING = "ring"
LEARNING_SERVER = "fl-server"
NOTE = "gather.json"
REPORTS = ("report.json", "report.html")
SEALED = ("results.json", "report.json", "live.json", "plan.json", "testbed.toml")
SEALED_FOLDERS = (RECORDS, "state")


class Gathering(msgspec.Struct, frozen=True):
    """Records of the roles in ``state`` belong ``into`` the folder of a run, ``instead`` of those of an earlier one."""

    state: str
    into: str
    instead: bool = False

    def noted(self, private: Path) -> None:
        """Write it down in the private folder of a run.  Raises OSError."""
        write_kept(private / NOTE, self)


def gather_noted(private: Path) -> None:
    """Gather what the note in the private folder of a run asks for; without one, nothing.  Raises OSError, ValueError."""
    if (private / NOTE).exists():
        noted = from_json((private / NOTE).read_bytes(), Gathering)
        gather(private, Path(noted.state), Path(noted.into), instead=noted.instead)


def gather(private: Path, state: Path, folder: Path, *, instead: bool = False) -> None:
    """Copy what the roles of an ended run wrote into its folder; nothing where none began.  Raises OSError.

    ``instead`` of an earlier run that left its records and report there.
    """
    roles = [each for each in sorted(state.glob("*")) if (each / RECORDS / CHAIN_FILE).exists()]
    if not roles:
        return
    if instead:
        for before in (*(folder / RECORDS).glob(f"{RING}*"), folder / "state" / LEARNING_SERVER):
            shutil.rmtree(before, ignore_errors=True)
        for report in REPORTS:
            (folder / report).unlink(missing_ok=True)
    home = folder / RECORDS / _place(private, state, folder)
    if home.exists():
        shutil.rmtree(home)
    for each in roles:
        _copy_role(each, home / each.name)
    server = state / LEARNING_SERVER
    if server.is_dir() and server.resolve() != (folder / "state" / LEARNING_SERVER).resolve():
        for kept in sorted(server.glob("*/run.json")):
            target = folder / "state" / LEARNING_SERVER / kept.parent.name
            shutil.copytree(kept.parent, target, dirs_exist_ok=True)


def _place(private: Path, state: Path, folder: Path) -> str:
    """A ring that is gone with its run has a place of its own; one that stays has one for all runs."""
    if private.resolve() not in state.resolve().parents:
        return RING
    taken = sum(1 for _ in (folder / RECORDS).glob(f"{RING}-*"))
    return f"{RING}-{taken + 1}"


def _copy_role(state: Path, home: Path) -> None:
    make_folder(home)
    for file in sorted((state / RECORDS).iterdir()):
        shutil.copyfile(file, home / file.name)
    if (state / STORE_FILE).exists():
        try:
            write_kept(home / BOOKS_FILE, read_books(state / STORE_FILE))
        except StoreError as error:
            logger.warning("the books of %s are not in the run's folder: %s", state.name, error)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 (hexadecimal) of every file of a run that is covered, by its path in the folder."""
    return {path.relative_to(folder).as_posix(): digest_of(path) for path in _covered(folder)}


def digest_of(path: Path) -> str:
    """SHA-256 (hexadecimal) of a file, "" where there is none.  Raises OSError."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _covered(folder: Path) -> Iterator[Path]:
    for name in SEALED:
        if (folder / name).is_file():
            yield folder / name
    for name in SEALED_FOLDERS:
        for path in sorted((folder / name).rglob("*")):
            inside = path.relative_to(folder / name).parts
            if path.is_file() and inside[:1] != (RUN_ROLE,) and "kernels" not in inside:
                yield path
