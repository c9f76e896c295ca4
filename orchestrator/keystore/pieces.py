"""Sealed pieces of the lanes: put bits in, cut bits out, never leave a cut bit readable.

A lane's stored bits are rows of at most :data:`PIECE_BITS` bits, each sealed under its own data key
(:mod:`orchestrator.keystore.sealing`).  :meth:`Pieces.cut` takes an interval out: rows inside it lose their
data keys; rows that stick out are sealed again without the cut bits, under fresh data keys, so that the old
key can go.  Everything here runs inside a transaction of the caller.

Blocks that are only pending have their rows, but no position in a lane yet (``start`` is NULL).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from orchestrator.bits import packed_size
from orchestrator.keystore.database import Database
from orchestrator.keystore.errors import SealError, StoreError
from orchestrator.keystore.lanes import Lane, Part, Range
from orchestrator.keystore.sealing import Kek, seal, unseal
from orchestrator.randomness import RandomBytes
from orchestrator.secret import SecretBits

PIECE_BITS = 8 * 65536


@dataclass(frozen=True)
class _Row:
    """A sealed piece as stored."""

    id: int
    block: int
    place: int
    start: int
    n_bits: int
    wrapped_key: bytes
    sealed: bytes


def join(parts: list[SecretBits]) -> SecretBits:
    """The parts one after the other, whatever their lengths modulo 8 (shifted, never unpacked)."""
    n_bits = sum(len(part) for part in parts)
    out = np.zeros(packed_size(n_bits) + 1, np.uint8)
    place = 0
    for part in parts:
        packed = part.reveal()
        first, shift = divmod(place, 8)
        out[first : first + packed.size] |= packed << shift
        if shift:
            out[first + 1 : first + 1 + packed.size] |= packed >> (8 - shift)
        place += len(part)
    return SecretBits(out[: packed_size(n_bits)], n_bits)


class Pieces:
    """The ``pieces`` table of one store."""

    def __init__(self, db: Database, kek: Kek, store_id: str, random_bytes: RandomBytes) -> None:
        self._db = db
        self._kek = kek
        self._store_id = store_id
        self._random_bytes = random_bytes

    def _binding(self, peer: str, lane: str, block: int, place: int, n_bits: int) -> bytes:
        """What a ciphertext is bound to: this store, the peer, the lane and the place in its block."""
        return f"qunetlab-piece-v1|{self._store_id}|{peer}|{lane}|{block}|{place}|{n_bits}".encode()

    def _row(
        self, peer: str, lane: str, block: int, place: int, start: int | None, bits: SecretBits
    ) -> tuple[object, ...]:
        binding = self._binding(peer, lane, block, place, len(bits))
        wrapped, sealed = seal(self._kek, bits.reveal_bytes(), binding, self._random_bytes)
        return peer, lane, block, place, start, len(bits), wrapped, sealed

    def _insert(self, rows: Iterable[tuple[object, ...]]) -> None:
        self._db.write_many(
            "INSERT INTO pieces (peer, lane, block, place, start, n_bits, wrapped_key, sealed)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            rows,
        )

    def put(
        self, peer: str, block: int, parts: Iterable[Part], key: SecretBits, starts: dict[Lane, int] | None
    ) -> None:
        """Seal the ``parts`` of ``key`` (block row ``block``); placed in the lanes if ``starts`` are given."""

        def rows() -> Iterator[tuple[object, ...]]:
            for part in parts:
                for done in range(0, part.n_bits, PIECE_BITS):
                    size = min(PIECE_BITS, part.n_bits - done)
                    bits = key.take(part.offset + done, size)
                    start = None if starts is None else starts[part.lane] + done
                    yield self._row(peer, part.lane, block, part.offset + done, start, bits)
                    bits.wipe()

        self._insert(rows())

    def place(self, block: int, parts: Iterable[Part], starts: dict[Lane, int]) -> None:
        """Give the pending pieces of ``block`` their positions in the lanes."""
        for part in parts:
            self._db.write(
                "UPDATE pieces SET start = place + ? WHERE block = ? AND lane = ?",
                starts[part.lane] - part.offset,
                block,
                part.lane,
            )

    def stored(self, peer: str, lane: Lane, head: int = 0) -> Iterator[Range]:
        """What the lane holds above ``head``, in order (a piece that straddles it is cut there)."""
        rows = self._db.query(
            "SELECT start, n_bits FROM pieces WHERE peer = ? AND lane = ? AND start + n_bits > ? AND start >= ?"
            " ORDER BY start",
            peer,
            lane,
            head,
            head - PIECE_BITS,
        )
        for start, n_bits in rows:
            begin = max(start, head)
            yield Range(begin, start + n_bits - begin)

    def seal_apart(self, place: str, bits: SecretBits) -> tuple[bytes, bytes]:
        """``bits`` sealed for ``place`` of this store, outside every lane: (wrapped data key, ciphertext)."""
        return seal(self._kek, bits.reveal_bytes(), self._binding_apart(place), self._random_bytes)

    def open_apart(self, place: str, wrapped: bytes, sealed: bytes) -> SecretBits:
        """The whole bytes that :meth:`seal_apart` sealed."""
        return SecretBits.from_bytes(unseal(self._kek, wrapped, sealed, self._binding_apart(place)))

    def _binding_apart(self, place: str) -> bytes:
        return f"qunetlab-apart-v1|{self._store_id}|{place}".encode()

    def stored_bits(self, peer: str, lane: Lane) -> int:
        """All sealed bits of the lane: pending, reserved and free."""
        rows = self._db.query(
            "SELECT COALESCE(SUM(n_bits), 0) FROM pieces WHERE peer = ? AND lane = ?", peer, lane
        )
        return int(rows[0][0])

    def cut(self, peer: str, lane: Lane, wanted: Range) -> SecretBits:
        """Take ``wanted`` out and return it; every bit of it must be stored."""
        parts = [part for part in self._cut(peer, lane, wanted, keep=True) if isinstance(part, SecretBits)]
        bits = join(parts)
        for part in parts:
            part.wipe()
        if len(bits) != wanted.n_bits:
            raise StoreError(
                f"lane {lane} with {peer} holds {len(bits)} of the {wanted.n_bits} bits from {wanted.start} on;"
                " the store was altered by something else"
            )
        return bits

    def divide(self, peer: str, lane: Lane, borders: Sequence[int]) -> None:
        """Seal again, in parts, every piece that has some of ``borders`` (ascending positions) inside it.

        Each part gets a data key of its own, so that later cuts along the borders seal nothing again.
        """
        if not borders:
            return
        for row in self._overlapping(peer, lane, Range(borders[0], borders[-1] - borders[0] + 1)):
            inside = [border - row.start for border in borders if 0 < border - row.start < row.n_bits]
            if not inside:
                continue
            bits = self._open(peer, lane, row)
            self._db.write("DELETE FROM pieces WHERE id = ?", row.id)
            rows = []
            for begin, end in pairwise((0, *inside, row.n_bits)):
                part = bits.take(begin, end - begin)
                rows.append(self._row(peer, lane, row.block, row.place + begin, row.start + begin, part))
                part.wipe()
            self._insert(rows)
            bits.wipe()

    def peek(self, peer: str, lane: Lane, wanted: Range) -> SecretBits:
        """A copy of ``wanted``; nothing is cut."""
        parts = []
        for row in self._overlapping(peer, lane, wanted):
            bits = self._open(peer, lane, row)
            first, last = max(wanted.start - row.start, 0), min(wanted.end - row.start, row.n_bits)
            parts.append(bits.take(first, last - first))
            bits.wipe()
        return join(parts)

    def read_block(self, block: int) -> SecretBits:
        """A copy of all bits of a pending block, in block order."""
        rows = self._db.query(
            "SELECT peer, lane, id, block, place, COALESCE(start, 0), n_bits, wrapped_key, sealed FROM pieces"
            " WHERE block = ? ORDER BY place",
            block,
        )
        return join([self._open(row[0], row[1], _Row(*row[2:])) for row in rows])

    def objection(self, piece: int) -> str:
        """Why a piece, by its row, cannot be unsealed; empty where it can, or is gone.  What is inside is wiped."""
        rows = self._db.query(
            "SELECT peer, lane, id, block, place, COALESCE(start, 0), n_bits, wrapped_key, sealed FROM pieces"
            " WHERE id = ?",
            piece,
        )
        try:
            for row in rows:
                self._open(row[0], row[1], _Row(*row[2:])).wipe()
        except SealError as error:
            return str(error)
        return ""

    def burn(self, peer: str, lane: Lane, unwanted: Range) -> int:
        """Destroy whatever is stored of ``unwanted``; the number of bits destroyed."""
        cut = self._cut(peer, lane, unwanted, keep=False)
        return sum(part if isinstance(part, int) else len(part) for part in cut)

    def burn_block(self, block: int) -> dict[Lane, int]:
        """Destroy what is left of a block; bits destroyed per lane."""
        rows = self._db.query("SELECT lane, SUM(n_bits) FROM pieces WHERE block = ? GROUP BY lane", block)
        self._db.write("DELETE FROM pieces WHERE block = ?", block)
        return {Lane(lane): int(n_bits) for lane, n_bits in rows}

    def _overlapping(self, peer: str, lane: Lane, wanted: Range) -> list[_Row]:
        if wanted.n_bits <= 0:
            return []
        rows = self._db.query(
            "SELECT id, block, place, start, n_bits, wrapped_key, sealed FROM pieces"
            " WHERE peer = ? AND lane = ? AND start < ? AND start > ? AND start + n_bits > ? ORDER BY start",
            peer,
            lane,
            wanted.end,
            wanted.start - PIECE_BITS,
            wanted.start,
        )
        return [_Row(*row) for row in rows]

    def _open(self, peer: str, lane: str, row: _Row) -> SecretBits:
        binding = self._binding(peer, lane, row.block, row.place, row.n_bits)
        plain = unseal(self._kek, row.wrapped_key, row.sealed, binding)
        return SecretBits(np.frombuffer(bytearray(plain), np.uint8), row.n_bits)

    def _cut(self, peer: str, lane: Lane, wanted: Range, *, keep: bool) -> Iterator[SecretBits | int]:
        """Remove ``wanted``; yields the cut bits piece by piece (``keep``), or only their number."""
        for row in self._overlapping(peer, lane, wanted):
            self._db.write("DELETE FROM pieces WHERE id = ?", row.id)
            first, last = max(wanted.start - row.start, 0), min(wanted.end - row.start, row.n_bits)
            whole = last - first == row.n_bits
            if whole and not keep:
                yield row.n_bits
                continue
            bits = self._open(peer, lane, row)
            for begin, end in ((0, first), (last, row.n_bits)):
                if end > begin:
                    rest = bits.take(begin, end - begin)
                    place, start = row.place + begin, row.start + begin
                    self._insert([self._row(peer, lane, row.block, place, start, rest)])
                    rest.wipe()
            if whole:
                yield bits
            else:
                yield bits.take(first, last - first) if keep else last - first
                bits.wipe()
