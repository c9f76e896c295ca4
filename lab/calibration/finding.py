"""What one calibration found of one owner: values for the book, and everything that a reader needs to judge them."""

from __future__ import annotations

import math
from datetime import datetime

import msgspec

from lab.calibration.steps import Step

FORMAT = 1
"""Of findings that are kept."""


class Curve(msgspec.Struct, frozen=True):
    """Points that were measured, and what was fitted to them; one line of each per name."""

    title: str
    x_label: str
    y_label: str
    x: list[float]
    measured: dict[str, list[float]]
    fitted: dict[str, list[float]] = {}
    sigma: dict[str, list[float]] = {}
    """One standard deviation of each measured point, where it is known."""


class Measured(msgspec.Struct, frozen=True):
    """One value, or a few that belong together, with the uncertainty of each (one sigma)."""

    value: float | list[float]
    uncertainty: float | list[float]
    unit: str = ""

    def pairs(self) -> list[tuple[float, float]]:
        """Each value with its uncertainty."""
        if isinstance(self.value, list) and isinstance(self.uncertainty, list):
            return list(zip(self.value, self.uncertainty, strict=True))
        assert not isinstance(self.value, list)
        assert not isinstance(self.uncertainty, list)
        return [(float(self.value), float(self.uncertainty))]

    def told(self) -> str:
        """For people: each value to two digits of its uncertainty, and the unit."""
        text = " and ".join(
            f"{rounded(value, sigma)} +- {sigma:.2g}" if sigma else f"{value:.4g}"
            for value, sigma in self.pairs()
        )
        return f"{text} {self.unit}".rstrip()


def rounded(value: float, sigma: float) -> str:
    """A value to two digits of one standard deviation."""
    if not (value and sigma and math.isfinite(value) and math.isfinite(sigma)):
        return f"{value:.6g}"
    digits = math.floor(math.log10(abs(value))) - math.floor(math.log10(sigma)) + 2
    return f"{value:#.{max(digits, 1)}g}".rstrip(".").replace(".e", "e")


class Finding(msgspec.Struct, frozen=True):
    """``values`` go into the book; ``figures`` are told beside them, ``settings`` say under what they were measured.

    ``counts`` are the raw ones, never symbols of a frame that makes key.  ``light_s`` seconds of light were used.
    ``partner`` is who stood in a user's light, or the pair in whose light the relay measured.
    """

    step: Step
    owner: str
    values: dict[str, Measured]
    figures: dict[str, Measured]
    settings: dict[str, float | str]
    quality: dict[str, float]
    counts: dict[str, list[int]]
    curves: list[Curve]
    light_s: float
    partner: str = ""
    measured: datetime | None = None
    """When it was kept."""
    format: int = FORMAT
