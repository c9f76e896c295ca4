"""The options of a driver: what its constructor takes by name, held against its signature before anything is made.

A testbed file, a QCoDeS station's file and a notebook give the same options, and only the first is checked by
``qunetlab check``.  So whoever makes a driver gets the same words for an option that it does not have or that is of
another type: text for a number, ``True`` or 2.5 for a whole number, a word that is none of a few.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from drivers.links.errors import InstrumentError, LimitError, WrongKindError
from drivers.links.limits import plain

MOST_S = 1e5
"""More than a day is no time to wait."""


@functools.cache
def all_options(driver: type) -> dict[str, Any]:
    """Everything that the constructors of a driver take by name beside name and address, QCoDeS' too, with its type."""
    return _taken_by(driver.__mro__)


@functools.cache
def option_types(driver: type) -> dict[str, Any]:
    """The options that a file can give to a driver, with their types.

    Functions, such as the clock of a test, stand in no file.
    """
    ours = tuple(cls for cls in driver.__mro__ if not cls.__module__.startswith("qcodes."))
    return {name: hint for name, hint in _taken_by(ours).items() if in_toml(hint)}


def _taken_by(classes: Iterable[type]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for cls in classes:
        if (init := vars(cls).get("__init__")) is not None:
            try:
                hints = get_type_hints(init)
            except NameError:  # names that its module has for the type checker only
                hints = {}
            parameters = list(inspect.signature(init).parameters.values())[1:]
            for each in parameters:
                if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL):
                    found.setdefault(each.name, hints.get(each.name, Any))
            if not any(each.kind is each.VAR_KEYWORD for each in parameters):
                break
    return {name: hint for name, hint in found.items() if name not in ("name", "address")}


def in_toml(hint: Any) -> bool:
    """Whether a file can hold a value of a type."""
    if hint in (str, int, float, bool, NoneType, Ellipsis, Any) or get_origin(hint) is Literal:
        return True
    return get_origin(hint) in (Union, UnionType, tuple, list) and all(map(in_toml, get_args(hint)))


def in_words(hint: Any) -> str:
    """A type for people."""
    simple = {float: "a number", int: "a whole number", str: "text in quotes", bool: "true or false"}
    if hint in simple:
        return simple[hint]
    inner = [in_words(each) for each in get_args(hint) if each not in (NoneType, Ellipsis)]
    if get_origin(hint) is Literal:
        return " or ".join(repr(each) for each in get_args(hint))
    if get_origin(hint) in (tuple, list):
        return f"a list [{', '.join(inner)}]"
    return " or ".join(inner)


def wrong_type(value: object, hint: Any) -> str:
    """Why a value is not of a type, with what to write; "" if it is."""
    try:
        msgspec.convert(value, hint, strict=True)
    except msgspec.ValidationError as error:
        return f"{value!r} is of the wrong type; write {in_words(hint)} ({error})"
    return ""


def no_such(name: str, known: Mapping[str, Any]) -> str:
    """That there is no such option, with what may be meant and what there is."""
    near = get_close_matches(name, known, 1)
    meant = f"is {near[0]} meant? " if near else ""
    return f"no such option; {meant}it has {', '.join(sorted(known)) or 'none'}"


def taken(driver: type, name: object, address: object, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options ``given`` to a driver, NumPy scalars as Python's own.

    Raises WrongKindError for one that it does not have or that has another type, LimitError for a number that is none
    and for a time that nobody can wait.
    """

    def error(kind: type[InstrumentError], text: str) -> InstrumentError:
        return kind(f"{text}; nothing was sent", instrument=str(name), address=str(address))

    for what, said in (("name", name), ("address", address)):
        if not isinstance(said, str):
            raise error(WrongKindError, f"{what} = {said!r} is no text")
    everything, in_files = all_options(driver), option_types(driver)
    options = {key: _plain(value) for key, value in given.items()}
    for key, value in options.items():
        if key not in everything:
            raise error(WrongKindError, f"{driver.__name__} has {no_such(key, in_files)} (given was {key!r})")
        if key in in_files and (why := wrong_type(value, in_files[key])):
            raise error(WrongKindError, f"option {key}: {why}")
        for each in value if isinstance(value, list | tuple) else (value,):
            if isinstance(each, float) and not math.isfinite(each):
                raise error(LimitError, f"option {key} = {value!r} is not a finite number")
        time = key.endswith("_s") and not key.endswith("_per_s") and isinstance(value, int | float)
        if time and (not 0 <= value <= MOST_S or (not value and key.endswith("timeout_s"))):
            raise error(LimitError, f"option {key} = {value:g} s is no time to wait")
    return options


def _plain(value: Any) -> Any:
    return type(value)(map(plain, value)) if type(value) in (list, tuple) else plain(value)
