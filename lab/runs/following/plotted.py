"""Plots of plain characters for a terminal of any width, letters of ASCII alone: a line, and a map of shades."""

from __future__ import annotations

import math
from collections.abc import Sequence

SHADES = " .:-=+*#%@"
"""From the least to the most."""
MARGIN = 11
"""Characters of the numbers beside a plot."""


def line(
    xs: Sequence[float], ys: Sequence[float], x_label: str, y_label: str, width: int, height: int
) -> list[str]:
    """The points, with least and greatest value of both axes; what is no number is left out."""
    seen = [(x, y) for x, y in zip(xs, ys, strict=True) if math.isfinite(x) and math.isfinite(y)]
    if not seen:
        return [f"{y_label}: nothing yet"]
    columns, rows = max(8, width - MARGIN - 1), max(3, height - 3)
    (left, right), (low, high) = (_range([point[axis] for point in seen]) for axis in (0, 1))
    canvas = [[" "] * columns for _ in range(rows)]
    for x, y in seen:
        canvas[_place(high - y, high - low, rows)][_place(x - left, right - left, columns)] = "*"
    lines = [y_label[:width]]
    for number, row in enumerate(canvas):
        label = f"{high:.4g}" if number == 0 else f"{low:.4g}" if number == rows - 1 else ""
        lines.append(f"{label:>{MARGIN - 1}} |{''.join(row)}".rstrip())
    return [*lines, *_below(left, right, x_label, columns, width)]


def shades(
    grid: Sequence[Sequence[float]],
    outer: tuple[float, float, str],
    inner: tuple[float, float, str],
    label: str,
    width: int,
) -> list[str]:
    """A row for each value of the outer axis, the first on top; each axis by its first and last value and its label."""
    known = [value for row in grid for value in row if math.isfinite(value)]
    if not known:
        return [f"{label}: nothing yet"]
    low, high = _range(known)
    count = len(grid[0])
    broad = max(1, (width - MARGIN - 1) // count)
    step = -(-count // max(1, width - MARGIN - 1))
    lines = [f"{label}: '{SHADES[1]}' {low:.4g} to '{SHADES[-1]}' {high:.4g}; down: {outer[2]}"[:width]]
    for number, row in enumerate(grid):
        at = f"{outer[0]:.4g}" if number == 0 else f"{outer[1]:.4g}" if number == len(grid) - 1 else ""
        cells = "".join(_shade(value, low, high) * broad for value in row[::step])
        lines.append(f"{at:>{MARGIN - 1}} |{cells}".rstrip())
    return [*lines, *_below(inner[0], inner[1], inner[2], len(row[::step]) * broad, width)]


def _shade(value: float, low: float, high: float) -> str:
    if not math.isfinite(value):
        return " "
    return SHADES[1 + _place(value - low, high - low, len(SHADES) - 1)]


def _range(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def _place(part: float, whole: float, cells: int) -> int:
    """Of a value in its range; one without a range is in the middle."""
    return min(cells - 1, int(part / whole * cells)) if whole > 0 else cells // 2


def _below(left: float, right: float, label: str, columns: int, width: int) -> list[str]:
    first, last = f"{left:.4g}", f"{right:.4g}"
    between = label.center(max(0, columns - len(first) - len(last)))
    return [
        (" " * MARGIN + "+" + "-" * columns)[:width],
        (" " * (MARGIN + 1) + first + between + last)[:width].rstrip(),
    ]
