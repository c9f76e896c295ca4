"""The alarms of a running role: every source asked once a second, what changed told to the hub, the log and the events.

A hub that comes anew is told all that stands; while there is none, alarms go on, and an operator on the machine sees
and acknowledges them at the role's control socket.  What an operator said is in a file of the role before it is confirmed
(:mod:`lab.alarms.kept`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from lab.alarms.book import AlarmBook, Observed
from lab.alarms.kept import KeptAlarm, keep_alarms, kept_alarms
from lab.alarms.table import AlarmRow
from orchestrator import runtime
from orchestrator.events.common import Subject
from orchestrator.events.process import Emit
from orchestrator.events.status import Alarm, AlarmName
from orchestrator.hub.agent import Agent
from orchestrator.processes.alarm_sources import Source
from orchestrator.wire.control_socket import AcknowledgeAlarm, Done, ShelveAlarm, ShowAlarms, Standing
from orchestrator.wire.links import LinkState

logger = logging.getLogger(__name__)

Listen: TypeAlias = Callable[[Sequence[Observed], float], None]
EVERY_S = 1.0


class AlarmWatch:
    """The alarms of ``role``; may be asked from any thread."""

    def __init__(
        self,
        agent: Agent,
        role: str,
        table: Mapping[AlarmName, AlarmRow],
        sources: Sequence[Source],
        emit: Emit,
        folder: Path | None = None,
    ) -> None:
        """``folder``: of the role's state, where what outlasts a restart is kept; nothing is without one."""
        self._agent = agent
        self._role = role
        self._sources = list(sources)
        self._emit = emit
        self._folder = folder
        self._lasting: list[KeptAlarm] = kept_alarms(folder) if folder else []
        """What the file says."""
        self._book = AlarmBook(role, table, self._lasting, runtime.now())
        self._unsaid: dict[Subject, Alarm] = {}
        """What the hub has not been told yet."""
        self._lock = runtime.lock()
        self._listener = runtime.event()
        self._stop = runtime.event()
        self._listening: tuple[Listen, ...] = ()

    def when_looked(self, *listening: Listen) -> None:
        """Have each called with all that was looked at, and when; to be said before the start."""
        self._listening = listening

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
            self.look()

    def look(self) -> None:
        """Ask every source, and tell what changed."""
        observed = [each for source in self._sources for each in source()]
        for listen in self._listening:
            listen(observed, runtime.now())
        with self._lock:
            changes = self._book.observe(observed, runtime.now())
            self._tell(changes)
            if changes:
                try:
                    self._keep()
                except OSError as error:
                    logger.warning("a restart would not know of these alarms: %s", error)

    def _keep(self) -> None:
        """Write down what outlasts a restart, where it changed.  Raises OSError."""
        if self._folder is None:
            return
        lasting = self._book.lasting(runtime.now())
        if lasting != self._lasting:
            keep_alarms(self._folder, lasting)
            self._lasting = lasting

    def _tell(self, changes: Sequence[Alarm]) -> None:
        for alarm in changes:
            (logger.warning if alarm.on and alarm.active else logger.info)("%s", alarm.told_by(self._role))
            self._emit(alarm)
            self._unsaid[alarm.subject] = alarm
        if self._agent.link_state is not LinkState.UP:
            return
        if self._listener.is_set():
            self._listener.clear()
            self._unsaid |= {alarm.subject: alarm for alarm in self._book.standing(runtime.now())}
        unsaid, self._unsaid = self._unsaid, {}
        for alarm in unsaid.values():
            self._agent.control_send(alarm)

    def answer(self, request: ShowAlarms | AcknowledgeAlarm | ShelveAlarm) -> Standing | Done:
        """For the control socket; raises ValueError for an alarm that is not there, or a shelf without an end.

        OSError says that it was done, and that a restart would not know.
        """
        now_s = runtime.now()
        with self._lock:
            match request:
                case ShowAlarms():
                    return Standing(self._role, self._book.standing(now_s))
                case AcknowledgeAlarm(identity):
                    changes = self._book.acknowledge(identity, now_s)
                    told = f"{identity} is acknowledged"
                case ShelveAlarm(identity, for_s):
                    changes = self._book.shelve(identity, for_s, now_s)
                    told = f"{identity} is {f'shelved for {for_s:g} s' if for_s else 'back in the way'}"
            logger.warning("alarm %s, said an operator", told)
            self._tell(changes)
            try:
                self._keep()
            except OSError as error:
                raise OSError(
                    f"{told}, but a restart would not know, for it cannot be written: {error}"
                ) from error
        return Done(told)
