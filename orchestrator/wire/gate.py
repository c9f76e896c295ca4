"""The gate of a process that serves others: whose keys come in, and who said a message.

Who a peer is follows from its CURVE key alone.  Names inside messages can be claimed by anyone and are never used as
identity.  :meth:`Gate.role_of_key` asks the *current* list for each message, so a key that is revoked loses its voice
at once although its connection may still stand; :meth:`Gate.revoke` ends that too.

Whatever listens is made by a gate (:meth:`Gate.listen`), so nothing can listen without one.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from orchestrator import runtime
from orchestrator.wire.curve import CurveError, CurveKeys, check_public
from orchestrator.wire.links import SERVER_QUEUES, Listener, QueueLimits, Waiter
from orchestrator.wire.revoked import RevokedError, RevokedKeys

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Refusal:
    """One connection that the gate turned away; ``public`` is the client's key as Z85 text."""

    public: str
    reason: str


class Gate(ABC):
    """Admits the keys of ``allowed`` (public key in Z85 -> role name) from construction to :meth:`close`.

    ``revoked`` is where revoked keys are kept over restarts.  The last hundred connections turned away are kept in
    :attr:`refusals`.  Thread-safe.
    """

    def __init__(self, allowed: Mapping[str, str], revoked: RevokedKeys | None = None) -> None:
        self._lock = runtime.lock()
        self._all: dict[str, str] = {}
        self._roles: dict[str, str] = {}
        self._revoked = revoked
        self._warned: set[str] = set()
        self.refused = 0
        """How many connections were turned away."""
        self.refusals: deque[Refusal] = deque(maxlen=100)
        self.set_allowed(allowed)

    def set_allowed(self, allowed: Mapping[str, str]) -> None:
        """Replace the list: {public key in Z85: role name}, one key per role.  Acts on the next message."""
        for public, role in allowed.items():
            try:
                check_public(public)
            except ValueError as error:
                raise CurveError(f"key of {role}: {error}") from None
        if len(set(allowed.values())) != len(allowed):
            raise CurveError("two keys are given for one role; a role has exactly one key")
        with self._lock:
            self._all = dict(allowed)
            self._roles = dict(allowed) if self._revoked is None else self._revoked.without(allowed)

    @property
    def revoked(self) -> list[str]:
        """The roles whose keys are refused, in order."""
        return sorted(set(self._all.values()) - set(self._roles.values()))

    def revoke(self, role: str) -> None:
        """Refuse the key of ``role`` from here on, durably where a list of revoked keys was given, and end its
        connections.  Raises RevokedError for a role that is not served here, OSError if the list cannot be kept.
        """
        with self._lock:
            if self._revoked is not None:
                self._revoked.add(role, self._all)
            elif role not in self._all.values():
                raise RevokedError(f"no role {role!r} is served here")
            self._roles = {key: name for key, name in self._roles.items() if name != role}
        ended = self._end_connections(role)
        _log.warning("the key of %s is revoked; %d connections were ended", role, ended)

    def is_allowed(self, role: str) -> bool:
        """Is there a key for ``role``?"""
        return role in self._roles.values()

    def role_of_key(self, public: str) -> str | None:
        """The role that the key stands for at the moment."""
        return self._roles.get(public)

    def admits(self, public: str) -> bool:
        """May the owner of this key come in?  A refusal is counted and logged."""
        if public in self._roles:
            return True
        self.refused += 1
        self.refusals.append(Refusal(public, "unknown or revoked key"))
        # A key that is refused tries again and again: one warning per key is enough.
        level = logging.DEBUG if public in self._warned else logging.WARNING
        if len(self._warned) < 1000:
            self._warned.add(public)
        _log.log(level, "connection refused: key %s is not on the list", public)
        return False

    @property
    def floods(self) -> int:
        """Connections that were ended because they brought more bytes than messages may have."""
        return 0

    @abstractmethod
    def listen(
        self, waiter: Waiter, keys: CurveKeys, endpoint: str, limits: QueueLimits = SERVER_QUEUES
    ) -> Listener:
        """Listen at ``endpoint`` ("auto": wherever there is room) as the owner of ``keys``.

        Raises OSError when the address is taken.
        """

    @abstractmethod
    def _end_connections(self, role: str) -> int:
        """End the connections of a role; how many there were."""

    @abstractmethod
    def close(self) -> None:
        """Stop answering: from here on nobody gets in.  Idempotent."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
