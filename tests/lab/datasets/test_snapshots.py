"""How instruments stand, as a data set keeps it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from qcodes.validators import Lists, Strings

from drivers.base import Identity, LabInstrument
from drivers.links.limits import Words
from lab.datasets.snapshots import snapshot_of


class Source(LabInstrument):
    """With every kind of parameter that there is."""

    def __init__(self, name: str) -> None:
        super().__init__(name, "TCPIP::user:password@10.0.0.1")
        self.identity = Identity("acme", "S1", "77", "1.0")
        for parameter, value, validator in (
            ("power_mw", 3.5, None),
            ("emission", True, None),
            ("trigger", "rise", Words(["rise", "fall"])),
            ("bias_ua", [1.0, 2.0], Lists()),
            ("samples", [0.25] * 4096, Lists()),
            ("resource", "TCPIP::user:password@10.0.0.1", Strings()),
        ):
            kwargs: dict[str, Any] = {} if validator is None else {"vals": validator}
            self.add_parameter(parameter, label=parameter, unit="mW", set_cmd=None, get_cmd=None, **kwargs)
            self.parameters[parameter].set(value)
        self.add_parameter("never_read", get_cmd=lambda: self.asked())
        self.add_curve(
            "histogram", label="h", unit="", get=lambda: self.asked(), axis="time", axis_label="t", axis_unit="s",
            axis_points=lambda: self.asked(),
        )  # fmt: skip

    def asked(self) -> Any:
        raise AssertionError("the instrument was asked")

    def identify(self) -> Identity:
        self.asked()

    def safe_state(self) -> None: ...


@dataclass
class Station:
    """As much of a station as a snapshot looks at."""

    source: Source
    identities: dict[str, Identity] = field(default_factory=dict)

    def instruments(self) -> tuple[Source, ...]:
        return (self.source,)


@pytest.fixture
def station() -> Iterator[Station]:
    source = Source("source")
    assert source.identity is not None
    yield Station(source, {"source": source.identity})
    source.close()


def test_values_have_unit_and_age_and_nothing_secret_is_among_them(station: Station) -> None:
    told = snapshot_of(station)  # type: ignore[arg-type]
    of_source = told["station"]["instruments"]["source"]
    found = of_source["parameters"]
    assert of_source["identity"] == {
        "vendor": "acme",
        "model": "S1",
        "serial_number": "77",
        "firmware": "1.0",
    }
    assert {name: each["value"] for name, each in found.items()} == {
        "power_mw": 3.5, "emission": True, "trigger": "rise"
    }  # fmt: skip
    assert found["power_mw"]["unit"] == "mW"
    assert 0.0 <= found["power_mw"]["age_s"] < 10.0
    assert "password" not in json.dumps(told)
    assert "0.25" not in json.dumps(told)
