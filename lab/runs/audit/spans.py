"""Ranges of bit positions: where they overlap, and what of some is not covered by others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from orchestrator.records.kinds import Span


def overlap(spans: Iterable[Span]) -> tuple[Span, Span] | None:
    """Two of them that share a position."""
    for one, other in pairwise(sorted(spans, key=lambda span: span.start)):
        if other.start < one.end:
            return one, other
    return None


def uncovered(spans: Iterable[Span], by: Sequence[Span]) -> list[Span]:
    """What of ``spans`` lies in none of ``by``."""
    left = []
    covers = sorted(by, key=lambda span: span.start)
    for span in sorted(spans, key=lambda span: span.start):
        reached = span.start
        for each in covers:
            if each.end <= reached or each.start >= span.end:
                continue
            if each.start > reached:
                left.append(Span(reached, each.start - reached))
            reached = max(reached, each.end)
        if reached < span.end:
            left.append(Span(reached, span.end - reached))
    return left


def bits(spans: Iterable[Span]) -> int:
    """How many positions they have."""
    return sum(span.n_bits for span in spans)


def named(spans: Iterable[Span]) -> str:
    """The positions, for people."""
    return ", ".join(f"{span.start}..{span.end}" for span in spans)
