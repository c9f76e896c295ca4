"""Drivers as QCoDeS users make them: loaded by a Station, made anew by a cell that runs again, found by name."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from qcodes import find_or_create_instrument
from qcodes.instrument import Instrument
from qcodes.station import Station

from drivers.attenuators.keysight_n7764a import KeysightN7764A
from drivers.links.errors import LimitError, LinkError
from drivers.powermeters.thorlabs_pm100d import ThorlabsPM100D
from sim_backends.attenuators.keysight_n7764a import N7764ATwin
from sim_backends.powermeters.thorlabs_pm100d import PM100DTwin


@pytest.fixture(scope="module")
def meter() -> Iterator[str]:
    twin = PM100DTwin()
    yield twin.serve("127.0.0.1", 0)
    twin.close()


@pytest.fixture(scope="module")
def attenuator() -> Iterator[str]:
    twin = N7764ATwin()
    yield twin.serve("127.0.0.1", 0)
    twin.close()


@pytest.fixture(autouse=True)
def none_left() -> Iterator[None]:
    yield
    Instrument.close_all()
    Station.default = None


def station(folder: Path, name: str, driver: type, address: str, more: str = "") -> Station:
    file = folder / "a.station.yaml"
    kind = f"{driver.__module__}.{driver.__name__}"
    file.write_text(f"instruments:\n  {name}:\n    type: {kind}\n    address: {address}\n{more}")
    return Station(config_file=str(file), use_monitor=False)


def test_a_station_loads_a_connected_instrument_with_its_initial_values(
    tmp_path: Path, attenuator: str
) -> None:
    more = "    parameters:\n      ch1.attenuation_db: {initial_value: 12.5, monitor: true}\n"
    loaded = station(tmp_path, "launch", KeysightN7764A, attenuator, more).load_instrument("launch")
    assert loaded.ch1.attenuation_db() == 12.5
    loaded.ch1.attenuation_db(3.0)
    with pytest.raises(LimitError):
        loaded.ch1.attenuation_db(99.0)
    assert Instrument.exist("launch"), "only the first set of a loading closes it"
    snapshot = loaded.snapshot(update=True)
    assert snapshot["parameters"]["IDN"]["value"]["serial"]


def test_a_dead_address_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(LinkError, match=r"pm at TCPIP::127\.0\.0\.1::9::SOCKET"):
        station(tmp_path, "pm", ThorlabsPM100D, "TCPIP::127.0.0.1::9::SOCKET").load_instrument("pm")
    assert not Instrument.exist("pm")


@pytest.mark.parametrize(
    ("more", "error", "says"),
    [
        ("ch1.attenuation_db: {initial_value: 99}", LimitError, "99 dB is outside"),
        ("ch9.attenuation_db: {initial_value: 1}", AttributeError, "has no 'ch9'; it has IDN, ch1"),
        ("ch1.attenuation: {monitor: true}", AttributeError, "has no 'attenuation'; it has attenuation_db"),
    ],
)
def test_a_file_that_asks_the_impossible_leaves_nothing_behind(
    tmp_path: Path, attenuator: str, more: str, error: type[Exception], says: str
) -> None:
    loading = station(tmp_path, "launch", KeysightN7764A, attenuator, f"    parameters:\n      {more}\n")
    with pytest.raises(error, match=says) as caught:
        loading.load_instrument("launch")
    assert not Instrument.exist("launch")
    assert "launch" not in loading.components
    del caught


def test_the_file_may_leave_the_connecting_to_later(tmp_path: Path) -> None:
    more = "    init: {connect: false}\n"
    loaded = station(tmp_path, "pm", ThorlabsPM100D, "TCPIP::127.0.0.1::9::SOCKET", more).load_instrument(
        "pm"
    )
    assert Instrument.is_valid(loaded)


def test_loading_again_takes_the_place_of_the_first(tmp_path: Path, meter: str) -> None:
    loading = station(tmp_path, "pm", ThorlabsPM100D, meter)
    first = loading.load_instrument("pm")
    second = loading.load_instrument("pm")
    assert not Instrument.is_valid(first)
    assert loading.components["pm"] is second
    second.close()
    assert loading.load_instrument("pm").power_w() >= 0


def test_a_cell_that_runs_again_closes_what_it_made_before(meter: str) -> None:
    first = ThorlabsPM100D("pm", meter)
    first.connect()
    second = ThorlabsPM100D("pm", meter, connect=True)
    assert not Instrument.is_valid(first)
    assert second.power_w() >= 0
    assert find_or_create_instrument(ThorlabsPM100D, "pm", meter) is second


def test_another_instrument_of_the_same_name_is_an_error_that_says_what_to_do(
    meter: str, attenuator: str
) -> None:
    first = ThorlabsPM100D("pm", meter)
    for make in (
        lambda: ThorlabsPM100D("pm", "elsewhere"),
        lambda: KeysightN7764A(name="pm", address=attenuator),
    ):
        with pytest.raises(KeyError, match=r"Another instrument has the name: pm .*close it with"):
            make()
    assert Instrument.find_instrument("pm") is first


def test_making_a_driver_opens_nothing() -> None:
    assert ThorlabsPM100D(name="pm", address="TCPIP::127.0.0.1::9::SOCKET").name == "pm"


def test_a_closed_instrument_makes_room_in_the_station(meter: str) -> None:
    station = Station(ThorlabsPM100D("pm", meter))
    second = ThorlabsPM100D("pm", meter)
    station.add_component(second)
    assert station.components == {"pm": second}


def test_a_station_waits_once_for_an_instrument_that_does_not_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        dead = KeysightN7764A("dead", f"TCPIP::127.0.0.1::{silent.getsockname()[1]}::SOCKET", timeout_s=0.1)
        begun = time.monotonic()
        assert Station(dead).components == {"dead": dead}
        assert time.monotonic() - begun < 1.0
    assert [record.message[:40] for record in caplog.records if "snapshot" in record.message] == [
        "no fresh values in the snapshot: dead at"
    ]
