"""The numbers of a process: told events as they happen, asked for all metrics when somebody reads them.

A gauge is what the latest word on its subject says, so an old word leaves nothing behind; where several subjects have the
same labels, such as two alarms of a kind, their numbers are added.  Counters are added up as words come; an item that says the
same as the one before it, as after a new link to the hub, counts once.  Sources are asked at every reading, and one that
fails is left out and counted: reading metrics never harms the role.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar

from orchestrator import runtime
from orchestrator.events.common import Item, Serving
from orchestrator.metrics.rows import By, Metric, Names
from orchestrator.metrics.table import TABLE

logger = logging.getLogger(__name__)

T = TypeVar("T")
Labels: TypeAlias = tuple[str, ...]
"""The role, then the labels of the metric."""
Asked: TypeAlias = Callable[[], Iterable[Any]]
LABELS_KEPT = 4096
"""Sets of labels of one counter; a ring of 64 users has 2016 pairs."""


@dataclass(frozen=True)
class _Word:
    item: Any
    since_s: float
    holds: bool = True


class Metrics:
    """What ``role`` counts and measures; may be told and asked from any thread."""

    def __init__(
        self,
        role: str = "",
        names: Names | None = None,
        *,
        clock: Callable[[], float] = runtime.now,
        table: Iterable[Metric] = TABLE,
    ) -> None:
        self.role = role
        self.serving: Serving | None = None
        """The role's first line, once it serves."""
        self.failed_sources = 0
        """How often a source could not be asked."""
        self._names = names or Names()
        self._clock = clock
        self._lock = runtime.lock()
        self._gauges: dict[type, list[Metric]] = {}
        self._adding: dict[type, list[Metric]] = {}
        self._table = tuple(table)
        for metric in self._table:
            rows = self._adding if metric.kind == "adds" else self._gauges
            rows.setdefault(metric.source, []).append(metric)
        self._words: dict[tuple[str, tuple[str, ...]], _Word] = {}
        self._sums: dict[str, dict[Labels, float]] = {
            metric.name: {} for rows in self._adding.values() for metric in rows
        }
        self._sources: list[Asked] = []

    def tell(self, item: object, role: str = "", age_s: float = 0.0) -> None:
        """Something happened, or is so; by default to the role of this process, at this moment."""
        if isinstance(item, Serving):
            self.serving = item
            return
        kind = type(item)
        if kind not in self._gauges and kind not in self._adding:
            return
        role = role or self.role
        since_s = self._clock() - age_s
        with self._lock:
            key = role, _subject(item)
            before = self._words.get(key)
            self._words[key] = _Word(item, since_s)
            if isinstance(item, Item) and before is not None and before.item == item:
                return
            by = By(role, age_s, self._names)
            for metric in self._adding.get(kind, ()):
                self._add(metric, item, by)

    def _add(self, metric: Metric, item: object, by: By) -> None:
        sums = self._sums[metric.name]
        for labels, value in metric.of(item, by):
            named = (by.role, *labels)
            if named in sums or len(sums) < LABELS_KEPT:
                sums[named] = sums.get(named, 0.0) + value

    def begin(self, *items: object) -> None:
        """Have counters that words like these add to, or say, begin at 0: a rate takes two readings, the first before the first word."""
        by = By(self.role, 0.0, self._names)
        with self._lock:
            for item in items:
                said = self._gauges.get(type(item), ())
                if said and all(metric.kind == "total" for metric in said):
                    self._words.setdefault((self.role, _subject(item)), _Word(item, self._clock()))
                for metric in self._adding.get(type(item), ()):
                    for labels, _ in metric.of(item, by):
                        self._sums[metric.name].setdefault((self.role, *labels), 0.0)

    def ask(self, *sources: Asked) -> None:
        """Have sources asked at every reading; each waits for nothing and gives items."""
        self._sources += sources

    def forget(self) -> None:
        """What was said may hold no more, until it is said again; what was counted stays."""
        with self._lock:
            self._words = {key: replace(word, holds=False) for key, word in self._words.items()}

    def latest(self, kind: type[T]) -> Iterator[T]:
        """The latest words of a kind."""
        with self._lock:
            found = [word.item for word in self._words.values() if word.holds and isinstance(word.item, kind)]
        return iter(found)

    def samples(self) -> list[tuple[Metric, dict[Labels, float]]]:
        """Every metric that there is something to say of, in the order of the table."""
        self._ask()
        now_s = self._clock()
        found: dict[str, dict[Labels, float]] = {}
        with self._lock:
            for (role, _), word in self._words.items():
                by = By(role, max(0.0, now_s - word.since_s), self._names)
                for metric in self._gauges.get(type(word.item), ()) if word.holds else ():
                    into = found.setdefault(metric.name, {})
                    for labels, value in metric.of(word.item, by):
                        named = (role, *labels)
                        into[named] = into.get(named, 0.0) + value
            found |= {name: dict(sums) for name, sums in self._sums.items()}
        return [(metric, said) for metric in self._table if (said := found.get(metric.name))]

    def _ask(self) -> None:
        for source in self._sources:
            try:
                for item in source():
                    self.tell(item)
            except Exception:
                if not self.failed_sources:
                    logger.exception("a source of metrics failed; it is left out")
                self.failed_sources += 1


def _subject(item: object) -> tuple[str, ...]:
    """What an item replaces: the earlier one of its kind about the same."""
    if isinstance(item, Item):
        return item.subject
    peer = getattr(item, "peer", "")
    return type(item).__name__, peer if isinstance(peer, str) else ""
