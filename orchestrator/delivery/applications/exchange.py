"""How the master's end asks the slave's end: the same bytes until an answer with the right MAC comes, or nothing can."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator import runtime
from orchestrator.delivery.applications.messages import Answer, NotNow, Said, bound
from orchestrator.keystore.errors import TamperedError
from orchestrator.keystore.store import KeyStore
from orchestrator.wire.channel import Channel, ChannelTimeoutError
from orchestrator.wire.codec import decode

REPEAT_S = 0.5
"""After this long without an answer the same bytes are said again."""
SILENT_TRIES = 3
"""After this many a fresh channel is opened."""
PAUSE_S = 0.1
"""After a failure of the channel, or while the stores are being compared."""

Connect = Callable[[], Channel | None]
"""A fresh channel to the slave's end at the peer; None while the peer is not there."""


class Exchange:
    """One end of the conversation with ``peer``; one thread."""

    def __init__(self, store: KeyStore, peer: str, connect: Connect, stop: runtime.Event) -> None:
        self._store = store
        self._peer = peer
        self._connect = connect
        self._stop = stop
        self._channel: Channel | None = None

    def channel(self) -> Channel:
        """The channel, opened if need be.  Raises ChannelTimeoutError while the peer is not there."""
        if self._channel is None:
            self._channel = self._connect()
        if self._channel is None:
            raise ChannelTimeoutError(f"{self._peer} is not connected")
        return self._channel

    def drop(self) -> None:
        """The channel failed: the next word opens another."""
        self._channel = None

    def ask(
        self,
        said: bytes,
        fits: Callable[[Said], bool],
        meanwhile: Callable[[], None] = lambda: None,
        *,
        tries: int = 0,
    ) -> Said:
        """Say ``said`` until something that ``fits`` is answered; ``meanwhile`` is called now and then, and may raise.

        Raises TamperedError for a wrong MAC, WireError, what the channel raises, and ChannelTimeoutError when this
        node stops or, if ``tries`` are counted, after so many.
        """
        tried = 0
        while not self._stop.is_set() and (not tries or tried < tries):
            if tried and tried % SILENT_TRIES == 0:
                self.drop()  # its other end may have been left without a word
            tried += 1
            channel = self.channel()
            channel.send(said)
            deadline = runtime.now() + REPEAT_S
            while (left_s := deadline - runtime.now()) > 0:
                try:
                    answer: Answer | NotNow = decode(channel.recv(left_s), Answer | NotNow)
                except ChannelTimeoutError:
                    break
                if isinstance(answer, NotNow):
                    self._stop.wait(PAUSE_S)
                    break
                heard = self._opened(answer)
                if fits(heard):
                    return heard
            meanwhile()
        raise ChannelTimeoutError(f"{self._peer} did not answer about keys")

    def _opened(self, answer: Answer) -> Said:
        store, peer = self._store, self._peer
        data = bound("kept", store.generation(peer), peer, store.owner, answer.body)
        if not store.auth(peer).mac_fits(data, answer.mac):
            raise TamperedError(f"an answer of {peer} about keys carries a wrong MAC")
        heard: Said = decode(answer.body, Said)
        return heard
