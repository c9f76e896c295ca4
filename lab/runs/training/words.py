"""The figures of a training run in words, for the summary, the report and comparisons; loads nothing heavy."""

from __future__ import annotations

from fl.experiments.results import Results
from fl.modes.table import MODES


def supply(results: Results) -> str:
    """Where the key of the run came from."""
    return "not needed" if MODES[results.mode].cipher is None else results.key_supply


def against_float32(saving: float) -> str:
    """How the upload compares with that of float32; shares and answers can make it the larger one."""
    return f"{100 * abs(saving):.2f} % {'less' if saving >= 0 else 'more'}"


def accuracy(mean: float, interval: tuple[float, float] | None) -> str:
    """An accuracy in percent with its 95 % interval."""
    if interval is None:
        return f"{100 * mean:.2f} %"
    return f"{100 * mean:.2f} % (95 %: {100 * interval[0]:.2f} to {100 * interval[1]:.2f})"


def points(mean: float, interval: tuple[float, float] | None) -> str:
    """A difference of accuracies in points."""
    if interval is None:
        return f"{100 * mean:+.2f} points"
    return f"{100 * mean:+.2f} points (95 %: {100 * interval[0]:+.2f} to {100 * interval[1]:+.2f})"


def exactness(results: Results) -> str:
    """Whether the aggregate was the plain sum."""
    checks = {row.exact for row in results.rounds}
    if False in checks:
        return "NO"
    return "not checked" if None in checks else "yes, in every round"
