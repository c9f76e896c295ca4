"""The records of a run in its folder: copied from the roles that were here, and sealed with the digest of every file.

``records/ring-N/ROLE/``    what a role of the N-th attempt wrote, and of a node's key store everything that is no secret
``records/ring/ROLE/``      the same of a testbed folder, whose roles go on with their records from run to run
``state/fl-server/``        models, sums and records of the learning server
``records/run/``            the chain of the supervisor: the digests of all these files, and of results and reports

What roles on other machines wrote stays there.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lab.runs.software import commit, versions
from orchestrator.durable import make_folder, write_kept
from orchestrator.keystore.errors import StoreError
from orchestrator.keystore.public_books import read_books
from orchestrator.processes.node_store import STORE_FILE
from orchestrator.records.chain import ChainError
from orchestrator.records.keeping import CHAIN_FILE, RECORDS, Records
from orchestrator.records.kinds import ResultsKept, RoleStarted

if TYPE_CHECKING:
    from lab.runs.supervising.supervised import Run

logger = logging.getLogger(__name__)

BOOKS_FILE = "books.json"
RUN_ROLE = "run"
RING = "ring"
LEARNING_SERVER = "fl-server"
SEALED = ("results.json", "report.json", "live.json", "plan.json", "testbed.toml")
SEALED_FOLDERS = (RECORDS, "state")


def gather(run: Run, folder: Path, *, instead: bool = False) -> None:
    """Copy what the roles of an ended run wrote into its folder, ``instead`` of those of an earlier run.  Raises OSError."""
    if instead:
        for before in (folder / RECORDS, folder / "state" / LEARNING_SERVER):
            shutil.rmtree(before, ignore_errors=True)
    home = folder / RECORDS / _place(run, folder)
    if home.exists():
        shutil.rmtree(home)
    for state in sorted(run.state.glob("*")):
        if (state / RECORDS / CHAIN_FILE).exists():
            _copy_role(state, home / state.name)
    server = run.state / LEARNING_SERVER
    if server.is_dir() and server.resolve() != (folder / "state" / LEARNING_SERVER).resolve():
        for kept in sorted(server.glob("*/run.json")):
            target = folder / "state" / LEARNING_SERVER / kept.parent.name
            shutil.copytree(kept.parent, target, dirs_exist_ok=True)


def _place(run: Run, folder: Path) -> str:
    """A ring that is gone with its run has a place of its own; one that stays has one for all runs."""
    if run.folder.resolve() not in run.state.resolve().parents:
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


def seal(folder: Path) -> None:
    """Put the digest of every file of a run on record; what comes later is not covered.  Raises OSError."""
    home = folder / RECORDS / RUN_ROLE
    is_new = not (home / CHAIN_FILE).exists()
    try:
        records = Records(home)
    except ChainError as error:
        logger.error("this end of the run is not on record: %s", error)
        return
    if is_new:
        version = versions(["qunetlab"]).get("qunetlab", "")
        records.keep(RoleStarted(role=RUN_ROLE, version=version, commit=commit()))
    records.keep(ResultsKept(files=digests(folder)))


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 (hexadecimal) of every file of a run that is covered, by its path in the folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in _covered(folder)
    }


def _covered(folder: Path) -> Iterator[Path]:
    for name in SEALED:
        if (folder / name).is_file():
            yield folder / name
    for name in SEALED_FOLDERS:
        for path in sorted((folder / name).rglob("*")):
            inside = path.relative_to(folder / name).parts
            if path.is_file() and inside[:1] != (RUN_ROLE,) and "kernels" not in inside:
                yield path
