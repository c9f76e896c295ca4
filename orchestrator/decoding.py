"""Bytes as typed structs: the one place where decoders are made.

msgspec works out the fields of a struct when the first decoder needs them, and keeps them while it is at it: a second thread
that comes meanwhile finds them half made, and the process ends with SIGSEGV (msgspec 0.22).  A process that starts is full of
threads which decode their first message.  So decoders are made one at a time and kept; a finished one may be used by any
thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, overload

import msgspec

from orchestrator import runtime

T = TypeVar("T")
D = TypeVar("D")

_MAKING = runtime.lock()
_JSON: dict[Any, msgspec.json.Decoder[Any]] = {}
_MSGPACK: dict[Any, msgspec.msgpack.Decoder[Any]] = {}


def msgpack_decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    """The decoder of MessagePack for a type, or a union of types."""
    return _kept(_MSGPACK, msgspec.msgpack.Decoder, kind)


def json_decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    """The decoder of JSON for a type, or a union of types."""
    return _kept(_JSON, msgspec.json.Decoder, kind)


def _kept(kept: dict[Any, D], make: Callable[[Any], D], kind: Any) -> D:
    found = kept.get(kind)
    if found is None:
        with _MAKING:
            found = kept.setdefault(kind, make(kind))
    return found


@overload
def from_json(data: bytes | str, kind: type[T]) -> T: ...


@overload
def from_json(data: bytes | str, kind: Any) -> Any: ...


def from_json(data: bytes | str, kind: Any) -> Any:
    """One value of ``kind`` from JSON; raises as msgspec does: ValueError, RecursionError."""
    return json_decoder(kind).decode(data)


def from_plain(data: object, kind: type[T]) -> T:
    """One value of ``kind`` from dictionaries and lists; raises msgspec.ValidationError."""
    with _MAKING:
        return msgspec.convert(data, kind)
