"""How one client's shares go out and those of its peers come in: between its worker and its main thread.

The worker hands over its sealed shares and waits; the main thread, which owns the socket, sends them, and
delivers what the server passes on.  What the worker then holds of its peers stays here until the round ends,
so that the main thread can answer while the worker trains on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fl.keys.node import CancelledError
from fl.modes.base import RoundShares
from orchestrator import runtime

SLICE_S = 0.2


@dataclass
class ShareExchange:
    """One round; ``cancelled`` is the round's."""

    cancelled: runtime.Event
    outgoing: tuple[Mapping[str, bytes], int] | None = None
    """Sealed shares by peer, and the key they cost, once there are any."""
    held_shares: RoundShares | None = None
    _incoming: Mapping[str, bytes] | None = None
    _closed: bool = False
    _changed: runtime.Condition = field(default_factory=runtime.condition)

    def swap(self, sealed: Mapping[str, bytes], key_bits: int) -> Mapping[str, bytes]:
        """Hand over shares for the peers and wait for theirs; raises CancelledError."""
        with self._changed:
            self.outgoing = dict(sealed), key_bits
            while self._incoming is None:
                if self.cancelled.is_set():
                    raise CancelledError("the round ended before the shares of the others came")
                self._changed.wait(SLICE_S)
            return self._incoming

    def hold(self, held_shares: RoundShares) -> None:
        """Keep what can be answered with."""
        with self._changed:
            self.held_shares = held_shares
            if self._closed:
                held_shares.close()

    def deliver(self, shares: Mapping[str, bytes]) -> None:
        """The sealed shares of the peers; only the first delivery of a round counts."""
        with self._changed:
            if self._incoming is None:
                self._incoming = dict(shares)
                self._changed.notify_all()

    def close(self) -> None:
        """The round is over: overwrite the shares."""
        with self._changed:
            self._closed = True
            if self.held_shares is not None:
                self.held_shares.close()
            self._changed.notify_all()
