"""A run as an audit finds it on the disk: records by role and ring, the books of key stores, rounds, results.

``RUN`` is the folder of a run (:mod:`lab.runs.records.gathering`) or a testbed folder at rest, with its roles' state.
Everything is opened for reading alone, and no secret is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from fl.experiments.results import RESULTS_FILE, Results, ResultsError, read_results
from fl.rounds.run_state import STATE_FILE, RunState, RunStateError, read_state
from lab.runs.records.gathering import BOOKS_FILE, LEARNING_SERVER, RING, RUN_ROLE
from lab.runs.testbeds.folder import STATE
from orchestrator.decoding import from_json
from orchestrator.events.common import Unknown
from orchestrator.keystore.errors import StoreError
from orchestrator.keystore.public_books import PublicBooks, read_books
from orchestrator.processes.node_store import STORE_FILE
from orchestrator.records.chain import ReadChain, read_chain
from orchestrator.records.keeping import CHAIN_FILE, RECORDS
from orchestrator.records.kinds import AnyRecord, Record, RoleStarted, RoleStopped, record_of

R = TypeVar("R", bound=Record)


class AuditError(ValueError):
    """There is nothing to audit."""


@dataclass(frozen=True)
class Told:
    """A record, and the line that it stands in."""

    record: AnyRecord
    where: str


@dataclass(frozen=True)
class RoleRecords:
    """The records of one role."""

    name: str
    folder: Path
    chain: ReadChain
    told: tuple[Told, ...]
    unknown: tuple[str, ...]

    def of(self, kind: type[R]) -> Iterator[tuple[R, str]]:
        """The records of one kind, each with where it stands."""
        for each in self.told:
            if isinstance(each.record, kind):
                yield each.record, each.where

    def was_killed_after(self, at: object) -> bool:
        """Whether the role ended without a word, the next time that it ended, after the moment ``at``."""
        for each in self.told:
            if each.record.at >= at and isinstance(each.record, RoleStarted | RoleStopped):  # type: ignore[operator]
                return isinstance(each.record, RoleStarted)
        return True


@dataclass(frozen=True)
class Ring:
    """The roles whose leases are numbered together."""

    name: str
    roles: dict[str, RoleRecords]
    books: dict[str, PublicBooks] = field(default_factory=dict)


@dataclass(frozen=True)
class Learning:
    """One training run as its server kept it."""

    folder: Path
    state: RunState


@dataclass(frozen=True)
class Case:
    """Everything of a run; ``missing`` says what could not be read, and why."""

    folder: Path
    rings: tuple[Ring, ...]
    server: RoleRecords | None
    run: RoleRecords | None
    learning: tuple[Learning, ...]
    results: Results | None
    missing: tuple[str, ...]

    def roles(self) -> Iterator[RoleRecords]:
        """All of them."""
        for ring in self.rings:
            yield from ring.roles.values()
        for each in (self.server, self.run):
            if each is not None:
                yield each

    def place(self, path: Path) -> str:
        """A path as a finding tells it."""
        return path.relative_to(self.folder).as_posix() if path.is_relative_to(self.folder) else str(path)


class _Reader:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.missing: list[str] = []

    def role(self, name: str, folder: Path) -> RoleRecords | None:
        path = folder / CHAIN_FILE
        if not path.exists():
            return None
        chain = read_chain(path)
        told, unknown = [], []
        place = path.relative_to(self.folder).as_posix()
        for number, line in enumerate(chain.lines, start=1):
            record = None if line is None else record_of(bytes(line.record))
            if isinstance(record, Unknown):
                unknown.append(
                    f"{place}:{number} is of a kind that this version does not know: {record.kind}"
                )
            elif record is not None:
                told.append(Told(record, f"{place}:{number}"))
        return RoleRecords(name, folder, chain, tuple(told), tuple(unknown))

    def ring(self, name: str, homes: dict[str, Path]) -> Ring:
        """``homes``: by role, where its records lie."""
        roles = {role: found for role, home in homes.items() if (found := self.role(role, home)) is not None}
        roles.pop(LEARNING_SERVER, None)
        return Ring(name, roles)

    def books(self, name: str, path: Path) -> PublicBooks | None:
        try:
            if path.name == BOOKS_FILE:
                return from_json(path.read_bytes(), PublicBooks)
            return read_books(path)
        except (StoreError, OSError, ValueError, RecursionError) as error:
            self.missing.append(f"the books of {name}'s key store: {error}")
            return None

    def learning(self, home: Path) -> Iterator[Learning]:
        for file in sorted(home.glob(f"*/{STATE_FILE}")):
            try:
                yield Learning(file.parent, read_state(file.parent))
            except RunStateError as error:
                self.missing.append(f"a training run: {error}")


def read_case(folder: Path) -> Case:
    """Everything that is there; raises AuditError where that is nothing, OSError where it cannot be read."""
    folder = folder.resolve()
    if not folder.is_dir():
        raise AuditError(f"{folder} is no folder: name that of a run, or a testbed folder")
    reader = _Reader(folder)
    gathered = folder / RECORDS
    if homes_of_rings := sorted(gathered.glob(f"{RING}*")):
        rings = [
            _with_books(reader, home.name, {role.name: role for role in sorted(home.iterdir())}, BOOKS_FILE)
            for home in homes_of_rings
        ]
    else:
        homes = {state.name: state / RECORDS for state in sorted((folder / STATE).glob("*"))}
        rings = [_with_books(reader, folder.name, homes, f"../{STORE_FILE}")]
    server_state = folder / STATE / LEARNING_SERVER
    server = reader.role(LEARNING_SERVER, server_state / RECORDS)
    for home in sorted(gathered.glob(f"{RING}*/{LEARNING_SERVER}")):
        server = server or reader.role(LEARNING_SERVER, home)
    learning = tuple(reader.learning(server_state))
    results = None
    if (folder / RESULTS_FILE).exists():
        try:
            results = read_results(folder)
        except ResultsError as error:
            reader.missing.append(str(error))
    rings = [ring for ring in rings if ring.roles]
    run = reader.role(RUN_ROLE, gathered / RUN_ROLE)
    if not (rings or learning or results or run):
        raise AuditError(
            f"{folder} holds no records: name the folder of a run, or a testbed folder whose roles have run here"
        )
    return Case(folder, tuple(rings), server, run, learning, results, tuple(reader.missing))


def _with_books(reader: _Reader, name: str, homes: dict[str, Path], file: str) -> Ring:
    ring = reader.ring(name, homes)
    for role in ring.roles:
        path = homes[role] / file
        books = reader.books(role, path) if path.exists() else None
        if books is not None:
            ring.books[role] = books
    return ring
