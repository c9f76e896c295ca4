"""A request of ETSI GS QKD 014 v1.1.1 as bytes becomes one of three asks, or is refused: pure functions.

Section 5 of the standard has the paths and methods, section 6 the data formats.  What it leaves open is read strictly:
an unknown field, parameter or a repeated name is refused, since an application that misspelt ``size`` would otherwise
get keys of another length.  Every refusal is the standard's own: 400 for what can never be granted, 404 and 405 outside its paths.
Here is asked only whether a request can be read; how many keys of what size, and which ids, is the desk's to judge.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar
from urllib.parse import parse_qsl, unquote

import msgspec
from msgspec import UNSET, UnsetType

from lab.key_delivery import SAE_ID_PATTERN, SAE_ID_RULE
from orchestrator.decoding import json_decoder
from orchestrator.delivery.http.formats import ROUTE_TYPE, KeyIDs, KeyRequest, RouteType

BASE = "/api/v1/keys/"
ENDPOINTS = {"status": ("GET",), "enc_keys": ("GET", "POST"), "dec_keys": ("GET", "POST")}
MANDATORY_UNSUPPORTED = "not all extension_mandatory parameters are supported"
MANDATORY_KNOWN = f'{ROUTE_TYPE}, "direct" or "any", is the one that is'

_DIGITS = re.compile(r"-?[0-9]{1,18}", re.ASCII)

S = TypeVar("S", bound=msgspec.Struct)


class KeyRequestRefusedError(Exception):
    """The request gets ``status`` and these words; ``headers`` go with them."""

    def __init__(
        self,
        status: int,
        message: str,
        details: Sequence[str] = (),
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.details = tuple(details)
        self.headers = tuple(headers)


@dataclass(frozen=True)
class StatusAsked:
    """Section 5.1, "Get status"."""

    slave: str


@dataclass(frozen=True)
class KeysAskedAsMaster:
    """Section 5.2, "Get key"; None where the standard's default is meant."""

    slave: str
    number: int | None
    size_bits: int | None
    may_be_relayed: bool = True


@dataclass(frozen=True)
class KeysAskedAsSlave:
    """Section 5.3, "Get key with key IDs"; ids as they were written."""

    master: str
    key_ids: tuple[str, ...]


Ask: TypeAlias = StatusAsked | KeysAskedAsMaster | KeysAskedAsSlave


@dataclass(frozen=True)
class Place:
    """Where a request goes: an endpoint of the standard, and the other application's SAE ID."""

    endpoint: str
    other: str
    query: str


def place_of(method: str, target: str) -> Place:
    """Where a request of ``method`` for ``target`` goes, in origin or absolute form; raises KeyRequestRefusedError."""
    scheme, found, rest = target.partition("://")
    if found and scheme.lower() == "https":
        target = "/" + rest.partition("/")[2]
    path, _, query = target.partition("?")
    parts = path.removeprefix(BASE).split("/")
    if not path.startswith(BASE) or len(parts) != 2 or parts[1] not in ENDPOINTS:
        raise KeyRequestRefusedError(
            404, f"there is nothing here; keys are at {BASE}SAE_ID/status, enc_keys, dec_keys"
        )
    allowed = ENDPOINTS[parts[1]]
    if method not in allowed:
        headers = (("Allow", ", ".join(allowed)),)
        raise KeyRequestRefusedError(405, f"{parts[1]} takes {' and '.join(allowed)}", headers=headers)
    return Place(parts[1], _sae_id(parts[0]), query)


def ask_of(method: str, place: Place, content_type: str | None, body: bytes) -> Ask:
    """What is asked for at ``place``; raises KeyRequestRefusedError with 400.

    ``content_type`` is that header as sent, None where there was none.
    """
    if method == "GET" and body:
        raise KeyRequestRefusedError(400, "a GET has no body; its parameters stand in the address")
    if method == "POST" and place.query:
        raise KeyRequestRefusedError(400, "a POST has its parameters in its body, none in the address")
    if place.endpoint == "status":
        _parameters(place.query, ())
        return StatusAsked(place.other)
    if place.endpoint == "enc_keys":
        if method == "POST":
            return _master(place.other, _read(content_type, body, KeyRequest) if body else KeyRequest())
        given = _parameters(place.query, ("number", "size"))
        number, size = (_whole(name, given[name]) if name in given else UNSET for name in ("number", "size"))
        return _master(place.other, KeyRequest(number, size))
    if method == "POST":
        ids = tuple(each.key_id for each in _read(content_type, body, KeyIDs).key_ids)
    else:
        ids = tuple(_parameters(place.query, ("key_ID",)).values())
    return KeysAskedAsSlave(place.other, ids)


