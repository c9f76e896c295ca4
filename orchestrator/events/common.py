"""What events have in common: the first line of every role, and the event that this version does not know.

A newer version may tell of a kind, or of a field, that an older one has never heard of.  That is no fault of
either: it is kept as :class:`Unknown`, counted and shown, and everything else goes on.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import msgspec
from msgspec import Meta

from orchestrator.decoding import from_json, json_decoder, msgpack_decoder
from orchestrator.wire.codec import Message, WireError, decode
from orchestrator.wire.fields import REASON_LIMIT, Count, Reason

Subject: TypeAlias = tuple[str, ...]
KIND_LIMIT = 64


class Serving(Message, frozen=True, kw_only=True):
    """A role's first line: it serves.

    ``role``, ``version`` (of the package) and ``metrics``, where Prometheus finds them, are filled in where it is printed.
    """

    ready: Literal[True] = True
    role: str = ""
    version: str = ""
    metrics: str = ""


class Item(Message, frozen=True):
    """An item of status; it replaces the earlier one that its role said on the same subject."""

    about: ClassVar[tuple[str, ...]] = ()
    """The fields that name whom it is about."""
    said_by: ClassVar[tuple[str, ...]] = ()
    """The roles that may say it to the hub; what none may say comes from the orchestrator."""

    @property
    def subject(self) -> Subject:
        """The kind, and whom it is about: never one text glued from them."""
        return type(self).__name__, *(getattr(self, each) or "" for each in self.about)


class Unknown(Item, frozen=True):
    """An event of a kind, or with fields, that this version does not know; ``count`` of them came."""

    about = ("kind",)

    kind: Annotated[str, Meta(max_length=KIND_LIMIT)]
    reason: Reason = ""
    count: Count = 1

    def told_by(self, role: str) -> str:
        """In words for people; the kind is its sender's text."""
        return f"unknown event {self.kind} from {role} (a newer version?)"


class _Tagged(msgspec.Struct):
    """What every version agrees on: an event names its kind."""

    type: str


_JSON_KIND, _WIRE_KIND = json_decoder(_Tagged), msgpack_decoder(_Tagged)


def read_item(data: bytes | memoryview, kinds: Any, *, strict: bool = False) -> Any:
    """One of ``kinds`` (a union of Messages) from MessagePack, or Unknown.

    If ``strict``, raises WireError for what names no kind.
    """
    try:
        return decode(data, kinds)
    except WireError as error:
        unknown = _unknown(_WIRE_KIND, data, error)
        if strict and unknown is None:
            raise
        return unknown or Unknown("of no kind", str(error))


def read_line(line: str, kinds: Any) -> Any:
    """One of ``kinds`` from a line of JSON, or Unknown; None for a line that names no kind."""
    try:
        return from_json(line, kinds)
    except (ValueError, RecursionError) as error:
        return _unknown(_JSON_KIND, line.encode(errors="replace"), error)


def _unknown(
    decoder: msgspec.json.Decoder[_Tagged] | msgspec.msgpack.Decoder[_Tagged],
    data: bytes | memoryview,
    error: Exception,
) -> Unknown | None:
    try:
        return Unknown(decoder.decode(data).type[:KIND_LIMIT], str(error)[:REASON_LIMIT])
    except (ValueError, RecursionError):
        return None
