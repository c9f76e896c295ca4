"""The alarms of one role: from what was observed, what an operator is told, and what he did about it.

Pure but for what it remembers: moments come with the calls.  Whoever watches tells it everything at once and gets back
what is to be said; what was not among it any more is over.

A book may begin with alarms of an earlier run of the role (:mod:`lab.alarms.kept`).  They stand as they stood until their
source speaks again, or for :data:`AWAITED_S`: a source may have nothing to say until its first reading is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from msgspec.structs import replace as renewed

from lab.alarms.kept import KeptAlarm
from lab.alarms.limits import GOOD, Judged, judge
from lab.alarms.states import AlarmState
from lab.alarms.table import AlarmRow
from orchestrator.events.status import Alarm, AlarmName
from orchestrator.wire.fields import REASON_LIMIT

Key: TypeAlias = tuple[AlarmName, str | None, str]
AWAITED_S = 120.0
"""Longer than the slowest source takes to its first value; an error rate comes with a block, and is a new one then."""


@dataclass(frozen=True)
class Observed:
    """One look at what a row watches, at ``at_s``.

    Of a row with limits the ``value``, None if it could not be read, then ``text`` says why.  Of a state it is enough
    that it is told, with its ``text``.
    """

    name: AlarmName
    value: float | None = None
    at_s: float = 0.0
    peer: str | None = None
    part: str = ""
    text: str = ""

    @property
    def key(self) -> Key:
        """What it is about."""
        return self.name, self.peer, self.part


@dataclass(frozen=True)
class _Kept:
    state: AlarmState
    observed: Observed
    reference: float | None


class NoAlarmError(ValueError):
    """There is no such alarm."""


class AlarmBook:
    """Every alarm that stands or is shelved, and the last value of everything that is watched."""

    def __init__(
        self,
        role: str,
        table: Mapping[AlarmName, AlarmRow],
        earlier: Sequence[KeptAlarm] = (),
        now_s: float = 0.0,
    ) -> None:
        """``earlier``: alarms of an earlier run, given at ``now_s``."""
        self._role = role
        self._table = table
        self._kept: dict[Key, _Kept] = {}
        self._told: dict[Key, Alarm] = {}
        for each in earlier:
            observed = Observed(each.name, each.value, now_s, each.peer, each.part, each.text)
            self._put(observed.key, _Kept(_as_it_stood(each, now_s), observed, each.reference), watched=False)
        self._awaited = set(self._kept)
        self._awaited_until_s = now_s + AWAITED_S

    def observe(self, everything: Iterable[Observed], now_s: float) -> list[Alarm]:
        """What is to be told after a look at all that is watched: alarms that changed, over ones with ``on`` False."""
        seen = {each.key: each for each in everything}
        self._awaited = self._awaited - set(seen) if now_s < self._awaited_until_s else set()
        for key, kept in list(self._kept.items()):
            if key not in seen and key not in self._awaited:
                row = self._table[key[0]]
                state = kept.state.observed(GOOD, now_s, latching=row.latching)
                self._put(key, replace(kept, state=state), watched=False)
        for key, observed in seen.items():
            self._look(key, observed, now_s)
        return self._changes(now_s)

    def _look(self, key: Key, observed: Observed, now_s: float) -> None:
        row = self._table[observed.name]
        kept = self._kept.get(key, _Kept(AlarmState(), observed, observed.value))
        reference = kept.reference if kept.reference is not None else observed.value
        if row.limits is None:
            judged = Judged(row.severity, "state")
        else:
            judged = judge(
                row.limits,
                observed.value,
                now_s - observed.at_s,
                reference=reference,
                before=kept.state.judged,
            )
        state = kept.state.observed(judged, now_s, latching=row.latching)
        self._put(key, _Kept(state, observed, reference))

    def _put(self, key: Key, kept: _Kept, *, watched: bool = True) -> None:
        if watched or kept.state.stands or kept.state.shelved_until_s is not None:
            self._kept[key] = kept
        else:
            del self._kept[key]

    def _changes(self, now_s: float) -> list[Alarm]:
        standing = {key: self._alarm(kept, now_s) for key, kept in self._kept.items() if kept.state.stands}
        over = [
            Alarm(name, "", peer, on=False, part=part)
            for name, peer, part in self._told
            if (name, peer, part) not in standing
        ]
        changed = [
            alarm
            for key, alarm in standing.items()
            if key not in self._told or _differs(self._told[key], alarm)
        ]
        # What is told again and again only because a number wobbles keeps its first words.
        self._told = {
            key: alarm if key not in self._told or alarm in changed else self._told[key]
            for key, alarm in standing.items()
        }
        return over + changed

    def standing(self, now_s: float) -> list[Alarm]:
        """All alarms that stand, shelved ones too, as they are at this moment."""
        return [self._alarm(kept, now_s) for kept in self._kept.values() if kept.state.stands]

    def lasting(self, now_s: float) -> list[KeptAlarm]:
        """What a restart must not change: what an operator said, and what latched."""
        return [
            _lasting(kept, now_s)
            for key, kept in self._kept.items()
            if kept.state.shelved(now_s)
            or (kept.state.stands and (kept.state.acknowledged or self._table[key[0]].latching))
        ]

    def acknowledge(self, identity: str, now_s: float) -> list[Alarm]:
        """Somebody has seen it; what is to be told.  Drift counts from here on.  Raises NoAlarmError."""
        key, kept = self._find(identity)
        self._put(key, replace(kept, state=kept.state.acknowledge(), reference=kept.observed.value))
        return self._changes(now_s)

    def shelve(self, identity: str, for_s: float, now_s: float) -> list[Alarm]:
        """Out of the way for so long; 0 brings it back.  Raises NoAlarmError, or ValueError for too long."""
        key, kept = self._find(identity)
        state = kept.state.shelve(now_s + for_s, now_s) if for_s else kept.state.unshelve()
        self._put(key, replace(kept, state=state))
        return self._changes(now_s)

    def _find(self, identity: str) -> tuple[Key, _Kept]:
        there = {}
        for key, kept in self._kept.items():
            if kept.state.stands:
                there["/".join(filter(None, (self._role, *key)))] = key, kept
        if identity not in there:
            names = ", ".join(there) or "none"
            raise NoAlarmError(f"{self._role} has no alarm {identity!r}; its alarms: {names}")
        return there[identity]

    def _alarm(self, kept: _Kept, now_s: float) -> Alarm:
        state, observed, row = kept.state, kept.observed, self._table[kept.observed.name]
        worst = state.worst if state.worst != "none" else "minor"
        until_s = state.shelved_until_s
        return Alarm(
            observed.name,
            _words(row, observed, state.judged)[:REASON_LIMIT],
            observed.peer,
            part=observed.part,
            severity=worst,
            condition=state.judged.condition or "state",
            active=state.is_active,
            acknowledged=state.acknowledged,
            shelved_s=until_s - now_s if until_s is not None and state.shelved(now_s) else 0.0,
            value=observed.value,
            unit=row.unit,
            what_to_do=row.what_to_do,
        )


def _lasting(kept: _Kept, now_s: float) -> KeptAlarm:
    state, observed = kept.state, kept.observed
    return KeptAlarm(
        observed.name,
        observed.peer,
        observed.part,
        observed.text,
        observed.value,
        kept.reference,
        state.judged.condition,
        state.judged.limit,
        state.judged.severity,
        state.worst,
        state.acknowledged,
        state.shelved_until_s - now_s if state.shelved_until_s is not None and state.shelved(now_s) else 0.0,
    )


def _as_it_stood(each: KeptAlarm, now_s: float) -> AlarmState:
    return AlarmState(
        Judged(each.severity, each.condition, each.limit),
        each.worst,
        each.acknowledged,
        now_s,
        now_s + each.shelf_left_s if each.shelf_left_s > 0 else None,
    )


def _words(row: AlarmRow, observed: Observed, judged: Judged) -> str:
    if row.limits is None:
        return observed.text
    if judged.condition == "unreadable":
        return f"{row.what} cannot be read{f': {observed.text}' if observed.text else ''}"
    told = f"{row.what}: {observed.value:.4g}{f' {row.unit}' if row.unit else ''}"
    if judged.condition == "stale":
        return f"{told}, and nothing for {judged.limit:g} s or longer"
    limit = {"high": "at or above", "low": "at or below", "drift": "away from where it was by more than"}
    passed = f", {limit[judged.condition]} {judged.limit:g}" if judged.condition in limit else ""
    return f"{told}{passed}{f'; {observed.text}' if observed.text else ''}"


def _differs(before: Alarm, after: Alarm) -> bool:
    """Whether more than numbers changed: those are looked up when somebody wants them."""
    if (before.shelved_s > 0) != (after.shelved_s > 0):
        return True
    same = renewed(after, text=before.text, value=before.value, shelved_s=before.shelved_s)
    return before != same or (after.condition == "state" and before.text != after.text)
