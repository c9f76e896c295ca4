"""``qunetlab monitor TESTBED --lit PAIR``: light on, knobs turned by typing, and counts, visibility and QBER that move.

On a terminal what is typed stands in the last line: ``voa_alice.attenuation_db 12`` and Enter turns it.  From a pipe each line turns
a knob, and what is seen then is printed; the end of the input ends it.
"""

from __future__ import annotations

import json
import os
import select
import sys
import termios
import textwrap
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from drivers.links.errors import InstrumentError, InterlockedError
from lab.runs.at_hand import at_hand
from lab.runs.following.terminal import can_redraw, columns
from lab.runs.lit_meter import LitMeter, figures
from lab.runs.lit_ring import Seen
from lab.runs.shown import echo, shown
from lab.runs.testbeds.folder import find_testbed
from lab.runs.testbeds.machine import pair_named
from lab.testbed import UnknownNameError, load_testbed
from orchestrator.events.status import pair_name

ENTER, BACKSPACE, CLEAR = "\r\n", "\x08\x7f", "\x15"
BAR = 40
"""Characters of the longest bar."""


def show_lit(path: Path, named: str, state: Path | None, as_json: bool) -> None:
    """Until Ctrl-C, or the end of the input.  Raises what :func:`lab.runs.at_hand.at_hand` does."""
    testbed = load_testbed(find_testbed(path))
    pair = pair_named(testbed, named)
    with at_hand(path, (), pair, state) as hand:
        meter = LitMeter(testbed, hand)
        if sys.stdin.isatty() and can_redraw() and not as_json:
            _on_terminal(meter, pair_name(pair))
        else:
            _from_pipe(meter, as_json)
    if not as_json:
        echo(hand.session.left_safe())


def _from_pipe(meter: LitMeter, as_json: bool) -> None:
    _print(meter.look(), "", as_json)
    for line in sys.stdin:
        if line.strip():
            _print_after(meter, line, as_json)


def _print_after(meter: LitMeter, line: str, as_json: bool) -> None:
    turned = meter.order(line)
    for _ in range(4):
        meter.look()
    _print(meter.seen, turned, as_json)


def _print(seen: Seen, turned: str, as_json: bool) -> None:
    if as_json:
        echo(json.dumps({"turned": turned, **_numbers(seen)}))
        return
    echo(shown("; ".join(filter(None, [turned, *(f"{name} {value}" for name, value in figures(seen))]))))


def _numbers(seen: Seen) -> dict[str, float | None]:
    clicks = seen.right + seen.wrong
    return {
        "d1_cps": seen.d1 / seen.light_s,
        "d2_cps": seen.d2 / seen.light_s,
        "visibility": seen.visibility if clicks else None,
        "error_ratio": seen.error_ratio if clicks else None,
        "clicks": clicks,
        "light_s": seen.light_s,
    }


def _on_terminal(meter: LitMeter, pair: str) -> None:
    typed, said = "", "type INSTRUMENT.PARAMETER VALUE and Enter; Ctrl-C ends it"
    console = Console(highlight=False)
    with _keys(), Live(console=console, auto_refresh=False) as live:
        while True:
            seen = meter.look()
            for key in _typed():
                if key in ENTER and typed.strip():
                    said, typed = _turned(meter, typed), ""
                else:
                    typed = edited(typed, key)
            live.update(Text("\n".join(page(pair, seen, meter, said, typed, columns(80)))), refresh=True)


def _turned(meter: LitMeter, typed: str) -> str:
    """What came of an order; what was refused is said, and the light stays on."""
    try:
        return shown(meter.order(typed))
    except InterlockedError:
        raise
    except (ValueError, UnknownNameError, InstrumentError) as error:
        return shown(f"not turned: {error}")


def edited(typed: str, key: str) -> str:
    """The line after a key; what cannot be seen changes nothing."""
    if key in BACKSPACE:
        return typed[:-1]
    if key == CLEAR:
        return ""
    return typed + key if key.isprintable() else typed


def page(pair: str, seen: Seen, meter: LitMeter, said: str, typed: str, width: int) -> list[str]:
    """The whole page, no line wider than ``width``."""
    rows = [f"light of {pair}, {len(meter.frames)} frames since the last turn"]
    rates = {"D1": seen.d1, "D2": seen.d2}
    most = max(*rates.values(), 1)
    longest = max(1, min(BAR, width - 28))
    for name, value in figures(seen):
        bar = "#" * round(longest * rates[name] / most) if name in rates else ""
        rows.append(f"{name:10s} {value:16s} {bar}".rstrip())
    told = [shown(each) for each in meter.turned.values()]
    told += [] if said in told else textwrap.wrap(said, width)
    rows += ["", *told, f"knob> {typed}_"]
    return [row[-width:] if row.startswith("knob>") else row[:width] for row in rows]


@contextmanager
def _keys() -> Iterator[None]:
    """Keys as they are pressed, not shown by the terminal; Ctrl-C stays what it is."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _typed() -> str:
    """What was typed since it was asked last, without waiting."""
    descriptor = sys.stdin.fileno()
    if not select.select([descriptor], [], [], 0)[0]:
        return ""
    return os.read(descriptor, 1024).decode(errors="ignore")
