"""The shape of an answer: what a driver relies on, whatever the values are.

A shape is a tuple of tokens.  Of lines of text: each line's fields - whole numbers, numbers, quoted strings, words - with
the key or unit that stands beside them, and the line's end.  Of JSON: the keys and types of every object.  Of Interbus and
APT: type, register or number, and size of each telegram or message.  A refusal is a token of its own.  Where the question is one for a constant of
the model (``*IDN?``, the module type of a laser), or for the error queue, the answer itself is its shape.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from drivers.links.apt import AptError, AptMessage, AptReader
from drivers.links.ieee488 import split_outside_quotes
from drivers.links.interbus import MessageType, Telegram, TelegramReader
from drivers.links.websq_json import SEPARATOR

Shape = tuple[str, ...]

EXACT_REGISTERS = frozenset((0x61,))
"""Interbus: the module type (QMI ``nkt_photonics/adjustik.py``)."""
EXACT_LINES = frozenset(("Done",))
"""OZ DD-100: the end of every reply (QMI ``ozoptics/dd100mc.py``)."""
SILENCE: Shape = ()
REFUSAL = "a refusal"
INTEGER, NUMBER = "integer", "number"
MESSAGES = "messages"

_IDENTITY = re.compile(r"[\w:]*:IDN\?", re.IGNORECASE)
"""Identities of parts, such as a sensor head: serial numbers are digits here and letters there."""
_LIST = re.compile(r"\*OPT\?", re.IGNORECASE)
"""What is installed is a list, as long as it is."""
_ERROR_QUERY = re.compile(r"\s*:?SYST(EM)?:ERR(OR)?(:NEXT)?\?\s*", re.IGNORECASE)
_ERROR = re.compile(r"Error\b.*|.*SCPI_ERR_\w+|No connection.*")
"""Refusals of an OZ DD-100, and of an ID900 (its clients look for these words)."""
_NUMBER = re.compile(
    r"([+-]?)(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?(?:\s?([A-Za-z%(][A-Za-z/%()]{0,7}))?", re.ASCII
)
_KEY = re.compile(r"([A-Za-z][A-Za-z /_-]{0,30}[:=])\s*(.*)", re.DOTALL)


def shape_of(data: bytes, sent: bytes) -> Shape:
    """The shape of ``data``, an answer to ``sent``."""
    if not data:
        return SILENCE
    telegrams = [each for each in TelegramReader().feed(data) if isinstance(each, Telegram)]
    if telegrams and data.startswith(b"\r"):
        return tuple(dict.fromkeys(map(_telegram, telegrams)))  # a request may have been repeated
    if messages := apt_messages(data):
        return tuple(map(_message, messages))
    text = data.decode("utf-8", "replace")
    if (objects := _json_objects(text)) is not None:
        end = ["0x17"] if SEPARATOR.decode() in text else []
        return (MESSAGES, *sorted({token for each in objects for token in _json_tokens(each)}), *end)
    return tuple(_text_tokens(text, sent.decode("utf-8", "replace")))


def differs(recorded: Shape, found: Shape, *, partly: bool = False) -> bool:
    """Whether ``found`` is not of the shape ``recorded``.

    A whole number stands for any number, but a number for a whole one only if it is one.  ``partly``: only some of the
    labels are known.
    """
    if partly and MESSAGES in recorded:
        return not set(recorded) <= set(found)
    return len(recorded) != len(found) or not all(map(_fits, recorded, found))


def words(shape: Shape) -> str:
    """A shape for people."""
    return " ".join(shape) or "silence"


def _fits(recorded: str, found: str) -> bool:
    return recorded == found or found == recorded.replace(NUMBER, INTEGER)


def apt_messages(data: bytes) -> list[AptMessage]:
    """The APT messages that ``data`` consists of; none where it is something else."""
    reader = AptReader()
    try:
        messages = reader.feed(data)
    except AptError:
        return []
    return messages if reader.is_between else []


def _message(message: AptMessage) -> str:
    return f"message 0x{message.number:04X} with {len(message.data)} bytes"


def _telegram(telegram: Telegram) -> str:
    names = {int(each): each.name for each in MessageType} | {int(MessageType.NACK): REFUSAL}
    kind = names.get(telegram.kind, str(telegram.kind))
    data = telegram.data.hex() if telegram.register in EXACT_REGISTERS else f"{len(telegram.data)} bytes"
    return f"{kind} of register 0x{telegram.register:02X} with {data}"


# JSON


def _json_objects(text: str) -> list[Any] | None:
    """The messages of ``text``, if it is JSON with or without separators."""
    pieces = [each for each in text.split(SEPARATOR.decode()) if each.strip()]
    try:
        found = [json.loads(each) for each in pieces]
    except (ValueError, RecursionError):
        return None
    return found if found and all(isinstance(each, dict | list) for each in found) else None


def _json_tokens(message: Any) -> Iterator[str]:
    if isinstance(message, dict) and message.get("error"):
        yield REFUSAL
    elif isinstance(message, dict) and isinstance(message.get("label"), str):
        label = message["label"]
        told = "Error" in label and bool(message.get("value")) and not isinstance(message.get("value"), dict)
        yield REFUSAL if told else f"{label}:{_json_type(message.get('value'))}"
    else:
        yield _json_type(message)


def _json_type(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_json_type(each)}" for key, each in sorted(value.items())) + "}"
    if isinstance(value, list):
        kinds = sorted({_json_type(each) for each in value})
        return f"[{' or '.join(kinds)}]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else "switch"
    return "text" if isinstance(value, str) else NUMBER


# Text


def _text_tokens(text: str, sent: str) -> Iterator[str]:
    identity, error = sent.strip().upper() == "*IDN?", bool(_ERROR_QUERY.fullmatch(sent))
    for line in text.splitlines(keepends=True):
        content = line.rstrip("\r\n")
        if error:
            yield f"error {int(content.partition(',')[0])}" if _is_code(content) else "no error code"
        elif identity:
            fields = [each.strip() for each in content.split(",")]
            yield from (*fields[:2], *["word"] * len(fields[2:]))
        elif _IDENTITY.fullmatch(sent.strip()):
            yield from ["word"] * len(content.split(","))
        elif _LIST.fullmatch(sent.strip()):
            yield from sorted({_field(each) for each in content.split(",")})
        elif _ERROR.fullmatch(content):
            yield REFUSAL
        elif content in EXACT_LINES:
            yield content
        else:
            for unit in split_outside_quotes(content, ";"):
                yield from map(_field, split_outside_quotes(unit, ","))
        yield repr(line[len(content) :])[1:-1]


def _is_code(content: str) -> bool:
    return bool(re.fullmatch(r"\s*[+-]?\d+\s*", content.partition(",")[0]))


def _field(field: str) -> str:
    field = field.strip()
    if len(field) > 1 and field[0] == field[-1] and field[0] in "\"'":
        return "string"
    if number := _NUMBER.fullmatch(field):
        whole = "." not in number[2] and not number[3]
        return (INTEGER if whole else NUMBER) + (f" {number[4]}" if number[4] else "")
    if keyed := _KEY.fullmatch(field):
        return f"{keyed[1]}{_field(keyed[2])}"
    return "word" if field else "nothing"
