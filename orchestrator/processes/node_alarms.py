"""Alarms of a node: each is told once when it begins and once when it is over.

Four things are watched: an authentication lane below the alarm mark (I8), a pair whose meetings wait for an
operator because a lane is nearly used up, a key store whose log could not be cut, so that destroyed bits are
still readable on its disk, and a station that could not leave the ring and so stands in the light of every pair.  :class:`AlarmBook` is pure: from what is wrong at the moment it finds what is to be
told; :class:`AlarmWatch` asks and tells every second.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from orchestrator import runtime
from orchestrator.events.common import Subject
from orchestrator.events.process import Emit
from orchestrator.events.status import Alarm, pair_name
from orchestrator.hub.agent import Agent
from orchestrator.keystore.errors import StoreError
from orchestrator.keystore.lanes import AUTH_ALARM_BITS, AUTH_LANES
from orchestrator.keystore.store import KeyStore
from orchestrator.wire.fields import REASON_LIMIT
from orchestrator.wire.links import LinkState

logger = logging.getLogger(__name__)

EVERY_S = 1.0


def standing_alarms(store: KeyStore, hold: Callable[[str], object | None], stays_in: str = "") -> list[Alarm]:
    """The alarms that are on; ``hold`` says why meetings with a peer wait for an operator, None if they do not.

    ``stays_in``: why the station could not leave the ring.
    """
    alarms = []
    for peer in store.auth_alarms():
        stock = store.stock(peer)
        low = [str(lane) for lane in AUTH_LANES if stock[lane] < AUTH_ALARM_BITS]
        text = (
            f"{' and '.join(low)} below {AUTH_ALARM_BITS} bits: make key with {peer}, or renew it with `qunetlab keys"
            f" reseed {pair_name((store.owner, peer))} --new`"
        )
        alarms.append(Alarm("low-water", text, peer))
    for peer in store.peers():
        why = hold(peer)
        if why is not None:
            alarms.append(Alarm("waits-for-operator", str(why)[:REASON_LIMIT], peer))
    if store.uncut:
        alarms.append(Alarm("store", f"destroyed bits are still readable: {store.uncut}"[:REASON_LIMIT]))
    if stays_in:
        alarms.append(Alarm("intensity", stays_in[:REASON_LIMIT]))
    return alarms


class AlarmBook:
    """Which alarms were told."""

    def __init__(self) -> None:
        self._told: dict[Subject, Alarm] = {}

    def changes(self, standing: Iterable[Alarm]) -> list[Alarm]:
        """What is to be told: alarms that began, and those that are over with ``on`` False."""
        now = {alarm.subject: alarm for alarm in standing}
        begun = [alarm for subject, alarm in now.items() if subject not in self._told]
        over = [
            Alarm(alarm.name, "", alarm.peer, on=False)
            for subject, alarm in self._told.items()
            if subject not in now
        ]
        self._told = now
        return over + begun

    def standing(self) -> list[Alarm]:
        """The alarms that were told and are on, for a listener that comes anew."""
        return list(self._told.values())


class AlarmWatch:
    """Tells the hub, the log and the events of the process; a hub that comes anew is told all that is on."""

    def __init__(
        self,
        agent: Agent,
        store: KeyStore,
        hold: Callable[[str], object | None],
        emit: Emit,
        stays_in: Callable[[], str] = lambda: "",
    ) -> None:
        self._stays_in = stays_in
        self._agent = agent
        self._store = store
        self._hold = hold
        self._emit = emit
        self._book = AlarmBook()
        self._listener = runtime.event()
        self._stop = runtime.event()

    def start(self) -> None:
        """Begin to watch."""
        self._thread = runtime.spawn(self._watch, name="alarms")

    def close(self) -> None:
        """Stop watching; wait for the thread."""
        self._stop.set()
        self._thread.join()

    def new_listener(self) -> None:
        """The link to the hub is a new one."""
        self._listener.set()

    def _watch(self) -> None:
        while not self._stop.wait(EVERY_S):
            if self._agent.link_state is not LinkState.UP:
                continue
            try:
                standing = standing_alarms(self._store, self._hold, self._stays_in())
            except StoreError as error:
                standing = [Alarm("store", f"it cannot be read: {error}"[:REASON_LIMIT])]
            repeated = self._book.standing() if self._listener.is_set() else []
            self._listener.clear()
            changes = self._book.changes(standing)
            for alarm in changes:
                (logger.warning if alarm.on else logger.info)("alarm: %s: %s", alarm.name, alarm.text)
                self._emit(alarm)
            for alarm in repeated + changes:
                self._agent.control_send(alarm)
