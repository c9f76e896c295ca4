"""A meter in the terminal: light at both detectors, errors and visibility of the latest blocks, and readings of instruments.

All of it is what roles told the hub, each with its age; nothing is asked of an instrument.  The visibility of a block is
``1 - 2 QBER`` of its disclosed rounds, with dark counts and scattered light in it, as :mod:`lab.runs.lit_ring` has it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from lab.runs.following.document import Document
from lab.runs.following.view import ago, light_words, short, table
from lab.runs.shown import shown
from orchestrator.events.status import BlockReport, LightNow, Readings, pair_name

BAR = 30
"""Characters of the longest bar."""


def meter(document: Document, role: str, width: int) -> str:
    """The whole page, ``width`` characters wide at most; readings of ``role``, or of all where it is empty."""
    parts = [*textwrap.wrap(shown(document.verdict.line), width), *_light(document, width), ""]
    blocks = [_block(*row) for row in document.said(BlockReport) if row[1].counts(row[0])]
    parts += (
        table(("pair", "QBER", "visibility", "secret", "age"), blocks, width) if blocks else ["no block yet"]
    )
    rows = [_reading(*row) for row in sorted(document.said(Readings), key=_place) if role in ("", row[0])]
    parts += ["", *table(("role", "instrument", "value", "limits", "", "age"), rows, width)] if rows else []
    return "\n".join(parts)


def _place(row: tuple[str, Readings, float]) -> tuple[str, str, str]:
    return row[0], row[1].instrument, row[1].parameter


def _light(document: Document, width: int) -> Iterator[str]:
    told = document.said(LightNow)
    if not told:
        yield "light: nothing is told of it"
    for _, light, age_s in told:
        yield from textwrap.wrap(shown(f"{light_words(light)} ({ago(age_s)})"), width)
        rates = {"D1": light.d1_cps or 0.0, "D2": light.d2_cps or 0.0}
        most = max(rates.values())
        for name, cps in rates.items() if most > 0 else ():
            longest = max(1, min(BAR, width - 14))
            yield f"{name} {short(cps):>7}/s {'#' * round(longest * cps / most)}"


def _block(_: str, block: BlockReport, age_s: float) -> tuple[str, ...]:
    qber = block.qber
    return (
        pair_name(block.pair),
        "-" if qber is None else f"{100 * qber:.2f} %",
        "-" if qber is None else f"{1 - 2 * qber:.4f}",
        f"{short(block.secret_bits)} bit" if block.stored else "no key",
        ago(age_s),
    )


def _reading(role: str, reading: Readings, age_s: float) -> tuple[str, ...]:
    value = ("on" if reading.value else "off") if isinstance(reading.value, bool) else f"{reading.value:.6g}"
    low, high = reading.low, reading.high
    limits = "" if low is None and high is None else f"{_limit(low)} .. {_limit(high)}"
    out = "LOW" if low is not None and reading.value < low else ""
    out = "HIGH" if high is not None and reading.value > high else out
    return (
        role,
        shown(f"{reading.instrument}.{reading.parameter}"),
        shown(f"{value} {reading.unit}".rstrip()),
        limits,
        out,
        ago(age_s + reading.age_s),
    )


def _limit(limit: float | None) -> str:
    return "" if limit is None else f"{limit:.6g}"
