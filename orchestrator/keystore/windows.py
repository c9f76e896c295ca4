"""Lease windows: bits of a one-time-pad lane that both ends set aside, for keys to applications.

The owner of the lane proposes a window and the peer follows durably, as with any reservation
(:mod:`orchestrator.keystore.reserving`); then the owner gives bits out of it *in order*, without asking for every key.
What leaves together is a *batch*: 256 bits that tag its announcement, then one range per key::

    | granted ............................................ |
    | gone | tag | key | key | tag | key | free          |

At the owner the keys of a batch leave in one commit, after the peer has said that it holds its copies
(:meth:`Windows.deliver`).  At the peer one commit takes the tag's key, checked before, and turns every key into a
range of its own that *waits* for its application (:meth:`Windows.hand`), and leaves once (:meth:`Windows.fetch`).

What a window costs when something fails is bounded by its size: no window and no waiting key survives a start of its
end, clean or not (I4), and the first meeting after a start of either end burns the window at the other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

from orchestrator.keystore.core import Core
from orchestrator.keystore.epsilons import EpsilonLedger, add_epsilons
from orchestrator.keystore.errors import RefusedError, ReservationError
from orchestrator.keystore.lanes import Lane, Range, covers, incoming_otp, outgoing_otp
from orchestrator.keystore.reservations import CONTEXT_BYTES, Reservations
from orchestrator.one_time_tags import TAG_KEY_BITS
from orchestrator.randomness import RandomBytes
from orchestrator.secret import SecretBits

WINDOW_SHARE = 16
"""A window holds at most this part of the stock (docs/formulas.md, Authentication and the key store)."""
LEAST_WINDOW_BITS = 4096
"""Below 16 times this, a window may be as large as this: agreeing on one spends 256 bits of both tag lanes."""
MOST_WINDOW_BITS = 1 << 20
MARK = b"lease-window-v1\x00"
"""How the context of a window begins; random bytes follow."""
PIECE_BITS = 65536
"""A window is sealed in pieces of this size, so that taking from its front seals little again."""
KEY_ID_BYTES = 16
_DELIVERIES_PER_SHRED = 64


class WindowGoneError(ReservationError):
    """The window was burnt meanwhile, because an end of the pair was started again; ask for another."""


@dataclass(frozen=True)
class LeasedKey:
    """One key of a batch: its id (16 bytes) and where it lies."""

    key_id: bytes
    place: Range


@dataclass(frozen=True)
class Use:
    """Keys of one application, for the books: on which side (``master``, ``slave``, or ``relay`` where they were only
    passed on) and on which UTC day."""

    sae: str
    side: str
    day: int
    keys: int
    bits: int


def window_bits(stock_bits: int, wanted_bits: int) -> int:
    """How large the next window is: as much as allowed up to a small multiple of what is wanted; whole bytes."""
    allowed = max(stock_bits // WINDOW_SHARE, min(stock_bits, LEAST_WINDOW_BITS))
    return min(allowed, max(LEAST_WINDOW_BITS, 4 * wanted_bits), MOST_WINDOW_BITS) // 8 * 8


def window_too_large(n_bits: int, stock_bits: int) -> bool:
    """Whether the peer may refuse such a window; two stocks may differ by what is on its way."""
    return n_bits > max(stock_bits // WINDOW_SHARE * 2, LEAST_WINDOW_BITS)


class Windows:
    """The windows of one store."""

    def __init__(self, core: Core, reservations: Reservations, random_bytes: RandomBytes) -> None:
        self._core = core
        self._reservations = reservations
        self._random_bytes = random_bytes

    def own_lane(self, peer: str) -> Lane:
        """The lane that this end gives keys from."""
        return outgoing_otp(self._core.pair_end(peer))

    def peers_lane(self, peer: str) -> Lane:
        """The lane that ``peer`` gives keys from."""
        return incoming_otp(self._core.pair_end(peer))

    def new_context(self) -> bytes:
        """The name of a window that nobody has used."""
        return MARK + self._random_bytes(CONTEXT_BYTES - len(MARK))

    def follow(self, peer: str, wanted: Range, context: bytes) -> None:
        """The peer's end of a new window: hold it, durably.  Raises RefusedError for one that is too large."""
        core, lane = self._core, self.peers_lane(peer)
        if not context.startswith(MARK):
            raise RefusedError(f"{peer} offers bits of lane {lane} that are no lease window")
        with core.lock:
            stock = sum(piece.n_bits for piece in core.pieces.stored(peer, lane, core.lane(peer, lane).head))
            held = self._reservations.held(peer, lane, wanted.n_bits, context)
            if held is None and window_too_large(wanted.n_bits, stock):
                raise RefusedError(
                    f"{peer} offers a window of {wanted.n_bits} bits of lane {lane}, of which {stock} are here"
                )
            if held is None:
                self._divide(peer, lane, wanted)
            self._reservations.commit(peer, lane, wanted, context)

    def opened(self, peer: str, wanted: Range, context: bytes) -> None:
        """The owner: the peer holds the window."""
        lane = self.own_lane(peer)
        self._divide(peer, lane, wanted)
        self._reservations.commit(peer, lane, wanted, context)

    def _divide(self, peer: str, lane: Lane, wanted: Range) -> None:
        """Seal a window in small pieces; before it is held, so that a failure leaves nothing half done."""
        with self._core.transaction():
            self._core.pieces.divide(peer, lane, [*range(wanted.start, wanted.end, PIECE_BITS), wanted.end])

    def granted(self, peer: str, lane: Lane) -> list[Range]:
        """What is left of the windows of a lane, in order; windows that touch are one."""
        runs: list[Range] = []
        with self._core.lock:
            for _, held, _ in self._rows(peer, lane):
                if runs and runs[-1].end == held.start:
                    runs[-1] = Range(runs[-1].start, runs[-1].n_bits + held.n_bits)
                else:
                    runs.append(held)
        return runs

    def tag_key(self, peer: str, lane: Lane, start: int) -> SecretBits:
        """The 256 bits at ``start`` that tag the announcement of the batch there; they stay where they are.

        Raises WindowGoneError where no window holds them.
        """
        return self.look(peer, lane, Range(start, TAG_KEY_BITS))

    def look(self, peer: str, lane: Lane, wanted: Range) -> SecretBits:
        """A copy of bits that a window holds.  Raises WindowGoneError where none does."""
        with self._core.lock:
            if not covers(wanted, self.granted(peer, lane)):
                raise WindowGoneError(f"no window of lane {lane} with {peer} holds bits at {wanted.start}")
            return self._core.pieces.peek(peer, lane, wanted)

    def look_at_waiting(self, peer: str, lane: Lane, key: LeasedKey) -> SecretBits | None:
        """A copy of a key that waits here; None if it does not."""
        with self._core.lock:
            waits = self._waiting(peer, lane, key) is not None
            return self._core.pieces.peek(peer, lane, key.place) if waits else None

    def deliver(
        self,
        peer: str,
        start: int,
        keys: Sequence[LeasedKey],
        uses: Iterable[Use],
        *,
        unwanted: Collection[bytes] = (),
        spare: Collection[bytes] = (),
    ) -> dict[bytes, SecretBits]:
        """The owner: the batch at ``start`` leaves, in one commit; its keys by id.

        Keys that the peer does not hold (``unwanted``) are burnt; those whose application gave up (``spare``) wait
        here for the next that asks for the like.  Raises WindowGoneError (nothing changed).
        """
        lane = self.own_lane(peer)
        bits: dict[bytes, SecretBits] = {}
        with self._core.transaction():
            self._open_batch(peer, lane, start, keys)
            self._wait(
                peer, lane, [key for key in keys if key.key_id in spare and key.key_id not in unwanted]
            )
            for key in keys:
                if key.key_id in unwanted:
                    self._core.burn(peer, lane, key.place)
            for run in _runs([key for key in keys if key.key_id not in unwanted and key.key_id not in spare]):
                taken = self._core.take(peer, lane, _span(run), purpose="delivered")
                for key in run:
                    bits[key.key_id] = taken.take(key.place.start - run[0].place.start, key.place.n_bits)
                taken.wipe()
            self._book(peer, lane, uses)
        self._core.shred(_DELIVERIES_PER_SHRED)
        return bits

    def hand(
        self, peer: str, start: int, keys: Sequence[LeasedKey], unwanted: Collection[bytes], forgery: float
    ) -> None:
        """The peer's end of :meth:`deliver`: every key waits for its application, the ``unwanted`` ones are burnt.

        ``forgery``: the chance with which the announcement's tag could have been forged.
        """
        lane = self.peers_lane(peer)
        with self._core.transaction():
            self._open_batch(peer, lane, start, keys)
            for key in keys:
                if key.key_id in unwanted:
                    self._core.burn(peer, lane, key.place)
            self._wait(peer, lane, [key for key in keys if key.key_id not in unwanted])
            self._core.pieces.divide(
                peer, lane, sorted({edge for key in keys for edge in (key.place.start, key.place.end)})
            )
            add_epsilons(self._core, peer, EpsilonLedger(auth=forgery, tags=1))
        self._core.shred(_DELIVERIES_PER_SHRED)

    def _open_batch(self, peer: str, lane: Lane, start: int, keys: Sequence[LeasedKey]) -> None:
        """Spend the tag's key at ``start`` and take the batch out of its windows.

        What the windows hold before the batch, and between its keys, is burnt.
        """
        used = [Range(start, TAG_KEY_BITS), *(key.place for key in keys)]
        if any(len(key.key_id) != KEY_ID_BYTES or key.place.n_bits <= 0 for key in keys) or any(
            after.start < before.end for before, after in pairwise(used)
        ):
            raise RefusedError("the keys of a batch follow its tag in order, each with an id of 16 bytes")
        rows, granted, end = self._rows(peer, lane), self.granted(peer, lane), used[-1].end
        if not all(covers(wanted, granted) for wanted in used):
            raise WindowGoneError(f"no window of lane {lane} with {peer} holds the batch at {start}")
        edges = [0, *(edge for wanted in used for edge in (wanted.start, wanted.end))]
        free = [
            Range(begin, stop - begin)
            for begin, stop in zip(edges[::2], edges[1::2], strict=False)
            if stop > begin
        ]
        for row, held, context in rows:
            if held.start >= end:
                break
            for gap in free:
                begin, stop = max(gap.start, held.start), min(gap.end, held.end)
                if stop > begin:
                    self._core.burn(peer, lane, Range(begin, stop - begin))
            self._core.db.write("DELETE FROM reservations WHERE id = ?", row)
            if held.end > end:
                self._core.db.write(
                    "INSERT INTO reservations (peer, lane, start, n_bits, context, state)"
                    " VALUES (?, ?, ?, ?, ?, 'committed')",
                    *(peer, lane, end, held.end - end, context),
                )
        self._core.take(peer, lane, Range(start, TAG_KEY_BITS), purpose="authentication").wipe()

    def _wait(self, peer: str, lane: Lane, keys: Iterable[LeasedKey]) -> None:
        self._core.db.write_many(
            "INSERT INTO reservations (peer, lane, start, n_bits, context, state) VALUES (?, ?, ?, ?, ?, 'waiting')",
            [(peer, lane, key.place.start, key.place.n_bits, key.key_id) for key in keys],
        )

    def fetch(self, peer: str, lane: Lane, keys: Sequence[LeasedKey], use: Use) -> list[SecretBits] | None:
        """Keys that wait here, once; None (nothing changed) if one of them does not.  Inside :meth:`group`."""
        rows = [self._waiting(peer, lane, key) for key in keys]
        if None in rows or len(set(rows)) != len(rows):
            return None
        self._core.db.write_many("DELETE FROM reservations WHERE id = ?", [(row,) for row in rows])
        self._book(peer, lane, [use])
        return [self._core.take(peer, lane, key.place, purpose="delivered") for key in keys]

    @contextmanager
    def group(self) -> Iterator[None]:
        """One commit for several :meth:`fetch` and :meth:`forget` calls; no bit may be shown before it is left."""
        with self._core.transaction():
            yield
        self._core.shred(_DELIVERIES_PER_SHRED)

    def forget(self, peer: str, lane: Lane, key: LeasedKey) -> None:
        """Burn a key that nobody fetched in time.  Inside :meth:`group`."""
        row = self._waiting(peer, lane, key)
        if row is not None:
            self._core.db.write("DELETE FROM reservations WHERE id = ?", row)
            self._core.burn(peer, lane, key.place)

    def wait(self, peer: str, keys: Sequence[LeasedKey]) -> bool:
        """Whether all of these keys of the peer's lane wait here."""
        lane = self.peers_lane(peer)
        return all(self._waiting(peer, lane, key) is not None for key in keys)

    def _waiting(self, peer: str, lane: Lane, key: LeasedKey) -> int | None:
        rows = self._core.db.query(
            "SELECT id FROM reservations WHERE peer = ? AND lane = ? AND start = ? AND n_bits = ?"
            " AND context = ? AND state = 'waiting'",
            *(peer, lane, key.place.start, key.place.n_bits, key.key_id),
        )
        return int(rows[0][0]) if rows else None

    def drawn_bits(self, sae: str, day: int) -> int:
        """Bits that an application was given as master on a UTC day (days since 1970)."""
        with self._core.lock:
            rows = self._core.db.query(
                "SELECT COALESCE(SUM(bits), 0) FROM sae_use WHERE sae = ? AND day = ? AND side = 'master'",
                sae,
                day,
            )
        return int(rows[0][0])

    def uses(self) -> list[tuple[str, str, str, int, int]]:
        """Everything applications were given: (SAE, peer, side, keys, bits)."""
        with self._core.lock:
            rows = self._core.db.query(
                "SELECT sae, peer, side, SUM(keys), SUM(bits) FROM sae_use GROUP BY sae, peer, side"
                " ORDER BY sae, peer, side"
            )
        return [
            (str(sae), str(peer), str(side), int(keys), int(bits)) for sae, peer, side, keys, bits in rows
        ]

    def _book(self, peer: str, lane: Lane, uses: Iterable[Use]) -> None:
        self._core.db.write_many(
            "INSERT INTO sae_use VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (sae, peer, lane, side, day)"
            " DO UPDATE SET keys = keys + excluded.keys, bits = bits + excluded.bits",
            [(use.sae, peer, lane, use.side, use.day, use.keys, use.bits) for use in uses],
        )

    def _rows(self, peer: str, lane: Lane) -> list[tuple[int, Range, bytes]]:
        rows = self._core.db.query(
            "SELECT id, start, n_bits, context FROM reservations WHERE peer = ? AND lane = ? AND state = 'committed'"
            " AND substr(context, 1, ?) = ? ORDER BY start",
            *(peer, lane, len(MARK), MARK),
        )
        return [
            (int(row), Range(int(start), int(n_bits)), bytes(context)) for row, start, n_bits, context in rows
        ]


def _runs(keys: Sequence[LeasedKey]) -> list[list[LeasedKey]]:
    """Keys that lie one after the other, together: a piece is then sealed again once for all of them."""
    runs: list[list[LeasedKey]] = []
    for key in keys:
        if runs and runs[-1][-1].place.end == key.place.start:
            runs[-1].append(key)
        else:
            runs.append([key])
    return runs


def _span(run: Sequence[LeasedKey]) -> Range:
    start = run[0].place.start
    return Range(start, run[-1].place.end - start)
