"""The giving end of key delivery to one peer: orders of applications become batches of keys that the peer holds too.

One thread per peer.  Orders that arrive within :data:`GATHER_S`, and while a batch is on its way, share the next
batch: one tag, one commit at each end.  An order is answered once the peer said that it holds the keys, and after the
commit that lets them leave here.  An order whose application gave up leaves its keys for the next that asks for the
same; nothing is burnt because a message was lost: the same bytes are said again until the peer answers, or until a
start of either end has burnt the window.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator import runtime
from orchestrator.delivery.applications.announcing import (
    Announce,
    Answer,
    Batch,
    Kept,
    KeyNote,
    NotNow,
    bound,
    places,
)
from orchestrator.delivery.applications.opening import WindowOpener
from orchestrator.delivery.applications.orders import (
    Order,
    not_kept,
    too_little_key,
    uuid_bytes,
    uuid_text,
)
from orchestrator.delivery.key_desk import DeliveredKey, KeysUnavailableError
from orchestrator.keystore.errors import AgreementError, KeyStoreError, LaneShortError, TamperedError
from orchestrator.keystore.lanes import Range
from orchestrator.keystore.store import KeyStore
from orchestrator.keystore.windows import (
    LeasedKey,
    Use,
    WindowGoneError,
)
from orchestrator.one_time_tags import TAG_KEY_BITS, one_time_tag
from orchestrator.randomness import RandomBytes, random_bytes
from orchestrator.wire.channel import Channel, ChannelError, ChannelTimeoutError
from orchestrator.wire.codec import WireError, decode, encode

logger = logging.getLogger(__name__)

GATHER_S = 0.02
"""How long the first order of a batch waits for others at most."""
REPEAT_S = 0.5
"""After this long without an answer the same bytes are said again."""
POLL_S = 0.25
PAUSE_S = 0.1
"""After a failure of the channel, or while the stores are being compared."""
ORDER_PATIENCE_S = 5.0
WINDOWS_AT_A_TIME = 64
MOST_KEYS = 1024

Connect = Callable[[], Channel | None]
"""A fresh channel to the peer's keeping end; None while the peer is not there."""


@dataclass
class _Sent:
    """A batch on its way, and whose keys it holds."""

    batch: Batch
    said: bytes
    orders: list[Order]


@dataclass(frozen=True)
class _Spare:
    key: LeasedKey
    expires_s: float


