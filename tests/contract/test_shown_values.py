"""How settings and readings are shown: booleans without limits, numbers without noise."""

from __future__ import annotations

import random
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.cli.instruments import _parameters, _text, rounded
from lab.runs.testbeds.folder import template_path
from lab.station import Station
from lab.testbed import parse_testbed, resolve_addresses
from sim_backends.bench import Bench


@pytest.fixture(scope="module")
def instruments() -> Iterator[list[Any]]:
    """One of each model, connected to its twin."""
    data = tomllib.loads(template_path("simulated-reference").read_text(encoding="utf-8"))
    with Bench(parse_testbed(data, Path("t")), random.Random(1)) as bench:
        data = resolve_addresses(data, bench.addresses)
        for entry in data["instruments"]:
            entry["options"] = bench.options.get(entry["name"], {})
        testbed = parse_testbed(data, Path("t"))
        with Station(testbed, "relay") as relay, Station(testbed, testbed.users[0].name) as user:
            yield [*relay._instruments.values(), *user._instruments.values()]


def test_booleans_have_no_limits_and_numbers_no_noise(instruments: list[Any]) -> None:
    for instrument in instruments:
        for name, item in _parameters(instrument).items():
            if isinstance(item["value"], bool):
                assert item["limits"] == [], name
            assert not any(isinstance(limit, bool) for limit in item["limits"]), name
    row = {
        "name": "laser", "model": "m", "owner": "relay", "address": "a", "ok": True, "serial_number": "1", "firmware": "2",
        "parameters": {"light": {"value": True, "shown": "on", "unit": "", "limits": []}, "nm": {"value": 1550.12, "shown": "1550.12", "unit": "nm", "limits": [1500.0, 1600.0]}},
    }  # fmt: skip
    light, wavelength = _text(row).splitlines()[1:]
    assert light.split() == ["light", "on"]
    assert wavelength.split() == ["nm", "1550.12", "nm", "[1500", "..", "1600]"]
    assert rounded(1550.0 + 0.1 + 0.02) == 1550.12
    assert rounded([0.1 + 0.2, 3]) == [0.3, 3]
