"""The latest word of every role on every subject, and who is told.

A subscriber first gets everything that is known, each item with its age, then an end mark, then what changes; every
item of a subscription carries the next number, so that a gap is a loss that can be counted.  An item equal to the
one before changes nothing, and its age goes on, counted from when it was first said.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from msgspec.structs import replace

from orchestrator.events.common import Subject, Unknown
from orchestrator.events.status import (
    KEPT_PER_ROLE,
    ORCHESTRATOR,
    Alarm,
    HubItem,
    PairStatus,
    PeerItem,
    Refusals,
    StatusItem,
    objection,
)
from orchestrator.wire.messages import FromHub, SnapshotEnd, TelemetryItem


@dataclass(frozen=True)
class Word:
    """An item and when it was first said like this, monotonic seconds."""

    item: StatusItem
    since_s: float


class StatusBoard:
    """Keeps items and tells subscribers through ``tell(session, message)``; ``watch`` gets the orchestrator's own."""

    def __init__(
        self,
        users: Collection[str],
        tell: Callable[[int, FromHub], None],
        watch: Callable[[HubItem], None] = lambda item: None,
    ) -> None:
        self._users = users
        self._watch = watch
        self._tell = tell
        self._kept: dict[str, dict[Subject, Word]] = {}
        self._subscribers: dict[int, int] = {}
        self._refused: dict[str, Refusals] = {}
        self._refusals_to_show: set[str] = set()

    # -- who says something --------------------------------------------------------------------------

    def heard(self, role: str, item: PeerItem, now_s: float) -> str:
        """Something that ``role`` says of itself; returns why it was refused, empty if it was not."""
        reason = objection(role, item, self._users)
        if reason:
            self.refused(role, reason)
        return reason or self._admit(role, item, now_s)

    def _admit(self, role: str, item: PeerItem | Unknown, now_s: float) -> str:
        """Keep an item unless its role speaks of too many subjects."""
        kept = self._kept.get(role, {})
        if len(kept) >= KEPT_PER_ROLE and item.subject not in kept:
            reason = f"{role} speaks of more than {KEPT_PER_ROLE} subjects"
            self.refused(role, reason)
            return reason
        self._keep(role, item, now_s)
        return ""

    def unknown(self, role: str, item: Unknown, now_s: float) -> bool:
        """Something of a kind that this version does not know: shown with how often it came; True the first time."""
        before = self._kept.get(role, {}).get(item.subject)
        count = before.item.count + 1 if before and isinstance(before.item, Unknown) else 1
        return not self._admit(role, replace(item, count=count), now_s) and count == 1

    def refused(self, role: str, reason: str) -> None:
        """Count what ``role`` may not say; shown with the next :meth:`show_refusals`."""
        before = self._refused.get(role)
        self._refused[role] = Refusals(role, before.count + 1 if before else 1, reason)
        self._refusals_to_show.add(role)

    def show_refusals(self, now_s: float) -> None:
        """Tell of what was refused since the last time: a flood of bad items is one item here."""
        for role in self._refusals_to_show:
            self.show(self._refused[role], now_s)
        self._refusals_to_show.clear()

    def show(self, item: HubItem, now_s: float, *, pulse: bool = False) -> None:
        """Something that the orchestrator itself is the source of; a ``pulse`` is told even if nothing changed."""
        self._watch(item)
        self._keep(ORCHESTRATOR, item, now_s, pulse=pulse)

    def _keep(self, role: str, item: StatusItem, now_s: float, *, pulse: bool = False) -> None:
        kept = self._kept.setdefault(role, {})
        before = kept.get(item.subject)
        if before is not None and _same(before.item, item) and not pulse:
            return
        kept[item.subject] = Word(item, now_s)
        for session in self._subscribers:
            self._push(session, role, item, 0.0)
        if isinstance(item, Alarm) and not item.on:
            del kept[item.subject]

    # -- who listens ---------------------------------------------------------------------------------

    def subscribe(self, session: int, now_s: float) -> None:
        """Begin a subscription, or begin it again."""
        self._subscribers[session] = 0
        words = [(role, word) for role, kept in self._kept.items() for word in kept.values()]
        for role, word in words:
            self._push(session, role, word.item, max(0.0, now_s - word.since_s))
        self._tell(session, SnapshotEnd(len(words)))

    def unsubscribe(self, session: int) -> None:
        """The connection is gone."""
        self._subscribers.pop(session, None)

    def _push(self, session: int, role: str, item: StatusItem, age_s: float) -> None:
        seq = self._subscribers[session]
        self._subscribers[session] = seq + 1
        self._tell(session, TelemetryItem.of(role, seq, age_s, item))


def _same(before: StatusItem, after: StatusItem) -> bool:
    """Whether two items say the same; a fault that only grew older does."""
    if isinstance(before, PairStatus) and isinstance(after, PairStatus):
        return replace(before, failing_s=0.0) == replace(after, failing_s=0.0)
    return before == after
