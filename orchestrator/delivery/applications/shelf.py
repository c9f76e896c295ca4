"""The shelf: copies of keys that wait at the slave's node for their application, by id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator import runtime
from orchestrator.delivery.applications.orders import uuid_text
from orchestrator.delivery.key_desk import NOT_FOUND, BadKeyRequestError, WrongCallerError
from orchestrator.keystore.windows import LeasedKey


@dataclass(frozen=True)
class Waiting:
    """A key that waits for ``slave``; ``expires_s`` in monotonic seconds."""

    peer: str
    key: LeasedKey
    master: str
    slave: str
    expires_s: float
    path: tuple[str, ...] = ()
    carried: bytes = b""


class Shelf:
    """The keys that wait here, by id; any thread."""

    def __init__(self, most_of_two: int) -> None:
        """``most_of_two``: keys of one master that may wait for one slave; another master's have room of their own."""
        self._most = most_of_two
        self._lock = runtime.lock()
        self._waiting: dict[str, Waiting] = {}
        self._counts: Counter[tuple[str, str]] = Counter()

    def holds(self, key_id: bytes) -> bool:
        """Whether a key of that id waits here."""
        with self._lock:
            return uuid_text(key_id) in self._waiting

    def full_with(self, master: str, slave: str, more: int) -> bool:
        """Whether no further key of ``master`` may wait for ``slave`` once ``more`` others do."""
        with self._lock:
            return self._counts[master, slave] + more >= self._most

    def put(self, key: Waiting) -> None:
        with self._lock:
            self._waiting[uuid_text(key.key.key_id)] = key
            self._counts[key.master, key.slave] += 1

    def find(self, slave: str, master: str, key_ids: Sequence[str]) -> list[Waiting]:
        """Raises WrongCallerError where a key waits for another application, BadKeyRequestError where it does not wait."""
        with self._lock:
            found = [self._waiting.get(key_id.lower()) for key_id in key_ids]
        if any(key is not None and key.slave != slave for key in found):
            raise WrongCallerError(f"a key asked for is not for {slave}")
        keys = [key for key in found if key is not None and key.master == master]
        if len(keys) != len(key_ids):
            raise BadKeyRequestError(NOT_FOUND)
        return keys

    def drop(self, keys: Sequence[Waiting]) -> None:
        with self._lock:
            for key in keys:
                if self._waiting.pop(uuid_text(key.key.key_id), None) is not None:
                    self._counts[key.master, key.slave] -= 1

    def late(self, now_s: float) -> list[Waiting]:
        with self._lock:
            return [key for key in self._waiting.values() if key.expires_s <= now_s]

    def counts(self) -> dict[str, int]:
        """Keys that wait, per application that is to fetch them."""
        with self._lock:
            return dict(Counter(key.slave for key in self._waiting.values()))
