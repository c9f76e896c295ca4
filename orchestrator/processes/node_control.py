"""What a running node answers at its control socket: its keys and their seals, what applications used and were given
lately, new secrets, a meeting, and who is revoked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from lab.testbed import Testbed
from orchestrator.keystore.errors import KeyStoreError
from orchestrator.keystore.store import KeyStore
from orchestrator.processes.latest_deliveries import LatestDeliveries
from orchestrator.processes.node_store import take_secret
from orchestrator.wall_clock import utc_day
from orchestrator.wire.control_socket import (
    AcknowledgeAlarm,
    Done,
    Keys,
    MeetNow,
    PairKeys,
    Reply,
    Request,
    ShelveAlarm,
    ShowAlarms,
    ShowKeys,
    TakeSecret,
)
from orchestrator.wire.gate import Gate
from orchestrator.wire.gate_control import CONTROL_ERRORS, answer_about_gate
from orchestrator.wire.key_control import (
    AuditKeys,
    Deliveries,
    KeysAudited,
    SaeUse,
    ShowDeliveries,
    ShowUse,
    Unopened,
    Use,
)

if TYPE_CHECKING:
    from orchestrator.processes.alarm_watch import AlarmWatch
    from orchestrator.processes.pair_worker import PairWorker

MOST_UNOPENED = 100
"""Seals that do not open, told one by one."""
NODE_ERRORS = (*CONTROL_ERRORS, KeyStoreError)
"""What becomes a plain answer at the control socket of a node."""


def keys_of(
    store: KeyStore,
    waits: Callable[[str], bool] = lambda peer: False,
    old_copy: Callable[[str], str] = lambda peer: "",
) -> Keys:
    """Counts of every pair of a store, never bits.

    ``waits`` says whose meetings wait for an operator, ``old_copy`` whose store one found to be restored.
    """
    low = store.auth_alarms()
    pairs = []
    for peer in store.peers():
        ledger, epsilons = store.ledger(peer), store.epsilons(peer)
        pairs.append(
            PairKeys(
                peer,
                store.generation(peer),
                len(store.generations.kept(peer)),
                {str(lane): bits for lane, bits in store.stock(peer).items()},
                ledger.produced,
                ledger.delivered,
                ledger.authentication,
                ledger.burnt,
                {**asdict(epsilons), "total": epsilons.total},
                peer in low,
                waits(peer),
                old_copy(peer),
            )
        )
    return Keys(store.owner, pairs)


def audited(store: KeyStore) -> KeysAudited:
    """Every seal of a store opened once."""
    found = store.audit()
    told = [
        Unopened(each.peer, each.what, each.start, each.n_bits, each.block_id, each.why)
        for each in found.unopened[:MOST_UNOPENED]
    ]
    return KeysAudited(
        store.owner,
        found.opened,
        found.opened_bits,
        len(found.unopened),
        told,
        found.books,
        store.uncut,
    )


def use_of(store: KeyStore, today: int) -> Use:
    """What applications were given, and on the UTC day ``today`` (days since 1970)."""
    rows = [
        SaeUse(sae, peer, side, keys, bits, store.windows.drawn_bits(sae, today))
        for sae, peer, side, keys, bits in store.windows.uses()
    ]
    return Use(store.owner, rows)


class NodeControl:
    """Answers for one node; called in the thread of its control socket."""

    def __init__(
        self,
        testbed: Testbed,
        store: KeyStore,
        workers: Mapping[str, PairWorker],
        gate: Gate,
        alarms: AlarmWatch,
        deliveries: LatestDeliveries,
    ) -> None:
        self._deliveries = deliveries
        self._alarms = alarms
        self._testbed = testbed
        self._store = store
        self._workers = workers
        self._gate = gate

    def __call__(self, request: Request) -> Reply:
        """Raises one of :data:`NODE_ERRORS` for what is not done."""
        match request:
            case ShowKeys():
                held = {peer for peer, worker in self._workers.items() if worker.hold is not None}
                old = {peer: worker.old_copy for peer, worker in self._workers.items()}
                # A peer that left the testbed has no worker.
                return keys_of(self._store, held.__contains__, lambda peer: old.get(peer, ""))
            case AuditKeys():
                return audited(self._store)
            case ShowUse():
                return use_of(self._store, utc_day())
            case ShowDeliveries(after, whole):
                return Deliveries(self._store.owner, self._deliveries.after(after, whole=whole))
            case TakeSecret(path):
                try:
                    peer = take_secret(self._store, self._testbed, Path(path))
                finally:  # it may be kept although its file could not be destroyed
                    for waiting, worker in self._workers.items():
                        if self._store.generations.kept(waiting):
                            worker.meet_again()
                return Done(
                    f"{self._store.owner} keeps a new secret with {peer} and has destroyed {path}; it is begun"
                    " with once the other end has taken its half"
                )
            case MeetNow(peer):
                if peer not in self._workers:
                    raise ValueError(f"{self._store.owner} has no pair with {peer!r}")
                worker = self._workers[peer]
                if worker.hold is None:
                    return Done(f"{self._store.owner} and {peer} wait for no operator")
                worker.go_on()
                return Done(f"{self._store.owner} meets {peer} again, until the low lane has fallen further")
            case ShowAlarms() | AcknowledgeAlarm() | ShelveAlarm():
                return self._alarms.answer(request)
            case _:
                return answer_about_gate(self._gate, request)
