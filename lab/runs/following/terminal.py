"""What the terminal can do: whether something drawn on it can be drawn anew, and how wide it is."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TextIO

DUMB = ("dumb", "unknown")
"""Values of TERM of terminals whose cursor cannot be moved: there, and in a pipe, lines are printed one after the other."""


def can_redraw(stream: TextIO | None = None) -> bool:
    """Whether ``stream``, standard output without, is a terminal with a cursor that can be moved."""
    there = sys.stdout if stream is None else stream
    return there.isatty() and os.environ.get("TERM", "").lower() not in DUMB


def columns(default: int = 120) -> int:
    """Characters in a line of the terminal; ``default`` where there is none."""
    return shutil.get_terminal_size((default, 24)).columns
