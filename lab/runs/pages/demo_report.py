"""``report.html``: one self-contained page from the numbers in ``report.json`` and nothing else."""

from __future__ import annotations

from typing import Any

from lab.runs.pages.page import COLORS, PART_COLORS, Table, by_round, image, new_figure, png_of, render
from orchestrator.events.status import pair_name

Report = dict[str, Any]


def render_report(report: Report) -> str:
    """The whole page as HTML text."""
    return render(
        "demo.html",
        warnings=report["warnings"],
        report=report,
        pair_plot=image(_pair_plot(report), "Key rate and QBER of every pair"),
        pairs=_pair_table(report["pairs"]),
        stock_plot=image(_stock_plot(report), "Key consumed and stocked per pair"),
        accuracy_plot=image(_accuracy_plot(report), "Accuracy per round"),
        rounds=_round_table(report["rounds"]),
    )


def _pair_table(pairs: list[Report]) -> Table:
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


def _round_table(rounds: list[Report]) -> Table:
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


def _pair_plot(report: Report) -> bytes:
    figure, (rate, error) = new_figure(2)
    names = [pair_name(row["pair"]) for row in report["pairs"]]
    rate.bar(names, [row["secret_bits_per_ring_second"] / 1e3 for row in report["pairs"]], color=COLORS[0])
    planned = [row["planned_bits_per_ring_second"] / 1e3 for row in report["pairs"]]
    rate.plot(names, planned, "k_", markersize=18, markeredgewidth=2, label="planned")
    rate.set_ylabel("secret key, kbit per second of light")
    error.bar(names, [100 * row["qber"] for row in report["pairs"]], color=COLORS[1])
    expected = [100 * row["planned_qber"] for row in report["pairs"]]
    error.plot(names, expected, "k_", markersize=18, markeredgewidth=2, label="expected")
    error.set_ylabel("QBER, %")
    for axes in (rate, error):
        axes.tick_params(axis="x", rotation=40)
        axes.legend(frameon=False)
        axes.margins(y=0.18)
    return png_of(figure)


def _stock_plot(report: Report) -> bytes:
    figure, axes = new_figure(1)
    names = [pair_name(row["pair"]) for row in report["pairs"]]
    bottom = [0.0] * len(names)
    parts = {
        "consumed_bits": "used as pads",
        "authentication_bits": "authentication",
        "stored_bits": "in stock",
        "burnt_bits": "burnt",
    }
    for (key, label), color in zip(parts.items(), PART_COLORS, strict=False):
        values = [row[key] / 1e3 for row in report["pairs"]]
        axes.bar(names, values, bottom=bottom, label=label, color=color)
        bottom = [low + value for low, value in zip(bottom, values, strict=True)]
    axes.set_ylabel("key of each pair, kbit")
    axes.legend(frameon=False, ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.16))
    return png_of(figure)


def _accuracy_plot(report: Report) -> bytes:
    figure, axes = new_figure(1)
    rounds = report["rounds"]
    axes.plot(
        [row["round"] for row in rounds],
        [100 * row["accuracy"] for row in rounds],
        "o-",
        color=COLORS[0],
        label="masked with one-time pads",
    )
    reference = report.get("reference") or []
    if reference:
        axes.plot(
            [row["round"] for row in reference],
            [100 * row["accuracy"] for row in reference],
            "--",
            color=COLORS[1],
            label="same training without masking, float32",
        )
    by_round(axes)
    axes.set_ylabel("test accuracy, %")
    axes.legend(frameon=False)
    return png_of(figure)
