"""One simulated day of drift on one ring, followed and left alone: both curves.

``python tests/benchmarks/day_of_drift.py [--seed N] [--every MINUTES] [--until HOUR] [--loop-phase-rad R] [--out FOLDER]``
prints a table and writes ``day.svg`` and ``day.csv`` to the folder: error rate of every block of one pair, what was
corrected, where key was refused, and every calibration that suspension had done.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from drifting_day import PAIR, BlockSeen, DriftingDay

from lab.runs.pages.style import series

TICKS = (0.5, 0.6, 0.8, 1, 1.5, 2, 3, 5, 10, 20, 50)
LIMIT = 0.01
"""Below which the error rate is to stay."""


def day(seed: int, loop_phase_rad: float, hours: Sequence[float], *, is_tracked: bool) -> Iterator[BlockSeen]:
    """One block at each of these hours."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        drifting = DriftingDay(
            seed, Path(folder), patch, is_tracked=is_tracked, loop_phase_drift_rad=loop_phase_rad
        )
        try:
            for hour in hours:
                yield drifting.block(hour)
        finally:
            drifting.close()


def corrected(blocks: Sequence[BlockSeen]) -> dict[str, list[tuple[float, float]]]:
    """By what was corrected: hours, and where it came to."""
    found: dict[str, list[tuple[float, float]]] = {}
    for block in blocks:
        for each in block.corrections:
            found.setdefault(f"{each.what} / {each.unit}", []).append((block.hour, each.after))
    return found


def row(block: BlockSeen) -> str:
    """Of the table."""
    count: dict[str, int] = {}
    for each in block.corrections:
        count[each.what] = count.get(each.what, 0) + 1
    told = ", ".join(f"{what} {n}" for what, n in count.items())
    ended = f"  {block.reason[:90]}" if not block.secret_bits else ""
    steps = f"  CALIBRATED {', '.join(block.calibrated)}" if block.calibrated else ""
    return (
        f"{block.hour:6.2f} {block.rounds:8d} {100 * block.qber:7.2f} {block.secret_bits:8d} {block.gaps_db:7.2f} "
        f"{block.loop_phase_rad:+8.3f}  {told}{steps}{ended}"
    )


HEAD = "  hour   rounds  QBER %     bits gaps dB  loop rad  corrections"


def drawn(tracked: Sequence[BlockSeen], alone: Sequence[BlockSeen], title: str) -> Any:
    """Error rates of both days, and the corrections of the followed one."""
    what = corrected(tracked)
    kinds = list(dict.fromkeys(unit.split(" / ")[1] for unit in what))
    figure = Figure(figsize=(9.5, 3.0 + 1.8 * len(kinds)), layout="constrained")
    top, *below = figure.subplots(
        1 + len(kinds), 1, sharex=True, squeeze=False, height_ratios=[2.0, *[1.0] * len(kinds)]
    )[:, 0]
    for blocks, name, color in (
        (alone, "left alone", series(1).color),
        (tracked, "followed", series(0).color),
    ):
        seen = [each for each in blocks if each.rounds]
        top.errorbar(
            [each.hour for each in seen],
            [100 * each.qber for each in seen],
            [100 * each.sigma for each in seen],
            fmt="o-",
            markersize=3,
            linewidth=1,
            color=color,
            label=name,
        )
        none = [each for each in seen if not each.secret_bits]
        top.plot(
            [each.hour for each in none],
            [100 * each.qber for each in none],
            "x",
            color=color,
            label=f"no key ({name})",
        )
    for blocks, name, color in (
        (alone, "left alone", series(1).color),
        (tracked, "followed", series(0).color),
    ):
        dark = [each.hour for each in blocks if not each.rounds]
        place = {"transform": top.get_xaxis_transform(), "clip_on": False}
        top.plot(dark, [0.02] * len(dark), "v", color=color, label=f"light given up ({name})", **place)
    steps = [each for each in tracked if each.calibrated]
    for number, each in enumerate(steps):
        top.axvline(
            each.hour, color="0.5", linestyle=":", label=None if number else "calibrated by suspension"
        )
    top.axhline(100 * LIMIT, color="0.3", linewidth=0.8, linestyle="--")
    top.set_yscale("log")
    top.yaxis.set_major_locator(FixedLocator(TICKS))
    top.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    top.yaxis.set_minor_formatter(NullFormatter())
    top.set_ylabel("QBER / %")
    top.set_title(title, fontsize=9)
    low, high = top.get_ylim()
    top.set_ylim(low, 1.6 * high)
    top.legend(fontsize=7, ncols=3, loc="upper right")
    for axes, unit in zip(below, kinds, strict=True):
        for label, points in what.items():
            name, of_unit = label.split(" / ")
            if of_unit == unit:
                axes.plot(
                    [h for h, _ in points],
                    [v for _, v in points],
                    ".-",
                    markersize=3,
                    linewidth=0.8,
                    label=name,
                )
        axes.set_ylabel(f"correction / {unit}", fontsize=7)
        axes.legend(fontsize=7)
    (below or [top])[-1].set_xlabel("time of the day of drift / h")
    return figure


