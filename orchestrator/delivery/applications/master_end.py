"""The master's end of key delivery to one peer: orders of applications become batches of keys that the peer holds too.

One thread per peer.  Orders that arrive within :data:`GATHER_S`, and while a batch is on its way, share the next
batch: one tag, one commit at each end.  An order is answered once the peer said that it holds the keys, and after the
commit that lets them leave here.  An order whose application gave up leaves its keys for the next that asks for the
same; nothing is burnt because a message was lost: the same bytes are said again until the peer answers, or until a
start of either end has burnt the window.  A key that goes further than the peer waits here until the peer says that it
has arrived.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from orchestrator import runtime
from orchestrator.delivery.applications.exchange import PAUSE_S, Connect, Exchange
from orchestrator.delivery.applications.labels import prove_label
from orchestrator.delivery.applications.messages import (
    CARRIED_BITS,
    MOST_KEYS,
    Announce,
    Batch,
    Kept,
    KeyNote,
    Linked,
    Links,
    Said,
    Why,
    bound,
)
from orchestrator.delivery.applications.orders import (
    Order,
    not_kept,
    too_little_key,
    uuid_bytes,
)
from orchestrator.delivery.applications.pending_keys import WHERE_S, PendingKeys, SetAside
from orchestrator.delivery.applications.window_offers import WindowOpener
from orchestrator.delivery.key_desk import DeliveredKey, KeysUnavailableError
from orchestrator.events.status import pair_name
from orchestrator.keystore.errors import AgreementError, KeyStoreError, LaneShortError
from orchestrator.keystore.lanes import Range, places
from orchestrator.keystore.store import KeyStore
from orchestrator.keystore.windows import WindowGoneError
from orchestrator.log_context import now_about
from orchestrator.one_time_tags import TAG_KEY_BITS, one_time_tag
from orchestrator.randomness import RandomBytes, random_bytes
from orchestrator.secret import SecretBits
from orchestrator.wire.channel import ChannelError
from orchestrator.wire.codec import WireError, encode

logger = logging.getLogger(__name__)

GATHER_S = 0.02
"""How long the first order of a batch waits for others at most."""
QUIET_S = 0.003
"""A batch waits no longer once nobody has come for this long."""
POLL_S = 0.25
ORDER_PATIENCE_S = 5.0
WINDOWS_AT_A_TIME = 64


@dataclass
class _Sent:
    """A batch on its way, and whose keys it holds."""

    batch: Batch
    said: bytes
    orders: list[Order]


@dataclass
class _Question:
    """Towards whom could the peer relay keys?"""

    future: runtime.Future[dict[str, int]]


class MasterEnd:
    """Gives keys that this node shares with ``peer``; see the module text."""

    def __init__(
        self,
        store: KeyStore,
        peer: str,
        connect: Connect,
        *,
        today: Callable[[], int],
        key_waits_s: float,
        set_aside: SetAside = lambda *_: None,
        randomness: RandomBytes = random_bytes,
    ) -> None:
        """``today``: the UTC day, in days since 1970, under which use is booked."""
        self.peer = peer
        self._store = store
        self._lane = store.windows.own_lane(peer)
        self._today = today
        self._random_bytes = randomness
        self._new: runtime.Queue[Order | _Question | None] = runtime.queue()
        self._orders: list[Order] = []
        self._questions: list[_Question] = []
        self._sent: _Sent | None = None
        self._pending = PendingKeys(store, peer, today=today, key_waits_s=key_waits_s, set_aside=set_aside)
        self._stop = runtime.event()
        self._exchange = Exchange(store, peer, connect, self._stop)
        self._thread: runtime.Thread | None = None
        self._windows = WindowOpener(store, peer)
        self.batches = 0

    def start(self) -> None:
        self._thread = runtime.spawn(self._work, name=f"keys-to-{self.peer}")

    def close(self) -> None:
        """Stop; orders that wait fail with KeysUnavailableError."""
        self._stop.set()
        self._new.put(None)
        if self._thread is not None:
            self._thread.join(timeout=10)
        while not self._new.empty():
            self._take_in(self._new.get_nowait())
        self._answer_questions({})
        self._fail_all("this node is stopping")

    def order(
        self,
        master: str,
        slave: str,
        number: int,
        n_bits: int,
        patience_s: float = ORDER_PATIENCE_S,
        *,
        path: tuple[str, ...] = (),
        last: str = "",
        proof: bytes = b"",
        relayed: Mapping[bytes, SecretBits] | None = None,
    ) -> runtime.Future[list[DeliveredKey]]:
        """``number`` keys of ``n_bits`` each that ``master`` will share with ``slave``, an application of the peer.

        With a ``path``, the application is one at its end, of the node ``last``.  ``relayed``: the keys, by id, that a
        node of the path hands on with the first one's ``proof``; the future then holds this hop's keys, with which they
        were carried.
        """
        now, plain = runtime.now(), dict(relayed or {})
        order = Order(
            master,
            slave,
            number,
            n_bits,
            runtime.future(),
            now,
            now + patience_s,
            path,
            last,
            proof,
            onward=self.peer in path,
            key_ids=list(plain),
            plain=list(plain.values()),
        )
        self._new.put(order)
        return order.future

    def links(self) -> runtime.Future[dict[str, int]]:
        """Free bits towards every node to which the peer could relay; empty where it does not, or is not there."""
        question = _Question(runtime.future())
        self._new.put(question)
        return question.future

    @property
    def windows_opened(self) -> int:
        return self._windows.opened

    def free_bits(self) -> int:
        """What applications may still have: free bits of the lane and of open windows."""
        granted = sum(run.n_bits for run in self._store.windows.granted(self.peer, self._lane))
        return self._store.stock(self.peer)[self._lane] + granted

    # -- the thread --------------------------------------------------------------------------------

    def _work(self) -> None:
        now_about(pair=pair_name(self._store.ends(self.peer)))
        while not self._stop.is_set():
            self._gather()
            self._expire()
            if not self._busy():
                continue
            try:
                self._serve()
            except WindowGoneError as error:
                self._window_gone(error)
            except (ChannelError, AgreementError, WireError) as error:
                logger.info("key delivery with %s: %s", self.peer, error)
                self._answer_questions({})
                self._exchange.drop()
                self._stop.wait(PAUSE_S)
            except KeyStoreError as error:
                logger.warning("key delivery with %s: %s", self.peer, error)
                self._fail_all(f"the key store failed: {error}")
                self._stop.wait(PAUSE_S)
            except Exception:
                logger.exception("key delivery with %s failed", self.peer)
                self._fail_all("the node failed; see its log")
                self._exchange.drop()
                self._stop.wait(PAUSE_S)

    def _busy(self) -> bool:
        return bool(self._orders or self._sent or self._questions or self._pending.travelling())

    def _take_in(self, item: Order | _Question | None) -> None:
        if isinstance(item, Order):
            self._orders.append(item)
        elif item is not None:
            self._questions.append(item)

    def _gather(self) -> None:
        """Take in orders: at once what is there, and for a short while what follows the first."""
        patience_s = 0.0 if self._orders or self._sent or self._questions else POLL_S
        deadline = runtime.now() + (min(patience_s, WHERE_S) if self._pending.travelling() else patience_s)
        while True:
            if self._orders and self._sent is None:
                deadline = min(deadline, self._orders[0].came_s + GATHER_S)
                if sum(order.number for order in self._orders) >= MOST_KEYS:
                    return
            patience_s = QUIET_S if self._orders and self._sent is None else POLL_S
            try:
                item = self._new.get(timeout=max(0.0, min(patience_s, deadline - runtime.now())))
            except runtime.Empty:
                return
            first = not self._orders and self._sent is None
            self._take_in(item)
            if not isinstance(item, Order):
                return
            if first:
                deadline = item.came_s + GATHER_S

    def _expire(self) -> None:
        """Late orders fail; the keys of one in a batch that nobody answers stay for the next of its kind."""
        now = runtime.now()
        sent = self._sent.orders if self._sent is not None else []
        for order in [*self._orders, *sent, *self._pending.travelling()]:
            if order.expires_s <= now:
                order.fail(
                    KeysUnavailableError(
                        f"the node of {self.peer} did not answer in time; ask again", reason="peer"
                    )
                )
        self._orders = [order for order in self._orders if not order.future.done()]
        self._pending.burn_late(now)

    def _serve(self) -> None:
        if self._questions:
            linked = self._exchange.ask(encode(Links()), lambda said: isinstance(said, Linked), tries=2)
            self._answer_questions(linked.bits if isinstance(linked, Linked) else {})
        self._pending.ask_where(self._exchange)
        if self._sent is None:
            self._orders = self._pending.serve(self._orders)
            if not self._orders:
                return
            if not self._store.letters(self.peer).settled_with:
                self._stop.wait(PAUSE_S)  # the stores have not been compared in this life of the processes
                return
            self._sent = self._next_batch()
        if self._sent is not None:
            self._settle(self._sent)

    def _answer_questions(self, bits: dict[str, int]) -> None:
        questions, self._questions = self._questions, []
        for question in questions:
            if question.future.set_running_or_notify_cancel():
                question.future.set_result(dict(bits))

    # -- a batch -----------------------------------------------------------------------------------

    def _next_batch(self) -> _Sent | None:
        """The keys of as many orders as there are bits for; the others fail at once."""
        chosen: list[Order] = []
        sizes, carried = [TAG_KEY_BITS], 0
        free = self.free_bits()
        for order in list(self._orders):
            wanted = [order.n_bits] * order.number
            carried += sum(wanted) if order.relays else 0
            if len(sizes) - 1 + len(wanted) > MOST_KEYS or (carried > CARRIED_BITS and chosen):
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
        places_left, notes = iter(key_places), []
        for order in chosen:
            order.key_ids = order.key_ids or [uuid_bytes(self._random_bytes) for _ in range(order.number)]
            notes += [self._note(order, index, next(places_left)) for index in range(order.number)]
        batch = Batch(tag_place.start, tuple(notes))
        body = encode(batch)
        key = self._store.windows.tag_key(self.peer, self._lane, batch.start)
        tag = one_time_tag(key, self._bound(body))
        key.wipe()
        for order in chosen:
            self._orders.remove(order)
            for plain in order.plain:
                plain.wipe()
        return _Sent(batch, encode(Announce(body, batch.start, tag)), chosen)

    def _note(self, order: Order, index: int, place: Range) -> KeyNote:
        carried = b""
        if order.relays:
            pad = self._store.windows.look(self.peer, self._lane, place)
            carried = (pad.reveal() ^ order.plain[index].reveal()).tobytes()
            pad.wipe()
        key_id = order.key_ids[index]
        note = KeyNote(
            key_id, place.start, place.n_bits, order.master, order.slave, order.path, carried, order.proof
        )
        if not order.path or order.relays:
            return note
        return msgspec.structs.replace(note, proof=prove_label(self._store, order.last, note))

    def _bound(self, body: bytes) -> bytes:
        return bound("keys", self._store.generation(self.peer), self._store.owner, self.peer, body)

    def _settle(self, sent: _Sent) -> None:
        """Say the batch until the peer has answered, then let its keys leave."""
        why = self._hear_unkept(sent)
        alive: list[Order] = []
        stay, burn = set[bytes](), set(why)
        for order in sent.orders:
            refused = next((why[key_id] for key_id in order.key_ids if key_id in why), None)
            if refused is not None:
                order.fail(not_kept(self.peer, order.master, order.slave, refused))
            if not order.onward and order.claim():
                alive.append(order)
            elif order.relays and not order.onward:
                burn.update(order.key_ids)
            else:
                stay.update(key_id for key_id in order.key_ids if key_id not in why)
        leased = {note.key_id: note.leased() for note in sent.batch.keys}
        uses = [order.use(self._today()) for order in alive]
        try:
            bits = self._store.windows.deliver(
                self.peer, sent.batch.start, list(leased.values()), uses, unwanted=burn, spare=stay
            )
        except BaseException as error:
            unavailable = KeysUnavailableError(f"nothing was given away: {error}")
            for order in alive:
                order.future.set_exception(unavailable)
            raise
        self._sent = None
        self.batches += 1
        for order in sent.orders:
            keys = {key_id: leased[key_id] for key_id in order.key_ids if key_id in stay}
            if keys and order.onward:
                self._pending.sent_on(order, keys)
            else:
                self._pending.put(order, keys)
        for order in alive:
            order.future.set_result(order.keys(bits))

    def _hear_unkept(self, sent: _Sent) -> dict[bytes, Why]:
        def meanwhile() -> None:
            self._gather()
            self._expire()
            self._check_window(sent)

        def fits(said: Said) -> bool:
            return isinstance(said, Kept) and said.start == sent.batch.start

        kept = self._exchange.ask(sent.said, fits, meanwhile)
        return {each.key_id: each.why for each in kept.unkept} if isinstance(kept, Kept) else {}

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

    # -- windows -----------------------------------------------------------------------------------

    def _granted(self, sizes: list[int]) -> list[Range] | None:
        """Where the bits lie, after as many new windows as it takes; None while the peer cannot be asked."""
        for _ in range(WINDOWS_AT_A_TIME):
            runs = self._store.windows.granted(self.peer, self._lane)
            found = places(runs, sizes)
            if found is not None:
                return found
            missing = sum(sizes) - (runs[-1].n_bits if runs else 0)
            if not self._windows.open(self._exchange.channel(), max(missing, max(sizes))):
                self._stop.wait(PAUSE_S)
                return None
        raise LaneShortError(self.peer, self._lane, max(sizes))

    def _fail_all(self, reason: str) -> None:
        orders, self._orders = self._orders, []
        if self._sent is not None and self._stop.is_set():
            orders += self._sent.orders
        if self._stop.is_set():
            orders += self._pending.travelling()
        for order in orders:
            order.fail(KeysUnavailableError(reason))
