"""What a log may show of a value: words, names and numbers; of everything that could be key its size alone.

Key material travels in :class:`~orchestrator.secret.SecretBits`, which shows nothing; this is for what else may carry it by
mistake into a log call or an exception: bytes, arrays, long lists of numbers, numbers of hundreds of bits, and objects that hold
such things.  Text is taken as it is: whoever has made text of a secret is found by tests/faults/test_secrets.py, which looks for
every key in everything that is written.
"""

from __future__ import annotations

import dataclasses
import logging
import traceback
from collections.abc import Mapping, Set
from types import TracebackType
from typing import Any

import msgspec

from orchestrator.secret import SecretBits

LONGEST_INT_BITS = 128
"""Counts, times and sizes have fewer; tags and keys as numbers have more."""
MOST_NUMBERS = 16
"""Of a list of numbers that is shown."""
MOST_ITEMS = 64
DEEPEST = 6


class Shown(str):
    """Text that stands for a value: it is the same as ``%s`` and as ``%r``."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def shown(value: Any, depth: int = 0) -> Any:
    """``value`` where it can be shown, else words in its place."""
    if value is None or isinstance(value, str | bool | float):
        return value
    if isinstance(value, int):
        bits = int(value).bit_length()
        return value if bits <= LONGEST_INT_BITS else Shown(f"<number of {bits} bits>")
    if isinstance(value, SecretBits):
        return Shown(repr(value))
    if isinstance(value, bytes | bytearray | memoryview):
        return Shown(f"<{memoryview(value).nbytes} bytes>")
    if isinstance(value, BaseException):
        return Shown(f"{type(value).__name__}: {words_of(value)}" if _carries(value) else str(value))
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return _array(value)
    if depth > DEEPEST:
        return Shown(f"<{type(value).__name__}>")
    return _within(value, depth)


def _array(value: Any) -> Any:
    if value.shape == () and value.dtype.kind in "fiub":
        return value
    return Shown(f"<array {value.dtype} of shape {tuple(value.shape)}>")


def _within(value: Any, depth: int) -> Any:
    if isinstance(value, Mapping):
        return {
            shown(key, depth + 1): shown(each, depth + 1) for key, each in list(value.items())[:MOST_ITEMS]
        }
    if isinstance(value, list | tuple | Set):
        if len(value) > MOST_NUMBERS and all(isinstance(each, int) for each in value):
            return Shown(f"<{len(value)} numbers>")
        parts = [shown(each, depth + 1) for each in list(value)[:MOST_ITEMS]]
        return tuple(parts) if isinstance(value, tuple) else parts
    if _defines(value, "__str__"):
        return value if _is_plain(value) else Shown(str(value))  # its own words
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _fields(value, [each.name for each in dataclasses.fields(value) if each.repr], depth)
    if isinstance(value, msgspec.Struct):
        return _fields(value, list(value.__struct_fields__), depth)
    return Shown(repr(value) if _defines(value, "__repr__") else f"<{type(value).__name__}>")


def _is_plain(value: object) -> bool:
    return type(value).__module__ in ("builtins", "pathlib", "datetime", "decimal", "fractions")


def _defines(value: object, name: str) -> bool:
    """Whether the type of ``value`` has a method of its own, not that of every object."""
    return any(name in vars(kind) for kind in type(value).__mro__[:-1])


def _fields(value: object, names: list[str], depth: int) -> Shown:
    told = ", ".join(f"{name}={shown(getattr(value, name, None), depth + 1)!r}" for name in names)
    return Shown(f"{type(value).__name__}({told})")


def words_of(error: BaseException) -> str:
    """What an exception says, unless it carries something that could be key."""
    if not any(_carries(each) for each in error.args):
        return str(error)
    args = ", ".join(str(shown(each)) for each in error.args)
    return f"it is about {args}"


def _carries(value: Any, depth: int = 0) -> bool:
    """Whether there is something in ``value`` whose size alone may be shown."""
    if isinstance(value, SecretBits | bytes | bytearray | memoryview):
        return True
    if isinstance(value, int):
        return int(value).bit_length() > LONGEST_INT_BITS
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return bool(value.shape)
    if depth > DEEPEST:
        return not isinstance(value, str)
    if isinstance(value, list | tuple | Set) and isinstance(shown(value), Shown):
        return True
    return any(_carries(each, depth + 1) for each in _parts(value))


def _parts(value: Any) -> list[Any]:
    if isinstance(value, BaseException):
        return list(value.args)
    if isinstance(value, Mapping):
        return [*value, *value.values()]
    if isinstance(value, list | tuple | Set):
        return list(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, each.name, None) for each in dataclasses.fields(value)]
    if isinstance(value, msgspec.Struct):
        return [getattr(value, name) for name in value.__struct_fields__]
    return []


def trace_of(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> str:
    """The trace as Python writes it, without the values of variables, each exception in :func:`words_of`."""
    found = traceback.TracebackException(kind, error, trace, capture_locals=False)
    _in_words(found, error)
    return "".join(found.format()).rstrip("\n")


def _in_words(found: traceback.TracebackException, error: BaseException) -> None:
    if not isinstance(error, SyntaxError):
        found._str = words_of(error)  # type: ignore[attr-defined]
    found.__notes__ = [str(note) for note in getattr(error, "__notes__", ())]
    for below, of in ((found.__cause__, error.__cause__), (found.__context__, error.__context__)):
        if below is not None and of is not None:
            _in_words(below, of)
    for each, inner in zip(found.exceptions or (), getattr(error, "exceptions", ()), strict=False):
        _in_words(each, inner)


def _shown_somehow(value: Any) -> Any:
    """Of a value that fails when it is to be put in words its kind: whoever logs does not fail for it."""
    try:
        return shown(value)
    except Exception as error:  # noqa: BLE001 - it may be anything, and its text might hold key
        return Shown(f"<{type(value).__name__}, which cannot be shown: {type(error).__name__}>")


class Redacting(logging.Filter):
    """Lets every record through, with what may be shown of its arguments."""

    def filter(self, record: logging.LogRecord) -> bool:
        """For a handler, so that it is done once for whatever formats the record."""
        if not isinstance(record.msg, str):
            record.msg = str(_shown_somehow(record.msg))
        if isinstance(record.args, Mapping):
            record.args = {key: _shown_somehow(value) for key, value in record.args.items()}
        elif record.args:
            record.args = tuple(_shown_somehow(value) for value in record.args)
        return True
