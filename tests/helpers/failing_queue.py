"""A queue whose disk can be full."""

from __future__ import annotations

import sqlite3

from orchestrator.scheduling.queue_store import QueueDatabase, QueueStore


class FailingDatabase(QueueDatabase):
    """Fails every write while ``full``, as a full disk does."""

    full = False

    def write(self, sql: str, *values: object) -> int:
        if FailingDatabase.full and not sql.startswith("BEGIN"):
            failure = sqlite3.OperationalError("injected")
            failure.sqlite_errorname = "SQLITE_FULL"
            raise self.failure("write", failure) from failure
        return super().write(sql, *values)


class FailingStore(QueueStore):
    database_class = FailingDatabase
