"""How many lines about one thing stand in a log: a stranger who can make a process write one must not fill its disk.

What is left out is still counted, by the metrics that the same events feed, and by the next line about it that stands.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator import runtime

MOST_LINES = 10
EVERY_S = 60.0


@dataclass
class _Span:
    """A stretch of time, from ``since_s`` on; ``before`` lines were left out in the last one."""

    since_s: float
    n_lines: int = 0
    before: int = 0


class FewLines:
    """At most :data:`MOST_LINES` about one thing in :data:`EVERY_S`; one thread."""

    def __init__(self) -> None:
        self._spans: dict[str, _Span] = {}

    def about(self, what: str) -> str | None:
        """What to add to a line about ``what``; None where it is one too many and is not to be written.

        ``what`` is one of few words, never a caller's own.
        """
        now_s = runtime.now()
        span = self._spans.setdefault(what, _Span(now_s))
        if now_s - span.since_s >= EVERY_S:
            span = self._spans[what] = _Span(now_s, before=max(0, span.n_lines - MOST_LINES))
        span.n_lines += 1
        if span.n_lines > MOST_LINES:
            return None
        if span.n_lines == MOST_LINES:
            return f"; more of these are only counted for {EVERY_S:g} s"
        return f"; {span.before} more before were only counted" if span.before and span.n_lines == 1 else ""