def _sae_id(segment: str) -> str:
    """The SAE ID that one segment of a path holds."""
    name = unquote(segment)
    if not re.fullmatch(SAE_ID_PATTERN, name):
        raise KeyRequestRefusedError(400, f"the SAE ID in the path is none: {SAE_ID_RULE}")
    return name


def _parameters(query: str, known: tuple[str, ...]) -> dict[str, str]:
    """The parameters of a query, each at most once and one of ``known``."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), errors="strict")
    except ValueError:
        raise KeyRequestRefusedError(400, "the part of the address after ? cannot be read") from None
    found: dict[str, str] = {}
    for name, text in pairs:
        if name not in known:
            takes = f"takes {' and '.join(known)}" if known else "takes none"
            raise KeyRequestRefusedError(400, f"a parameter in the address is not known; this {takes}")
        if name in found:
            raise KeyRequestRefusedError(400, f"{name} stands twice in the address")
        found[name] = text
    return found


def _read(content_type: str | None, body: bytes, kind: type[S]) -> S:
    """A body of JSON as ``kind``; the error repeats nothing of it but names that the standard has."""
    if (content_type or "").partition(";")[0].strip().lower() != "application/json":
        raise KeyRequestRefusedError(400, "Content-Type shall be application/json")
    try:
        read: S = json_decoder(kind).decode(body)
        _LOOK_FOR_TWICE.decode(body.decode())
    except RecursionError:
        raise KeyRequestRefusedError(400, "the body is nested too deeply") from None
    except UnicodeDecodeError:
        raise KeyRequestRefusedError(400, "the body is not UTF-8") from None
    except msgspec.ValidationError as error:
        text = str(error)
        if "unknown field" in text:
            text = f"a field that is none of {', '.join(kind.__struct_encode_fields__)}"
        raise KeyRequestRefusedError(400, "the body does not follow the standard", [text]) from None
    except _TwiceError:
        raise KeyRequestRefusedError(400, "a name stands twice in one object of the body") from None
    except ValueError:
        raise KeyRequestRefusedError(400, "the body is not JSON") from None
    return read


class _TwiceError(Exception):
    """An object of JSON with one name twice: two readers would see different requests."""


def _once(pairs: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in pairs}) != len(pairs):
        raise _TwiceError


def _no_constant(_: str) -> None:
    raise ValueError("NaN and Infinity are not JSON")


_LOOK_FOR_TWICE = json.JSONDecoder(
    object_pairs_hook=_once, parse_constant=_no_constant, parse_int=str, parse_float=str
)
"""Numbers stay text: one of five thousand digits in an extension is no fault, and nobody needs it."""


def _whole(name: str, text: str) -> int:
    if not _DIGITS.fullmatch(text):
        raise KeyRequestRefusedError(400, f"{name} shall be an integer")
    return int(text)


def _master(slave: str, asked: KeyRequest) -> KeysAskedAsMaster:
    if asked.additional_slave_sae_ids:
        raise KeyRequestRefusedError(
            400, "additional_slave_SAE_IDs are not supported: max_SAE_ID_count of the status is 0"
        )
    may_be_relayed = _may_be_relayed(asked.extension_mandatory)
    number, size_bits = _counted("number", asked.number), _counted("size", asked.size)
    return KeysAskedAsMaster(slave, number, size_bits, may_be_relayed)


def _may_be_relayed(mandatory: Sequence[dict[str, msgspec.Raw]]) -> bool:
    """Whether ``extension_mandatory`` leaves that open; what is not known there is refused, as the standard has it."""
    named = [(name, bytes(value)) for each in mandatory for name, value in each.items()]
    try:
        routes = [json_decoder(RouteType).decode(value) for name, value in named if name == ROUTE_TYPE]
    except msgspec.ValidationError:
        routes = []
    if len(routes) != len(named):
        raise KeyRequestRefusedError(400, MANDATORY_UNSUPPORTED, [MANDATORY_KNOWN])
    return "direct" not in routes


def _counted(name: str, value: int | float | UnsetType) -> int | None:
    if value is UNSET:
        return None
    if isinstance(value, float) and not value.is_integer():
        raise KeyRequestRefusedError(400, f"{name} shall be an integer")
    return int(value)
