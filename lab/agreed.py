"""What a testbed file says to every machine alike, as digests by section (:mod:`orchestrator.wire.agreed`).

Left out is what one machine alone needs, or what may differ while nobody is wrong: how instruments and our own processes are
reached (addresses, options of drivers, endpoints), which each machine may see differently; and what is calibrated, which
changes while roles run.
"""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from typing import Any

from lab.calibration.book import RELAY_PLACES, USER_VALUES
from lab.testbed import Testbed
from orchestrator.wire.agreed import Agreed

LOCAL_SECTIONS = ("description", "hub", "fl")
LOCAL_KEYS = {"instruments": ("address", "options"), "users": ("delivery", "etsi014", *USER_VALUES)}
"""Of each entry of an array of tables."""


def agreed_on(testbed: Testbed) -> Agreed:
    """What a machine with this testbed file, and this release, says when it joins."""
    content = testbed.model_dump(mode="json")
    return Agreed(
        version("qunetlab"),
        {
            name: _digest(_common(name, section))
            for name, section in content.items()
            if name not in LOCAL_SECTIONS and section is not None
        },
    )


def _common(name: str, section: Any) -> Any:
    """The part of a section that every machine has."""
    if isinstance(section, list):
        return [_without(entry, LOCAL_KEYS.get(name, ())) for entry in section]
    return _without(section, tuple(key for key, place in RELAY_PLACES.items() if place == name))


def _without(table: Any, keys: tuple[str, ...]) -> Any:
    return (
        {key: value for key, value in table.items() if key not in keys} if isinstance(table, dict) else table
    )


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
