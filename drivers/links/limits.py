"""Limits that are checked before anything is sent, with an error that names value, limits and unit.

QCoDeS validators raise a plain ``ValueError``; the station wants the typed :class:`LimitError` (which is a
``ValueError`` too), so that a value outside the hard limits is told apart from a broken link.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from qcodes.validators import Ints, Numbers, Strings, Validator

from drivers.links.errors import LimitError


class Within(Numbers):
    """A finite number in ``[low, high]`` of ``unit``."""

    def __init__(self, low: float, high: float, unit: str) -> None:
        super().__init__(low, high)
        self._unit = unit

    def validate(self, value: float | np.floating | np.integer, context: str = "") -> None:
        """Raise LimitError for a number outside the limits (NaN too), TypeError for anything else."""
        if isinstance(value, bool) or not isinstance(value, self.validtypes):
            raise TypeError(f"{value!r} is not a number; {context}")
        number = _number(value)
        if not self.min_value <= number <= self.max_value:
            raise LimitError(
                f"{number:g} {self._unit} is outside "
                f"{self.min_value:g}..{self.max_value:g} {self._unit}; {context}"
            )


class ListWithin(Validator[Sequence[float]]):
    """A list of finite numbers in ``[low, high]`` of ``unit``."""

    def __init__(self, low: float, high: float, unit: str) -> None:
        self.low, self.high, self.unit = low, high, unit
        self._valid_values = ([low, high],)

    def validate(self, value: Sequence[float], context: str = "") -> None:
        """Raise LimitError naming the first element outside the limits, TypeError for anything else."""
        if isinstance(value, str | bytes) or not isinstance(value, Sequence | np.ndarray):
            raise TypeError(
                f"{value!r} is not a list of numbers; a channel's parameter takes a single one; {context}"
            )
        for position, element in enumerate(value):
            if isinstance(element, bool) or not isinstance(element, int | float | np.number):
                raise TypeError(f"element {position}: {element!r} is not a number; {context}")
            number = _number(element)
            if not (math.isfinite(number) and self.low <= number <= self.high):
                raise LimitError(
                    f"element {position}: {number:g} {self.unit} is outside "
                    f"{self.low:g}..{self.high:g} {self.unit}; {context}"
                )


class Words(Strings):
    """One of a few words."""

    def __init__(self, words: Iterable[str]) -> None:
        super().__init__()
        self._valid_values = tuple(words)

    def validate(self, value: str, context: str = "") -> None:
        """Raise LimitError for another word, TypeError for anything else."""
        if not isinstance(value, str):
            raise TypeError(f"{value!r} is not a word; {context}")
        if value not in self._valid_values:
            raise LimitError(f"{value!r} is none of {', '.join(self._valid_values)}; {context}")


class Whole(Ints):
    """A whole number in ``[low, high]`` of ``unit``; on and off are none."""

    def __init__(self, low: int, high: int, unit: str) -> None:
        super().__init__(low, high)
        self._unit = unit

    def validate(self, value: int | np.integer | bool, context: str = "") -> None:
        """Raise LimitError for a number outside the limits, TypeError for anything else."""
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise TypeError(f"{value!r} is not a whole number; {context}")
        if not self.min_value <= value <= self.max_value:
            raise LimitError(
                f"{value} {self._unit} is outside {self.min_value}..{self.max_value} {self._unit}; {context}"
            )


def _number(value: float | np.number) -> float:
    """As a float; a whole number that none can be is infinite."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def limits_of(validator: Validator[Any] | None) -> tuple[float, float] | None:
    """Least and greatest number that a validator lets through, for a list of each element; None if it has none."""
    if isinstance(validator, ListWithin):
        return validator.low, validator.high
    if isinstance(validator, Numbers | Ints):
        return float(validator.min_value), float(validator.max_value)
    return None


def floats(values: Iterable[float]) -> list[float]:
    """Numbers of any kind, in an array or a list, as Python's own."""
    return [float(value) for value in values]


def plain(value: Any) -> Any:
    """A NumPy scalar, or array of no dimensions, as Python's own: instruments' protocols know no ``np.float32``."""
    alone = isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0)
    return value.item() if alone else value
