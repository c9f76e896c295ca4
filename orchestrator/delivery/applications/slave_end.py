"""The slave's end of key delivery: copies that wait here for the applications of this node.

A thread per peer listens on the channel that the master's end at the peer opened last.  A window, and a batch out of it, is
held durably before it is answered; a batch that is said again is answered again with the same words.  Keys wait on the
:class:`~orchestrator.delivery.applications.shelf.Shelf` until their application fetches them, until their time is over, or until this node starts again; each
leaves once, and all requests that arrive while a commit is being made share the next one.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orchestrator import runtime
from orchestrator.delivery.applications.labels import is_proved
from orchestrator.delivery.applications.messages import (
    Announce,
    Answer,
    Arrived,
    Batch,
    Kept,
    KeyNote,
    Linked,
    Links,
    NotNow,
    Said,
    Unkept,
    Where,
    Why,
    bound,
)
from orchestrator.delivery.applications.orders import uuid_text
from orchestrator.delivery.applications.relaying import KeyRelay, uncarried
from orchestrator.delivery.applications.shelf import Shelf, Waiting
from orchestrator.delivery.key_desk import (
    NOT_FOUND,
    BadKeyRequestError,
    DeliveredKey,
    KeysUnavailableError,
)
from orchestrator.events.status import pair_name
from orchestrator.keystore.errors import KeyStoreError, RefusedError
from orchestrator.keystore.lanes import Range
from orchestrator.keystore.reserving import Accept, Offer
from orchestrator.keystore.steps import Expect
from orchestrator.keystore.store import KeyStore
from orchestrator.keystore.tagged import TaggedChannel
from orchestrator.keystore.windows import Use, WindowGoneError
from orchestrator.log_context import now_about
from orchestrator.one_time_tags import one_time_tag_fits
from orchestrator.protocols.epsilons import forgery_bound
from orchestrator.secret import SecretBits
from orchestrator.wire.channel import Channel, ChannelError, ChannelTimeoutError
from orchestrator.wire.codec import WireError, decode, encode

logger = logging.getLogger(__name__)

LISTEN_S = 0.5
MOST_CHANNELS = 8
"""Of one peer at a time, in a thread each; all but the newest end within :data:`LISTEN_S`."""


@dataclass
class _Fetch:
    keys: list[Waiting]
    future: runtime.Future[list[DeliveredKey]]


class SlaveEnd:
    """Keeps copies for the applications of this node; see the module text."""

    def __init__(
        self,
        store: KeyStore,
        user_of: Callable[[str], str | None],
        *,
        today: Callable[[], int],
        most_of_two: int,
        key_waits_s: float,
        relay: KeyRelay | None = None,
    ) -> None:
        """``user_of``: the user whose node serves an application; without a ``relay``, no relayed key comes in."""
        self._relay = relay
        self._store = store
        self._user_of = user_of
        self._today = today
        self._key_waits_s = key_waits_s
        self.shelf = Shelf(most_of_two)
        self._holding = runtime.lock()
        """While a batch is looked at and put on the shelf: two peers may name the same key."""
        self._fetches: runtime.Queue[_Fetch | None] = runtime.queue()
        self._newest: dict[str, Channel] = {}
        self._n_channels: Counter[str] = Counter()
        self._counting = runtime.lock()
        self._last: dict[str, tuple[bytes, bytes]] = {}
        self._stop = runtime.event()
        self._fetcher: runtime.Thread | None = None

    def start(self) -> None:
        self._fetcher = runtime.spawn(self._serve_fetches, name="keys-out")

    def close(self) -> None:
        """Stop; requests that wait fail with KeysUnavailableError."""
        self._stop.set()
        self._fetches.put(None)
        if self._fetcher is not None:
            self._fetcher.join(timeout=10)

    # -- out, to the applications --------------------------------------------------------------------

    def fetch(self, slave: str, master: str, key_ids: Sequence[str]) -> runtime.Future[list[DeliveredKey]]:
        """The copies that wait for ``slave``, each once, all or none, in the order asked for.

        Raises WrongCallerError or BadKeyRequestError; the future may hold the latter or KeysUnavailableError.
        """
        keys = self.shelf.find(slave, master, key_ids)
        fetch = _Fetch(keys, runtime.future())
        self._fetches.put(fetch)
        return fetch.future

    def _serve_fetches(self) -> None:
        while not self._stop.is_set():
            group: list[_Fetch] = []
            try:
                first = self._fetches.get(timeout=LISTEN_S)
                while first is not None:
                    group.append(first)
                    first = self._fetches.get_nowait()
            except runtime.Empty:
                pass
            self._let_out(group, self.shelf.late(runtime.now()))
        while not self._fetches.empty():
            fetch = self._fetches.get_nowait()
            if fetch is not None:
                fetch.future.set_exception(KeysUnavailableError("this node is stopping"))

    def burn_late(self, now_s: float) -> None:
        """Burn what should have been fetched by ``now_s`` (monotonic)."""
        self._let_out([], self.shelf.late(now_s))

    def _let_out(self, group: list[_Fetch], late: list[Waiting]) -> None:
        if not group and not late:
            return
        group = [fetch for fetch in group if fetch.future.set_running_or_notify_cancel()]
        try:
            with self._store.windows.group():
                bits = [self._take(fetch.keys) for fetch in group]
                for key in late:
                    self._store.windows.forget(key.peer, self._store.windows.peers_lane(key.peer), key.key)
            given = [delivered(fetch.keys, taken) for fetch, taken in zip(group, bits, strict=True)]
        except KeyStoreError as error:
            logger.warning("no key was given out: %s", error)
            for fetch in group:
                fetch.future.set_exception(KeysUnavailableError(f"the key store failed: {error}"))
            return
        except Exception as error:
            logger.exception("no key was given out")
            for fetch in group:
                fetch.future.set_exception(KeysUnavailableError(f"the node failed: {type(error).__name__}"))
            return
        self.shelf.drop(late)
        for fetch, keys in zip(group, given, strict=True):
            self.shelf.drop(fetch.keys)
            if keys is None:
                fetch.future.set_exception(BadKeyRequestError(NOT_FOUND))
            else:
                fetch.future.set_result(keys)

    def _take(self, keys: list[Waiting]) -> list[SecretBits] | None:
        windows, found = self._store.windows, dict[bytes, SecretBits]()
        by_peer = {key.peer: [each for each in keys if each.peer == key.peer] for key in keys}
        if not all(windows.wait(peer, [each.key for each in those]) for peer, those in by_peer.items()):
            return None
        for peer, those in by_peer.items():
            n_bits = sum(each.key.place.n_bits for each in those)
            use = Use(keys[0].slave, "slave", self._today(), len(those), n_bits)
            leased = [each.key for each in those]
            taken = windows.fetch(peer, windows.peers_lane(peer), leased, use) or []
            found |= {key.key_id: bits for key, bits in zip(leased, taken, strict=True)}
        return [found[key.key.key_id] for key in keys]

    # -- in, from the peers --------------------------------------------------------------------------

    def listen(self, peer: str, channel: Channel) -> None:
        """Serve the master's end of ``peer`` on a channel that it opened; the one before it is left.

        The hub may open as many as it likes in a peer's name: too many at once are left without an answer.
        """
        with self._counting:
            if self._n_channels[peer] >= MOST_CHANNELS:
                return
            self._n_channels[peer] += 1
        self._newest[peer] = channel
        runtime.spawn(self._listened, peer, channel, name=f"keys-from-{peer}")

    def _listened(self, peer: str, channel: Channel) -> None:
        try:
            self._listen(peer, channel)
        finally:
            with self._counting:
                self._n_channels[peer] -= 1

    def _listen(self, peer: str, channel: Channel) -> None:
        now_about(pair=pair_name(self._store.ends(peer)))
        tagged = TaggedChannel(self._store, channel, peer)
        wanted = Expect(plain=(Announce, Where, Links), tagged=(Offer,))
        while not self._stop.is_set() and self._newest.get(peer) is channel:
            try:
                if not self._store.letters(peer).settled_with:  # nothing could be checked yet
                    channel.recv(LISTEN_S)
                    tagged.send_plain(NotNow())
                    continue
                message, _ = tagged.expect(wanted, LISTEN_S)
                if isinstance(message, Offer):
                    self._window(peer, tagged, message)
                elif isinstance(message, Announce):
                    channel.send(self._answer(peer, message))
                elif isinstance(message, Where):
                    lost = Arrived((), message.key_ids)
                    told = self._relay.where(peer, message.key_ids) if self._relay else lost
                    channel.send(self._signed(peer, told))
                elif isinstance(message, Links):
                    channel.send(self._signed(peer, Linked(self._relay.links() if self._relay else {})))
            except ChannelTimeoutError:
                continue
            except ChannelError as error:
                logger.info("keys from %s: %s", peer, error)
                return
            except (KeyStoreError, WireError) as error:
                logger.warning("keys from %s: %s", peer, error)
            except Exception:
                logger.exception("keys from %s", peer)

    def _window(self, peer: str, tagged: TaggedChannel, offer: Offer) -> None:
        letters = self._store.letters(peer)
        if not letters.settled_with or not letters.meeting.acquire(blocking=False):
            tagged.send_plain(NotNow())
            return
        try:
            if offer.lane != self._store.windows.peers_lane(peer):
                raise RefusedError(f"{peer} offers a window of lane {offer.lane}, which is not its own")
            self._store.windows.follow(peer, Range(offer.start, offer.n_bits), offer.context)
            accept = Accept(offer.lane, offer.start, offer.n_bits, offer.context)
            tagged.send(accept, f"window/{offer.context.hex()}/accept")
        finally:
            letters.meeting.release()

    def _answer(self, peer: str, announce: Announce) -> bytes:
        """Hold the keys of a batch, durably; what is said to the peer."""
        said, answer = self._last.get(peer, (b"", b""))
        if said == encode(announce):
            return answer
        store = self._store
        lane, generation = store.windows.peers_lane(peer), store.generation(peer)
        try:
            key = store.windows.tag_key(peer, lane, announce.start)
        except WindowGoneError:
            return encode(NotNow())
        data = bound("keys", generation, peer, store.owner, announce.body)
        fits = one_time_tag_fits(key, data, announce.tag)
        key.wipe()
        if not fits:
            store.auth(peer).wrong_tag(forgery_bound(len(data)))
            store.letters(peer).rejected["wrong tag"] += 1
            logger.warning("an announcement of keys by %s carries a wrong tag; nothing was changed", peer)
            return encode(NotNow())
        batch: Batch = decode(announce.body, Batch)
        if batch.start != announce.start:
            raise RefusedError(f"{peer} announces a batch at {batch.start} with the tag of {announce.start}")
        with self._holding:
            unkept = self._hold(peer, batch, forgery_bound(len(data)))
        answer = self._signed(peer, Kept(batch.start, unkept))
        self._last[peer] = encode(announce), answer
        return answer

    def _signed(self, peer: str, said: Said) -> bytes:
        store, body = self._store, encode(said)
        mac = store.auth(peer).mac(bound("kept", store.generation(peer), store.owner, peer, body))
        return encode(Answer(body, mac))

    def _hold(self, peer: str, batch: Batch, forgery: float) -> tuple[Unkept, ...]:
        why: dict[bytes, Unkept] = {}
        stay: list[KeyNote] = []
        onward: list[tuple[KeyNote, str]] = []
        coming: Counter[tuple[str, str]] = Counter()
        named = Counter(note.key_id for note in batch.keys)
        for note in batch.keys:
            if named[note.key_id] > 1 or self.shelf.holds(note.key_id):
                why[note.key_id] = Unkept(note.key_id, "twice")
            elif self._store.owner in note.path:
                following = self._relay.next_node(peer, note) if self._relay else None
                if following is None:
                    why[note.key_id] = Unkept(note.key_id, "relay")
                else:
                    onward.append((note, following))
            elif (refused := self._refused(peer, note, coming[note.master, note.slave])) is not None:
                why[note.key_id] = Unkept(note.key_id, refused)
            else:
                coming[note.master, note.slave] += 1
                stay.append(note)
        self._store.windows.hand(
            peer, batch.start, [note.leased() for note in batch.keys], why.keys(), forgery
        )
        expires_s = runtime.now() + self._key_waits_s
        for note in stay:
            self.shelf.put(
                Waiting(peer, note.leased(), note.master, note.slave, expires_s, note.path, note.carried)
            )
        if self._relay is not None:
            self._relay.take(peer, onward)
        return tuple(why.values())

    def _refused(self, peer: str, note: KeyNote, coming: int) -> Why | None:
        """Why a key may not wait here: nobody but its master's node, and nodes that relay it openly, brings one."""
        own = self._store.owner
        way = (self._user_of(note.master), *note.path)
        if note.path and (self._relay is None or way[-1] != peer or len(set(way)) != len(way)):
            return "relay"
        if len(note.carried) != (note.n_bits // 8 if note.path else 0):
            return "relay"
        if way[-1] != peer or own in way or (note.path and not is_proved(self._store, str(way[0]), note)):
            return "master"
        if self._user_of(note.slave) != own:
            return "unknown"
        return "full" if self.shelf.full_with(note.master, note.slave, coming) else None


def delivered(keys: Sequence[Waiting], taken: Sequence[SecretBits] | None) -> list[DeliveredKey] | None:
    """Keys that waited, with the bits taken from the store, as their application gets them; None where none were taken."""
    if taken is None:
        return None
    return [
        DeliveredKey(uuid_text(each.key.key_id), uncarried(bits, each.carried), each.path)
        for each, bits in zip(keys, taken, strict=True)
    ]
