"""One correction of something that drifts, as whoever owns it made it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Correction:
    """``what`` went from ``before`` to ``after``, both in ``unit`` from the calibrated value, and ``why``."""

    what: str
    before: float
    after: float
    unit: str
    why: str


OnCorrection: TypeAlias = Callable[[int, Correction], None]
"""Is told of a correction and the frame after which it was made."""
