"""The key desk of one node: which application may have what, and how much of it.

It knows the applications of the testbed file, checks every request before any key moves, and hands it to the master's end
towards the peer (:mod:`orchestrator.delivery.applications.master_end`) or to the slave's end (:mod:`orchestrator.delivery.applications.slave_end`).
What is answered follows ETSI GS QKD 014 v1.1.1, sections 5 and 6.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from lab.key_delivery import Application, KeyDelivery
from orchestrator import runtime
from orchestrator.delivery.applications.master_end import MasterEnd
from orchestrator.delivery.applications.quotas import Quotas
from orchestrator.delivery.applications.routes import Routes, bottleneck
from orchestrator.delivery.applications.slave_end import SlaveEnd
from orchestrator.delivery.key_desk import (
    KEY_ID_PATTERN,
    BadKeyRequestError,
    DeliveredKey,
    DeliveryStatus,
    KeyDeskError,
    KeysUnavailableError,
    WrongCallerError,
)
from orchestrator.events.delivery import DeliveryEvent, KeysDelivered, KeysRefused, RefusedFor, Side
from orchestrator.keystore.errors import KeyStoreError
from orchestrator.one_time_tags import TAG_KEY_BITS

MOST_RELAYED = 64
"""Requests that wait for nodes in the middle at a time; each has a thread."""


class NodeKeyDesk:
    """The :class:`~orchestrator.delivery.key_desk.KeyDesk` of the node of ``user``; thread-safe."""

    def __init__(
        self,
        user: str,
        delivery: KeyDelivery,
        applications: Mapping[str, Application],
        quotas: Quotas,
        master_ends: Mapping[str, MasterEnd],
        slave_end: SlaveEnd,
        *,
        tell: Callable[[DeliveryEvent], None] = lambda _: None,
        routes: Routes | None = None,
    ) -> None:
        """``master_ends`` by the name of the peer; ``tell`` is given every delivery and refusal.

        ``routes``: how a pair that holds too little may be served by nodes in the middle; None: not at all.
        """
        self._routes = routes
        self._quotas = quotas
        self._lock = runtime.lock()
        self._n_relayed = 0
        self._user = user
        self._delivery = delivery
        self._applications = dict(applications)
        self._master_ends = master_ends
        self._slave_end = slave_end
        self._tell = tell

    def serves(self, sae: str) -> bool:
        """Whether ``sae`` is an application of this node."""
        entry = self._applications.get(sae)
        return entry is not None and entry.user == self._user

    # -- the three questions -------------------------------------------------------------------------

    def status(self, caller: str, slave: str) -> DeliveryStatus:
        """See :meth:`orchestrator.delivery.key_desk.KeyDesk.status`."""
        master_end, rules = self._master_end(caller, slave), self._delivery
        size: int = rules.key_size_bits
        path: tuple[str, ...] = ()
        with _store_failures():
            free_bits = master_end.free_bits()
        if self._routes is not None and free_bits < size + TAG_KEY_BITS:
            links = self._routes.known()
            found = self._routes.path(links, master_end.peer, size + TAG_KEY_BITS)
            if found:
                path, free_bits = found, bottleneck(links, self._user, found, master_end.peer)
        return DeliveryStatus(
            source_kme_id=self._user,
            target_kme_id=master_end.peer,
            master_sae_id=caller,
            slave_sae_id=slave,
            key_size=size,
            stored_key_count=max(0, free_bits - TAG_KEY_BITS) // size,
            max_key_count=rules.max_waiting_keys,
            max_key_per_request=rules.max_keys_per_request,
            max_key_size=rules.max_key_size_bits,
            min_key_size=rules.min_key_size_bits,
            path=path,
        )

    def enc_keys(
        self,
        caller: str,
        slave: str,
        number: int | None,
        size_bits: int | None,
        *,
        may_be_relayed: bool = True,
    ) -> runtime.Future[list[DeliveredKey]]:
        """See :meth:`orchestrator.delivery.key_desk.KeyDesk.enc_keys`."""

        def ask() -> tuple[str, runtime.Future[list[DeliveredKey]]]:
            master_end = self._master_end(caller, slave)
            count = 1 if number is None else number
            size = self._delivery.key_size_bits if size_bits is None else size_bits
            self._check_size(count, size)
            routes = self._routes if may_be_relayed else None
            give_back = self._quotas.take(caller, count * size)
            try:
                if routes is None or master_end.free_bits() >= count * size + TAG_KEY_BITS:
                    future = master_end.order(caller, slave, count, size)
                else:
                    order = partial(self._relayed, routes, master_end, caller, slave, count, size)
                    future = self._in_a_thread(order)
            except (KeyDeskError, KeyStoreError):
                give_back()
                raise
            future.add_done_callback(
                lambda done: give_back() if done.cancelled() or done.exception() else None
            )
            return master_end.peer, future

        return self._asked(caller, "master", ask)

    def _in_a_thread(self, order: Callable[[], list[DeliveredKey]]) -> runtime.Future[list[DeliveredKey]]:
        """Make an order by way of others, for as long as they take; raises KeysUnavailableError where many do."""
        with self._lock:
            if self._n_relayed >= MOST_RELAYED:
                raise KeysUnavailableError(
                    "too many requests wait for nodes in the middle; ask again", reason="peer"
                )
            self._n_relayed += 1

        def over(_: runtime.Future[list[DeliveredKey]]) -> None:
            with self._lock:
                self._n_relayed -= 1

        future = runtime.call(order, name="relayed-keys")
        future.add_done_callback(over)
        return future

    def _relayed(
        self, routes: Routes, master_end: MasterEnd, caller: str, slave: str, count: int, size: int
    ) -> list[DeliveredKey]:
        """Keys relayed by nodes in the middle, where there is a way for them; otherwise what the pair itself says.

        Stocks are asked for anew, as a hop of the last answer may be gone; requests at once share the questions.
        """
        needed = count * size + 2 * TAG_KEY_BITS
        with _store_failures():
            path = routes.path(routes.ask(), master_end.peer, needed)
        if not path:
            return master_end.order(caller, slave, count, size).result()
        first = self._master_ends[path[0]]
        try:
            return first.order(caller, slave, count, size, path=path, last=master_end.peer).result()
        except KeysUnavailableError as error:
            if error.reason == "peer":
                routes.failed(path)
            raise

    def dec_keys(
        self, caller: str, master: str, key_ids: Sequence[str]
    ) -> runtime.Future[list[DeliveredKey]]:
        """See :meth:`orchestrator.delivery.key_desk.KeyDesk.dec_keys`."""

        def ask() -> tuple[str, runtime.Future[list[DeliveredKey]]]:
            master_end = self._master_end(caller, master)
            if not 1 <= len(key_ids) <= self._delivery.max_keys_per_request:
                raise BadKeyRequestError(
                    f"a request names 1 to {self._delivery.max_keys_per_request} keys, got {len(key_ids)}"
                )
            if not all(re.fullmatch(KEY_ID_PATTERN, key_id) for key_id in key_ids):
                raise BadKeyRequestError("a key_ID shall be a UUID, 8-4-4-4-12 hexadecimal digits")
            if len({key_id.lower() for key_id in key_ids}) != len(key_ids):
                raise BadKeyRequestError("a key_ID stands twice; each key is delivered once")
            return master_end.peer, self._slave_end.fetch(caller, master, key_ids)

        return self._asked(caller, "slave", ask)

    # -- checks --------------------------------------------------------------------------------------

    def _asked(
        self, caller: str, side: Side, ask: Callable[[], tuple[str, runtime.Future[list[DeliveredKey]]]]
    ) -> runtime.Future[list[DeliveredKey]]:
        """What the checks let through; a refusal is a future that has failed.  Either way it is told."""
        try:
            self._quotas.check_rate(caller)
            with _store_failures():
                peer, future = ask()
        except KeyDeskError as error:
            refused: runtime.Future[list[DeliveredKey]] = runtime.future()
            refused.set_exception(error)
            self._tell(KeysRefused(self._named(caller), _reason(error), side))
            return refused
        future.add_done_callback(lambda done: self._told(caller, peer, side, done))
        return future

    def _told(self, caller: str, peer: str, side: Side, done: runtime.Future[list[DeliveredKey]]) -> None:
        if done.cancelled():
            return
        error = done.exception()
        if error is None:
            keys = done.result()
            self._tell(KeysDelivered(caller, peer, len(keys), sum(len(key.key) for key in keys), side))
        else:
            self._tell(KeysRefused(self._named(caller), _reason(error), side))

    def _named(self, caller: str) -> str:
        return caller if self.serves(caller) else ""

    def _master_end(self, caller: str, other: str) -> MasterEnd:
        """The master's end towards the node of ``other``.  Raises WrongCallerError or BadKeyRequestError."""
        if not self.serves(caller):
            raise WrongCallerError(f"{caller} is no application of this node")
        entry = self._applications.get(other)
        if other == caller:
            raise BadKeyRequestError("master and slave are the same application")
        if entry is None:
            raise BadKeyRequestError(
                "the other application is not known here: the testbed file has no such [sae.NAME]"
            )
        if entry.user == self._user:
            raise BadKeyRequestError(f"{other} is served by this node too; keys are shared between two nodes")
        return self._master_ends[entry.user]

    def _check_size(self, number: int, size_bits: int) -> None:
        rules = self._delivery
        if not 1 <= number <= rules.max_keys_per_request:
            raise BadKeyRequestError(f"number shall be 1 to {rules.max_keys_per_request}")
        if size_bits % 8:
            raise BadKeyRequestError("size shall be a multiple of 8")
        if not rules.min_key_size_bits <= size_bits <= rules.max_key_size_bits:
            raise BadKeyRequestError(
                f"size shall be {rules.min_key_size_bits} to {rules.max_key_size_bits} bits"
            )


@contextmanager
def _store_failures() -> Iterator[None]:
    """What a failure of the key store is to an application."""
    try:
        yield
    except KeyStoreError as error:
        raise KeysUnavailableError(f"the key store failed: {error}") from error


def _reason(error: BaseException) -> RefusedFor:
    if isinstance(error, BadKeyRequestError):
        return "request"
    if isinstance(error, WrongCallerError):
        return "caller"
    return error.reason if isinstance(error, KeysUnavailableError) else "store"
