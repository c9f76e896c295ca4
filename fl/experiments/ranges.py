"""Options whose numbers are out of range, told by the name of the option.

What is allowed is declared once, with the settings of a run (:class:`fl.config.FLConfig`), and read from there.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping

import msgspec
from msgspec.inspect import FloatType, IntType, StructType, Type, VarTupleType

from fl.config import FLConfig
from fl.experiments.options import OptionsError
from fl.quantise import MAX_RING_BITS, MIN_RING_BITS

RULES: tuple[tuple[str, str, Callable[[float, float], bool]], ...] = (
    ("ge", "at least", operator.ge),
    ("gt", "greater than", operator.gt),
    ("le", "at most", operator.le),
    ("lt", "less than", operator.lt),
)


def check_ranges(settings: Mapping[str, object]) -> None:
    """Raise OptionsError for a number that no run can have; of ``clients``, give how many they are."""
    declared = msgspec.inspect.type_info(FLConfig)
    assert isinstance(declared, StructType)
    kinds: dict[str, Type] = {each.name: each.type for each in declared.fields}
    kinds["ring_bits"] = IntType(ge=MIN_RING_BITS, le=MAX_RING_BITS)  # those that uploads are packed in
    for name, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        limits = [(words, limit, keeps) for key, words, keeps in RULES for limit in _limit(kinds[name], key)]
        if math.isfinite(value) and all(keeps(value, limit) for _, limit, keeps in limits):
            continue
        told = " and ".join(f"{words} {limit:,}" for words, limit, _ in limits)
        finite = "" if math.isfinite(value) else "a finite number "
        raise OptionsError(f"--{name.replace('_', '-')} is {value}: it must be {finite}{told}")


def _limit(kind: Type, key: str) -> list[float]:
    """The limit of that kind of a declared number, or of the length of a list; empty for none."""
    if isinstance(kind, VarTupleType):
        found = {"ge": kind.min_length, "le": kind.max_length}.get(key)
    elif isinstance(kind, IntType | FloatType):
        found = getattr(kind, key)
    else:
        found = None
    return [] if found is None else [found]
