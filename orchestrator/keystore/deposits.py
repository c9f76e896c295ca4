"""Blocks on their way into the lanes: pending, then confirmed or burnt, never dropped by one side alone.

A pending block is sealed on disk and counted as produced, but has no position in any lane and cannot be
used.  Confirmation gives its parts the positions that both ends agreed on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.keystore.core import Core
from orchestrator.keystore.errors import DepositError, RefusedError
from orchestrator.keystore.lanes import AUTH_LANES, Lane, Part, Range, SplitRule
from orchestrator.keystore.mac_keys import MacKeys
from orchestrator.keystore.pair_macs import split_secret
from orchestrator.secret import SecretBits

MAX_BLOCK_ID = 128
MAX_CONTEXT_BYTES = 64
_SEED = "seed:"
GENERATION_BITS = 40
"""The seed of a generation starts at ``generation << GENERATION_BITS`` of its lanes: both ends agree without talking."""


@dataclass(frozen=True)
class PendingDeposit:
    """A block that this end holds and the peer has not confirmed."""

    peer: str
    block_id: str
    n_bits: int
    context: bytes


@dataclass(frozen=True)
class ConfirmedDeposit:
    """A block that holds free bits, and where its parts lie in the lanes."""

    block_id: str
    starts: dict[Lane, int]


def is_seed(block_id: str) -> bool:
    """Whether a block holds an out-of-band secret, and no key of the ring."""
    return block_id.startswith(_SEED)


class Deposits:
    """The ``blocks`` table of one store."""

    def __init__(self, core: Core, split: SplitRule) -> None:
        self._core = core
        self._split = split
        self._macs = MacKeys(core)

    def seed(self, peer: str, auth_ab: SecretBits, auth_ba: SecretBits) -> None:
        """Put an out-of-band secret into the authentication lanes (inside a transaction).

        The reusable keys of the pair's generation are set aside from it.
        """
        parts = split_secret(auth_ab, auth_ba)
        self._macs.put(peer, self._core.generation(peer), parts.mac_ab, parts.mac_ba, proved=True)
        for lane, secret in zip(AUTH_LANES, (parts.auth_ab, parts.auth_ba), strict=True):
            n_bits = len(secret)
            start = self._core.generation(peer) << GENERATION_BITS
            starts = {lane: start}
            row = self._insert(peer, f"{_SEED}{lane}:{start}", "confirmed", n_bits, b"", starts)
            self._core.pieces.put(peer, row, [Part(lane, 0, n_bits)], secret, starts)
            self._core.count(peer, lane, produced=n_bits)
            self._core.set_head(peer, lane, start)
            self._core.set_tail(peer, lane, start + n_bits)
        parts.wipe()

    def remember(self, peer: str, auth_ab: SecretBits, auth_ba: SecretBits) -> None:
        """Note that this out-of-band secret is taken (inside a transaction).

        Raises RefusedError for one that was taken before, whatever became of its bits.
        """
        if self.took(auth_ab, auth_ba):
            raise RefusedError(
                f"this secret with {peer} was taken before, each is used once: destroy the file and make"
                " another with `qunetlab keys reseed PAIR --new`"
            )
        self._core.db.write("INSERT INTO meta VALUES (?, ?)", _taken(auth_ab, auth_ba), peer.encode())

    def took(self, auth_ab: SecretBits, auth_ba: SecretBits) -> bool:
        """Whether this out-of-band secret was ever put in here; its digest is remembered, the secret is not."""
        with self._core.lock:
            rows = self._core.db.query("SELECT 1 FROM meta WHERE name = ?", _taken(auth_ab, auth_ba))
        return bool(rows)

    def holds_seed(self, peer: str, auth_ab: SecretBits, auth_ba: SecretBits) -> bool:
        """Whether both authentication lanes end with these very bits, none of them used yet, and its reusable keys are kept."""
        parts = split_secret(auth_ab, auth_ba)
        with self._core.lock:
            for lane, secret in zip(AUTH_LANES, (parts.auth_ab, parts.auth_ba), strict=True):
                wanted = Range(self._core.lane(peer, lane).tail - len(secret), len(secret))
                kept = self._core.pieces.peek(peer, lane, wanted)
                same = kept.same_as(secret)
                kept.wipe()
                if not same:
                    return False
            return self._macs.holds(peer, self._core.generation(peer), parts)

    def put_pending(self, peer: str, block_id: str, key: SecretBits, context: bytes) -> None:
        if not 0 < len(block_id) <= MAX_BLOCK_ID or is_seed(block_id):
            raise DepositError(f"a block id has 1 to {MAX_BLOCK_ID} characters and no prefix {_SEED!r}")
        if len(context) > MAX_CONTEXT_BYTES:
            raise DepositError(f"the context of a block has at most {MAX_CONTEXT_BYTES} bytes")
        if len(key) == 0:
            raise DepositError(f"block {block_id} is empty")
        with self._core.transaction():
            self._core.pair_end(peer)
            if self._find(peer, block_id) is not None:
                raise DepositError(f"block {block_id} with {peer} was deposited before; ids are used once")
            parts = self._split.parts(len(key))
            row = self._insert(peer, block_id, "pending", len(key), context, {})
            self._core.pieces.put(peer, row, parts, key, None)
            for part in parts:
                self._core.count(peer, part.lane, produced=part.n_bits)

    def confirm(self, peer: str, block_id: str, starts: Mapping[Lane, int] | None) -> dict[Lane, int]:
        burnt = 0
        with self._core.transaction():
            row, state, _, held = self._need(peer, block_id)
            parts = self.parts(peer, block_id)
            if starts is None:
                starts = held or {part.lane: self._core.lane(peer, part.lane).tail for part in parts}
            if any(part.lane not in starts for part in parts):
                raise DepositError(f"no place is named for a part of block {block_id} with {peer}")
            chosen = {part.lane: int(starts[part.lane]) for part in parts}
            if state == "confirmed" and chosen == held:
                return chosen
            if state != "pending":
                raise DepositError(f"block {block_id} with {peer} is {state}, not pending")
            for part in parts:
                self._check_room(peer, block_id, part, chosen[part.lane])
            self._core.pieces.place(row, parts, chosen)
            for part in parts:
                start, head = chosen[part.lane], self._core.lane(peer, part.lane).head
                burnt += self._core.burn(peer, part.lane, Range(start, min(head - start, part.n_bits)))
                self._core.set_tail(peer, part.lane, start + part.n_bits)
            self._core.db.write(
                "UPDATE blocks SET state = 'confirmed', starts = ? WHERE id = ?", _encode(chosen), row
            )
        if burnt:
            self._core.shred()
        return chosen

    def _check_room(self, peer: str, block_id: str, part: Part, start: int) -> None:
        end = start + part.n_bits
        self._core.check_reach(peer, part.lane, start)
        if start < 0 or any(held.start < end for held in self._core.pieces.stored(peer, part.lane, start)):
            raise DepositError(
                f"block {block_id} with {peer} cannot lie at {start} of lane {part.lane}: taken by another block"
            )

    def burn(self, peer: str, block_id: str) -> None:
        with self._core.transaction():
            row, state, _, _ = self._need(peer, block_id)
            if state == "burnt":
                return
            for lane, n_bits in self._core.pieces.burn_block(row).items():
                self._core.count(peer, lane, burnt=n_bits)
            self._core.db.write("UPDATE blocks SET state = 'burnt' WHERE id = ?", row)
            # A range reserved in this block has nothing left to release.
            self._core.db.write(
                "UPDATE reservations SET state = 'burnt' WHERE peer = ?"
                " AND state IN ('proposed', 'committed', 'skipped', 'waiting')"
                " AND NOT EXISTS (SELECT 1 FROM pieces WHERE pieces.peer = reservations.peer"
                " AND pieces.lane = reservations.lane AND pieces.start <= reservations.start"
                " AND pieces.start + pieces.n_bits > reservations.start)",
                peer,
            )
        self._core.shred()

    def pending(self, peer: str | None) -> list[PendingDeposit]:
        with self._core.lock:
            rows = self._core.db.query(
                "SELECT peer, block_id, n_bits, context FROM blocks WHERE state = 'pending'"
                " ORDER BY peer, block_id"
            )
        return [PendingDeposit(p, b, n, bytes(c)) for p, b, n, c in rows if peer is None or p == peer]

    def confirmed(self, peer: str) -> list[ConfirmedDeposit]:
        """The confirmed blocks that hold free bits, seeds left out, by block id."""
        with self._core.lock:
            rows = self._core.db.query(
                "SELECT block_id, starts FROM blocks WHERE peer = ? AND state = 'confirmed'"
                " AND EXISTS (SELECT 1 FROM pieces JOIN lanes USING (peer, lane)"
                " WHERE pieces.block = blocks.id AND pieces.start + pieces.n_bits > lanes.head)"
                " ORDER BY block_id",
                peer,
            )
        return [ConfirmedDeposit(b, _decode(s)) for b, s in rows if not is_seed(b)]

    def state(self, peer: str, block_id: str) -> str | None:
        """``"pending"``, ``"confirmed"``, ``"burnt"``, or None for a block never seen."""
        with self._core.lock:
            found = self._find(peer, block_id)
        return None if found is None else found[1]

    def starts(self, peer: str, block_id: str) -> dict[Lane, int]:
        """Where the parts of a confirmed block lie; empty for any other."""
        with self._core.lock:
            found = self._find(peer, block_id)
        return found[3] if found is not None and found[1] == "confirmed" else {}

    def parts(self, peer: str, block_id: str) -> tuple[Part, ...]:
        """What of the block goes to which lane, by the rule it was put here under."""
        with self._core.lock:
            n_bits, split = self._core.db.query(
                "SELECT n_bits, split FROM blocks WHERE peer = ? AND block_id = ?", peer, block_id
            )[0]
        return (SplitRule.of_text(split) if split else self._split).parts(n_bits)

    def change_split(self, before: SplitRule) -> None:
        """From now on blocks are divided by another rule; those that lie here keep the one of ``before``."""
        with self._core.transaction():
            self._core.db.write("UPDATE blocks SET split = ? WHERE split = ''", before.text())
            self._core.db.write("UPDATE meta SET value = ? WHERE name = 'split'", self._split.text().encode())

    def pending_key(self, peer: str, block_id: str) -> SecretBits:
        """The bits of a pending block, for comparing them with the peer under a one-time key."""
        with self._core.lock:
            row, state, _, _ = self._need(peer, block_id)
            if state != "pending":
                raise DepositError(f"block {block_id} with {peer} is {state}, not pending")
            return self._core.pieces.read_block(row)

    def _insert(
        self, peer: str, block_id: str, state: str, n_bits: int, context: bytes, starts: dict[Lane, int]
    ) -> int:
        rows = self._core.db.query(
            "INSERT INTO blocks (peer, block_id, state, n_bits, context, starts, split) VALUES (?, ?, ?, ?, ?, ?, ?)"
            " RETURNING id",
            peer,
            block_id,
            state,
            n_bits,
            context,
            _encode(starts),
            self._split.text(),
        )
        return int(rows[0][0])

    def _find(self, peer: str, block_id: str) -> tuple[int, str, int, dict[Lane, int]] | None:
        rows = self._core.db.query(
            "SELECT id, state, n_bits, starts FROM blocks WHERE peer = ? AND block_id = ?", peer, block_id
        )
        return None if not rows else (rows[0][0], rows[0][1], rows[0][2], _decode(rows[0][3]))

    def _need(self, peer: str, block_id: str) -> tuple[int, str, int, dict[Lane, int]]:
        found = self._find(peer, block_id)
        if found is None:
            raise DepositError(f"no block {block_id} with {peer} was deposited")
        return found


def _taken(auth_ab: SecretBits, auth_ba: SecretBits) -> str:
    """The name under which a store remembers a secret: SHA-256 of 128 kbit of entropy, which tells nothing of them."""
    digest = hashlib.sha256(b"qunetlab-taken-secret-v1|%d|" % len(auth_ab))
    digest.update(auth_ab.reveal_bytes())
    digest.update(auth_ba.reveal_bytes())
    return f"taken/{digest.hexdigest()}"


def _encode(starts: Mapping[Lane, int]) -> str:
    return json.dumps({str(lane): start for lane, start in starts.items()})


def _decode(text: str) -> dict[Lane, int]:
    return {Lane(lane): int(start) for lane, start in json.loads(text).items()}
