"""The figures of a training run in words, for the summary, the report and comparisons; loads nothing heavy."""

from __future__ import annotations

from fl.experiments.results import Results, all_exact
from fl.modes.table import MODES


def supply(results: Results) -> str:
    """Where the key of the run came from."""
    return "not needed" if MODES[results.mode].cipher is None else results.key_supply


def against_float32(saving: float) -> str:
    """How the upload compares with that of float32; shares and answers can make it the larger one."""
    return f"{100 * abs(saving):.2f} % {'less' if saving >= 0 else 'more'}"


def accuracy(mean: float, interval: tuple[float, float] | None) -> str:
    """An accuracy in percent with its 95 % interval."""
    spread = "" if interval is None else f" (95 %: {range_text(interval)})"
    return f"{100 * mean:.2f} %{spread}"


def points(mean: float, interval: tuple[float, float] | None) -> str:
    """A difference of accuracies in points."""
    spread = "" if interval is None else f" (95 %: {range_text(interval, '+')})"
    return f"{100 * mean:+.2f} points{spread}"


def range_text(interval: tuple[float, float] | None, sign: str = "") -> str:
    """A 95 % interval in percent or, with the sign ``+``, in points."""
    if interval is None:
        return "- (one seed)"
    return f"{100 * interval[0]:{sign}.2f} to {100 * interval[1]:{sign}.2f}"


def exactness(results: Results) -> str:
    """Whether the aggregate was the plain sum."""
    return {True: "yes, in every round", False: "NO", None: "not checked"}[all_exact(results.rounds)]
