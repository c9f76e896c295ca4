"""How many connections the applications hold, and from where.

A private key is one application on one machine: while it is in use from one address, a connection with it from another
one is refused, as one of the two holds a stolen key.  A renewed certificate has the key of the one before, so it is the
key that counts and not the certificate.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable

from orchestrator.delivery.http.limits import Limits
from orchestrator.delivery.http.proving import Caller
from orchestrator.events.delivery import TurnedAway


class Register:
    """The connections of all callers; used by the server's loop alone."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._of_key: dict[bytes, tuple[str, set[Hashable]]] = {}
        self._of_sae: defaultdict[str, int] = defaultdict(int)
        self._turned_away: set[Hashable] = set()

    def enter(self, connection: Hashable, caller: Caller, address: str) -> TurnedAway | None:
        """Count ``connection`` of ``caller`` from ``address``, or say why it is turned away."""
        used_at, _ = held = self._of_key.get(caller.key, (address, set()))
        if used_at != address:
            return "certificate in use at another address"
        if self._of_sae[caller.sae_id] >= self._limits.connections_per_sae:
            return "too many connections of one SAE"
        held[1].add(connection)
        self._of_key[caller.key] = held
        self._of_sae[caller.sae_id] += 1
        return None

    def is_told(self, connection: Hashable) -> bool:
        """Whether ``connection``, which is turned away, may stay open until its caller was told why."""
        if len(self._turned_away) < self._limits.connections_turned_away:
            self._turned_away.add(connection)
        return connection in self._turned_away

    def address_of(self, caller: Caller) -> str:
        """Where the key of ``caller`` is in use; empty where it is not."""
        return self._of_key.get(caller.key, ("", set()))[0]

    def leave(self, connection: Hashable, caller: Caller | None) -> None:
        """``connection`` has ended; one that was turned away is not counted for its caller, None where nobody was proved."""
        self._turned_away.discard(connection)
        if caller is None:
            return
        _, held = self._of_key.get(caller.key, ("", set()))
        if connection not in held:
            return
        held.remove(connection)
        if not held:
            del self._of_key[caller.key]
        self._of_sae[caller.sae_id] -= 1
        if not self._of_sae[caller.sae_id]:
            del self._of_sae[caller.sae_id]
