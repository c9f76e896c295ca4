"""The SQLite file under a key store: settings that durability rests on, one owner, typed failures.

Every setting of :data:`SETTINGS` is applied and read back; a store whose settings did not take
effect is not opened.  Write-ahead logging with ``synchronous=FULL`` makes a transaction durable when COMMIT
returns, which is what "durable before bits leave" means here.  ``locking_mode=EXCLUSIVE`` makes the process
that opened the file its only owner until it closes it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from orchestrator.durable import sync_path
from orchestrator.keystore.errors import StoreBusyError, StoreError, StoreSettingsError

SCHEMA_VERSION = 6
APPLICATION_ID = 0x514E_4B53  # "QNKS"

SETTINGS: tuple[tuple[str, str, object], ...] = (
    ("page_size", "16384", 16384),
    ("locking_mode", "EXCLUSIVE", "exclusive"),
    ("journal_mode", "WAL", "wal"),
    ("synchronous", "FULL", 2),
    ("secure_delete", "ON", 1),
    ("trusted_schema", "OFF", 0),
    ("foreign_keys", "ON", 1),
    ("temp_store", "MEMORY", 2),
)
"""(pragma, value to set, value that must be read back)."""

NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "ncpfs", "afs", "ceph", "glusterfs"}
    | {"lustre", "gpfs", "beegfs", "ocfs2", "gfs2", "davfs", "moosefs"}
    | {"fuse.glusterfs", "fuse.sshfs", "fuse.s3fs", "fuse.rclone", "fuse.davfs2", "fuse.mfs"}
)
"""File systems on which neither locks nor fsync may be trusted (sqlite.org/howtocorrupt.html)."""

SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE peers (
    peer TEXT PRIMARY KEY, role TEXT NOT NULL, generation INTEGER NOT NULL DEFAULT 0) STRICT, WITHOUT ROWID;
CREATE TABLE lanes (
    peer TEXT NOT NULL REFERENCES peers, lane TEXT NOT NULL,
    head INTEGER NOT NULL DEFAULT 0, tail INTEGER NOT NULL DEFAULT 0,
    produced INTEGER NOT NULL DEFAULT 0, delivered INTEGER NOT NULL DEFAULT 0,
    authentication INTEGER NOT NULL DEFAULT 0, burnt INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (peer, lane)) STRICT, WITHOUT ROWID;
CREATE TABLE blocks (
    id INTEGER PRIMARY KEY, peer TEXT NOT NULL REFERENCES peers, block_id TEXT NOT NULL,
    state TEXT NOT NULL, n_bits INTEGER NOT NULL, context BLOB NOT NULL, starts TEXT NOT NULL DEFAULT '',
    UNIQUE (peer, block_id)) STRICT;
CREATE TABLE pieces (
    id INTEGER PRIMARY KEY, peer TEXT NOT NULL, lane TEXT NOT NULL, block INTEGER NOT NULL REFERENCES blocks,
    place INTEGER NOT NULL, start INTEGER, n_bits INTEGER NOT NULL,
    wrapped_key BLOB NOT NULL, sealed BLOB NOT NULL) STRICT;
CREATE INDEX pieces_by_start ON pieces (peer, lane, start, n_bits);
CREATE INDEX pieces_by_block ON pieces (block);
CREATE TABLE reservations (
    id INTEGER PRIMARY KEY, peer TEXT NOT NULL REFERENCES peers, lane TEXT NOT NULL,
    start INTEGER NOT NULL, n_bits INTEGER NOT NULL, context BLOB NOT NULL, state TEXT NOT NULL,
    UNIQUE (peer, lane, start)) STRICT;
CREATE INDEX reservations_by_context ON reservations (peer, lane, context);
CREATE TABLE outputs (context BLOB PRIMARY KEY, output BLOB NOT NULL) STRICT, WITHOUT ROWID;
"""

MAC_KEYS = """
CREATE TABLE mac_keys (
    peer TEXT NOT NULL REFERENCES peers, generation INTEGER NOT NULL, lane TEXT NOT NULL,
    proved INTEGER NOT NULL DEFAULT 0, wrapped_key BLOB NOT NULL, sealed BLOB NOT NULL,
    PRIMARY KEY (peer, generation, lane)) STRICT, WITHOUT ROWID;
"""

