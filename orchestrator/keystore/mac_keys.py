"""Reusable keys of a pair for greetings: 256 bits per direction and generation, set aside and never spent.

With a one-time tag every greeting would cost lane bits, and whoever garbles greetings could drain a pair.  So
greetings carry HMAC-SHA-256 (RFC 2104, FIPS 198-1) under keys that do not wear out.  That is **computational**:
it rests on HMAC-SHA-256 being unforgeable, unlike everything that lane bits protect.  A forged greeting costs
time and no key: nothing is adopted, burnt or released before a one-time tag was checked.

The keys are the last 256 bits of each direction of an out-of-band secret (:func:`split_secret`); they are sealed
like pieces, belong to no lane and are not counted in any ledger.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field

from orchestrator.keystore.core import Core
from orchestrator.keystore.errors import RefusedError
from orchestrator.keystore.lanes import AUTH_ALARM_BITS, Lane, outgoing_auth
from orchestrator.secret import SecretBits

MAC_KEY_BITS = 256
MAC_BYTES = 32


@dataclass(frozen=True)
class InstalledSecret:
    """An out-of-band secret as a store takes it: lane bits and the reusable key of each direction."""

    auth_ab: SecretBits = field(repr=False)
    auth_ba: SecretBits = field(repr=False)
    mac_ab: SecretBits = field(repr=False)
    mac_ba: SecretBits = field(repr=False)

    def wipe(self) -> None:
        for part in (self.auth_ab, self.auth_ba, self.mac_ab, self.mac_ba):
            part.wipe()


def split_secret(auth_ab: SecretBits, auth_ba: SecretBits) -> InstalledSecret:
    """The parts of an out-of-band secret; raises RefusedError where a direction is too short to begin with."""
    least = AUTH_ALARM_BITS + MAC_KEY_BITS
    for secret in (auth_ab, auth_ba):
        if len(secret) < least:
            raise RefusedError(
                f"an initial secret has at least {least} bits per direction, got {len(secret)}"
            )
    lanes = [secret.take(0, len(secret) - MAC_KEY_BITS) for secret in (auth_ab, auth_ba)]
    macs = [secret.take(len(secret) - MAC_KEY_BITS, MAC_KEY_BITS) for secret in (auth_ab, auth_ba)]
    return InstalledSecret(lanes[0], lanes[1], macs[0], macs[1])


@dataclass(frozen=True)
class PairMacs:
    """The two reusable keys as one end sees them."""

    outgoing: SecretBits = field(repr=False)
    incoming: SecretBits = field(repr=False)

    def make(self, data: bytes) -> bytes:
        """The MAC of what this end says."""
        return _mac(self.outgoing, data)

    def fits(self, data: bytes, mac: bytes) -> bool:
        """Whether the peer said ``data`` (constant time)."""
        return hmac.compare_digest(_mac(self.incoming, data), mac)


def _mac(key: SecretBits, data: bytes) -> bytes:
    return hmac.new(key.reveal_bytes(), data, hashlib.sha256).digest()


class MacKeys:
    """The ``mac_keys`` table of one store."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def put(self, peer: str, generation: int, mac_ab: SecretBits, mac_ba: SecretBits) -> None:
        """Keep the keys of a generation (inside a transaction); those it had before are replaced."""
        for lane, key in ((Lane.AUTH_AB, mac_ab), (Lane.AUTH_BA, mac_ba)):
            wrapped, sealed = self._core.pieces.seal_apart(_place(peer, generation, lane), key)
            self._core.db.write(
                "INSERT OR REPLACE INTO mac_keys (peer, generation, lane, wrapped_key, sealed)"
                " VALUES (?, ?, ?, ?, ?)",
                peer,
                generation,
                lane,
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
            own = outgoing_auth(self._core.role(peer))
        if len(keys) != 2:
            return None
        other = Lane.AUTH_BA if own is Lane.AUTH_AB else Lane.AUTH_AB
        return PairMacs(keys[own], keys[other])

    def holds(self, peer: str, generation: int, secret: InstalledSecret) -> bool:
        """Whether the keys of ``generation`` are those that were set aside from ``secret``."""
        kept = self.get(peer, generation)
        if kept is None:
            return False
        ours, theirs = secret.mac_ab, secret.mac_ba
        if self._core.role(peer) == "second":
            ours, theirs = theirs, ours
        return kept.outgoing.same_as(ours) and kept.incoming.same_as(theirs)

    def proved(self, peer: str, generation: int) -> bool:
        """Whether the peer ever showed that it holds the same keys."""
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
