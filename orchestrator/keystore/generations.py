"""Generations of a pair: a new out-of-band secret waits beside the old one until both ends are known to hold it.

Generation ``g`` of a pair is what its authentication lanes were last filled with out of band.  A further secret is
first only *kept*: sealed, outside every lane, counted in no ledger.  Once :mod:`orchestrator.keystore.reseed` has
shown that the peer keeps the same one, :meth:`Generations.begin` makes it the pair's next generation in a single
transaction: what is left of both authentication lanes is burnt, the new bits lie at ``generation << 40`` (so both
ends agree on the place without talking), the reusable keys are replaced, the number is raised.  Pads, masks and
blocks stay as they are.

A kept secret that the peer may have begun with is never dropped, see :meth:`Generations.note_shown`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from orchestrator.keystore.core import Core
from orchestrator.keystore.deposits import GENERATION_BITS, Deposits
from orchestrator.keystore.errors import RefusedError
from orchestrator.keystore.lanes import AUTH_LANES, outgoing_auth
from orchestrator.keystore.mac_keys import MacKeys
from orchestrator.keystore.pair_macs import PairMacs, split_secret
from orchestrator.secret import SecretBits

NAME_BYTES = 16
MOST_KEPT = 4
GENERATION_LIMIT = 1 << 21
"""Generations start at ``generation << GENERATION_BITS``, and positions stay below 2^62."""


@dataclass(frozen=True)
class KeptSecret:
    """A secret that waits for its turn; ``name`` is the same at both ends and says nothing of the bits."""

    name: bytes
    auth_ab: SecretBits = field(repr=False)
    auth_ba: SecretBits = field(repr=False)

    def wipe(self) -> None:
        self.auth_ab.wipe()
        self.auth_ba.wipe()


def secret_name(auth_ab: SecretBits, auth_ba: SecretBits) -> bytes:
    """The name of a secret: a hash of its reusable keys only, so no lane bit goes into it."""
    parts = split_secret(auth_ab, auth_ba)
    digest = hashlib.sha256(b"qunetlab-secret-name-v1|")
    digest.update(parts.mac_ab.reveal_bytes())
    digest.update(parts.mac_ba.reveal_bytes())
    parts.wipe()
    return digest.digest()[:NAME_BYTES]


class Generations:
    """The ``kept_secrets`` and ``begun`` tables of one store."""

    def __init__(self, core: Core, deposits: Deposits, macs: MacKeys) -> None:
        self._core = core
        self._deposits = deposits
        self._macs = macs

    def keep(self, peer: str, auth_ab: SecretBits, auth_ba: SecretBits, generation: int = 0) -> bytes:
        """Keep a new secret for the pair's next generation, durable when this returns; its name.

        ``generation`` is the one the secret was made for (0: any).  Raises RefusedError, and keeps nothing, for a
        secret that was taken before, one of a generation that is over, and where too many wait already.
        """
        name = secret_name(auth_ab, auth_ba)
        with self._core.transaction():
            current = self._core.generation(peer)
            self._deposits.remember(peer, auth_ab, auth_ba)
            if 0 < generation <= current:
                raise RefusedError(
                    f"this secret was made for generation {generation} of the pair with {peer}, which is at"
                    f" {current}; nothing was taken: make another with `qunetlab keys reseed PAIR --new`"
                )
            self._make_room(peer)
            whole = SecretBits.concat([auth_ab, auth_ba])
            wrapped, sealed = self._core.pieces.seal_apart(_place(peer, name), whole)
            whole.wipe()
            self._core.db.write(
                "INSERT INTO kept_secrets (peer, name, wrapped_key, sealed) VALUES (?, ?, ?, ?)",
                peer,
                name,
                wrapped,
                sealed,
            )
        return name

    def _make_room(self, peer: str) -> None:
        rows = self._core.db.query(
            "SELECT id, shown FROM kept_secrets WHERE peer = ? ORDER BY shown, id", peer
        )
        if len(rows) < MOST_KEPT:
            return
        row, shown = rows[0]
        if shown:
            raise RefusedError(
                f"{len(rows)} secrets with {peer} wait already, and {peer} may have begun with any of them;"
                f" nothing was taken: take the other half of one of them at {peer}"
            )
        self._core.db.write("DELETE FROM kept_secrets WHERE id = ?", row)

    def kept(self, peer: str) -> tuple[bytes, ...]:
        """The names of the secrets that wait, newest first."""
        with self._core.lock:
            rows = self._core.db.query("SELECT name FROM kept_secrets WHERE peer = ? ORDER BY id DESC", peer)
        return tuple(bytes(row[0]) for row in rows)

    def secret(self, peer: str, name: bytes) -> KeptSecret:
        """A kept secret; raises RefusedError if there is none of that name."""
        with self._core.lock:
            rows = self._core.db.query(
                "SELECT wrapped_key, sealed FROM kept_secrets WHERE peer = ? AND name = ?", peer, name
            )
            if not rows:
                raise _not_kept(peer)
            whole = self._core.pieces.open_apart(_place(peer, name), *map(bytes, rows[0]))
        half = len(whole) // 2
        kept = KeptSecret(name, whole.take(0, half), whole.take(half, half))
        whole.wipe()
        return kept

    def macs(self, peer: str, secret: KeptSecret) -> PairMacs:
        """The reusable keys of a kept secret as this end sees them."""
        parts = split_secret(secret.auth_ab, secret.auth_ba)
        own_first = outgoing_auth(self._core.pair_end(peer)) is AUTH_LANES[0]
        keys = (parts.mac_ab, parts.mac_ba) if own_first else (parts.mac_ba, parts.mac_ab)
        return PairMacs(*keys)

    def note_shown(self, peer: str, name: bytes) -> None:
        """Before it is proved to the peer that this end keeps ``name``: it may begin with it, so it stays; durable.

        Raises RefusedError where it is not kept any more: it made room for a newer one.
        """
        with self._core.transaction():
            shown = self._core.db.write(
                "UPDATE kept_secrets SET shown = 1 WHERE peer = ? AND name = ?", peer, name
            )
            if shown != 1:
                raise _not_kept(peer)

    def least(self, peer: str) -> int:
        """The smallest generation that could be begun here: above the own one and above all that lies in the lanes."""
        with self._core.lock:
            tails = (self._core.lane(peer, lane).tail for lane in AUTH_LANES)
            return max(self._core.generation(peer) + 1, *(-(-tail >> GENERATION_BITS) for tail in tails))

    def current_name(self, peer: str) -> bytes:
        """The name of the secret that the current generation was begun with; empty for an initial one."""
        with self._core.lock:
            rows = self._core.db.query(
                "SELECT name FROM begun WHERE peer = ? AND generation = ?", peer, self._core.generation(peer)
            )
        return bytes(rows[0][0]) if rows else b""

    def begin(self, peer: str, name: bytes, generation: int) -> None:
        """Make the kept secret ``name`` the pair's ``generation``; all of it or nothing, durable when this returns.

        Raises RefusedError for a generation below :meth:`least` or out of bounds.
        """
        if not self.least(peer) <= generation < GENERATION_LIMIT:
            raise RefusedError(
                f"generation {generation} with {peer} cannot be begun here, the least is {self.least(peer)}"
            )
        secret = self.secret(peer, name)
        with self._core.transaction():
            before = self._core.generation(peer)
            for lane in AUTH_LANES:
                self._core.advance(peer, lane, self._core.lane(peer, lane).tail)
            self._core.db.write("UPDATE peers SET generation = ? WHERE peer = ?", generation, peer)
            self._deposits.seed(peer, secret.auth_ab, secret.auth_ba)
            self._macs.destroy(peer, before)
            self._core.db.write("DELETE FROM kept_secrets WHERE peer = ? AND name = ?", peer, name)
            self.note_begun(peer, name, generation)
        secret.wipe()
        for lane in AUTH_LANES:
            skipped = self._core.skipped.pop((peer, lane), None)
            if skipped is not None:
                skipped.forget()
        self._core.shred()

    def note_begun(self, peer: str, name: bytes, generation: int) -> None:
        """Remember which secret a generation was begun with, so that the peer can follow (inside a transaction)."""
        self._core.db.write("INSERT OR REPLACE INTO begun VALUES (?, ?, ?)", peer, generation, name)


def _not_kept(peer: str) -> RefusedError:
    return RefusedError(f"no secret with {peer} waits under that name")


def _place(peer: str, name: bytes) -> str:
    return f"kept|{peer}|{name.hex()}"
