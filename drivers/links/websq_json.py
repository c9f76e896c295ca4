"""Framing of the Single Quantum WebSQ control connection, as pure functions and incremental readers.

The two directions differ.  A client sends bare JSON objects, concatenated, with nothing between them; the
instrument ends each of its JSON objects by the byte 0x17.  Source: vendor's ``WebSQControl.py`` (MIT).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NoReturn

SEPARATOR = b"\x17"
MAX_OBJECT_BYTES = 1 << 22
MAX_DEPTH = 64
_QUOTE, _BACKSLASH = ord('"'), ord("\\")
_OPEN, _CLOSE = frozenset(b"{["), frozenset(b"}]")
_BLANK = frozenset(b" \t\r\n")

JsonObject = dict[str, object]


class FrameError(ValueError):
    """Bytes that are no JSON object of this protocol."""


def encode_request(message: Mapping[str, object]) -> bytes:
    """A client's message as it goes over the wire."""
    return json.dumps(message, allow_nan=False).encode("utf-8")


def encode_reply(message: Mapping[str, object]) -> bytes:
    """An instrument's message as it goes over the wire."""
    return encode_request(message) + SEPARATOR


def parse_object(data: bytes) -> JsonObject:
    """One JSON object; FrameError for anything else (NaN and Infinity too)."""
    try:
        message = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:  # ValueError covers bad JSON and bad UTF-8
        raise FrameError(f"{len(data)} bytes that are no JSON") from error
    if not isinstance(message, dict):
        raise FrameError(f"JSON {type(message).__name__} where an object was expected")
    return message


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


class ReplyReader:
    """Cuts the instrument's stream at 0x17."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> list[JsonObject]:
        """The objects that ``data`` completes; FrameError for a damaged one (the reader is then empty)."""
        self._pending += data
        found: list[JsonObject] = []
        try:
            while (end := self._pending.find(SEPARATOR)) >= 0:
                found.append(parse_object(bytes(self._pending[:end])))
                del self._pending[: end + 1]
            if len(self._pending) > MAX_OBJECT_BYTES:
                raise FrameError(f"{len(self._pending)} bytes without a separator")
        except FrameError:
            self._pending.clear()
            raise
        return found


class RequestReader:
    """Cuts a stream of bare JSON objects by counting brackets outside strings; skips what is between them."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._depth = 0
        self._in_string = self._escaped = False

    def feed(self, data: bytes) -> list[JsonObject | FrameError]:
        """What ``data`` completes, in order: objects, and errors in the place of damage."""
        found: list[JsonObject | FrameError] = []
        for byte in data:
            try:
                complete = self._take(byte)
                if complete is not None:
                    found.append(parse_object(complete))
            except FrameError as error:
                self._reset()
                found.append(error)
        return found

    def _take(self, byte: int) -> bytes | None:
        if not self._depth:
            if byte in _BLANK:
                return None
            if byte != ord("{"):
                raise FrameError(f"byte 0x{byte:02X} between objects")
        self._pending.append(byte)
        if len(self._pending) > MAX_OBJECT_BYTES:
            raise FrameError(f"an object of more than {MAX_OBJECT_BYTES} bytes")
        self._count_brackets(byte)
        if self._depth:
            return None
        complete = bytes(self._pending)
        self._reset()
        return complete

    def _count_brackets(self, byte: int) -> None:
        if self._escaped:
            self._escaped = False
        elif self._in_string:
            self._escaped = byte == _BACKSLASH
            self._in_string = byte != _QUOTE
        elif byte == _QUOTE:
            self._in_string = True
        elif byte in _OPEN:
            self._depth += 1
            if self._depth > MAX_DEPTH:
                raise FrameError(f"an object nested more than {MAX_DEPTH} deep")
        elif byte in _CLOSE:
            self._depth -= 1

    def _reset(self) -> None:
        self._pending = bytearray()
        self._depth = 0
        self._in_string = self._escaped = False
