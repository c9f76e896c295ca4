"""The key store of one node: every bit shared with a peer is used once, for one purpose, or burnt.

One SQLite file holds, per peer, the five lanes of :mod:`orchestrator.keystore.lanes`.  A block enters as
*pending*, is *confirmed* once both ends hold it, and is then divided among the lanes.  Masks and pads leave
in two steps: a range is reserved on both ends for one agreed context, then each end releases it once.
Authentication bits leave one by one through :meth:`KeyStore.auth`.

Invariants (each has a test of its name):

* **I1** heads only grow, and the new head is durable before any bit below it leaves;
* **I2** a bit is released at most once, to one purpose;
* **I3** both ends release a range only for the same agreed context (a digest of purpose, round, participants);
  the digest of the message that the bits protect never comes here;
* **I4** on every start, clean or not, what was reserved and not released becomes burnt, and at the peer in the first
  meeting after it; otherwise only an abandoned context is: never because a message was lost or wrong;
* **I5** a retry returns the journalled output, never the bits; before the release, it finds the same range;
* **I6** two ends that disagree about a head both adopt the larger one;
* **I7** released and burnt bits are destroyed: their data key is deleted and the log is cut;
* **I8** applications cannot draw on the authentication lanes, and these stop short of exhaustion;
* **I9** produced = stored + delivered + authentication + burnt, per lane, checked at opening.

Whatever fails (disk full, read-only, I/O), the transaction is undone, no bit is returned and a
:class:`StoreError` is raised.  All methods may be called from any thread.

Not protected: two ends that are *both* restored from old copies cannot tell.  Never back up a key store and
never take snapshots of a machine that runs one.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from orchestrator.keystore.auth import AuthKeys
from orchestrator.keystore.core import Core, LaneState
from orchestrator.keystore.database import Database
from orchestrator.keystore.deposits import Deposits, PendingDeposit
from orchestrator.keystore.epsilons import EpsilonLedger, add_epsilons, epsilons_of
from orchestrator.keystore.errors import RefusedError, StoreError
from orchestrator.keystore.generations import Generations, secret_name
from orchestrator.keystore.home import Home, check_home
from orchestrator.keystore.lanes import (
    AUTH_ALARM_BITS,
    AUTH_LANES,
    Lane,
    Ledger,
    PairEnd,
    Range,
    SplitRule,
)
from orchestrator.keystore.letters import NONCE_BYTES, Letters
from orchestrator.keystore.mac_keys import MacKeys
from orchestrator.keystore.pieces import Pieces
from orchestrator.keystore.reservations import Reservations
from orchestrator.keystore.seal_audit import SealAudit, audit
from orchestrator.keystore.sealing import Kek
from orchestrator.keystore.windows import Windows
from orchestrator.randomness import RandomBytes, random_bytes
from orchestrator.secret import SecretBits

logger = logging.getLogger(__name__)


class KeyStore:
    """One node's store; create it once with :meth:`create`, then :meth:`open` it at every start."""

    database_class = Database

    def __init__(
        self, db: Database, owner: str, kek: Kek, split: SplitRule, random_bytes: RandomBytes, store_id: str
    ) -> None:
        self.owner = owner
        self.split = split
        self._closed = False
        self._core = Core(db, Pieces(db, kek, store_id, random_bytes))
        self.deposits = Deposits(self._core, split)
        self.reservations = Reservations(self._core)
        self.windows = Windows(self._core, self.reservations, random_bytes)
        self.mac_keys = MacKeys(self._core)
        self.generations = Generations(self._core, self.deposits, self.mac_keys)
        self._random_bytes = random_bytes

    @classmethod
    def create(
        cls,
        path: Path,
        owner: str,
        kek: Kek,
        *,
        split: SplitRule | None = None,
        random_bytes: RandomBytes = random_bytes,
    ) -> KeyStore:
        """A new, empty store for the node ``owner``; ``path`` must not exist."""
        rule = split or SplitRule()
        db = cls.database_class(path, create=True)
        store_id = random_bytes(16).hex()
        meta = {
            "owner": owner.encode(),
            "store_id": store_id.encode(),
            "split": rule.text().encode(),
            "kek_check": kek.wrap(random_bytes(32)),
        }
        try:
            with db.transaction():
                db.write_many("INSERT INTO meta VALUES (?, ?)", meta.items())
        except StoreError:
            db.close()
            raise
        return cls(db, owner, kek, rule, random_bytes, store_id)

    @classmethod
    def open(
        cls,
        path: Path,
        owner: str,
        kek: Kek,
        *,
        split: SplitRule | None = None,
        random_bytes: RandomBytes = random_bytes,
    ) -> KeyStore:
        """Open the store of ``owner``, check its books (I9) and burn what was reserved (I4).

        ``split``: the rule for blocks from now on; those that lie here already keep theirs.
        """
        db = cls.database_class(path, create=False)
        try:
            meta = {str(name): bytes(value) for name, value in db.query("SELECT name, value FROM meta")}
            if not {"owner", "store_id", "split", "kek_check"} <= meta.keys():
                raise StoreError(f"{path} was never finished being created; delete it and create it again")
            if meta["owner"] != owner.encode():
                raise StoreError(f"{path} is the key store of {meta['owner'].decode()!r}, not of {owner!r}")
            kek.unwrap(meta["kek_check"])
            before = SplitRule.of_text(meta["split"].decode())
            store = cls(db, owner, kek, split or before, random_bytes, meta["store_id"].decode())
            store._core.check_books()
            if store.split != before:
                store.deposits.change_split(before)
            store._burn_what_was_reserved()
        except BaseException:
            db.close()
            raise
        return store

    def _burn_what_was_reserved(self) -> None:
        self.reservations.burn_open()

    def settle_home(self, *, moved: bool = False) -> None:
        """Remember that this file on this machine is the store; ``moved`` if another was.

        Raises MovedStoreError for a copy that nobody spoke for; it is as it was then.
        """
        with self._core.lock:
            db = self._core.db
            (row,) = db.query("SELECT value FROM meta WHERE name = 'store_id'")
            kept = db.query("SELECT value FROM meta WHERE name = 'home'")
            here = Home.of(db.path, bytes(row[0]).decode())
            home = check_home(db.path, None if moved or not kept else bytes(kept[0][0]), here)
            if home is not None:
                with db.transaction():
                    db.write("INSERT OR REPLACE INTO meta VALUES ('home', ?)", home)

    def cut_log(self) -> None:
        """Write all back into the main file and cut the log, where deleted data keys still lie.

        Raises StoreError if that is not done.
        """
        with self._core.lock:
            self._core.db.checkpoint()

    def close(self) -> None:
        """Cut the log and give up the file.  Idempotent.

        Raises StoreError if the log cannot be cut: the file is closed, and destroyed bits stay readable in its
        log until the store is next opened and closed.
        """
        with self._core.lock:
            if self._closed:
                return
            self._closed = True
            try:
                self._core.db.checkpoint()
            finally:
                self._core.db.close()

    def __enter__(self) -> KeyStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except StoreError as failure:
            if error is None:
                raise
            logger.warning("%s", failure)  # the error on its way says what went wrong first

    def audit(self) -> SealAudit:
        """Open every seal once and check the books; a running node goes on meanwhile."""
        return audit(self._core, self.mac_keys, self.generations)

    # Peers, their initial secrets and authentication bits.

    def peers(self) -> tuple[str, ...]:
        """The peers with an initial secret."""
        return self._core.peers()

    def pair_end(self, peer: str) -> PairEnd:
        """Whether this node is the first or the second of the pair."""
        return self._core.pair_end(peer)

    def ends(self, peer: str) -> tuple[str, str]:
        """Both users of the pair with ``peer``, the first first."""
        return (self.owner, peer) if self.pair_end(peer) == "first" else (peer, self.owner)

    def generation(self, peer: str) -> int:
        """Which out-of-band secret the pair works with, counted from 0."""
        return self._core.generation(peer)

    def install_initial_secret(
        self, peer: str, auth_ab: SecretBits, auth_ba: SecretBits, *, pair_end: PairEnd, generation: int = 0
    ) -> None:
        """Begin with ``peer``: the out-of-band secret of each direction (64 kbit each), once per peer.

        A ``generation`` above 0 is that of a pair whose other end lives: this end lost its store and comes back
        with a secret that the peer keeps for its next generation.

        Its last 256 bits per direction are set aside as reusable keys of greetings, the rest fills the lanes.

        ``pair_end`` says whether this node is the first or the second of the pair; both ends install the same
        two secrets in the same order.
        """
        with self._core.transaction():
            if peer in self._core.peers():
                raise RefusedError(f"an initial secret with {peer} is installed already; reseed renews it")
            self._core.db.write("INSERT INTO peers VALUES (?, ?, ?)", peer, pair_end, generation)
            self._core.db.write_many(
                "INSERT INTO lanes (peer, lane) VALUES (?, ?)", [(peer, lane) for lane in Lane]
            )
            self.deposits.remember(peer, auth_ab, auth_ba)
            self.deposits.seed(peer, auth_ab, auth_ba)
            self.generations.note_begun(peer, secret_name(auth_ab, auth_ba), generation)

    def letters(self, peer: str) -> Letters:
        """What this process remembers of its correspondence with ``peer``."""
        with self._core.lock:
            self.pair_end(peer)
            letters = self._core.letters.get(peer)
            if letters is None:
                letters = self._core.letters[peer] = Letters(self._random_bytes(NONCE_BYTES))
            return letters

    def install_mac_keys(self, peer: str, generation: int, mac_ab: SecretBits, mac_ba: SecretBits) -> None:
        """Keep reusable keys for a pair that has none; RefusedError once the peer has shown that it holds some."""
        with self._core.transaction():
            if self.mac_keys.proved(peer, generation):
                raise RefusedError(f"the reusable keys with {peer} are in use and are not replaced")
            self.mac_keys.put(peer, generation, mac_ab, mac_ba, proved=False)

    def forget_skipped(self, peer: str) -> None:
        """Give up tag bits that wait for messages: none of an older session is believed any more."""
        with self._core.lock:
            for (name, _), waiting in self._core.skipped.items():
                if name == peer:
                    waiting.forget()

    def auth(self, peer: str) -> AuthKeys:
        """The one-time tag keys shared with ``peer``."""
        return AuthKeys(self._core, peer)

    @property
    def uncut(self) -> str:
        """Why destroyed bits may still be readable in the log of the file; empty where they are not."""
        return self._core.uncut

    def auth_alarms(self) -> tuple[str, ...]:
        """Peers with an authentication lane, either direction, below the alarm mark of 16 kbit (I8)."""
        with self._core.lock:
            stocks = {peer: self.stock(peer) for peer in self.peers()}
        return tuple(p for p, stock in stocks.items() if min(stock[a] for a in AUTH_LANES) < AUTH_ALARM_BITS)

    def book_block(self, peer: str, *, sec: float, cor: float) -> None:
        """Add the epsilons of a block to the books, durably; before its key is stored."""
        with self._core.transaction():
            self.pair_end(peer)
            add_epsilons(self._core, peer, EpsilonLedger(sec=sec, cor=cor, blocks=1))

    def epsilons(self, peer: str) -> EpsilonLedger:
        """What this node relied on with ``peer`` so far, added up."""
        with self._core.lock:
            return epsilons_of(self._core, peer)

    # Blocks of key.

    def deposit_pending(self, peer: str, block_id: str, key: SecretBits, context: bytes) -> None:
        """Store a block that the peer has not confirmed; it cannot be used, and survives restarts.

        ``context`` (at most 64 bytes) describes where the block comes from; both ends must name the same.
        """
        self.deposits.put_pending(peer, block_id, key, context)

    def confirm_deposit(
        self, peer: str, block_id: str, starts: Mapping[Lane, int] | None = None
    ) -> dict[Lane, int]:
        """Put a pending block into the lanes at ``starts`` (agreed by both ends; default: the own tails).

        Bits that come to lie below a head are burnt.  Returns the starts; confirming again is harmless.
        """
        return self.deposits.confirm(peer, block_id, starts)

    def burn_deposit(self, peer: str, block_id: str) -> None:
        """Destroy what is left of a block, pending or confirmed; only an agreement with the peer may."""
        self.deposits.burn(peer, block_id)

    def pending_deposits(self, peer: str | None = None) -> list[PendingDeposit]:
        """The blocks that wait for confirmation, by block id."""
        return self.deposits.pending(peer)

    # Ranges for one purpose each.

    def stock(self, peer: str) -> dict[Lane, int]:
        """Free bits per lane: confirmed, not reserved, not used."""
        with self._core.lock:
            return {
                lane: sum(
                    piece.n_bits
                    for piece in self._core.pieces.stored(peer, lane, self._core.lane(peer, lane).head)
                )
                for lane in Lane
            }

    def held_reservation(self, peer: str, lane: str, n_bits: int, context_digest: bytes) -> Range | None:
        """The range that this context had or has here, released or not."""
        return self.reservations.held(peer, Lane(lane), n_bits, context_digest)

    def check_reservation(self, peer: str, lane: str, n_bits: int, context_digest: bytes) -> Range | None:
        """The range that this context holds, None if it may have one.

        Raises what reserving for it would: AlreadyReleasedError or another RefusedError.
        """
        with self._core.lock:
            return self.reservations.check_request(peer, Lane(lane), n_bits, context_digest)

    def propose_reservation(self, peer: str, lane: str, n_bits: int, context_digest: bytes) -> Range:
        """The range of one context (32 bytes) in a lane that this node owns: the one it has, or the next free one.

        Raises LaneShortError (nothing burnt) where the lane holds too little.
        """
        return self.reservations.propose(peer, Lane(lane), n_bits, context_digest)

    def commit_reservation(self, peer: str, lane: str, wanted: Range, context_digest: bytes) -> None:
        """The other end: follow the owner's proposal.  The owner: note that the peer followed.

        Bits between the own head and the range wait for the offer of theirs, which may have been overtaken; a range
        below the head that does not wait is refused.  Following again is harmless.
        """
        self.reservations.commit(peer, Lane(lane), wanted, context_digest)

    def release(self, peer: str, lane: str, wanted: Range, context_digest: bytes) -> SecretBits:
        """The bits of a committed reservation, once; marked as gone and durable before they are returned."""
        return self.reservations.release(peer, Lane(lane), wanted, context_digest)

    def burn_reservation(self, peer: str, lane: str, wanted: Range, context_digest: bytes) -> None:
        """Give up the range of a context that nobody will use any more; its bits are burnt."""
        self.reservations.burn(peer, Lane(lane), wanted, context_digest)

    # Journal, books, heads.

    def journal_output(self, context_digest: bytes, output: bytes) -> None:
        """Keep what was made with the bits of a context (I5); a different second output is refused."""
        with self._core.transaction():
            stored = self.stored_output(context_digest)
            if stored is None:
                self._core.db.write("INSERT INTO outputs VALUES (?, ?)", context_digest, output)
            elif stored != output:
                raise RefusedError("another output was made in this context before; begin a new round")

    def stored_output(self, context_digest: bytes) -> bytes | None:
        """The journalled output of a context."""
        with self._core.lock:
            rows = self._core.db.query("SELECT output FROM outputs WHERE context = ?", context_digest)
        return bytes(rows[0][0]) if rows else None

    def ledger(self, peer: str) -> Ledger:
        """What became of every bit shared with ``peer``."""
        return self._core.ledger(peer)

    def lane_ledger(self, peer: str, lane: Lane) -> Ledger:
        """The books of one lane."""
        with self._core.lock:
            return self._core.lane_ledger(peer, lane)

    def lane_states(self, peer: str) -> dict[Lane, LaneState]:
        """Head and tail of every lane, for comparing with the peer."""
        with self._core.lock:
            return {lane: self._core.lane(peer, lane) for lane in Lane}

    def renew(self, peer: str, heads: Mapping[Lane, int], tails: Mapping[Lane, int]) -> int:
        """An end of the pair was started again: burn what is reserved (it did too, I4) and adopt larger heads.

        Returns the number of bits burnt.
        """
        reserved = self.reservations.burn_open(peer)
        return reserved + self.raise_heads(peer, heads, tails)

    def raise_heads(
        self, peer: str, heads: Mapping[Lane, int], tails: Mapping[Lane, int] | None = None
    ) -> int:
        """Adopt the peer's heads and tails where they are larger (I6); the number of bits burnt by that.

        Raises RefusedError for positions out of all reach, and then nothing is adopted.
        """
        with self._core.transaction():
            for lane, position in (*heads.items(), *(tails or {}).items()):
                self._core.check_reach(peer, lane, position)
            burnt = sum(
                self._core.advance(peer, lane, max(head, self._core.lane(peer, lane).head))
                for lane, head in heads.items()
            )
            for lane, tail in (tails or {}).items():
                self._core.set_tail(peer, lane, tail)
        if burnt:
            self._core.shred()
        return burnt
