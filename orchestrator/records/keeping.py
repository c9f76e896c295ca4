"""Where a role keeps its records: a folder beside its other state, with the chain and the testbeds that records name.

A testbed is kept once, whole, under its digest: what was planned from it can be planned again years later, whatever the
file and the calibration beside it say by then.

A disk that is full, or gone, must not end a light phase whose key is stored already: what cannot be written waits in memory,
is told in the log, and is written before the next record.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from orchestrator import runtime
from orchestrator.durable import create_file, make_folder
from orchestrator.records.chain import Chain
from orchestrator.records.kinds import Record, RoleStarted

logger = logging.getLogger(__name__)

RECORDS = "records"
"""The folder, in a role's state folder."""
CHAIN_FILE = "records.jsonl"
WAITING = 10_000


class Records:
    """The records of one role.  Methods may be called from any thread."""

    def __init__(self, folder: Path | None) -> None:
        """Go on in ``folder``, which is made; with None nothing is kept.  Raises OSError or ChainError."""
        self._folder = folder
        self._lock = runtime.lock()
        self._waiting: deque[bytes] = deque(maxlen=WAITING)
        self._testbeds: set[str] = set()
        self._chain: Chain | None = None
        if folder is not None:
            make_folder(folder)
            self._chain = Chain(folder / CHAIN_FILE)

    @classmethod
    def of_role(cls, state: Path, role: str, version: str, commit: str) -> Records:
        """The records of a role that starts; its first word is who it is."""
        records = cls(state / RECORDS)
        assert records._chain is not None
        cut_bytes = records._chain.cut_bytes
        records.keep(RoleStarted(role=role, version=version, commit=commit, cut_bytes=cut_bytes))
        return records

    def keep(self, record: Record) -> None:
        """Write a record; durable on return, unless the disk does not play along."""
        if self._chain is None:
            return
        with self._lock:
            self._waiting.append(msgspec.json.encode(record))
            try:
                while self._waiting:
                    self._chain.append(self._waiting[0])
                    self._waiting.popleft()
            except OSError as error:
                logger.error("%d records wait to be written: %s", len(self._waiting), error)

    def keep_testbed(self, content: Mapping[str, Any]) -> str:
        """Keep a testbed as plain data, once; returns its digest."""
        data = json.dumps(content, sort_keys=True, indent=1).encode()
        digest = hashlib.sha256(data).hexdigest()
        if self._folder is not None and digest not in self._testbeds:
            try:
                create_file(path_of_testbed(self._folder, digest), data, 0o600)
            except FileExistsError:
                pass
            except OSError as error:
                logger.error("the testbed of the following records is not kept: %s", error)
                return digest
            self._testbeds.add(digest)
        return digest


def path_of_testbed(folder: Path, digest: str) -> Path:
    """Where the testbed with this digest is kept in a folder of records."""
    return folder / f"testbed-{digest[:16]}.json"
