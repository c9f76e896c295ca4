"""``report.html``: one self-contained page from the numbers in ``report.json`` and nothing else."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from fl.experiments.ring_run import BlockFigures, RingRun
from lab.runs.demo_told import DemoPair, DemoReport, DemoRound
from lab.runs.pages.page import Table, render
from lab.runs.pages.ring_plots import KEY_RATE, error_of, rate_of, ring_plots
from lab.runs.pages.style import GROUND, TEXT, by_round, plot, series
from orchestrator.events.status import pair_name


def render_report(report: DemoReport) -> str:
    """The whole page as HTML text."""
    ring = report["ring"]
    return render(
        "demo.html",
        warnings=report["warnings"],
        report=report,
        pair_plots=[*_pair_plots(report, ring), *(ring_plots(ring) if ring else ())],
        pairs=_pair_table(report["pairs"]),
        stock_plots=[_stock_plot(report)],
        accuracy_plots=[_accuracy_plot(report)],
        rounds=_round_table(report["rounds"]),
    )


def _pair_table(pairs: list[DemoPair]) -> Table:
    head = [
        "pair",
        "loss, dB",
        "pulses",
        "lost frames",
        "sifted bits",
        "QBER, %",
        "f",
        "secret bits",
        "kbit per second of light",
        "predicted from arrivals",
        "planned",
        "kbit per wall second on the ring",
        "aborted blocks",
        "sum of epsilons",
    ]
    rows = [
        [
            pair_name(row["pair"]),
            f"{row['loss_db']:.1f}",
            f"{row['pulses']:.3g}",
            str(row["lost_frames"]),
            f"{row['sifted_bits']:,}",
            f"{100 * row['qber']:.2f}",
            f"{row['f_ec']:.3f}",
            f"{row['secret_bits']:,}",
            f"{row['secret_bits_per_ring_second'] / 1000:.1f}",
            f"{row['predicted_bits_per_ring_second'] / 1000:.1f}",
            f"{row['planned_bits_per_ring_second'] / 1000:.1f}",
            f"{row['secret_bits_per_wall_second'] / 1000:.1f}",
            str(row["aborted_blocks"]),
            f"{row['epsilon']['total']:.2g}",
        ]
        for row in pairs
    ]
    return Table(head, rows)


def _round_table(rounds: list[DemoRound]) -> Table:
    head = ["round", "accuracy, %", "upload of all clients, bytes", "key used, bits"]
    return Table(
        head,
        [
            [
                str(row["round"]),
                f"{100 * row['accuracy']:.2f}",
                f"{row['upload_bytes']:,}",
                f"{row['key_bits_used']:,}",
            ]
            for row in rounds
        ],
    )


def _pair_plots(report: DemoReport, ring: RingRun | None) -> list[Markup]:
    """What each pair got beside what was planned, with one standard deviation."""
    rows = report["pairs"]
    names = [pair_name(row["pair"]) for row in rows]
    mark = {"marker": "_", "linestyle": "", "color": str(TEXT), "markersize": 16, "markeredgewidth": 2}

    def rate(axes: Any) -> None:
        values = [row["secret_bits_per_ring_second"] / 1e3 for row in rows]
        sigmas = [(rate_of(_blocks(ring, row["pair"]))[1] or 0.0) / 1e3 for row in rows]
        axes.bar(names, values, yerr=sigmas, color=series(0).color, ecolor=str(TEXT), label="measured")
        planned = [row["planned_bits_per_ring_second"] / 1e3 for row in rows]
        axes.plot(names, planned, label="planned", **mark)
        _upright(axes)

    def error(axes: Any) -> None:
        values = [100 * row["qber"] for row in rows]
        sigmas = [100 * error_of(row["qber"], row["sifted_bits"]) for row in rows]
        axes.bar(names, values, yerr=sigmas, color=series(5).color, ecolor=str(TEXT), label="measured")
        axes.plot(names, [100 * row["planned_qber"] for row in rows], label="expected", **mark)
        _upright(axes)

    return [
        plot("Key rate of every pair", "", KEY_RATE, rate),
        plot("QBER of every pair", "", "QBER, %", error),
    ]


def _blocks(ring: RingRun | None, pair: list[str]) -> list[BlockFigures]:
    return [each for each in ring.blocks if each.pair == tuple(pair)] if ring else []


def _upright(axes: Any) -> None:
    """Names of pairs lean, so that six stand beside each other."""
    axes.tick_params(axis="x", rotation=40)
    axes.margins(y=0.12)


def _stock_plot(report: DemoReport) -> Markup:
    rows = report["pairs"]
    names = [pair_name(row["pair"]) for row in rows]
    parts = {
        "used as pads": [row["consumed_bits"] for row in rows],
        "authentication": [row["authentication_bits"] for row in rows],
        "in stock": [row["stored_bits"] for row in rows],
        "burnt": [row["burnt_bits"] for row in rows],
    }

    def draw(axes: Any) -> None:
        bottom = [0.0] * len(names)
        for number, (label, bits) in enumerate(parts.items()):
            values = [each / 1e3 for each in bits]
            if any(values):
                look = series(number)
                axes.bar(names, values, bottom=bottom, label=label, color=look.color, edgecolor=str(GROUND))
                bottom = [low + value for low, value in zip(bottom, values, strict=True)]
        _upright(axes)

    return plot("What became of the key of each pair", "", "key, kbit", draw)


def _accuracy_plot(report: DemoReport) -> Markup:
    lines = {
        "masked with one-time pads": [(row["round"], row["accuracy"]) for row in report["rounds"]],
        "the same without masking, float32": [(row["round"], row["accuracy"]) for row in report["reference"]],
    }

    def draw(axes: Any) -> None:
        for number, (label, rows) in enumerate(lines.items()):
            if rows:
                look = series(number)
                rounds = [number for number, _ in rows]
                accuracies = [100 * accuracy for _, accuracy in rows]
                axes.plot(
                    rounds,
                    accuracies,
                    color=look.color,
                    marker=look.marker,
                    linestyle=look.dash,
                    label=label,
                )
        by_round(axes)

    return plot("Test accuracy by round", "training round", "test accuracy, %", draw)
