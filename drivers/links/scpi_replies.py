"""What SCPI instruments say, as pure functions: numbers, words, switches and identities in all the forms they come in.

Firmware differs in how it writes one thing: ``1``, ``+1``, ``01``, ``1.0`` and ``1.0E+00`` are the same number (IEEE 488.2
lets a controller take any of NR1, NR2 and NR3), ``"ON"`` is ``ON``, and some quote the fields of their identity.  What
cannot be meant is a ValueError here and a MalformedReplyError of the link, never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

from drivers.base import Identity
from drivers.links.ieee488 import split_outside_quotes, unquote

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
"""NR1, NR2 and NR3 of IEEE 488.2."""
_WHOLE = re.compile(r"[+-]?\d+", re.ASCII)
MOST_WHOLE = 2.0**53
"""Up to here a whole number written with a point or an exponent is exact."""
SWITCH = {"0": False, "1": True, "OFF": False, "ON": True}
_Word = TypeVar("_Word")


def parse_number(reply: str) -> float:
    """A number of IEEE 488.2.  Raises ValueError for anything else, which Python may take for one."""
    if not _NUMBER.fullmatch(reply):
        raise ValueError("not a number")
    return float(reply)


def parse_whole(reply: str) -> int:
    """A whole number in any form of a number.  Raises ValueError for anything else."""
    if _WHOLE.fullmatch(reply):
        try:
            return int(reply)
        except ValueError as error:  # more digits than Python converts
            raise ValueError("not a whole number") from error
    number = parse_number(reply)
    if not (number.is_integer() and abs(number) <= MOST_WHOLE):
        raise ValueError("not a whole number")
    return int(number)


def parse_word(reply: str, words: Mapping[str, _Word]) -> _Word:
    """What the word or whole number ``reply`` stands for in ``words``.  Raises ValueError for anything else."""
    word = unquote(reply).upper()
    if _NUMBER.fullmatch(word) and float(word).is_integer():
        word = str(int(float(word)))
    if word not in words:
        raise ValueError(f"none of {', '.join(words)}")
    return words[word]


def parse_switch(reply: str) -> bool:
    """On or off.  Raises ValueError for anything else."""
    return parse_word(reply, SWITCH)


def parse_identity(reply: str) -> Identity:
    """``vendor,model,serial,firmware`` -> Identity; some instruments say less, none of ours less than a model.

    Raises ValueError for anything else.
    """
    inside = unquote(reply)
    text = reply.strip() if '"' in inside else inside  # each field quoted, or all together
    parts = split_outside_quotes(text, ",") if text.startswith('"') else text.split(",")
    fields = [unquote(part) for part in parts]
    if len(fields) < 2 or not all(fields[:2]) or any(each.startswith('"') for each in fields[:2]):
        raise ValueError("not of the form vendor,model,serial,firmware")
    vendor, model, serial, *firmware = *fields, *[""] * (4 - len(fields))
    return Identity(vendor, model, serial, ",".join(firmware))
