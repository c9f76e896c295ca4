"""Plots of training runs: curves with their spread over seeds, bytes, key and time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from markupsafe import Markup

from fl.experiments.results import Arm, RoundTimes, SeedRun, mean
from lab.runs.pages.style import GROUND, HEIGHT_IN, Series, by_round, plot, series

PHASES = (
    ("train_s", "local training"),
    ("protect_s", "protection"),
    ("aggregate_s", "aggregation"),
    ("evaluate_s", "evaluation"),
    ("work_s", "training to upload"),
    ("wait_s", "waiting for keys"),
)


@dataclass(frozen=True)
class Line:
    """One thing shown: its label and the arm behind it."""

    label: str
    arm: Arm

    @property
    def has_rounds(self) -> bool:
        """Whether it is a curve; training in one place and oracles are levels."""
        return self.arm.kind in ("federated", "float32")

    @property
    def is_timed(self) -> bool:
        """Whether the time of its rounds is known, phase by phase."""
        return self.has_rounds and any(run.times for run in self.arm.runs)


def accuracy_and_loss(lines: Sequence[Line]) -> list[Markup]:
    """Mean over seeds, shaded from the lowest to the highest seed; levels are dotted lines."""

    def accuracy(axes: Any) -> None:
        for look, line in _looks(lines):
            if line.has_rounds:
                _curve(axes, line, look, "accuracy", 100.0)
            else:
                level = 100 * line.arm.final.accuracy_mean
                axes.axhline(level, color=look.color, linestyle=":", label=line.label)
        by_round(axes)

    def loss(axes: Any) -> None:
        for look, line in _looks(lines):
            if line.has_rounds:
                _curve(axes, line, look, "loss", 1.0)
        by_round(axes)

    return [
        plot("Test accuracy by round", "training round", "test accuracy, %", accuracy),
        plot("Test loss by round", "training round", "test loss, nats", loss),
    ]


def _looks(lines: Sequence[Line]) -> list[tuple[Series, Line]]:
    return [(series(number), line) for number, line in enumerate(lines)]


def _curve(axes: Any, line: Line, look: Series, what: str, factor: float) -> None:
    """Where curves coincide, dashes of the later ones let the earlier ones be seen."""
    rows = [row for row in line.arm.rounds if getattr(row, what) is not None]
    if not rows:
        return
    numbers = [row.round for row in rows]
    values = [factor * getattr(row, what) for row in rows]
    every = max(1, len(rows) // 8)
    axes.plot(
        numbers,
        values,
        color=look.color,
        linestyle=look.dash,
        marker=look.marker,
        markevery=every,
        label=line.label,
    )
    bands = [_band(line.arm.runs, index, what) for index, row in enumerate(line.arm.rounds) if row in rows]
    if len(line.arm.runs) > 1 and all(band is not None for band in bands):
        low = [factor * band[0] for band in bands if band]
        high = [factor * band[1] for band in bands if band]
        axes.fill_between(numbers, low, high, color=look.color, alpha=0.18, linewidth=0)


def _band(runs: Sequence[SeedRun], index: int, what: str) -> tuple[float, float] | None:
    values = [getattr(run.rounds[index], what) for run in runs if index < len(run.rounds)]
    return None if not values or None in values else (min(values), max(values))


def accuracy_and_bytes(lines: Sequence[Line]) -> list[Markup]:
    """What an upload weighs, and the accuracy reached per byte sent."""
    shown = [(look, line) for look, line in _looks(lines) if line.has_rounds]
    unit, name = _byte_unit(max(line.arm.rounds[-1].upload_bytes_per_client for _, line in shown))
    sum_unit, sum_name = _byte_unit(max(_sent(line)[-1] for _, line in shown))

    def size(axes: Any) -> None:
        for row, (look, line) in enumerate(shown):
            value = line.arm.rounds[-1].upload_bytes_per_client
            axes.barh(row, value / unit, color=look.color, height=0.6)
            _beside(axes, bytes_text(value), value / unit, row)
        _named_rows(axes, [line.label for _, line in shown])
        axes.margins(x=0.28)

    def reached(axes: Any) -> None:
        for look, line in shown:
            sent = [bytes_ / sum_unit for bytes_ in _sent(line)]
            accuracy = [100 * each.accuracy for each in line.arm.rounds]
            axes.plot(sent, accuracy, color=look.color, linestyle=look.dash, label=line.label)

    return [
        plot("Upload of a client in a round", f"upload, {name}", "", size, height_in=_height(len(shown))),
        plot("Accuracy per byte sent", f"upload of a client so far, {sum_name}", "test accuracy, %", reached),
    ]


def _beside(axes: Any, text: str, end: float, row: int) -> None:
    """What a bar comes to, behind its end."""
    place = {"xytext": (4, 0), "textcoords": "offset points", "va": "center", "annotation_clip": False}
    axes.annotate(text, (end, row), fontsize=9.5, **place)


def _named_rows(axes: Any, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), [_wrapped(label) for label in labels])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x")


def _height(rows: int) -> float:
    """Of a plot with this many named rows, inches."""
    return max(HEIGHT_IN, 0.9 + 0.55 * rows)


def _sent(line: Line) -> list[float]:
    """Bytes that a client has uploaded after each round."""
    return list(accumulate(row.upload_bytes_per_client for row in line.arm.rounds))


def _wrapped(label: str, width: int = 26) -> str:
    lines = [""]
    for word in label.split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def bytes_text(size: float) -> str:
    """Bytes with the prefix that suits them."""
    unit, name = _byte_unit(size)
    return f"{size / unit:.3g} {name}"


def _byte_unit(largest: float) -> tuple[float, str]:
    return (1e6, "MB") if largest >= 1e6 else (1e3, "kB") if largest >= 1e3 else (1.0, "bytes")


def _bit_unit(largest: float) -> tuple[float, str]:
    for unit, name in ((1e12, "Tbit"), (1e9, "Gbit"), (1e6, "Mbit"), (1e3, "kbit")):
        if largest >= unit:
            return unit, name
    return 1.0, "bit"


def key_and_time(lines: Sequence[Line]) -> list[Markup]:
    """Key used so far over all pairs, and where the time of a round goes; only what any of the lines has."""
    used = [
        (look, line, list(accumulate(row.key_bits for row in line.arm.rounds)))
        for look, line in _looks(lines)
    ]
    unit, name = _bit_unit(max(bits[-1] for _, _, bits in used))
    timed = [line for line in lines if line.is_timed]

    def key(axes: Any) -> None:
        for look, line, bits in used:
            if bits[-1]:
                numbers = [row.round for row in line.arm.rounds]
                axes.plot(
                    numbers,
                    [each / unit for each in bits],
                    color=look.color,
                    linestyle=look.dash,
                    label=line.label,
                )
        by_round(axes)
        axes.set_ylim(bottom=0)

    def seconds(axes: Any) -> None:
        left = [0.0] * len(timed)
        for number, (phase, label) in enumerate(PHASES):
            values = [mean_seconds(line.arm, phase) for line in timed]
            if any(values):
                axes.barh(
                    range(len(timed)),
                    values,
                    left=left,
                    height=0.6,
                    label=label,
                    color=series(number).color,
                    edgecolor=str(GROUND),
                )
                left = [start + value for start, value in zip(left, values, strict=True)]
        for row, end in enumerate(left):
            _beside(axes, f"{end:.3g} s", end, row)
        _named_rows(axes, [line.label for line in timed])
        axes.margins(x=0.18)

    drawn = []
    if any(bits[-1] for _, _, bits in used):
        drawn.append(plot("Key used by all pairs", "training round", f"key used so far, {name}", key))
    if timed:
        height_in = _height(len(timed))
        drawn.append(plot("Time of a round", "mean time of a round, s", "", seconds, height_in=height_in))
    return drawn


def mean_seconds(arm: Arm, phase: str) -> float:
    """Mean seconds of a round in one phase over all seeds.

    With simulated clients the first round is left out: its time is that of starting processes.
    """
    times: list[RoundTimes] = []
    for run in arm.runs:
        live = any(each.work_s or each.wait_s for each in run.times)
        times += run.times if live or len(run.times) == 1 else run.times[1:]
    return mean([float(getattr(each, phase)) for each in times]) if times else 0.0
