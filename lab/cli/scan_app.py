"""``qunetlab scan``: a physicist's scan of one parameter or two, live in the terminal, into a data set of QCoDeS."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lab.cli.options import Json, LitOption, StatePath, TestbedPath, show
from lab.runs.following.terminal import can_redraw
from lab.runs.shown import echo, shown

if TYPE_CHECKING:
    from lab.runs.scans import Point, Scan

HEIGHT = 14
"""Lines of a plot."""


def scan_command(
    testbed: TestbedPath,
    steps: Annotated[
        list[str],
        typer.Argument(
            metavar="STEP...",
            help="INSTRUMENT.PARAMETER:FROM:TO:POINTS, one or two; of two the second changes faster.",
        ),
    ],
    read: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="What is read at every point, INSTRUMENT.PARAMETER or of --lit light.visibility, light.error_ratio, light.d1_cps,"
            " light.d2_cps; repeatable. Default with --lit: all of these.",
        ),
    ] = None,
    lit: LitOption = None,
    settle_s: Annotated[
        float, typer.Option("--settle", min=0.0, help="Wait at every point before reading, s.")
    ] = 0.0,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Database of QCoDeS; default: scans.db beside the testbed file."),
    ] = None,
    state: StatePath = None,
    as_json: Json = False,
) -> None:
    """Step one parameter or two, read others, and watch it; every value is checked first, and everything is safe at the end.

    For instruments that no role has. On a terminal it plots while it measures; the data set holds each point as it comes, and what
    there is if Ctrl-C ends it. Knobs are put back to what they were.
    """
    from lab.runs.at_hand import LIGHT, at_hand, is_bundled, owners_of
    from lab.runs.own_folder import own_folder
    from lab.runs.scans import OF_LIGHT, Scan, axis, check_axes, kept, origin_of
    from lab.runs.testbeds.folder import find_testbed
    from lab.runs.testbeds.machine import pair_named
    from lab.testbed import load_testbed

    file = find_testbed(testbed).absolute()
    loaded = load_testbed(file)
    axes = [axis(each) for each in steps]
    check_axes(axes)
    pair = pair_named(loaded, lit) if lit else None
    reads = list(read or (f"{LIGHT}.{each}" for each in OF_LIGHT if pair))
    if not reads:
        raise ValueError(
            "say what is read, with --read INSTRUMENT.PARAMETER, or --lit PAIR for the light of a pair"
        )
    names = [*(each.knob for each in axes), *(each for each in reads if not each.startswith(f"{LIGHT}."))]
    owners = owners_of(loaded, names)
    database = out or (own_folder("scan") if is_bundled(file) else file.parent) / "scans.db"
    with at_hand(testbed, owners, pair, state) as hand:
        scan = Scan(loaded, hand, axes, reads)
        with Watched(scan, live=not as_json and can_redraw(), lines=not as_json) as watched:
            try:
                run = kept(scan, database, origin_of(loaded, file), pair, scan.run(settle_s), watched.tell)
            except KeyboardInterrupt:
                echo(f"interrupted; what was measured is the latest data set of {database}", err=True)
                raise
    answer = {"database": str(database), "run_id": run.number, "points": run.points, "read": reads}
    show(
        answer,
        as_json,
        f"{run.points} points: data set {run.number} of {database}\n{hand.session.left_safe()}",
    )


class Watched:
    """A scan in the terminal: plots that grow, or a line for each point where nothing can be drawn."""

    def __init__(self, scan: Scan, *, live: bool, lines: bool) -> None:
        self._scan, self._lines = scan, lines
        self._found: list[Point] = []
        self._began_s = time.monotonic()
        self._live: Any = None
        if live:
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(highlight=False), auto_refresh=False)
        self._stack = ExitStack()

    def __enter__(self) -> Watched:
        if self._live is not None:
            self._stack.enter_context(self._live)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def tell(self, point: Point) -> None:
        """One more point."""
        self._found.append(point)
        if self._live is not None:
            from rich.text import Text

            size = shutil.get_terminal_size((80, 24))
            lines = page(self._scan, self._found, size.columns, size.lines)
            self._live.update(Text("\n".join([*lines, self._rate()])), refresh=True)
        elif self._lines:
            echo(told(self._scan, point))

    def _rate(self) -> str:
        took_s = time.monotonic() - self._began_s
        left_s = took_s / len(self._found) * (self._scan.size - len(self._found))
        return f"{len(self._found)} of {self._scan.size} points, {left_s:.0f} s left; Ctrl-C ends it"


def told(scan: Scan, point: Point) -> str:
    """A point in a line."""
    along = (f"{each.knob} {value:.6g}" for each, value in zip(scan.axes, point.at, strict=True))
    read = (
        f"{each.name} {value:.5g} {each.unit}".rstrip()
        for each, value in zip(scan.quantities, point.read, strict=True)
    )
    return shown(", ".join([*along, *read]))


def page(scan: Scan, found: Sequence[Point], width: int, lines: int) -> list[str]:
    """A plot for each quantity, as many as fit one above the other."""
    from lab.runs.following.plotted import line, shades
    from lab.runs.scans import grid_of

    labels = [
        f"{shown(each.knob)}{f' / {unit}' if unit else ''}"
        for each, (_, unit) in zip(scan.axes, scan.labels(), strict=True)
    ]
    plots = []
    for number, each in enumerate(scan.quantities):
        label = f"{shown(each.name)}{f' / {each.unit}' if each.unit else ''}"
        if len(scan.axes) == 1:
            xs, ys = [point.at[0] for point in found], [point.read[number] for point in found]
            plots.append(line(xs, ys, labels[0], label, width, HEIGHT))
        else:
            ends = [
                (each.values[0], each.values[-1], label)
                for each, label in zip(scan.axes, labels, strict=True)
            ]
            plots.append(shades(grid_of(scan, found, number), ends[0], ends[1], label, width))
    whole: list[str] = []
    for number, plot in enumerate(plots):
        if whole and len(whole) + len(plot) > lines - 2:
            more = ", ".join(each.name for each in scan.quantities[number:])
            return [*whole, shown(f"in the data set too: {more}")[:width]]
        whole += plot
    return whole
