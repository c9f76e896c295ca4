"""Messages to bytes and back: MessagePack through msgspec, with one typed error for everything malformed.

Every wire message is a frozen :class:`Message`: its class name is its tag, unknown fields are refused,
and limits stand in the field types (``msgspec.Meta``).  What arrives from a socket is arbitrary bytes
until :func:`decode` has returned; nothing else in this package parses bytes, and nothing unpickles.
msgspec lets ``UnicodeDecodeError`` and ``RecursionError`` through, so the two are caught here as well.
"""

from __future__ import annotations

import numbers
from typing import Any, TypeVar, overload

import msgspec

from orchestrator.decoding import msgpack_decoder

T = TypeVar("T")


class WireError(ValueError):
    """Bytes from the wire that are not a message of the expected type, or a message that cannot be sent."""


class Message(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Base of every struct that crosses a process border; subclasses may be joined in tagged unions."""


def _plain_number(value: object) -> int | float:
    """NumPy's numbers (and whatever else registers as one) travel as Python's, so that digests are the same."""
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    raise WireError(f"a {type(value).__name__} cannot be sent")


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_plain_number)


def encode(message: msgspec.Struct) -> bytes:
    """``message`` as MessagePack bytes.

    Raises WireError for numbers beyond 64 bits, for text that is not UTF-8 (a strange file name) and for what is no
    data.
    """
    try:
        return _ENCODER.encode(message)
    except OverflowError:
        raise WireError(f"a number in this {type(message).__name__} does not fit 64 bits") from None
    except UnicodeEncodeError:
        raise WireError(f"text in this {type(message).__name__} is not UTF-8") from None


def packed(message: msgspec.Struct) -> msgspec.Raw:
    """``message`` as a field of another one that does not look into it; raises WireError as :func:`encode`."""
    return msgspec.Raw(encode(message))


@overload
def decode(data: bytes | memoryview, type_: type[T]) -> T: ...


@overload
def decode(data: bytes | memoryview, type_: Any) -> Any: ...


def decode(data: bytes | memoryview, type_: Any) -> Any:
    """``data`` as one value of ``type_`` (a Message class, or a union of them).

    Raises WireError for every input that is not exactly that; the error repeats no byte of the input
    beyond the name of the field concerned.
    """
    try:
        return msgpack_decoder(type_).decode(data)
    except (ValueError, RecursionError) as error:
        raise WireError(f"malformed message: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """What was wrong, without values: unknown field names and tags are the sender's bytes."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return "text that is not UTF-8"
    if isinstance(error, msgspec.ValidationError):
        text = str(error)
        for marker, words in (("unknown field", "an unknown field"), ("Invalid value", "an unknown tag")):
            if marker in text:
                return words
        return text
    return "not MessagePack, cut short or with bytes left over"
