"""The data formats of ETSI GS QKD 014 v1.1.1, section 6, under the standard's names in JSON.

"Status" (6.1) has the fields of :class:`~orchestrator.delivery.key_desk.DeliveryStatus` under :func:`standard_name`.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

ROUTE_TYPE = "qunetlab_route_type"
"""Our parameter in ``extension_mandatory``: by which ways keys may come."""
RouteType: TypeAlias = Literal["direct", "any"]
"""``direct``: no key that a node in the middle handed on, and knows."""
RELAYED = "relayed"
"""The value of ``trust`` in an extension: the nodes named handed the key on, and are trusted with it."""


def relayed(path: tuple[str, ...]) -> Relayed | UnsetType:
    """The label of a key that came along ``path``."""
    return Relayed(RELAYED, path) if path else UNSET


def standard_name(field: str) -> str:
    """``max_sae_id_count`` is ``max_SAE_ID_count`` in the standard, and so with all others."""
    return field.replace("kme", "KME").replace("sae", "SAE").replace("_id", "_ID")


class Relayed(msgspec.Struct, frozen=True):
    """Our extension of a key, and of a status: who besides the two nodes knows it; absent where nobody does."""

    trust: str
    nodes: tuple[str, ...]


class KeyRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename=standard_name):
    """Section 6.2; unset is not null, which no field may be.  In JSON, 256.0 is an integer as 256 is."""

    number: int | float | UnsetType = UNSET
    size: int | float | UnsetType = UNSET
    additional_slave_sae_ids: tuple[str, ...] = ()
    extension_mandatory: tuple[dict[str, msgspec.Raw], ...] = ()
    extension_optional: tuple[dict[str, msgspec.Raw], ...] = ()


class Key(msgspec.Struct, frozen=True, rename=standard_name):
    """One key of a container."""

    key_id: str
    key: memoryview
    """Bytes, which msgspec writes as base64."""
    key_extension: Relayed | UnsetType = UNSET


class KeyContainer(msgspec.Struct, frozen=True):
    """Section 6.3."""

    keys: list[Key]


class KeyID(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename=standard_name):
    """One of :class:`KeyIDs`."""

    key_id: str
    key_id_extension: dict[str, msgspec.Raw] | UnsetType = UNSET


class KeyIDs(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename=standard_name):
    """Section 6.4."""

    key_ids: tuple[KeyID, ...]
    key_ids_extension: dict[str, msgspec.Raw] | UnsetType = UNSET


class Error(msgspec.Struct, frozen=True, omit_defaults=True):
    """Section 6.5."""

    message: str
    details: tuple[dict[str, str], ...] = ()
