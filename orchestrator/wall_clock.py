"""The wall clock, for what people and calendars go by; durations and deadlines are :func:`orchestrator.runtime.now`'s."""

from __future__ import annotations

from datetime import UTC, date, datetime


def utc_now() -> datetime:
    """The time of day, with its zone."""
    return datetime.now(UTC)


def utc_day() -> int:
    """Days since 1970, which daily quotas go by."""
    return (utc_now().date() - date(1970, 1, 1)).days
