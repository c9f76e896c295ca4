"""One-time authentication bits of a pair, taken one message at a time.

Each end spends from its own outgoing lane and names the offset in the message; the other end follows.
Bits are durable as spent before they are returned, and offsets never go back (docs/formulas.md, Authentication and the key store).

A later message may overtake an earlier one that a bad line lost.  The bits of the earlier one are spent with the
later one's, but stay in memory as long as the process lives, so that the earlier one is believed when it comes
again.  Within a session the bits are masked, see :mod:`orchestrator.keystore.letters`.
"""

from __future__ import annotations

from orchestrator.keystore.core import Core
from orchestrator.keystore.epsilons import EpsilonLedger, add_epsilons
from orchestrator.keystore.errors import AuthLaneExhaustedError, RefusedError, ReplayError
from orchestrator.keystore.lanes import (
    AUTH_STOP_BITS,
    Lane,
    Range,
    covers,
    find_run,
    incoming_auth,
    outgoing_auth,
)
from orchestrator.keystore.mac_keys import MacKeys
from orchestrator.keystore.pair_macs import PairMacs
from orchestrator.keystore.skipped import SKIPPED_BITS, SkippedBits
from orchestrator.secret import SecretBits

_TAKES_PER_SHRED = 64


class AuthKeys:
    """The one-time tag keys shared with one peer, and the reusable ones that nothing is spent of."""

    def __init__(self, core: Core, peer: str) -> None:
        pair_end = core.pair_end(peer)
        self._core = core
        self._peer = peer
        self._outgoing = outgoing_auth(pair_end)
        self._incoming = incoming_auth(pair_end)

    def take_outgoing(self, n_bits: int) -> tuple[int, SecretBits]:
        """The next ``n_bits`` of the own lane and their offset, which goes with the message.

        Raises AuthLaneExhaustedError where fewer than 2048 bits would remain.
        """
        _check_size(n_bits)
        core, peer, lane = self._core, self._peer, self._outgoing
        with core.transaction():
            head = core.lane(peer, lane).head
            run = find_run(head, core.pieces.stored(peer, lane, head), n_bits + AUTH_STOP_BITS)
            if run is None:
                raise AuthLaneExhaustedError(
                    f"lane {lane} with {peer} is at its hard stop of {AUTH_STOP_BITS} bits: "
                    "seed the pair again with a new secret (qunetlab keys reseed)"
                )
            core.advance(peer, lane, run.start)
            bits = self._spend(lane, Range(run.start, n_bits))
        core.shred(_TAKES_PER_SHRED)
        return run.start, self._masked(bits, run.start, outgoing=True)

    def take_incoming(self, offset: int, n_bits: int, forgery: float = 0.0) -> SecretBits:
        """The bits that the peer used at ``offset``; bits skipped on the way there are spent and wait in memory.

        ``forgery``: with which probability the tag that was checked could have been forged; booked with them.
        Raises ReplayError for bits that were used.  The offset of a message that nobody has verified yet is
        the attacker's choice: verify with :meth:`peek_incoming` first.
        """
        wanted = Range(offset, n_bits)
        with self._core.lock:
            waiting = self._skipped.peek(wanted)
            if waiting is not None:
                with self._core.transaction():
                    self._book(forgery)
                self._skipped.spend(wanted)
                return self._masked(waiting, offset, outgoing=False)
            with self._core.transaction():
                self._check_incoming(wanted)
                overtaken = self._overtake(offset)
                bits = self._spend(self._incoming, wanted)
                self._book(forgery)
            for start, kept in overtaken:
                self._skipped.add(start, kept)
        self._core.shred(_TAKES_PER_SHRED)
        return self._masked(bits, offset, outgoing=False)

    def peek_incoming(self, offset: int, n_bits: int) -> SecretBits:
        """The bits that :meth:`take_incoming` would return, without spending or burning anything.

        For checking a tag before its offset is believed.  A failed check may be repeated with the same
        bits: nothing was tagged with them here, so each try succeeds with the forgery probability of one.
        """
        wanted = Range(offset, n_bits)
        with self._core.lock:
            bits = self._skipped.peek(wanted)
            if bits is None:
                self._check_incoming(wanted)
                bits = self._core.pieces.peek(self._peer, self._incoming, wanted)
        return self._masked(bits, offset, outgoing=False)

    @property
    def _skipped(self) -> SkippedBits:
        return self._core.skipped.setdefault((self._peer, self._incoming), SkippedBits())

    def _masked(self, bits: SecretBits, offset: int, *, outgoing: bool) -> SecretBits:
        session = self._core.session(self._peer)
        return bits if session is None else session.mask(bits, offset, outgoing=outgoing)

    def _overtake(self, offset: int) -> list[tuple[int, SecretBits]]:
        """Spend what lies between the head and ``offset``; what may wait for its message is returned."""
        core, peer, lane = self._core, self._peer, self._incoming
        head = core.lane(peer, lane).head
        if offset - head > SKIPPED_BITS:
            core.advance(peer, lane, offset)
            return []
        gaps = [
            Range(piece.start, min(piece.end, offset) - piece.start)
            for piece in core.pieces.stored(peer, lane, head)
            if piece.start < offset
        ]
        taken: list[tuple[int, SecretBits]] = []
        for gap in gaps:
            bits = core.take(peer, lane, gap, purpose="authentication")
            if taken and taken[-1][0] + len(taken[-1][1]) == gap.start:  # a key may span two blocks
                start, before = taken.pop()
                taken.append((start, SecretBits.concat([before, bits])))
                before.wipe()
                bits.wipe()
            else:
                taken.append((gap.start, bits))
        return taken

    def wrong_tag(self, forgery: float) -> None:
        """A tag was checked and did not fit: the try had this chance of passing, and is booked too."""
        with self._core.transaction():
            self._book(forgery)

    def mac(self, data: bytes) -> bytes:
        """The MAC of what this end says, under the pair's reusable key (:mod:`orchestrator.keystore.pair_macs`)."""
        return self._macs().make(data)

    def mac_fits(self, data: bytes, mac: bytes) -> bool:
        """Whether the peer said ``data``, as far as a reusable key can tell."""
        return self._macs().fits(data, mac)

    def _macs(self) -> PairMacs:
        macs = MacKeys(self._core).get(self._peer, self._core.generation(self._peer))
        if macs is None:
            raise RefusedError(
                f"there are no reusable keys with {self._peer}: the two stores have not met yet"
            )
        return macs

    def _book(self, forgery: float) -> None:
        if forgery:
            add_epsilons(self._core, self._peer, EpsilonLedger(auth=forgery, tags=1))

    def _check_incoming(self, wanted: Range) -> None:
        _check_size(wanted.n_bits)
        lane, peer = self._incoming, self._peer
        head = self._core.lane(peer, lane).head
        if wanted.start < head:
            raise ReplayError(f"{peer} named offset {wanted.start} of lane {lane}, used up to {head} before")
        if not covers(wanted, self._core.pieces.stored(peer, lane, wanted.start)):
            raise RefusedError(f"{peer} named offset {wanted.start} of lane {lane}, which holds no such bits")

    def _spend(self, lane: Lane, wanted: Range) -> SecretBits:
        bits = self._core.take(self._peer, lane, wanted, purpose="authentication")
        self._core.set_head(self._peer, lane, wanted.end)
        return bits


def _check_size(n_bits: int) -> None:
    if n_bits <= 0:
        raise RefusedError(f"a tag key has at least one bit, {n_bits} were asked for")
