"""What roles tell the hub of their instruments: the relay all numbers, a user next to nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from lab import needs
from lab.alarms.book import Observed
from lab.alarms.table import TABLE
from lab.readings import known_numbers
from lab.runs.sessions import opened_session
from lab.testbed import load_testbed
from orchestrator.events.status import Readings
from orchestrator.hub.agent import AgentError
from orchestrator.processes.alarm_sources import of_instruments
from orchestrator.processes.readings_told import AT_MOST, OF_RELAY, ReadingsTold
from orchestrator.wire.codec import decode, encode
from orchestrator.wire.links import LinkState

if TYPE_CHECKING:
    from tests.lab.conftest import SimulatedLab


class Hub:
    """What is told to a hub, as far as its link takes it."""

    def __init__(self, room: int = 10_000) -> None:
        self.link_state, self.epoch, self.room = LinkState.UP, 1, room
        self.told: list[Readings] = []

    def control_send(self, item: Readings) -> None:
        if len(self.told) >= self.room:
            raise AgentError("too many wait")
        assert decode(encode(item), Readings) == item
        self.told.append(item)

    def news(self) -> list[Readings]:
        """What was told since the last call."""
        told, self.told = self.told, []
        return told


def told_of(hub: Any, known: Any = tuple) -> ReadingsTold:
    return ReadingsTold(hub, OF_RELAY, TABLE, known)


def temperature(value: float, at_s: float) -> Observed:
    return Observed("temperature", value, at_s, part="laser")


def test_a_user_tells_temperatures_and_dark_sensors_whatever_it_set_and_read(lab: SimulatedLab) -> None:
    hub: Any = Hub()
    path = lab.folder / "testbed.toml"
    with opened_session(load_testbed(path), path, ["alice", "relay"]) as session:
        station = session.stations["alice"]
        station.get(needs.ATTENUATOR).attenuation_db(7.25)
        station.get(needs.SENSOR_CW).power_w()
        private = {each.value for each in known_numbers(station) if each.unit != "degC"}
        assert 7.25 in private
        observed = [
            *of_instruments(station)(),
            Observed("sensor", 1e-14, 1.0, part="cw"),
            Observed("qber", 0.01, 1.0, peer="bob"),
            Observed("detector-rate", 7.25, 1.0, part="D1"),
            Observed("intensity", 7.25, 1.0, part="voa"),
        ]
        ReadingsTold.of_user(hub, TABLE).look(observed, 2.0)
        of_alice = hub.news()
        assert ("cw", "sensor") in {(each.instrument, each.parameter) for each in of_alice}
        assert {each.unit for each in of_alice} <= {"degC", "W"}
        assert {each.value for each in of_alice if each.unit != "degC"} == {1e-14}
        relay = session.stations["relay"]
        relay.get(needs.LASER).power_mw(3.0)
        ReadingsTold.of_relay(hub, TABLE, relay).look([], 2.0)
    of_relay = {(each.instrument, each.parameter): each for each in hub.news()}
    power = of_relay["laser", "power_mw"]
    assert (power.value, power.unit) == (3.0, "mW")
    assert power.low is not None
    assert power.high is not None
    assert power.low < 3.0 < power.high
    assert not [each for each in of_relay.values() if isinstance(each.value, str)]


def test_a_reading_is_told_when_it_was_taken_anew_and_to_a_hub_that_is_there_anew() -> None:
    hub: Any = Hub()
    told = told_of(hub)
    told.look([temperature(30.0, 5.0)], 6.0)
    assert hub.news() == [Readings("laser", "temperature_c", 30.0, "degC", 10.0, 45.0, 1.0)]
    told.look([temperature(30.0, 5.0)], 7.0)
    assert hub.news() == [], "the same reading, a second older"
    told.look([temperature(30.0, 8.0)], 8.5)
    assert [each.age_s for each in hub.news()] == [0.5], "another reading of the same value"
    hub.epoch = 2
    told.look([temperature(30.0, 8.0)], 9.0)
    assert [each.age_s for each in hub.news()] == [1.0]
    hub.link_state = LinkState.LOST
    told.look([temperature(31.0, 10.0)], 10.0)
    assert hub.news() == []
    hub.link_state = LinkState.UP
    told.look([temperature(31.0, 10.0)], 11.0)
    assert [each.value for each in hub.news()] == [31.0]


def test_what_could_not_be_read_is_not_told_and_what_alarms_watch_comes_before_the_drivers_limits() -> None:
    hub: Any = Hub()
    known = (Readings("laser", "temperature_c", 29.0, "degC"), Readings("laser", "power_mw", 1.0, "mW"))
    unreadable = Observed("temperature", None, 5.0, part="carver", text="no answer")
    told_of(hub, lambda: known).look([temperature(30.0, 5.0), unreadable], 5.0)
    assert [(each.parameter, each.value, each.high) for each in hub.news()] == [
        ("temperature_c", 30.0, 45.0),
        ("power_mw", 1.0, None),
    ]


@pytest.mark.parametrize("room", [3, 10_000])
def test_no_more_is_told_than_a_role_may_nor_than_has_room(room: int) -> None:
    hub: Any = Hub(room)
    now_s = 1.0
    numbers = range(2 * AT_MOST)
    told = told_of(hub, lambda: [Readings("laser", f"p{each}", 1.0, age_s=now_s) for each in numbers])
    told.look([], now_s)
    assert len(hub.news()) == min(room, AT_MOST)
    now_s = 2.0
    told.look([], now_s)
    assert [each.parameter for each in hub.news()] == (
        [f"p{number}" for number in range(3, 6)] if room == 3 else []
    )


def test_words_and_what_was_never_read_are_no_readings() -> None:
    def parameter(name: str, value: Any, *, valid: bool = True) -> Any:
        cache = SimpleNamespace(valid=valid, get=lambda get_if_invalid: value, timestamp=None)
        return SimpleNamespace(name=name, cache=cache, vals=None, unit="V")

    values = {"bias_v": 1.5, "address": "10.0.0.7", "curve": [1.0, 2.0], "nan": float("nan"), "on": True}
    parameters = {name: parameter(name, value) for name, value in values.items()}
    parameters["unread"] = parameter("unread", 2.0, valid=False)
    instrument = SimpleNamespace(name="box", submodules={}, parameters=parameters)
    station: Any = SimpleNamespace(instruments=lambda: (instrument,))
    assert {(each.parameter, each.value) for each in known_numbers(station)} == {
        ("bias_v", 1.5),
        ("on", True),
    }
