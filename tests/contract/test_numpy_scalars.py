"""Every settable parameter of every driver takes NumPy's scalars as it takes Python's: values come from arrays."""

from __future__ import annotations

import random
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
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


def settable(instrument: Any) -> Iterator[Any]:
    for holder in (instrument, *instrument.submodules.values()):
        for parameter in holder.parameters.values():
            if parameter.settable and parameter.gettable and parameter.name != "timeout":
                yield parameter


def as_numpy(value: Any) -> list[Any]:
    """A value in the forms in which NumPy may hold it."""
    if isinstance(value, bool):
        return [np.bool_(value)]
    if isinstance(value, int):
        return [np.int64(value), np.int16(value)]
    if isinstance(value, float):
        return [
            np.float64(value),
            *([np.int64(round(value))] if value == round(value) else []),
            np.float32(value),
        ]
    if isinstance(value, list | tuple) and value:
        return [np.array(value), [np.float32(each) for each in value]]
    return []


def test_numpy_scalars_are_taken_by_every_parameter(instruments: list[Any]) -> None:
    tried = set()
    for instrument in instruments:
        for parameter in settable(instrument):
            before = parameter.get()
            for value in as_numpy(before):
                parameter.set(value)
                assert parameter.get() == pytest.approx(before, rel=1e-3, abs=1e-3), parameter.full_name
                tried.add(parameter.full_name)
    assert len(tried) >= 15, tried


def test_booleans_have_no_limits_and_numbers_no_noise(instruments: list[Any]) -> None:
    for instrument in instruments:
        for name, item in _parameters(instrument).items():
            if isinstance(item["value"], bool):
                assert item["limits"] == [], name
            assert not any(isinstance(limit, bool) for limit in item["limits"]), name
    row = {
        "name": "laser", "model": "m", "owner": "relay", "address": "a", "ok": True, "serial_number": "1", "firmware": "2",
        "parameters": {"on": {"value": True, "unit": "", "limits": []}, "nm": {"value": 1550.12, "unit": "nm", "limits": [1500.0, 1600.0]}},
    }  # fmt: skip
    on, wavelength = _text(row).splitlines()[1:]
    assert on.split() == ["on", "True"]
    assert wavelength.split() == ["nm", "1550.12", "nm", "[1500", "..", "1600]"]
    assert rounded(1550.0 + 0.1 + 0.02) == 1550.12
    assert rounded([0.1 + 0.2, 3]) == [0.3, 3]
