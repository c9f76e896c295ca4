"""A node in the middle: keys that one peer shares with it are handed on to another, so that both ends hold them.

    first --- key k1, 1st hop --- this node --- key k2, 2nd hop --- last
                                  says k1 xor k2, under k2's tag

Every hop spends as much key as the relayed one has bits, booked as ``relay`` at the nodes of the path, and **every node
of the path knows the key**: the two ends trust them all.  So relaying is off unless the testbed file says otherwise,
what was relayed is labelled with its path, and it serves applications alone: it never becomes authentication key, nor a
mask of the secure sum.

A key that was taken in waits here, sealed, until the next node holds it; only then do both hops' bits leave this store.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from orchestrator import runtime
from orchestrator.delivery.applications.master_end import MasterEnd
from orchestrator.delivery.applications.messages import Arrived, KeyNote
from orchestrator.delivery.key_desk import DeliveredKey
from orchestrator.keystore.errors import KeyStoreError
from orchestrator.keystore.store import KeyStore
from orchestrator.keystore.windows import Use
from orchestrator.secret import SecretBits

logger = logging.getLogger(__name__)

REMEMBERED = 65536
"""Keys whose end is remembered; the oldest are forgotten, and count as lost if they are asked for."""


class KeyRelay:
    """Hands keys on at the node of ``store``; thread-safe."""

    def __init__(
        self,
        store: KeyStore,
        master_ends: Mapping[str, MasterEnd],
        *,
        user_of: Callable[[str], str | None],
        present: Callable[[str], bool],
        today: Callable[[], int],
        key_waits_s: float,
    ) -> None:
        """``user_of``: the user whose node serves an application; ``present``: whether a peer is there."""
        self._store = store
        self._master_ends = master_ends
        self._user_of = user_of
        self._present = present
        self._today = today
        self._key_waits_s = key_waits_s
        self._lock = runtime.lock()
        self._ends: OrderedDict[tuple[str, bytes], bool | None] = OrderedDict()
        """What became of the keys of each peer; None: on their way."""

    def links(self) -> dict[str, int]:
        """Free bits for applications towards every node that is there."""
        return {
            peer: master_end.free_bits()
            for peer, master_end in self._master_ends.items()
            if self._present(peer)
        }

    def next_node(self, peer: str, note: KeyNote) -> str | None:
        """Where a key of this node's that came from ``peer`` goes; None for one that may not come this way."""
        last = self._user_of(note.slave)
        way = (self._user_of(note.master), *note.path, last)
        own = self._store.owner
        if len(set(way)) != len(way) or own not in note.path:
            return None
        place = way.index(own)
        due_bytes = note.n_bits // 8 if place > 1 else 0
        if way[place - 1] != peer or len(note.carried) != due_bytes:
            return None
        following = way[place + 1]
        return following if following in self._master_ends and following is not None else None

    def take(self, peer: str, notes: Iterable[tuple[KeyNote, str]]) -> None:
        """Hand on keys of ``peer`` that wait here for it, each to the node beside it."""
        for note, following in notes:
            with self._lock:
                self._ends[peer, note.key_id] = None
                while len(self._ends) > REMEMBERED:
                    self._ends.popitem(last=False)
            plain = self._plain(peer, note)
            if plain is None:
                self._ended(peer, note.key_id, arrived=False)
                continue
            done = self._master_ends[following].order(
                note.master,
                note.slave,
                1,
                note.n_bits,
                self._key_waits_s,
                path=note.path,
                proof=note.proof,
                relayed={note.key_id: plain},
            )
            done.add_done_callback(partial(self._over, peer, note))

    def where(self, peer: str, key_ids: Iterable[bytes]) -> Arrived:
        """What became of keys that were taken in here from ``peer``."""
        with self._lock:
            ends = {key_id: self._ends.get((peer, key_id), False) for key_id in key_ids}
        return Arrived(
            tuple(key_id for key_id, end in ends.items() if end),
            tuple(key_id for key_id, end in ends.items() if end is False),
        )

    def _plain(self, peer: str, note: KeyNote) -> SecretBits | None:
        bits = self._store.windows.look_at_waiting(peer, self._store.windows.peers_lane(peer), note.leased())
        return None if bits is None else uncarried(bits, note.carried)

    def _over(self, peer: str, note: KeyNote, result: runtime.Future[list[DeliveredKey]]) -> None:
        """The next node holds the key, or never will."""
        arrived = not result.cancelled() and result.exception() is None
        windows = self._store.windows
        lane = windows.peers_lane(peer)
        use = Use(note.master, "relay", self._today(), 1, note.n_bits)
        try:
            with windows.group():
                if arrived:
                    taken = windows.fetch(peer, lane, [note.leased()], use)
                    arrived = taken is not None
                else:
                    taken = None
                    windows.forget(peer, lane, note.leased())
        except KeyStoreError as error:
            logger.warning("a key of %s was not handed on: %s", peer, error)
            arrived, taken = False, None
        for bits in taken or ():
            bits.wipe()
        if not result.cancelled() and result.exception() is None:
            for key in result.result():
                key.key.wipe()
        self._ended(peer, note.key_id, arrived=arrived)

    def _ended(self, peer: str, key_id: bytes, *, arrived: bool) -> None:
        with self._lock:
            self._ends[peer, key_id] = arrived


def uncarried(bits: SecretBits, carried: bytes) -> SecretBits:
    """The key that was carried under ``bits``, which are wiped; ``bits`` themselves where nothing was carried."""
    if not carried:
        return bits
    plain = SecretBits.from_bytes(carried)
    plain.reveal()[:] ^= bits.reveal()
    bits.wipe()
    return plain
