"""Figures of training runs: curves with their spread over seeds, bytes, key and time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from fl.experiments.results import Arm, RoundTimes, SeedRun, mean
from lab.runs.pages.page import COLORS, PART_COLORS, by_round, new_figure, png_of

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


def accuracy_and_loss(lines: Sequence[Line]) -> bytes:
    """Mean over seeds, shaded from the lowest to the highest seed; levels are dashed."""
    figure, (accuracy, loss) = new_figure(2, 3.8)
    for color, line in zip(_colors(lines), lines, strict=True):
        if line.has_rounds:
            first = line is lines[0]
            _curve(accuracy, line, color, "accuracy", 100.0, first=first)
            _curve(loss, line, color, "loss", 1.0, first=first)
        else:
            level = 100 * line.arm.final.accuracy_mean
            accuracy.axhline(level, color=color, linestyle="--", linewidth=1.4, label=line.label)
    accuracy.set_ylabel("test accuracy, %")
    loss.set_ylabel("test loss, nats")
    for axes in (accuracy, loss):
        by_round(axes)
    handles, labels = accuracy.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
    return png_of(figure)


def _colors(lines: Sequence[Line]) -> list[str]:
    return [COLORS[index % len(COLORS)] for index in range(len(lines))]


def _curve(axes: Any, line: Line, color: str, what: str, factor: float, *, first: bool) -> None:
    """The first line is thin and above the others, so that those under it are seen where they coincide."""
    rows = [row for row in line.arm.rounds if getattr(row, what) is not None]
    if not rows:
        return
    numbers = [row.round for row in rows]
    marker = "o" if len(rows) < 12 else None
    values = [factor * getattr(row, what) for row in rows]
    style = {"linewidth": 1.6, "markersize": 3, "zorder": 3} if first else {"linewidth": 3.2, "markersize": 6}
    axes.plot(numbers, values, color=color, marker=marker, label=line.label, **style)
    bands = [_band(line.arm.runs, index, what) for index, row in enumerate(line.arm.rounds) if row in rows]
    if len(line.arm.runs) > 1 and all(band is not None for band in bands):
        low = [factor * band[0] for band in bands if band]
        high = [factor * band[1] for band in bands if band]
        axes.fill_between(numbers, low, high, color=color, alpha=0.15, linewidth=0)


def _band(runs: Sequence[SeedRun], index: int, what: str) -> tuple[float, float] | None:
    values = [getattr(run.rounds[index], what) for run in runs if index < len(run.rounds)]
    return None if not values or None in values else (min(values), max(values))


def accuracy_and_bytes(lines: Sequence[Line]) -> bytes:
    """What an upload weighs, and the accuracy reached per byte sent."""
    shown = [line for line in lines if line.has_rounds]
    figure, (size, reached) = new_figure(2, 3.6)
    unit, name = _byte_unit(max(line.arm.rounds[-1].upload_bytes_per_client for line in shown))
    sum_unit, sum_name = _byte_unit(max(_sent(line)[-1] for line in shown))
    for row, (color, line) in enumerate(zip(_colors(lines), lines, strict=True)):
        if line not in shown:
            continue
        value = line.arm.rounds[-1].upload_bytes_per_client / unit
        size.barh(row, value, color=color)
        text = f" {bytes_text(line.arm.rounds[-1].upload_bytes_per_client)}"
        size.annotate(text, (value, row), va="center", annotation_clip=False, fontsize=9)
        sent = [bytes_ / sum_unit for bytes_ in _sent(line)]
        reached.plot(sent, [100 * each.accuracy for each in line.arm.rounds], color=color, linewidth=1.8)
    rows = [(index, line.label) for index, line in enumerate(lines) if line in shown]
    size.set_yticks([row for row, _ in rows], [_wrapped(label) for _, label in rows], fontsize=9)
    size.invert_yaxis()
    size.margins(x=0.28)
    size.set_xlabel(f"upload of a client in a round, {name}")
    reached.set_xlabel(f"upload of a client so far, {sum_name}")
    reached.set_ylabel("test accuracy, %")
    return png_of(figure)


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


def key_and_time(lines: Sequence[Line]) -> bytes:
    """Key used so far over all pairs, and where the time of a round goes."""
    figure, (key, seconds) = new_figure(2, 3.6)
    used = [list(accumulate(row.key_bits for row in line.arm.rounds)) for line in lines]
    unit, name = _bit_unit(max(each[-1] for each in used))
    for color, line, bits in zip(_colors(lines), lines, used, strict=True):
        if bits[-1]:
            numbers = [row.round for row in line.arm.rounds]
            key.plot(numbers, [each / unit for each in bits], color=color, linewidth=1.8)
    by_round(key)
    key.set_ylabel(f"key used by all pairs so far, {name}")
    key.set_ylim(bottom=0)
    timed = [line for line in lines if line.is_timed]
    left = [0.0] * len(timed)
    for (phase, label), color in zip(PHASES, PART_COLORS, strict=True):
        values = [mean_seconds(line.arm, phase) for line in timed]
        if any(values):
            seconds.barh(range(len(timed)), values, left=left, label=label, color=color)
            left = [start + value for start, value in zip(left, values, strict=True)]
    seconds.set_yticks(range(len(timed)), [_wrapped(line.label) for line in timed], fontsize=9)
    seconds.invert_yaxis()
    seconds.set_xlabel("mean time of a round, s")
    if timed:
        seconds.legend(frameon=False, ncols=2, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1))
    return png_of(figure)


def mean_seconds(arm: Arm, phase: str) -> float:
    """Mean seconds of a round in one phase over all seeds.

    With simulated clients the first round is left out: its time is that of starting processes.
    """
    times: list[RoundTimes] = []
    for run in arm.runs:
        live = any(each.work_s or each.wait_s for each in run.times)
        times += run.times if live or len(run.times) == 1 else run.times[1:]
    return mean([float(getattr(each, phase)) for each in times]) if times else 0.0