class KeyGiver:
    """Gives keys that this node shares with ``peer``; see the module text."""

    def __init__(
        self,
        store: KeyStore,
        peer: str,
        connect: Connect,
        *,
        today: Callable[[], int],
        key_waits_s: float = 3600.0,
        randomness: RandomBytes = random_bytes,
    ) -> None:
        """``today``: the UTC day, in days since 1970, under which use is booked."""
        self.peer = peer
        self._store = store
        self._lane = store.windows.own_lane(peer)
        self._connect = connect
        self._today = today
        self._key_waits_s = key_waits_s
        self._random_bytes = randomness
        self._new: runtime.Queue[Order | None] = runtime.queue()
        self._orders: list[Order] = []
        self._sent: _Sent | None = None
        self._channel: Channel | None = None
        self._spares: OrderedDict[bytes, tuple[tuple[str, str, int], _Spare]] = OrderedDict()
        self._stop = runtime.event()
        self._thread: runtime.Thread | None = None
        self._windows = WindowOpener(store, peer)
        self.batches = 0

    def start(self) -> None:
        self._thread = runtime.spawn(self._work, name=f"give-{self.peer}")

    def close(self) -> None:
        """Stop; orders that wait fail with KeysUnavailableError."""
        self._stop.set()
        self._new.put(None)
        if self._thread is not None:
            self._thread.join(timeout=10)
        while not self._new.empty():
            order = self._new.get_nowait()
            if order is not None:
                self._orders.append(order)
        self._fail_all("this node is stopping")

    def order(
        self, master: str, slave: str, number: int, n_bits: int, patience_s: float = ORDER_PATIENCE_S
    ) -> runtime.Future[list[DeliveredKey]]:
        """``number`` keys of ``n_bits`` each that ``master`` will share with ``slave``, an application of the peer."""
        now = runtime.now()
        order = Order(master, slave, number, n_bits, runtime.future(), now, now + patience_s)
        self._new.put(order)
        return order.future

    @property
    def windows_opened(self) -> int:
        return self._windows.opened

    def free_bits(self) -> int:
        """What applications may still have: free bits of the lane and of open windows."""
        granted = sum(run.n_bits for run in self._store.windows.granted(self.peer, self._lane))
        return self._store.stock(self.peer)[self._lane] + granted

    # -- the thread --------------------------------------------------------------------------------

    def _work(self) -> None:
        while not self._stop.is_set():
            self._gather()
            self._expire()
            if not self._orders and self._sent is None:
                continue
            try:
                self._serve()
            except WindowGoneError as error:
                self._window_gone(error)
            except (ChannelError, AgreementError, WireError) as error:
                logger.info("key delivery with %s: %s", self.peer, error)
                self._channel = None
                self._stop.wait(PAUSE_S)
            except KeyStoreError as error:
                logger.warning("key delivery with %s: %s", self.peer, error)
                self._fail_all(f"the key store failed: {error}")
                self._stop.wait(PAUSE_S)
            except Exception:
                logger.exception("key delivery with %s failed", self.peer)
                self._fail_all("the node failed; see its log")
                self._channel = None
                self._stop.wait(PAUSE_S)

    def _gather(self) -> None:
        """Take in orders: at once what is there, and for a short while what follows the first."""
        deadline = runtime.now() + (POLL_S if not self._orders and self._sent is None else 0.0)
        while True:
            if self._orders and self._sent is None:
                deadline = min(deadline, self._orders[0].came_s + GATHER_S)
                if sum(order.number for order in self._orders) >= MOST_KEYS:
                    return
            try:
                order = self._new.get(timeout=max(0.0, deadline - runtime.now()))
            except runtime.Empty:
                return
            if order is None:
                return
            first = not self._orders and self._sent is None
            self._orders.append(order)
            if first:
                deadline = order.came_s + GATHER_S

    def _expire(self) -> None:
        """Late orders fail; the keys of one in a batch that nobody answers stay for the next of its kind."""
        now = runtime.now()
        sent = self._sent.orders if self._sent is not None else []
        for order in [*self._orders, *sent]:
            if order.expires_s <= now:
                order.fail(
                    KeysUnavailableError(
                        f"the node of {self.peer} did not answer in time; ask again", reason="peer"
                    )
                )
        self._orders = [order for order in self._orders if not order.future.done()]
        late = [key_id for key_id, (_, spare) in self._spares.items() if spare.expires_s <= now]
        if late:
            with self._store.windows.group():
                for key_id in late:
                    self._store.windows.forget(self.peer, self._lane, self._spares[key_id][1].key)
            for key_id in late:
                del self._spares[key_id]

    def _serve(self) -> None:
        if self._sent is None:
            self._give_spares()
            if not self._orders:
                return
            if not self._store.letters(self.peer).settled_with:
                self._stop.wait(
                    PAUSE_S
                )  # the two stores have not been compared in this life of the processes
                return
            self._sent = self._next_batch()
        if self._sent is not None:
            self._settle(self._sent)

    # -- a batch -----------------------------------------------------------------------------------

    def _next_batch(self) -> _Sent | None:
        """The keys of as many orders as there are bits for; the others fail at once."""
        chosen: list[Order] = []
        sizes = [TAG_KEY_BITS]
        free = self.free_bits()
        for order in list(self._orders):
            wanted = [order.n_bits] * order.number
            if len(sizes) - 1 + len(wanted) > MOST_KEYS:
                break
            missing = sum(sizes) + sum(wanted) - free
            if missing > 0:
                self._orders.remove(order)
                order.fail(too_little_key(self.peer, missing))
                continue
            chosen.append(order)
            sizes += wanted
        if not chosen:
            return None
        try:
            found = self._granted(sizes)
        except (LaneShortError, KeysUnavailableError) as error:
            for order in chosen:
                self._orders.remove(order)
                order.fail(
                    too_little_key(self.peer, error.missing_bits)
                    if isinstance(error, LaneShortError)
                    else error
                )
            return None
        if found is None:
            return None
        tag_place, *key_places = found
        for order in chosen:
            order.key_ids = [uuid_bytes(self._random_bytes) for _ in range(order.number)]
        keys = tuple(
            KeyNote(key_id, place.start, place.n_bits, order.master, order.slave)
            for (order, key_id), place in zip(
                ((order, key_id) for order in chosen for key_id in order.key_ids), key_places, strict=True
            )
        )
        batch = Batch(tag_place.start, keys)
        body = encode(batch)
        key = self._store.windows.tag_key(self.peer, self._lane, batch.start)
        tag = one_time_tag(key, self._bound(body))
        key.wipe()
        for order in chosen:
            self._orders.remove(order)
        return _Sent(batch, encode(Announce(body, batch.start, tag)), chosen)

    def _bound(self, body: bytes) -> bytes:
        return bound("keys", self._store.generation(self.peer), self._store.owner, self.peer, body)

    def _settle(self, sent: _Sent) -> None:
        """Say the batch until the peer has answered, then let its keys leave."""
        kept = self._hear_kept(sent)
        why = {each.key_id: each.why for each in kept.unkept}
        alive, spare, uses = [], set[bytes](), []
        for order in sent.orders:
            refused = next((why[key_id] for key_id in order.key_ids if key_id in why), None)
            if refused is not None:
                order.fail(not_kept(self.peer, order.slave, refused))
            elif order.claim():
                alive.append(order)
                uses.append(
                    Use(order.master, "master", self._today(), order.number, order.number * order.n_bits)
                )
                continue
            spare.update(key_id for key_id in order.key_ids if key_id not in why)
        leased = [note.leased() for note in sent.batch.keys]
        try:
            bits = self._store.windows.deliver(
                self.peer, sent.batch.start, leased, uses, unwanted=why.keys(), spare=spare
            )
        except BaseException as error:
            unavailable = KeysUnavailableError(f"nothing was given away: {error}")
            for order in alive:
                order.future.set_exception(unavailable)
            sent.orders = [order for order in sent.orders if order not in alive]
            raise
        self._sent = None
        self.batches += 1
        expires_s = runtime.now() + self._key_waits_s
        for note in sent.batch.keys:
            if note.key_id in spare:
                kind = note.master, note.slave, note.n_bits
                self._spares[note.key_id] = kind, _Spare(note.leased(), expires_s)
        for order in alive:
            order.future.set_result(
                [DeliveredKey(uuid_text(key_id), bits[key_id]) for key_id in order.key_ids]
            )

    def _hear_kept(self, sent: _Sent) -> Kept:
        channel = self._connected()
        auth = self._store.auth(self.peer)
        while not self._stop.is_set():
            channel.send(sent.said)
            deadline = runtime.now() + REPEAT_S
            while (left_s := deadline - runtime.now()) > 0:
                try:
                    answer: Answer | NotNow = decode(channel.recv(left_s), Answer | NotNow)
                except ChannelTimeoutError:
                    break
                if isinstance(answer, NotNow):
                    self._check_window(sent)
                    self._stop.wait(PAUSE_S)
                    break
                data = bound(
                    "kept", self._store.generation(self.peer), self.peer, self._store.owner, answer.body
                )
                if not auth.mac_fits(data, answer.mac):
                    raise TamperedError(f"an answer of {self.peer} about keys carries a wrong MAC")
                kept: Kept = decode(answer.body, Kept)
                if kept.start == sent.batch.start:
                    return kept
            self._gather()
            self._expire()
            self._check_window(sent)
        raise ChannelTimeoutError("this node is stopping")

    def _check_window(self, sent: _Sent) -> None:
        """Raises WindowGoneError once a start of either end has burnt the window."""
        self._store.windows.tag_key(self.peer, self._lane, sent.batch.start).wipe()

    def _window_gone(self, error: WindowGoneError) -> None:
        logger.info("key delivery with %s: %s", self.peer, error)
        sent, self._sent = self._sent, None
        for order in sent.orders if sent is not None else ():
            order.fail(
                KeysUnavailableError(f"the node of {self.peer} started again; ask again", reason="peer")
            )

    def _give_spares(self) -> None:
        """Keys that an application gave up go to the next order of the same kind."""
        for order in list(self._orders):
            like = [key_id for key_id, (kind, _) in self._spares.items() if kind == order.kind]
            if len(like) < order.number or not order.claim():
                continue
            self._orders.remove(order)
            chosen = like[: order.number]
            leased = [self._spares.pop(key_id)[1].key for key_id in chosen]
            use = Use(order.master, "master", self._today(), order.number, order.number * order.n_bits)
            try:
                with self._store.windows.group():
                    bits = self._store.windows.fetch(self.peer, self._lane, leased, use)
            except KeyStoreError as error:
                order.future.set_exception(KeysUnavailableError(f"the key store failed: {error}"))
                raise
            if bits is None:
                order.future.set_exception(KeysUnavailableError("the keys set aside are gone; ask again"))
                continue
            order.future.set_result(
                [DeliveredKey(uuid_text(key_id), key) for key_id, key in zip(chosen, bits, strict=True)]
            )

    def _granted(self, sizes: list[int]) -> list[Range] | None:
        """Where the bits lie, after as many new windows as it takes; None while the peer cannot be asked."""
        for _ in range(WINDOWS_AT_A_TIME):
            runs = self._store.windows.granted(self.peer, self._lane)
            found = places(runs, sizes)
            if found is not None:
                return found
            missing = sum(sizes) - (runs[-1].n_bits if runs else 0)
            if not self._windows.open(self._connected(), max(missing, max(sizes))):
                self._stop.wait(PAUSE_S)
                return None
        raise LaneShortError(self.peer, self._lane, max(sizes))

    def _connected(self) -> Channel:
        if self._channel is None:
            self._channel = self._connect()
        if self._channel is None:
            raise ChannelTimeoutError(f"{self.peer} is not connected")
        return self._channel

    def _fail_all(self, reason: str) -> None:
        orders, self._orders = self._orders, []
        if self._sent is not None and self._stop.is_set():
            orders += self._sent.orders
        for order in orders:
            order.fail(KeysUnavailableError(reason))
