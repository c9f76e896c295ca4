"""Physical quantities of a testbed file: the unit that a key's name says, and which unit was probably meant.

A key ends in its unit (``bias_ua``, ``length_km``), and the field beside it declares between which values its
magnitude is plausible.  A number outside is refused, for nothing else tells 20e-6 of a current in amperes from one in
microamperes; where the same number in a neighbouring unit would be plausible, that unit is named with the number
to write.  Zero is never a matter of units.  What an instrument can do is not known here: its driver declares that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeGuard, get_args, get_origin

from pydantic import BaseModel

PREFIXES = {"f": -15, "p": -12, "n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12}
LIGHT_SPEED_NM_THZ = 299_792.458


@dataclass(frozen=True)
class Unit:
    """A unit of the file; ``prefix`` is one of :data:`PREFIXES`, and ``base`` is empty where none can be confused."""

    label: str
    prefix: str = ""
    base: str = ""

    def others(self, value: float) -> Iterator[tuple[str, float]]:
        """``value``, if it were in another unit: that unit, and the number in this one."""
        for prefix, exponent in PREFIXES.items():
            if self.base and prefix != self.prefix:
                yield prefix + self.base, value * 10.0 ** (exponent - PREFIXES[self.prefix])
        if self.label == "nm" and value:
            yield "THz", LIGHT_SPEED_NM_THZ / value
        if self.label == "dB/km":
            yield "dB/m", value * 1e3
        if not self.label:
            yield "%", value / 100


NO_UNIT = Unit("")
UNITS = {
    "db_per_km": Unit("dB/km"),
    "db_per_s": Unit("dB/s"),
    "per_s": Unit("1/s"),
    "db": Unit("dB"),
    "hz": Unit("Hz", "", "Hz"),
    "km": Unit("km", "k", "m"),
    "mv": Unit("mV", "m", "V"),
    "mw": Unit("mW", "m", "W"),
    "nm": Unit("nm", "n", "m"),
    "ms": Unit("ms", "m", "s"),
    "ns": Unit("ns", "n", "s"),
    "ps": Unit("ps", "p", "s"),
    "pw": Unit("pW", "p", "W"),
    "rad": Unit("rad", "", "rad"),
    "s": Unit("s", "", "s"),
    "ua": Unit("uA", "u", "A"),
    "v": Unit("V", "", "V"),
    "vpp": Unit("Vpp", "", "Vpp"),
}
"""By the end of a key's name; a longer end comes before a shorter one that it holds."""


def unit_of(key: str) -> Unit:
    """The unit that a key's name ends in."""
    return next((unit for end, unit in UNITS.items() if key.endswith(f"_{end}")), NO_UNIT)


@dataclass(frozen=True)
class Plausible:
    """Between which magnitudes a field's numbers are plausible, in the unit of its name."""

    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Whether a number is plausible."""
        return value == 0 or self.low <= abs(value) <= self.high

    def objection(self, key: str, value: float) -> str:
        """Why a number cannot be meant, with the unit in which it could; empty where it can."""
        if self.holds(value):
            return ""
        unit = unit_of(key)
        within = f"{self.low:g} to {self.high:g} {unit.label}".rstrip()
        text = f"{number(value)} {unit.label}".rstrip() + f" is not plausible ({within} is)"
        meant = self.meant(unit, value)
        return f"{text}; {meant}" if meant else text

    def meant(self, unit: Unit, value: float) -> str:
        """In which other unit a number would be plausible, nearest to the middle first, and what to write."""
        middle = math.log(self.low * self.high) / 2
        fitting = [
            (abs(math.log(abs(converted)) - middle), label, converted)
            for label, converted in unit.others(value)
            if converted and self.holds(converted)
        ]
        if not fitting:
            return ""
        _, label, converted = min(fitting)
        return f"is it in {label}? then write {number(converted)}"


def number(value: float) -> str:
    """A number as a person would write it."""
    return f"{value:.7g}"


def implausible(
    section: type[BaseModel], data: Mapping[str, Any], place: str = ""
) -> Iterator[tuple[str, str]]:
    """Unknown keys and implausible numbers of the unvalidated ``data`` of a section, each with its place."""
    for key, value in data.items():
        here = f"{place}.{key}" if place else key
        field = section.model_fields.get(key)
        if field is None:
            near = get_close_matches(key, section.model_fields, 1)
            yield here, "unknown key; check its spelling" + (f": is it {near[0]}?" if near else "")
            continue
        inner = _section(field.annotation)
        plausible = next((each for each in field.metadata if isinstance(each, Plausible)), None)
        named = get_origin(field.annotation) is dict and isinstance(value, Mapping)
        for at, item in _by_name(here, value) if named else items(here, value):
            if inner is not None and isinstance(item, Mapping):
                yield from implausible(inner, item, at)
            elif plausible is not None and _is_number(item) and (why := plausible.objection(key, item)):
                yield at, why


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def items(place: str, value: object) -> Iterator[tuple[str, object]]:
    """A value, or each of a list, with its place."""
    if isinstance(value, list | tuple):
        yield from ((f"{place}[{index}]", each) for index, each in enumerate(value))
    else:
        yield place, value


def _by_name(place: str, values: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Each of a table whose keys are names."""
    yield from ((f"{place}.{name}", each) for name, each in values.items())


def _section(annotation: object) -> type[BaseModel] | None:
    """The section that a field holds, or holds several of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for each in get_args(annotation) if (found := _section(each))), None)