KEPT_SECRETS = """
CREATE TABLE kept_secrets (
    id INTEGER PRIMARY KEY, peer TEXT NOT NULL REFERENCES peers, name BLOB NOT NULL,
    shown INTEGER NOT NULL DEFAULT 0, wrapped_key BLOB NOT NULL, sealed BLOB NOT NULL,
    UNIQUE (peer, name)) STRICT;
CREATE TABLE begun (
    peer TEXT PRIMARY KEY REFERENCES peers, generation INTEGER NOT NULL, name BLOB NOT NULL)
    STRICT, WITHOUT ROWID;
"""

EPSILONS = """
CREATE TABLE epsilons (
    peer TEXT PRIMARY KEY REFERENCES peers, sec REAL NOT NULL, cor REAL NOT NULL, auth REAL NOT NULL,
    blocks INTEGER NOT NULL, tags INTEGER NOT NULL) STRICT, WITHOUT ROWID;
"""

OPEN_RESERVATIONS = """
CREATE INDEX reservations_open ON reservations (state)
    WHERE state IN ('proposed', 'committed', 'skipped', 'waiting');
"""

SAE_USE = """
CREATE TABLE sae_use (
    sae TEXT NOT NULL, peer TEXT NOT NULL REFERENCES peers, lane TEXT NOT NULL, side TEXT NOT NULL,
    day INTEGER NOT NULL, keys INTEGER NOT NULL, bits INTEGER NOT NULL,
    PRIMARY KEY (sae, peer, lane, side, day)) STRICT, WITHOUT ROWID;
"""

BLOCK_SPLITS = """
ALTER TABLE blocks ADD COLUMN split TEXT NOT NULL DEFAULT '';
"""
"""The rule by which a block was divided; empty for blocks of before, which followed the one in ``meta``."""

MIGRATIONS: dict[int, str] = {
    1: "ALTER TABLE peers ADD COLUMN generation INTEGER NOT NULL DEFAULT 0;\n" + MAC_KEYS,
    2: KEPT_SECRETS,
    3: EPSILONS,
    4: "DROP INDEX reservations_open;\n" + OPEN_RESERVATIONS,
    5: "DROP INDEX reservations_open;\n" + OPEN_RESERVATIONS + SAE_USE + BLOCK_SPLITS,
}
"""Format of a file: what makes it one of the next format, in the same transaction as the number."""


