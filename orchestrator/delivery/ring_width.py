"""The ring width b of masked updates: integers modulo 2^b, read as signed numbers once they are summed."""

from __future__ import annotations

from orchestrator.bits import whole

MIN_RING_WIDTH, MAX_RING_WIDTH = 2, 32
"""Bits of one masked integer; 32 already equal the size of a float32."""


def checked_width(ring_width: int) -> int:
    """``ring_width`` as Python's int; raises ValueError where it is out of range."""
    ring_width = whole(ring_width, "ring_width")
    if not MIN_RING_WIDTH <= ring_width <= MAX_RING_WIDTH:
        raise ValueError(f"ring_width is {MIN_RING_WIDTH} to {MAX_RING_WIDTH}, got {ring_width}")
    return ring_width


def largest_sum(ring_width: int) -> int:
    """The largest magnitude that a sum may reach without wrapping: 2^(b-1) - 1."""
    return (1 << (checked_width(ring_width) - 1)) - 1
