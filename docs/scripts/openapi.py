"""Writes docs/etsi014.openapi.json: what a node of a testbed with the usual limits answers to applications.

The names are those of the structs that the server decodes and encodes, the limits those of ``[key_delivery]`` where a testbed
file names none; paths and methods are the server's own table.  ``python docs/scripts/openapi.py``.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

from lab.key_delivery import SAE_ID_PATTERN, KeyDelivery
from orchestrator.delivery.http.asks import BASE, ENDPOINTS
from orchestrator.delivery.http.formats import ROUTE_TYPE, RouteType
from orchestrator.delivery.key_desk import KEY_ID_PATTERN

PAGE = Path(__file__).resolve().parents[1] / "etsi014.openapi.json"
Plain = dict[str, Any]

SUMMARIES = {
    "status": "What the caller may ask for, to share with the slave (section 5.1)",
    "enc_keys": "Fresh keys for the caller, the master; all or none (section 5.2)",
    "dec_keys": "The copies of keys that the master shared with the caller, each once; all or none (section 5.3)",
}
ANSWERS = {"status": "Status", "enc_keys": "KeyContainer", "dec_keys": "KeyContainer"}
REFUSALS = {
    "400": "The request can never be granted as it stands; a key unknown or already delivered is among these",
    "401": "This caller may not have it: unknown, revoked, in use elsewhere, or another's key",
    "408": "The request did not come in time",
    "413": "The body is too large",
    "431": "The header is too large",
    "503": "Not now: too little key, a quota used up, the peer out of reach",
}


def text(**more: Any) -> Plain:
    return {"type": "string", **more}


def whole(low: int, high: int | None = None, **more: Any) -> Plain:
    return {"type": "integer", "minimum": low, **({} if high is None else {"maximum": high}), **more}


def record(required: list[str], *, closed: bool = False, **fields: Plain) -> Plain:
    return {
        "type": "object",
        "properties": fields,
        **({"required": required} if required else {}),
        **({"additionalProperties": False} if closed else {}),
    }


def named(name: str) -> Plain:
    return {"$ref": f"#/components/schemas/{name}"}


def many(items: Plain, **more: Any) -> Plain:
    return {"type": "array", "items": items, **more}


def schemas(rules: KeyDelivery) -> Plain:
    number = whole(1, rules.max_keys_per_request, default=1)
    size = whole(rules.min_key_size_bits, rules.max_key_size_bits, multipleOf=8, default=rules.key_size_bits)
    extension = record([], trust=text(), nodes=many(text()))
    counts = ["stored_key_count", "max_key_count", "max_key_per_request"]
    names = ["source_KME_ID", "target_KME_ID", "master_SAE_ID", "slave_SAE_ID"]
    bits = ["key_size", "max_key_size", "min_key_size"]
    status = {
        **{name: text() for name in names},
        **{name: whole(0) for name in counts},
        **{name: whole(8, multipleOf=8) for name in bits},
        "max_SAE_ID_count": whole(0),
    }
    key_id = text(format="uuid", pattern=f"^{KEY_ID_PATTERN}$")
    free = {"type": "object"}
    return {
        "Status": record([*status], **status, status_extension=extension),
        "KeyRequest": record(
            [],
            closed=True,
            number=number,
            size=size,
            additional_slave_SAE_IDs=many(text(), maxItems=0, description="max_SAE_ID_count is 0"),
            extension_mandatory=many(
                record([], closed=True, **{ROUTE_TYPE: text(enum=list(get_args(RouteType)))}),
                description="direct: no key that a node in the middle handed on",
            ),
            extension_optional=many(free, description="ignored"),
        ),
        "KeyContainer": record(
            ["keys"],
            keys=many(
                record(
                    ["key_ID", "key"],
                    key_ID=key_id,
                    key=text(contentEncoding="base64"),
                    key_extension=extension,
                )
            ),
        ),
        "KeyIDs": record(
            ["key_IDs"],
            closed=True,
            key_IDs=many(
                record(["key_ID"], closed=True, key_ID=key_id, key_ID_extension=free),
                minItems=1,
                maxItems=rules.max_keys_per_request,
                uniqueItems=True,
            ),
            key_IDs_extension=free,
        ),
        "Error": record(
            ["message"], message=text(), details=many({"type": "object", "additionalProperties": text()})
        ),
    }


def body(schema: Plain) -> Plain:
    return {"application/json": {"schema": schema}}


def operation(endpoint: str, method: str, all_schemas: Plain) -> Plain:
    refusals = {code: {"description": why, "content": body(named("Error"))} for code, why in REFUSALS.items()}
    found: Plain = {
        "operationId": f"{method.lower()}_{endpoint}",
        "summary": SUMMARIES[endpoint],
        "responses": {
            "200": {"description": "Granted", "content": body(named(ANSWERS[endpoint]))},
            **refusals,
        },
    }
    if endpoint == "enc_keys" and method == "GET":
        fields = all_schemas["KeyRequest"]["properties"]
        found["parameters"] = [
            {"name": name, "in": "query", "required": False, "schema": fields[name]}
            for name in ("number", "size")
        ]
    elif endpoint == "dec_keys" and method == "GET":
        key_id = all_schemas["KeyIDs"]["properties"]["key_IDs"]["items"]["properties"]["key_ID"]
        found["parameters"] = [{"name": "key_ID", "in": "query", "required": True, "schema": key_id}]
    elif method == "POST":
        name = "KeyRequest" if endpoint == "enc_keys" else "KeyIDs"
        found["requestBody"] = {"required": name == "KeyIDs", "content": body(named(name))}
    return found


def openapi() -> Plain:
    """The whole description."""
    known = schemas(KeyDelivery())
    paths: Plain = {}
    for endpoint, methods in ENDPOINTS.items():
        other = "master_SAE_ID" if endpoint == "dec_keys" else "slave_SAE_ID"
        where = {"name": other, "in": "path", "required": True, "schema": text(pattern=SAE_ID_PATTERN)}
        paths[f"{BASE}{{{other}}}/{endpoint}"] = {
            "parameters": [where],
            **{method.lower(): operation(endpoint, method, known) for method in methods},
        }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Keys to applications",
            "version": version("qunetlab"),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": "ETSI GS QKD 014 v1.1.1 as a node of qunetlab speaks it, over mutual TLS 1.3. The caller is the "
            "common name of its client certificate. Limits of number and size are those of a testbed that sets none; the "
            "status of a node tells its own.",
        },
        "servers": [{"url": "https://localhost"}],
        "security": [{"certificate": []}],
        "paths": paths,
        "components": {"schemas": known, "securitySchemes": {"certificate": {"type": "mutualTLS"}}},
    }


def page() -> str:
    return json.dumps(openapi(), indent=1) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE.name} is written")
