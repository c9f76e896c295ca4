"""A row of the table of metrics, and the names that may stand in its labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from orchestrator.events.status import pair_name

Sample: TypeAlias = tuple[tuple[str, ...], float]
"""Values of a metric's labels, in their order, and the number itself."""
OTHER = "other"
"""In the place of a name that is not one of this testbed's."""


@dataclass(frozen=True)
class Names:
    """The names of a testbed: nothing else may stand in a label that somebody else could have a say in."""

    users: tuple[str, ...] = ()
    roles: frozenset[str] = frozenset()
    lanes: frozenset[str] = frozenset()
    instruments: frozenset[str] = frozenset()

    def pair(self, first: str, second: str) -> str:
        """The pair by its name, in the order of the ring, whoever of them speaks."""
        known = [user for user in self.users if user in (first, second)]
        return pair_name(known) if len(known) == 2 else OTHER

    def role(self, name: str) -> str:
        """A role of this testbed."""
        return name if name in self.roles else OTHER

    def lane(self, name: str) -> str:
        """A lane of the key store."""
        return name if name in self.lanes else OTHER

    def instrument(self, name: str) -> str:
        """An instrument of this testbed."""
        return name if name in self.instruments else OTHER


@dataclass(frozen=True)
class By:
    """Who said something, how long ago, and the names that may be labels."""

    role: str
    age_s: float = 0.0
    names: Names = field(default_factory=Names)

    def pair(self, peer: str) -> str:
        """The pair of the speaker with ``peer``."""
        return self.names.pair(self.role, peer)


@dataclass(frozen=True)
class Metric:
    """One metric.

    ``kind``: a ``gauge`` is what the latest word says; a ``total`` is a number that its source adds up itself; ``adds``
    is added up here, over the words.  The latter two are counters, and end in ``_total``.
    ``labels`` beside ``role``, whose word it is; ``of`` gives the samples of a word of the kind ``source``.
    """

    name: str
    kind: Literal["gauge", "total", "adds"]
    unit: str
    what: str
    labels: tuple[str, ...]
    source: type
    of: Callable[[Any, By], Iterable[Sample]] = field(compare=False, repr=False)

    @property
    def is_counter(self) -> bool:
        """Whether it only grows while its process lives."""
        return self.kind != "gauge"


def one(value: Callable[[Any], float | None]) -> Callable[[Any, By], Iterable[Sample]]:
    """A number of its own in every word; none where it is not known."""

    def of(item: Any, by: By) -> Iterable[Sample]:
        found = value(item)
        return () if found is None else (((), float(found)),)

    return of


def per_pair(value: Callable[[Any], float | None]) -> Callable[[Any, By], Iterable[Sample]]:
    """A number about a pair, named by ``first`` and ``second`` or as the speaker's with ``peer``."""

    def of(item: Any, by: By) -> Iterable[Sample]:
        found = value(item)
        if found is None:
            return ()
        pair = by.pair(item.peer) if hasattr(item, "peer") else by.names.pair(item.first, item.second)
        return (((pair,), float(found)),)

    return of


def one_of(
    states: Iterable[str], state: Callable[[Any], str | None]
) -> Callable[[Any, By], Iterable[Sample]]:
    """1 for the state that holds and 0 for every other one."""
    every = tuple(states)

    def of(item: Any, by: By) -> Iterable[Sample]:
        found = state(item)
        return (((each,), float(each == found)) for each in every)

    return of
