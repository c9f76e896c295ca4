"""Stations: every failure together, safe state in order whatever fails."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from drivers.base import Identity
from drivers.catalogue import row
from drivers.links.errors import LinkBrokenError
from lab.runs.testbeds.folder import template_path
from lab.station import Station, StationError
from lab.testbed import Testbed, parse_testbed

RELAY = ["awg_relay", "bias_relay", "detectors", "laser", "launch", "tagger"]
MADE = ["laser", "launch", "awg_relay", "bias_relay", "detectors", "tagger"]
"""As they stand in the file."""


class FakeInstrument:
    def __init__(self, model: str, name: str, log: list[str], broken: set[str]) -> None:
        self.model, self.name, self.log, self.broken = model, name, log, broken
        self.address = ""

    def _act(self, action: str) -> str:
        self.log.append(f"{action} {self.name}")
        if f"{action} {self.name}" in self.broken:
            raise LinkBrokenError("gone", instrument=self.name)
        return self.name

    def connect(self) -> Identity:
        self._act("connect")
        return self.identity

    def identify(self) -> Identity:
        self._act("identify")
        return self.identity

    @property
    def identity(self) -> Identity:
        return Identity("maker", self.model, f"serial-of-{self.address}", "1.0")

    def safe_state(self) -> None:
        self._act("safe")

    def leave_on(self) -> None:
        """A station makes its instruments safe itself."""

    def close(self) -> None:
        self._act("close")


def make_testbed(address: bool = True) -> Testbed:
    data = tomllib.loads(template_path("simulated-four-node").read_text())
    if address:
        for index, entry in enumerate(data["instruments"]):
            entry["address"] = f"fake-{index}"
    return parse_testbed(data, Path("t.toml"))


def station(log: list[str], *broken: str) -> Station:
    return Station(
        make_testbed(),
        "relay",
        create=lambda model, name, address: FakeInstrument(model, name, log, set(broken)),
    )


def test_leaving_makes_everything_safe_in_order_and_closes_it() -> None:
    log: list[str] = []
    with station(log):
        log.clear()
    names = [log_line.removeprefix("safe ") for log_line in log[:6]]
    assert names[:2] == ["laser", "launch"], "the light goes first"
    assert sorted(names) == RELAY
    assert sorted(log[6:]) == [f"close {name}" for name in RELAY]


def test_an_instrument_that_cannot_be_made_safe_does_not_stop_the_others() -> None:
    log: list[str] = []
    relay = station(log, "safe laser", "close launch")
    relay.open()
    failures = relay.safe()
    relay.close()
    assert list(failures) == ["laser"]
    assert "safe tagger" in log
    assert "close laser" in log


def test_all_failures_to_connect_are_reported_together_and_nothing_stays_open() -> None:
    log: list[str] = []
    with pytest.raises(StationError) as caught:
        station(log, "connect laser", "connect tagger").open()
    assert set(caught.value.failures) == {"laser", "tagger"}
    assert "addresses in the testbed file" in str(caught.value)
    assert "close launch" in log


def test_an_instrument_that_cannot_be_made_is_told_like_one_that_does_not_answer() -> None:
    log: list[str] = []

    def create(model: str, name: str, address: str) -> FakeInstrument:
        if name in ("launch", "tagger"):
            raise TypeError("unexpected keyword argument 'bogus'")
        return FakeInstrument(model, name, log, set())

    with pytest.raises(StationError, match="creating failed for 2") as caught:
        Station(make_testbed(), "relay", create=create).open()
    assert set(caught.value.failures) == {"launch", "tagger"}
    assert log == [f"close {name}" for name in reversed(MADE) if name not in ("launch", "tagger")]


def test_an_unresolved_address_is_refused_before_anything_is_opened() -> None:
    with pytest.raises(StationError, match="resolving the address"):
        Station(make_testbed(address=False), "relay", create=lambda *_: None).open()


def relay_with_serials(log: list[str], swapped: bool) -> Station:
    """The instruments of the file answer with their own serial numbers, or two with each other's."""
    data = tomllib.loads(template_path("simulated-four-node").read_text())
    for entry in data["instruments"]:
        entry["address"] = entry["name"]
        if entry["owner"] == "relay" and row(entry["model"]).has_serial_number:
            entry["serial_number"] = f"serial-of-{entry['name']}"
    other = {"laser": "launch", "launch": "laser"} if swapped else {}

    def create(model: str, name: str, address: str) -> FakeInstrument:
        made = FakeInstrument(model, name, log, set())
        made.address = other.get(address, address)
        return made

    return Station(parse_testbed(data, Path("t.toml")), "relay", create=create)


def test_instruments_that_stand_for_each_other_are_told_by_their_serial_numbers() -> None:
    with relay_with_serials([], swapped=False) as relay:
        relay.check()
    with pytest.raises(StationError, match="two instruments may be swapped") as caught:
        relay_with_serials([], swapped=True).open()
    assert set(caught.value.failures) == {"laser", "launch"}
    assert "serial-of-launch answers, the testbed file says serial-of-laser" in str(caught.value)


def test_an_instrument_that_was_replaced_while_nothing_was_to_do_is_found_out() -> None:
    relay = relay_with_serials([], swapped=False)
    relay.open()
    instrument = relay._instruments["launch"]
    instrument.address = "spare"
    with pytest.raises(StationError, match="serial-of-spare answers"):
        relay.check()
    relay.close()
