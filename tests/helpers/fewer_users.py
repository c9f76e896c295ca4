"""A bundled ring built with some of its stations only, calibrated without a fault."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from lab.testbed import parse_testbed
from sim_backends.survey import surveyed


def ring_of_users(data: dict[str, Any], users: Collection[str], **simulation: Any) -> dict[str, Any]:
    """The content of a testbed file with the stations of ``users``, and other values of [simulation] where they are given."""
    instruments = [entry for entry in data["instruments"] if entry["owner"] in ("relay", *users)]
    kept = {entry["name"] for entry in instruments}
    lines = ("trigger_sinks", "reference")
    cabling = {line: [each for each in data["cabling"][line] if each in kept] for line in lines}
    stations = [station for station in data["simulation"]["stations"] if station["name"] in users]
    fewer = {
        **data,
        "users": [user for user in data["users"] if user["name"] in users],
        "instruments": instruments,
        "cabling": data["cabling"] | cabling,
        "simulation": {**data["simulation"], "stations": stations, **simulation},
    }
    return surveyed(fewer, parse_testbed(fewer, Path("fewer.toml")))
