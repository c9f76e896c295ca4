"""What a line of the log is about: pair, session, block and round, set where a lease, a block or a round begins.

``with about(pair="alice-bob", session="3/17"):`` holds for every line that is logged inside, in this thread and in those
that :func:`orchestrator.runtime.spawn` starts from it; :func:`now_about` holds until the thread says otherwise.  Only names and
numbers go in: whoever reads the log filters by them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, TypeAlias

Field: TypeAlias = Literal["pair", "session", "block", "round"]
FIELDS: tuple[Field, ...] = ("pair", "session", "block", "round")
_about: ContextVar[Mapping[str, str | int]] = ContextVar("about", default={})  # noqa: B039 - it is replaced, never changed


@contextmanager
def about(*, pair: str = "", session: str = "", block: str = "", round: int | None = None) -> Iterator[None]:
    """Lines logged inside are about this, and about what was said outside where nothing is said here."""
    with also_about(_told(pair, session, block, round)):
        yield


@contextmanager
def also_about(known: Mapping[str, str | int]) -> Iterator[None]:
    """Lines logged inside are also about what was :func:`known` elsewhere, where somebody wanted this done."""
    token = _about.set({**_about.get(), **known})
    try:
        yield
    finally:
        _about.reset(token)


def now_about(*, pair: str = "", session: str = "", block: str = "", round: int | None = None) -> None:
    """Lines of this thread are about this from here on, and about nothing else."""
    _about.set(_told(pair, session, block, round))


def known() -> Mapping[str, str | int]:
    """What a line that is logged here is about."""
    return _about.get()


def _told(pair: str, session: str, block: str, round: int | None) -> dict[str, str | int]:
    told: dict[str, str | int | None] = {"pair": pair, "session": session, "block": block, "round": round}
    return {field: value for field, value in told.items() if value is not None and value != ""}
