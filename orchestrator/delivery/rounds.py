"""The pads of the rounds in progress at one node: reserved with every peer, then released together.

:class:`PadRounds` knows nothing of sockets.  It asks for nothing while some pair is visibly short of key, so that
waiting burns no bit; a range that some pairs have agreed on is kept while the others are tried again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from orchestrator import runtime
from orchestrator.delivery.messages import RoundContext
from orchestrator.events.status import pair_name
from orchestrator.keystore.errors import AlreadyReleasedError, KeyStoreError, LaneShortError
from orchestrator.keystore.lanes import Lane, Range
from orchestrator.keystore.store import KeyStore
from orchestrator.log_context import about
from orchestrator.records.keeping import Records
from orchestrator.records.kinds import PadsTaken, Span
from orchestrator.secret import SecretBits

logger = logging.getLogger(__name__)

Reserve = Callable[[str, int, bytes], Range]
"""(peer, bits, context digest) -> the range reserved at both ends."""


class PadError(Exception):
    """Base: the pads of a context cannot be had at this time."""


class PadShortError(PadError):
    """Some pairs hold too little key; nothing was burnt."""

    def __init__(self, missing_bits: dict[str, int]) -> None:
        self.missing_bits = missing_bits
        super().__init__("too little key with " + ", ".join(sorted(missing_bits)))


class PadPeerError(PadError):
    """A peer did not agree in time, or its link broke; asking again may help."""


class PadReleasedError(PadError):
    """The pads of this context were released before."""


class PadRefusedError(PadError):
    """The request is wrong, or the store failed."""


@dataclass
class _Round:
    """One context: what is agreed, and with whom it is being agreed."""

    ranges: dict[str, Range]
    waiting: set[str]
    given_up: bool = False


class PadRounds:
    """Reserves and releases the pads of masked rounds; thread-safe."""

    def __init__(
        self, store: KeyStore, peers: Iterable[str], reserve: Reserve, records: Records | None = None
    ) -> None:
        """``records`` get every range that is released or burnt for a round."""
        self._records = records or Records(None)
        self._store = store
        self._peers = tuple(peers)
        self._reserve = reserve
        self._lock = runtime.lock()
        self._rounds: dict[bytes, _Round] = {}

    def partners(self, context: RoundContext) -> tuple[str, ...]:
        """The other participants; raises PadRefusedError for a context this node cannot serve."""
        names = context.participants
        if len(set(names)) != len(names):
            raise PadRefusedError("a participant is named twice")
        if self._store.owner not in names:
            raise PadRefusedError(f"{self._store.owner} is not among the participants of this round")
        others = tuple(name for name in names if name != self._store.owner)
        unknown = sorted(set(others) - set(self._peers))
        if unknown:
            raise PadRefusedError(f"{self._store.owner} shares no key with {', '.join(unknown)}")
        return others

    def waiting_for(self, context: RoundContext) -> tuple[str, ...]:
        """The peers that have not agreed yet."""
        with self._lock:
            entry = self._rounds.get(context.digest())
            return tuple(sorted(entry.waiting)) if entry else ()

    def reserve(self, context: RoundContext) -> None:
        """Reserve a pad with every other participant, in parallel; returns when all are agreed.

        Raises PadShortError, PadPeerError (the agreed ranges stay for the next try), PadReleasedError
        or PadRefusedError.
        """
        partners, digest = self.partners(context), context.digest()
        self._check_bound(context)
        with self._lock:
            entry = self._rounds.setdefault(digest, _Round({}, set()))
            if entry.waiting:
                raise PadPeerError("this round is being agreed already")
            entry.ranges = self._still_held(entry.ranges, context.pad_bits, digest)
            missing = [peer for peer in partners if peer not in entry.ranges]
            held = self._check_released(missing, context.pad_bits, digest)
            self._check_stock([peer for peer in missing if peer not in held], context.pad_bits)
            entry.waiting.update(missing)
        futures = {
            peer: runtime.call(self._reserve, peer, context.pad_bits, digest, name="reserve")
            for peer in missing
        }
        errors: dict[str, BaseException] = {}
        for peer, future in futures.items():
            error = self._outcome(entry, context, peer, future)
            if error is not None:
                errors[peer] = error
        if errors:
            raise _summary(self._store, errors)
        if entry.given_up:
            raise PadPeerError("the round was given up meanwhile")

    def _still_held(self, ranges: dict[str, Range], n_bits: int, digest: bytes) -> dict[str, Range]:
        """Without those that were burnt meanwhile, because the peer's node was started again."""
        return {
            peer: taken
            for peer, taken in ranges.items()
            if self._store.held_reservation(peer, Lane.MASK, n_bits, digest) == taken
        }

    def _check_bound(self, context: RoundContext) -> None:
        if self._store.stored_output(context.round_digest()) not in (None, context.digest()):
            raise PadRefusedError(
                f"pads left this node for round {context.round} of run {context.run_id!r} with other participants,"
                " another size or model; begin a new round"
            )

    def _check_released(self, peers: Iterable[str], n_bits: int, digest: bytes) -> set[str]:
        """The peers with whom an earlier attempt has reserved a range of this context already."""
        try:
            return {
                peer
                for peer in peers
                if self._store.check_reservation(peer, Lane.MASK, n_bits, digest) is not None
            }
        except AlreadyReleasedError as error:
            raise PadReleasedError(str(error)) from error

    def _check_stock(self, peers: Iterable[str], n_bits: int) -> None:
        stock = {peer: self._store.stock(peer)[Lane.MASK] for peer in peers}
        short = {peer: n_bits - bits for peer, bits in stock.items() if bits < n_bits}
        if short:
            raise PadShortError(short)

    def _outcome(
        self, entry: _Round, context: RoundContext, peer: str, future: runtime.Future[Range]
    ) -> BaseException | None:
        error = future.exception()
        with self._lock:
            entry.waiting.discard(peer)
            if error is None and not entry.given_up:
                entry.ranges[peer] = future.result()
        if error is None and entry.given_up:
            self._burn({peer: future.result()}, context)
        return error

    def release(self, context: RoundContext) -> dict[str, SecretBits]:
        """The pads of all partners, once.

        The round is then bound to this context for ever, here as in the client's journal: whoever masks two
        updates for two sets of participants gives their difference away.
        """
        partners, digest = self.partners(context), context.digest()
        with self._lock:
            entry = self._rounds.get(digest)
            if entry is None or set(entry.ranges) != set(partners):
                raise PadRefusedError("no pads are reserved for this round; ask for them first")
            del self._rounds[digest]
        pads: dict[str, SecretBits] = {}
        try:
            self._store.journal_output(context.round_digest(), digest)
            for peer in partners:
                pads[peer] = self._store.release(peer, Lane.MASK, entry.ranges[peer], digest)
        except KeyStoreError as error:
            for pad in pads.values():
                pad.wipe()
            self._burn({peer: r for peer, r in entry.ranges.items() if peer not in pads}, context)
            kind = PadReleasedError if isinstance(error, AlreadyReleasedError) or pads else PadRefusedError
            raise kind(f"the pads of this round cannot be completed: {error}") from error
        finally:
            self._keep(context, {peer: entry.ranges[peer] for peer in pads})
        return pads

    def _keep(self, context: RoundContext, ranges: dict[str, Range], *, burnt: bool = False) -> None:
        """Put on record what left the store, or was given up, for a round."""
        if ranges:
            self._records.keep(
                PadsTaken(
                    owner=self._store.owner,
                    run_id=context.run_id,
                    round=context.round,
                    context=context.digest().hex(),
                    participants=context.participants,
                    ranges={peer: Span(taken.start, taken.n_bits) for peer, taken in ranges.items()},
                    burnt=burnt,
                )
            )

    def abandon(self, context: RoundContext) -> tuple[str, ...]:
        """Burn what is reserved for a context that nobody will mask any more; with whom that was.

        What is being agreed at this moment is burnt as soon as it is; the peer that agreed counts it.
        """
        digest = context.digest()
        with self._lock:
            entry = self._rounds.pop(digest, None)
            if entry is None:
                return ()
            entry.given_up = True
            halfway = [peer for peer in self.partners(context) if peer not in {*entry.ranges, *entry.waiting}]
        self._burn(entry.ranges | self._halfway(halfway, context.pad_bits, digest), context)
        return tuple(entry.ranges)

    def _halfway(self, peers: Iterable[str], n_bits: int, digest: bytes) -> dict[str, Range]:
        """What attempts that failed left reserved at this end, so that a retry would find it."""
        held = {}
        for peer in peers:
            try:
                taken = self._store.check_reservation(peer, Lane.MASK, n_bits, digest)
            except AlreadyReleasedError:  # these pads have left, and nothing of them is here
                continue
            if taken is not None:
                held[peer] = taken
        return held

    def _burn(self, ranges: dict[str, Range], context: RoundContext) -> None:
        burnt = {}
        for peer, held in ranges.items():
            try:
                self._store.burn_reservation(peer, Lane.MASK, held, context.digest())
            except KeyStoreError as error:
                with about(pair=pair_name(self._store.ends(peer))):
                    logger.warning("a reservation with %s stays until the next start: %s", peer, error)
            else:
                burnt[peer] = held
        self._keep(context, burnt, burnt=True)


def _summary(store: KeyStore, errors: dict[str, BaseException]) -> PadError:
    """One error for several pairs, the gravest: what cannot be cured, then a shortage of key, then slow peers."""
    for peer, error in errors.items():
        with about(pair=pair_name(store.ends(peer))):
            logger.info("no pads reserved with %s: %s: %s", peer, type(error).__name__, error)
    if any(isinstance(error, AlreadyReleasedError) for error in errors.values()):
        return PadReleasedError("the pads of this round were released before")
    short = {peer: e.missing_bits for peer, e in errors.items() if isinstance(e, LaneShortError)}
    if short:
        return PadShortError(short)
    peer, error = next(iter(errors.items()))
    return PadPeerError(f"{peer} did not agree: {error}"[:500])