def file_system_type(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """The type of the file system that holds ``path``; empty where the machine does not say (proc(5))."""
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return ""
    target = path.resolve()
    best, kind = -1, ""
    for line in lines:
        left, _, right = line.partition(" - ")
        fields = left.split()
        if len(fields) < 5 or not right:
            continue
        mount_point = Path(fields[4].encode().decode("unicode_escape"))
        if (target == mount_point or mount_point in target.parents) and len(mount_point.parts) >= best:
            best, kind = len(mount_point.parts), right.split()[0]
    return kind


class Database:
    """One opened store file; every failure of SQLite leaves as a :class:`StoreError`.

    What makes it a key store stands in class attributes; the orchestrator's queue is another file of the same making.
    """

    settings = SETTINGS
    kind = "key store"
    application_id = APPLICATION_ID
    schema_version = SCHEMA_VERSION
    schema = SCHEMA + MAC_KEYS + KEPT_SECRETS + EPSILONS + OPEN_RESERVATIONS + SAE_USE + BLOCK_SPLITS
    migrations = MIGRATIONS
    kept = "Nothing was released"
    """What a failure leaves as it was."""

    def __init__(self, path: Path, *, create: bool, file_system: str | None = None) -> None:
        self.path = path
        kind = file_system if file_system is not None else file_system_type(path)
        if kind in NETWORK_FILE_SYSTEMS:
            raise StoreSettingsError(f"{path} lies on {kind}; a {self.kind} needs a local file system")
        if create:
            _create_private(path, self.kind)
        elif not path.is_file():
            raise StoreError(f"there is no {self.kind} at {path}; create it first")
        try:
            self._db = sqlite3.connect(path, timeout=0.0, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise self.failure("open", error) from error
        try:
            self._apply_settings()
            self._db.execute("BEGIN IMMEDIATE")
            if create:
                self._create_schema()
            else:
                self._migrate(self._format())
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            self._db.close()
            raise self.failure("open", error) from error
        except StoreError:
            self._db.close()
            raise
        if create:
            sync_path(path.parent)

    def _apply_settings(self) -> None:
        for name, value, expected in self.settings:
            self._db.execute(f"PRAGMA {name}={value}")
            got = self._db.execute(f"PRAGMA {name}").fetchone()
            if got is None or got[0] != expected:
                raise StoreSettingsError(
                    f"{self.path}: {name} is {got[0] if got else 'unknown'} instead of {expected}; "
                    f"the file is not a {self.kind} or SQLite was built without this setting"
                )

    def _create_schema(self) -> None:
        self._execute_all(self.schema)
        self._db.execute(f"PRAGMA application_id={self.application_id}")
        self._db.execute(f"PRAGMA user_version={self.schema_version}")

    def _migrate(self, version: int) -> None:
        for older in range(version, self.schema_version):
            self._execute_all(self.migrations[older])
        if version != self.schema_version:
            self._db.execute(f"PRAGMA user_version={self.schema_version}")

    def _execute_all(self, statements: str) -> None:
        for statement in statements.split(";\n"):
            if statement.strip():
                self._db.execute(statement)

    def _format(self) -> int:
        """The number of the file's format; refuses what is no such file or a format this program lacks."""
        (application,) = self._db.execute("PRAGMA application_id").fetchone()
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if application != self.application_id:
            raise StoreError(f"{self.path} is not a qunetlab {self.kind}")
        if not 1 <= version <= self.schema_version:
            raise StoreError(
                f"{self.path} has store format {version}, this program knows {self.schema_version}; "
                "install the matching version"
            )
        return int(version)

    def failure(self, doing: str, error: sqlite3.Error) -> StoreError:
        """The typed error for what SQLite reported."""
        name = getattr(error, "sqlite_errorname", "") or type(error).__name__
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            return StoreBusyError(
                f"{self.path} is owned by another process; stop that one first (one owner per file)"
            )
        hint = {
            "SQLITE_FULL": "the disk is full: free space",
            "SQLITE_READONLY": "the file or disk is read-only: remount it or fix the owner",
        }.get(name, "check the disk and the system log")
        if name.startswith("SQLITE_IOERR") and _disk_full(self.path.parent):
            hint = "the disk is full: free space"
        return StoreError(f"{self.path}: cannot {doing} ({name}: {error}); {hint}. {self.kept}")

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """All rows of a SELECT, or of a write inside :meth:`transaction`."""
        try:
            return self._db.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise self.failure("read" if sql.startswith("SELECT") else "write", error) from error

    def write(self, sql: str, *values: object) -> int:
        """One write; the number of rows it changed."""
        try:
            return self._db.execute(sql, values).rowcount
        except sqlite3.Error as error:
            raise self.failure("write", error) from error

    def write_many(self, sql: str, rows: Iterable[tuple[object, ...]]) -> None:
        try:
            self._db.executemany(sql, rows)
        except sqlite3.Error as error:
            raise self.failure("write", error) from error

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of the block or nothing; durable when the block is left."""
        self.write("BEGIN IMMEDIATE")
        try:
            yield
            self.commit()
        except BaseException:
            with suppress(sqlite3.Error):  # SQLite has rolled back by itself after a failed write
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
            raise

    def commit(self) -> None:
        self.write("COMMIT")

    def checkpoint(self) -> None:
        """Move the log into the main file and cut it to nothing; raises StoreError if that is not done."""
        try:
            done = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error as error:
            raise self.failure("cut the log", error) from error
        if done is None or done[0] != 0:
            raise StoreError(f"{self.path}: cannot cut the log, it is in use; nothing was lost")

    def close(self) -> None:
        try:
            self._db.close()
        except sqlite3.Error as error:
            raise self.failure("close", error) from error


def _disk_full(folder: Path) -> bool:
    try:
        state = os.statvfs(folder)
    except OSError:
        return False
    return state.f_bavail == 0 or (state.f_files > 0 and state.f_favail == 0)


def _create_private(path: Path, kind: str) -> None:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError as error:
        raise StoreError(f"{path} exists already; a {kind} is created once") from error
    except OSError as error:
        raise StoreError(f"cannot create {path}: {error.strerror}") from error
