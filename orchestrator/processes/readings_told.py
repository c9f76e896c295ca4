"""What a role tells the hub of its instruments: readings, whenever they were taken anew, once a second at most.

Nothing is asked of an instrument for this.  Values are those that alarms look at, and of the relay also the last known ones of
every parameter (:mod:`lab.readings`), each with its limits.

Relay, hub and observers are not trusted with a user's voltages, delays and intensities, and a setting of an attenuator or a
controller is one of these as much as a reading of a sensor in light is.  So what a user tells is listed, not what it keeps
back: temperatures, and the light on its sensors while its station is bypassed, in which none of its own is.  The relay
has no secrets: it is trusted with nothing.

Telling is lossy, and a hub that is there anew is told everything again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Self

from lab.alarms.book import Observed
from lab.alarms.table import AlarmRow
from lab.readings import known_numbers
from lab.station import Station
from orchestrator.events.common import Subject
from orchestrator.events.status import AlarmName, Readings
from orchestrator.hub.agent import Agent, AgentError
from orchestrator.wire.codec import WireError
from orchestrator.wire.links import LinkState

logger = logging.getLogger(__name__)

OF_USERS: tuple[AlarmName, ...] = ("temperature", "sensor")
OF_RELAY: tuple[AlarmName, ...] = ("temperature", "laser-power", "detector-rate", "dark-rate")
AT_MOST = 256
"""Readings of one role."""
SAME_S = 0.1
"""A reading whose moment, as its age says it, moved by less is the same one."""


class ReadingsTold:
    """Tells the readings of one role; :meth:`look` is called by its alarm watch."""

    def __init__(
        self,
        agent: Agent,
        names: Sequence[AlarmName],
        table: Mapping[AlarmName, AlarmRow],
        known: Callable[[], Iterable[Readings]] = tuple,
    ) -> None:
        """``names``: of alarms whose values are told, :data:`OF_USERS` or :data:`OF_RELAY`; ``known``: what else is known."""
        self._agent, self._names, self._table, self._known = agent, names, table, known
        self._told: dict[Subject, tuple[float | bool, float]] = {}
        """Value of what the hub knows, and when it was taken."""
        self._epoch: int | None = None

    @classmethod
    def of_user(cls, agent: Agent, table: Mapping[AlarmName, AlarmRow]) -> Self:
        """A user's: there is no way from its instruments to here but through :data:`OF_USERS`."""
        return cls(agent, OF_USERS, table)

    @classmethod
    def of_relay(cls, agent: Agent, table: Mapping[AlarmName, AlarmRow], station: Station) -> Self:
        """The relay's."""
        return cls(agent, OF_RELAY, table, partial(known_numbers, station))

    def look(self, observed: Sequence[Observed], now_s: float) -> None:
        """Tell what was taken anew."""
        if self._agent.link_state is not LinkState.UP:
            self._told.clear()
            return
        if self._agent.epoch != self._epoch:
            self._told.clear()
            self._epoch = self._agent.epoch
        for reading in self._all(observed, now_s):
            taken = reading.value, now_s - reading.age_s
            before = self._told.get(reading.subject)
            if before is not None and before[0] == taken[0] and abs(before[1] - taken[1]) < SAME_S:
                continue
            if before is None and len(self._told) >= AT_MOST:
                continue
            try:
                self._agent.control_send(reading)
            except (AgentError, WireError) as error:
                logger.debug("%s is not told: %s", reading.subject, error)
                return
            self._told[reading.subject] = taken

    def _all(self, observed: Sequence[Observed], now_s: float) -> Iterable[Readings]:
        """Every one once, the alarms' before what a driver knows of the same."""
        found = {each.subject: each for each in self._known()}
        found |= {each.subject: each for each in self._of_alarms(observed, now_s)}
        return found.values()

    def _of_alarms(self, observed: Sequence[Observed], now_s: float) -> Iterator[Readings]:
        for each in observed:
            if each.name not in self._names or each.value is None or not each.part:
                continue
            row = self._table[each.name]
            limits = row.limits
            low = high = None
            if limits is not None:
                low = limits.low_major if limits.low_minor is None else limits.low_minor
                high = limits.high_major if limits.high_minor is None else limits.high_minor
            instrument, parameter = _place(each)
            age_s = max(0.0, now_s - each.at_s)
            yield Readings(instrument, parameter, each.value, row.unit, low, high, age_s)


def _place(observed: Observed) -> tuple[str, str]:
    """Instrument and parameter: of a temperature those that it was read from, else the part and what is watched of it."""
    if observed.name != "temperature":
        return observed.part, observed.name
    instrument, _, parameter = observed.part.partition(".")
    return instrument, parameter or "temperature_c"
