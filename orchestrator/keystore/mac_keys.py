"""Where a store keeps the reusable keys of its pairs (:mod:`orchestrator.keystore.pair_macs`): sealed, outside every
lane, one pair of keys per peer and generation."""

from __future__ import annotations

from orchestrator.keystore.core import Core
from orchestrator.keystore.lanes import Lane, outgoing_auth
from orchestrator.keystore.pair_macs import InstalledSecret, PairMacs
from orchestrator.secret import SecretBits


class MacKeys:
    """The ``mac_keys`` table of one store."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def put(
        self, peer: str, generation: int, mac_ab: SecretBits, mac_ba: SecretBits, *, proved: bool
    ) -> None:
        """Keep the keys of a generation (inside a transaction); those it had before are replaced.

        ``proved``: the peer is known to hold the same.
        """
        for lane, key in ((Lane.AUTH_AB, mac_ab), (Lane.AUTH_BA, mac_ba)):
            wrapped, sealed = self._core.pieces.seal_apart(_place(peer, generation, lane), key)
            self._core.db.write(
                "INSERT OR REPLACE INTO mac_keys (peer, generation, lane, proved, wrapped_key, sealed)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                peer,
                generation,
                lane,
                int(proved),
                wrapped,
                sealed,
            )

    def get(self, peer: str, generation: int) -> PairMacs | None:
        """The keys of a generation; None if the store has none (it is older than they are)."""
        with self._core.lock:
            rows = self._core.db.query(
                "SELECT lane, wrapped_key, sealed FROM mac_keys WHERE peer = ? AND generation = ?",
                peer,
                generation,
            )
            keys = {
                Lane(lane): self._core.pieces.open_apart(_place(peer, generation, lane), wrapped, sealed)
                for lane, wrapped, sealed in rows
            }
            own = outgoing_auth(self._core.pair_end(peer))
        if len(keys) != 2:
            return None
        other = Lane.AUTH_BA if own is Lane.AUTH_AB else Lane.AUTH_AB
        return PairMacs(keys[own], keys[other])

    def generations(self, peer: str) -> tuple[int, ...]:
        """The generations of a pair that there are keys of."""
        with self._core.lock:
            rows = self._core.db.query(
                "SELECT DISTINCT generation FROM mac_keys WHERE peer = ? ORDER BY generation", peer
            )
        return tuple(int(row[0]) for row in rows)

    def holds(self, peer: str, generation: int, secret: InstalledSecret) -> bool:
        """Whether the keys of ``generation`` are those that were set aside from ``secret``."""
        kept = self.get(peer, generation)
        if kept is None:
            return False
        ours, theirs = secret.mac_ab, secret.mac_ba
        if self._core.pair_end(peer) == "second":
            ours, theirs = theirs, ours
        return kept.outgoing.same_as(ours) and kept.incoming.same_as(theirs)

    def proved(self, peer: str, generation: int) -> bool:
        """Whether the peer is known to hold the same keys: they are of a common secret, or it has shown them."""
        with self._core.lock:
            rows = self._core.db.query(
                "SELECT MIN(proved) FROM mac_keys WHERE peer = ? AND generation = ?", peer, generation
            )
        return bool(rows[0][0])

    def note_proved(self, peer: str, generation: int) -> None:
        """Remember that the peer holds the same keys: from here on none are made without it."""
        if not self.proved(peer, generation):
            with self._core.transaction():
                self._core.db.write(
                    "UPDATE mac_keys SET proved = 1 WHERE peer = ? AND generation = ?", peer, generation
                )

    def destroy(self, peer: str, generation: int) -> None:
        """Forget the keys of a generation (inside a transaction; the caller cuts the log)."""
        self._core.db.write("DELETE FROM mac_keys WHERE peer = ? AND generation = ?", peer, generation)


def _place(peer: str, generation: int, lane: str) -> str:
    return f"mac|{peer}|{generation}|{lane}"