def write(folder: Path, tracked: Sequence[BlockSeen], alone: Sequence[BlockSeen], title: str) -> None:
    """Figure and table."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn(tracked, alone, title).savefig(folder / "day.svg", format="svg")
    with (folder / "day.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(
            ["day", "hour", "rounds", "errors", "qber", "secret_bits", "corrections", "calibrated", "reason"]
        )
        for name, blocks in (("followed", tracked), ("left alone", alone)):
            for each in blocks:
                told = "; ".join(
                    f"{c.what} {c.before:.4g} -> {c.after:.4g} {c.unit}" for c in each.corrections
                )
                steps = ", ".join(each.calibrated)
                figures = [each.hour, each.rounds, each.wrong, each.qber, each.secret_bits]
                out.writerow([name, *figures, told, steps, each.reason])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every", type=float, default=15.0, help="minutes from block to block")
    parser.add_argument("--until", type=float, default=24.0, help="hour")
    parser.add_argument("--loop-phase-rad", type=float, default=0.1, help="order of the loop phase's drift")
    parser.add_argument("--out", type=Path, default=Path("day-of-drift"))
    given = parser.parse_args()
    hours = [n * given.every / 60 for n in range(round(given.until * 60 / given.every) + 1)]
    days: dict[bool, list[BlockSeen]] = {}
    began = time.monotonic()
    for is_tracked in (True, False):
        print(f"\n{'followed' if is_tracked else 'left alone'}\n{HEAD}", flush=True)
        days[is_tracked] = []
        for block in day(
            given.seed, given.loop_phase_rad, hours[:: 1 if is_tracked else 4], is_tracked=is_tracked
        ):
            days[is_tracked].append(block)
            print(row(block), flush=True)
    tracked, alone = days[True], days[False]
    title = f"{'-'.join(PAIR)}, ring {given.seed}, loop phase of order {given.loop_phase_rad:g} rad: one day of drift"
    write(given.out, tracked, alone, title)
    lit = [each for each in tracked if each.rounds]
    print(
        f"\nfollowed: QBER at most {100 * max(each.qber for each in lit):.2f} %, "
        f"{sum(bool(each.secret_bits) for each in tracked)} of {len(tracked)} blocks with key, "
        f"{sum(len(each.corrections) for each in tracked)} corrections, "
        f"{sum(len(each.calibrated) for each in tracked)} calibration steps queued by suspension\n"
        f"left alone: QBER up to {100 * max(each.qber for each in alone if each.rounds):.2f} %, "
        f"{sum(bool(each.secret_bits) for each in alone)} of {len(alone)} blocks with key\n"
        f"{time.monotonic() - began:.0f} s; {given.out / 'day.svg'}"
    )


if __name__ == "__main__":
    main()
