"""Keys that wait at the master's end: given up by their application, or on their way to the end of a path."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from orchestrator import runtime
from orchestrator.delivery.applications.exchange import Exchange
from orchestrator.delivery.applications.messages import MOST_KEYS, Arrived, Said, Where
from orchestrator.delivery.applications.orders import Kind, Order
from orchestrator.delivery.key_desk import KeysUnavailableError
from orchestrator.keystore.errors import KeyStoreError
from orchestrator.keystore.store import KeyStore
from orchestrator.keystore.windows import LeasedKey
from orchestrator.wire.codec import encode

SetAside: TypeAlias = Callable[[str, int, int], None]
"""Told the master, the bits that wait for its next order and the day they were drawn; below 0 once another order has them."""
WHERE_S = 0.05
"""How often it is asked whether keys have arrived further on."""


@dataclass(frozen=True)
class _Spare:
    kind: Kind
    key: LeasedKey
    expires_s: float
    day: int


@dataclass
class _Travel:
    """The keys of one order on their way to the end of their path."""

    order: Order
    keys: dict[bytes, LeasedKey]
    arrived: set[bytes] = field(default_factory=set)


class PendingKeys:
    """The keys of one peer's lane that have left their window and not this store; one thread."""

    def __init__(
        self,
        store: KeyStore,
        peer: str,
        *,
        today: Callable[[], int],
        key_waits_s: float,
        set_aside: SetAside = lambda *_: None,
    ) -> None:
        self._store = store
        self._peer = peer
        self._lane = store.windows.own_lane(peer)
        self._today = today
        self._key_waits_s = key_waits_s
        self._set_aside = set_aside
        self._spares: OrderedDict[bytes, _Spare] = OrderedDict()
        self._travels: list[_Travel] = []
        self._asked_s = 0.0

    def travelling(self) -> list[Order]:
        """Orders whose keys have not arrived yet."""
        return [travel.order for travel in self._travels]

    def sent_on(self, order: Order, keys: dict[bytes, LeasedKey]) -> None:
        """The peer holds these keys, and hands them on."""
        self._travels.append(_Travel(order, keys))

    def burn_late(self, now_s: float) -> None:
        """Burn what nobody asked for in time."""
        late = [key_id for key_id, spare in self._spares.items() if spare.expires_s <= now_s]
        if late:
            self._forget([self._spares[key_id].key for key_id in late])
            for key_id in late:
                del self._spares[key_id]

    def _forget(self, keys: list[LeasedKey]) -> None:
        with self._store.windows.group():
            for key in keys:
                self._store.windows.forget(self._peer, self._lane, key)

    def put(self, order: Order, keys: Mapping[bytes, LeasedKey]) -> None:
        """Keys that ``order`` gave up wait for the next of its kind."""
        expires_s, day = (
            runtime.now() + self._key_waits_s / 2,
            self._today(),
        )  # the slave's copy waits twice as long
        for key_id, key in keys.items():
            self._spares[key_id] = _Spare(order.kind, key, expires_s, day)
            self._set_aside(order.master, key.place.n_bits, day)

    def serve(self, orders: list[Order]) -> list[Order]:
        """Give keys that an application gave up to the next order of the same kind; the orders that are left."""
        left = list(orders)
        for order in orders:
            like = [key_id for key_id, spare in self._spares.items() if spare.kind == order.kind]
            if order.relays or len(like) < order.number or not order.claim():
                continue
            left.remove(order)
            order.key_ids = like[: order.number]
            spares = [self._spares.pop(key_id) for key_id in order.key_ids]
            for spare in spares:
                self._set_aside(order.master, -spare.key.place.n_bits, spare.day)
            self._let_go(order, [spare.key for spare in spares])
        return left

    def _let_go(self, order: Order, keys: list[LeasedKey]) -> None:
        """Keys that waited here leave for an order that was claimed."""
        try:
            with self._store.windows.group():
                bits = self._store.windows.fetch(self._peer, self._lane, keys, order.use(self._today()))
        except KeyStoreError as error:
            order.future.set_exception(KeysUnavailableError(f"the key store failed: {error}"))
            raise
        if bits is None:
            order.future.set_exception(KeysUnavailableError("the keys set aside are gone; ask again"))
        else:
            order.future.set_result(order.keys(dict(zip(order.key_ids, bits, strict=True))))

    def ask_where(self, exchange: Exchange) -> None:
        """Ask the peer, now and then, whether keys that go further have arrived."""
        if not self._travels or runtime.now() - self._asked_s < WHERE_S:
            return
        wanted = [
            key_id for travel in self._travels for key_id in travel.keys if key_id not in travel.arrived
        ]
        asked = frozenset(wanted[:MOST_KEYS])

        def fits(said: Said) -> bool:
            return isinstance(said, Arrived) and asked.issuperset((*said.arrived, *said.lost))

        heard = exchange.ask(encode(Where(tuple(asked))), fits, tries=2)
        self._asked_s = runtime.now()
        if isinstance(heard, Arrived):
            for travel in list(self._travels):
                self._went_on(travel, set(heard.arrived), set(heard.lost))

    def _went_on(self, travel: _Travel, arrived: set[bytes], lost: set[bytes]) -> None:
        order = travel.order
        travel.arrived |= arrived & travel.keys.keys()
        gone = [travel.keys.pop(key_id) for key_id in list(travel.keys) if key_id in lost]
        if gone:
            self._forget(gone)
            order.fail(KeysUnavailableError("a node of the path lost the key; ask again", reason="peer"))
        if travel.keys.keys() - travel.arrived:
            return
        self._travels.remove(travel)
        if len(travel.keys) == order.number and order.claim():
            self._let_go(order, [travel.keys[key_id] for key_id in order.key_ids])
        elif order.relays:
            self._forget(list(travel.keys.values()))
        else:
            self.put(order, travel.keys)
