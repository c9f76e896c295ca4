"""Plots of what a ring did: key rate against loss, error rate over time, who held the light when."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import stdev
from typing import Any

from markupsafe import Markup

from fl.experiments.ring_run import BlockFigures, PairNames, RingRun
from lab.runs.pages.style import HEIGHT_IN, LINE, RED, SOFT, log_scale, plot, series
from orchestrator.events.status import pair_name

MINUTE_S, HOUR_S = 60.0, 3600.0
KEY_RATE = "key, kbit per s of light"


def ring_plots(run: RingRun) -> list[Markup]:
    """All of them, those that have data."""
    drawn = [_rate_against_loss(run)] if run.plans else []
    if any(each.qber is not None for each in run.blocks):
        drawn.append(_error_over_time(run))
    return [*drawn, _schedule(run)]


def rate_of(blocks: Sequence[BlockFigures]) -> tuple[float, float | None]:
    """Secret bits per second of light over all blocks, aborted ones too, and the standard error of that.

    The error is that of the mean of the blocks, so it holds whatever makes them differ; None for fewer than two.
    """
    lit = [each for each in blocks if each.light_s > 0]
    if not lit:
        return 0.0, None
    rate = sum(each.secret_bits for each in lit) / sum(each.light_s for each in lit)
    if len(lit) < 2:
        return rate, None
    return rate, stdev(each.secret_bits / each.light_s for each in lit) / math.sqrt(len(lit))


def error_of(qber: float, bits: int) -> float:
    """One standard deviation of an error rate that was counted over so many bits; binomial."""
    return math.sqrt(qber * (1 - qber) / bits) if bits else 0.0


def _rate_against_loss(run: RingRun) -> Markup:
    """The planner's curve of each pair, and what was measured at the loss that the pair has."""

    def draw(axes: Any) -> None:
        for number, plan in enumerate(run.plans):
            look = series(number)
            curve = [point for point in plan.curve if point.rate_bps > 0]
            losses, rates = [each.loss_db for each in curve], [each.rate_bps / 1e3 for each in curve]
            axes.plot(losses, rates, color=look.color, linewidth=1, linestyle=look.dash)
            rate, sigma = rate_of([each for each in run.blocks if each.pair == plan.pair])
            if rate:
                axes.errorbar(
                    [plan.loss_db],
                    [rate / 1e3],
                    yerr=None if sigma is None else [sigma / 1e3],
                    fmt=look.marker,
                    color=look.color,
                    markersize=6,
                    zorder=3,
                    label=pair_name(plan.pair),
                )
        log_scale(axes, "y")

    return plot(
        "Key rate against loss, on the planned curve",
        "loss of both arms, dB",
        KEY_RATE,
        draw,
    )


def _error_over_time(run: RingRun) -> Markup:
    """Each block with one standard deviation; a cross gave no key."""
    unit_s, unit = time_unit(max(each.at_s for each in run.blocks))
    limit = min(each.qber_limit for each in run.plans) if run.plans else None

    def draw(axes: Any) -> None:
        for number, pair in enumerate(pairs_of(run)):
            look = series(number)
            seen = [each for each in run.blocks if each.pair == pair and each.qber is not None]
            axes.errorbar(
                [each.at_s / unit_s for each in seen],
                [100 * (each.qber or 0.0) for each in seen],
                yerr=[100 * error_of(each.qber or 0.0, each.sifted_bits) for each in seen],
                fmt=f"{look.marker}-",
                linewidth=0.8,
                color=look.color,
                label=pair_name(pair),
            )
        none = [each for each in run.blocks if not each.stored and each.qber is not None]
        if none:
            at, rates = [each.at_s / unit_s for each in none], [100 * (each.qber or 0.0) for each in none]
            axes.plot(at, rates, "x", color=str(RED), markersize=9, label="no key")
        if limit is not None:
            axes.axhline(
                100 * limit, color=str(RED), linestyle="--", linewidth=1.2, label="limit: no key above"
            )
        axes.set_ylim(bottom=0)

    return plot("QBER over time", f"time since the first lease, {unit}", "QBER, %", draw)


def _schedule(run: RingRun) -> Markup:
    """A row for each pair: bars where it held the ring, ends without success in outline, rounds of training as lines."""
    unit_s, unit = time_unit(max(each.began_s + each.ring_s for each in run.leases))
    rows = {pair: number for number, pair in enumerate(pairs_of(run))}

    def draw(axes: Any) -> None:
        for number, at_s in enumerate(run.rounds_s):
            label = None if number else "round of training summed"
            axes.axvline(at_s / unit_s, color=str(SOFT), linewidth=0.8, linestyle=":", label=label)
        for ok, label in ((True, "held the light"), (False, "ended without success")):
            for number, lease in enumerate(each for each in run.leases if each.ok is ok):
                colour = series(rows[lease.pair]).color
                axes.barh(
                    rows[lease.pair],
                    lease.ring_s / unit_s,
                    left=lease.began_s / unit_s,
                    height=0.62,
                    color=colour if ok else "none",
                    edgecolor=str(RED) if not ok else str(LINE),
                    linewidth=0.4 if ok else 1.2,
                    label=None if number else label,
                )
        axes.set_yticks(list(rows.values()), [pair_name(pair) for pair in rows])
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.grid(axis="x")

    height_in = max(HEIGHT_IN, 1.0 + 0.28 * len(rows))
    busy_s = sum(each.ring_s for each in run.leases)
    light_s = sum(each.light_s for each in run.leases)
    says = f"{len(run.leases)} leases held the ring for {busy_s:.0f} s, {light_s:.1f} s of them light for key"
    return plot(
        f"Ring schedule: {says}", f"time since the first lease, {unit}", "", draw, height_in=height_in
    )


def pairs_of(run: RingRun) -> list[PairNames]:
    """Those that were planned, then others that held the light."""
    return list(dict.fromkeys([*(each.pair for each in run.plans), *(each.pair for each in run.leases)]))


def time_unit(longest_s: float) -> tuple[float, str]:
    """Seconds to a unit in which the longest time is read easily, and its name."""
    if longest_s < 3 * MINUTE_S:
        return 1.0, "s"
    return (MINUTE_S, "min") if longest_s < 3 * HOUR_S else (HOUR_S, "h")
