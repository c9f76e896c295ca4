"""Lease windows from the master's end: offered under a one-time tag until the peer has accepted."""

from __future__ import annotations

from orchestrator.delivery.applications.messages import Answer, NotNow
from orchestrator.delivery.key_desk import KeysUnavailableError
from orchestrator.keystore.errors import AgreementError, LaneShortError
from orchestrator.keystore.lanes import AUTH_LANES, LOW_WATER_BITS, Range
from orchestrator.keystore.reserving import Accept, Offer
from orchestrator.keystore.steps import Expect
from orchestrator.keystore.store import KeyStore
from orchestrator.keystore.tagged import TaggedChannel
from orchestrator.keystore.windows import LEAST_WINDOW_BITS, window_bits
from orchestrator.wire.channel import Channel

ANSWER_S = 0.5


class WindowOpener:
    """Opens the windows of the lane that this node owns with ``peer``."""

    def __init__(self, store: KeyStore, peer: str) -> None:
        self._store = store
        self._peer = peer
        self._lane = store.windows.own_lane(peer)
        self._offered: tuple[Range, bytes] | None = None
        self.opened = 0

    def open(self, channel: Channel, wanted_bits: int) -> bool:
        """Agree with the peer on one more window; False while it cannot be: ask again a little later.

        Raises LaneShortError, KeysUnavailableError (the pair is nearly out of authentication key), AgreementError or
        what the channel raises; a window that was offered is offered again by the next call.
        """
        store, letters = self._store, self._store.letters(self._peer)
        stock = store.stock(self._peer)
        if min(stock[lane] for lane in AUTH_LANES) < LOW_WATER_BITS:
            raise KeysUnavailableError(
                f"the authentication key shared with {self._peer} is nearly used up; an operator has to give the"
                " pair a new secret (qunetlab keys reseed)",
                reason="short",
            )
        if not letters.meeting.acquire(blocking=False):
            return False
        try:
            if self._offered is None or self._burnt(*self._offered):
                self._offered = self._propose(window_bits(stock[self._lane], wanted_bits))
            chosen, context = self._offered
            tagged = TaggedChannel(store, channel, self._peer)
            offer = Offer(self._lane, chosen.start, chosen.n_bits, context)
            tagged.send(offer, f"window/{context.hex()}/offer")
            while True:
                answer, _ = tagged.expect(Expect(plain=(NotNow, Answer), tagged=(Accept,)), ANSWER_S)
                if isinstance(answer, NotNow):
                    return False
                if isinstance(answer, Accept):
                    break
            if answer != Accept(self._lane, chosen.start, chosen.n_bits, context):
                raise AgreementError(f"{self._peer} accepts another window than the one offered")
            store.windows.opened(self._peer, chosen, context)
            self._offered = None
            self.opened += 1
            return True
        finally:
            letters.meeting.release()

    def _burnt(self, chosen: Range, context: bytes) -> bool:
        """Whether a start of the peer has burnt what was offered."""
        return self._store.held_reservation(self._peer, self._lane, chosen.n_bits, context) is None

    def _propose(self, n_bits: int) -> tuple[Range, bytes]:
        """A new window; a smaller one where the lane has gaps."""
        context = self._store.windows.new_context()
        while True:
            try:
                return self._store.propose_reservation(self._peer, self._lane, n_bits, context), context
            except LaneShortError:
                if n_bits <= LEAST_WINDOW_BITS:
                    raise
                n_bits = max(n_bits // 16 * 8, LEAST_WINDOW_BITS)
