"""Settings of a struct: one canonical form of every value, and words for what none can be.

A setting may be written as ``1`` or ``1.0``, as a list or a tuple, as Python's number or NumPy's.  Whatever is
hashed, compared or sent must not depend on that, so :func:`canonical` turns every way of writing a value into the
one that decoding gives: what is declared a float is a ``float`` (and zero has no sign), and so on.  What is allowed
is declared once, with the fields of the struct (``msgspec.Meta``); :func:`refusal` reads it from there.
"""

from __future__ import annotations

import math
import numbers
import operator
import re
from collections.abc import Callable, Mapping
from functools import lru_cache

import msgspec
import numpy as np
from msgspec.inspect import BoolType, FloatType, IntType, LiteralType, StrType, StructType, Type, VarTupleType

Naming = Callable[[str], str]
"""From the name of a field to the name by which a user gave it: an option of the command line, say."""

RULES: tuple[tuple[str, str, Callable[[float, float], bool]], ...] = (
    ("ge", "at least", operator.ge),
    ("gt", "greater than", operator.gt),
    ("le", "at most", operator.le),
    ("lt", "less than", operator.lt),
)


class SettingError(ValueError):
    """A value cannot be that of its setting; the text goes on from the setting's name.

    ``index`` says which item of a list it is.
    """

    def __init__(self, text: str, index: int | None = None) -> None:
        super().__init__(text)
        self.index = index


@lru_cache
def kinds_of(struct: type[msgspec.Struct]) -> Mapping[str, Type]:
    """What is declared of every field of ``struct``."""
    declared = msgspec.inspect.type_info(struct)
    assert isinstance(declared, StructType)
    return {each.name: each.type for each in declared.fields}


def canonical(kind: Type, value: object) -> object:
    """``value`` as a field of that kind holds it; raises SettingError for what is no such value.

    NumPy's numbers and arrays of one dimension are taken.  A bool is no number, and a float no whole number,
    though it may have a whole value: it stems from arithmetic that was meant otherwise.
    """
    if isinstance(kind, FloatType):
        return _float(value)
    if isinstance(kind, IntType):
        if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Integral):
            raise SettingError(f"is {_shown(value)}: it must be a whole number")
        return int(value)
    if isinstance(kind, BoolType):
        if not isinstance(value, bool | np.bool_):
            raise SettingError(f"is {_shown(value)}: it must be true or false")
        return bool(value)
    if isinstance(kind, VarTupleType):
        if isinstance(value, str | bytes) or not isinstance(value, list | tuple | np.ndarray):
            raise SettingError(f"is {_shown(value)}: it must be a list")
        return tuple(_item(kind.item_type, index, each) for index, each in enumerate(value))
    if isinstance(kind, StructType):
        return _struct(kind, value)
    if isinstance(kind, StrType | LiteralType):
        if not isinstance(value, str):
            raise SettingError(f"is {_shown(value)}: it must be a text")
        return str(value)
    return value


def _item(kind: Type, index: int, value: object) -> object:
    try:
        return canonical(kind, value)
    except SettingError as error:
        raise SettingError(str(error), index) from None


def _struct(kind: StructType, value: object) -> object:
    """A struct of settings from itself or from a table of its fields; every field in its canonical form."""
    given = msgspec.structs.asdict(value) if isinstance(value, kind.cls) else value
    kinds = kinds_of(kind.cls)
    if not isinstance(given, Mapping) or set(given) != set(kinds):
        raise SettingError(f"is {_shown(value)}: it must be a table of {', '.join(kinds)}")
    found = {}
    for name, each in given.items():
        try:
            found[name] = canonical(kinds[name], each)
        except SettingError as error:
            raise SettingError(f"has a {name} that {error}") from None
    made = kind.cls(**found)
    return value if made == value and msgspec.msgpack.encode(made) == msgspec.msgpack.encode(value) else made


def _float(value: object) -> float:
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise SettingError(f"is {_shown(value)}: it must be a number")
    try:
        return float(value) + 0.0  # of the two zeros that compare equal and are sent as different bytes, one
    except OverflowError:
        raise SettingError("is a number too large") from None


def refusal(kind: Type, value: object) -> str:
    """Why a canonical ``value`` lies outside what is declared, going on from its name; empty if it does not.

    Of a tuple the length is looked at; its items are settings of their own.
    """
    if isinstance(kind, LiteralType):
        return (
            ""
            if value in kind.values
            else f"is {value!r}: it must be one of {', '.join(map(str, kind.values))}"
        )
    if isinstance(kind, StrType):
        return _text_refusal(kind, str(value))
    if isinstance(kind, VarTupleType):
        assert isinstance(value, tuple)
        limits = {"ge": kind.min_length, "le": kind.max_length}
        return _number_refusal(limits, len(value), "are")
    if isinstance(kind, StructType):
        fields = kinds_of(kind.cls).items()
        return next(
            (
                f"has a {name} that {text}"
                for name, each in fields
                if (text := refusal(each, getattr(value, name)))
            ),
            "",
        )
    if isinstance(kind, IntType | FloatType):
        assert isinstance(value, int | float)
        return _number_refusal({key: getattr(kind, key) for key, _, _ in RULES}, value, "is")
    return ""


def _number_refusal(limits: Mapping[str, float | None], value: float, verb: str) -> str:
    rules = [(words, limit, keeps) for key, words, keeps in RULES if (limit := limits.get(key)) is not None]
    if math.isfinite(value) and all(keeps(value, limit) for _, limit, keeps in rules):
        return ""
    told = " and ".join(f"{words} {limit:,}" for words, limit, _ in rules)
    finite = "" if math.isfinite(value) else "a finite number "
    return f"{verb} {value}: it must be {finite}{told}".rstrip()


def _text_refusal(kind: StrType, text: str) -> str:
    fewest, most = kind.min_length or 0, kind.max_length or math.inf
    if not fewest <= len(text) <= most:
        return f"is {_shown(text)}: it must have {fewest} to {most} characters"
    if kind.pattern and re.search(kind.pattern, text) is None:
        return f"is {_shown(text)}: it must look like {kind.pattern}"
    return ""


def _shown(value: object) -> str:
    """A value in an error: NumPy's numbers as Python's, and nothing longer than a line."""
    plain = value.item() if isinstance(value, np.generic) else value
    text = repr(plain)
    return text if len(text) <= 60 else f"{text[:57]}..."
