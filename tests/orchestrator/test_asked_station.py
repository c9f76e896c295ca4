"""Stations that the relay asks over a channel while it calibrates."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from station_in_memory import StationInMemory, sensor_w

from lab.light_budget import DARK_W
from lab.runs.testbeds.folder import template_path
from lab.testbed import load_testbed
from orchestrator.light.calibration.asked import ChannelStation, Over, stand_as_asked
from orchestrator.light.messages import LightAborted
from orchestrator.light.own_station import OwnStation
from orchestrator.wire.channel import ChannelTimeoutError
from orchestrator.wire.codec import encode
from orchestrator.wire.memory_channel import MemoryChannel, memory_channel_pair

TESTBED = load_testbed(template_path("simulated-four-node"))
MU = 0.01


class Asked:
    """Alice's station, served in a thread of its own."""

    def __init__(self, timeout_s: float = 5.0) -> None:
        self.station = StationInMemory()
        self.line, far = memory_channel_pair()
        self.relay = ChannelStation(self.line, "alice", timeout_s)
        own = OwnStation(TESTBED, "alice", self.station.owned)
        self.pool = ThreadPoolExecutor(1)
        self.ended: Future[None] = self.pool.submit(stand_as_asked, far, own, timeout_s)


def test_it_steps_in_darkens_and_steps_out_as_asked() -> None:
    asked = Asked()
    asked.relay.take_in()
    assert not asked.station.switch.in_bypass
    assert not asked.station.attenuator.shut
    asked.relay.darken()
    assert asked.station.attenuator.shut
    asked.relay.bypass()
    assert asked.station.switch.in_bypass
    asked.relay.over()
    asked.ended.result(5)


def test_it_tells_what_it_measures() -> None:
    asked = Asked()
    asked.station.shine(sensor_w(TESTBED, "alice", "ccw", MU))
    asked.station.attenuator.value_db = TESTBED.user("alice").attenuation_db
    assert asked.relay.output_photons("ccw") == pytest.approx(MU)
    assert asked.relay.own_power_w(MU, "ccw") == pytest.approx(sensor_w(TESTBED, "alice", "ccw", MU))
    asked.relay.over()
    asked.ended.result(5)


def test_an_instrument_that_cannot_is_the_answer_and_the_user_goes_on() -> None:
    asked = Asked()
    asked.station.sensor("ccw").set_nm = 1310.0
    with pytest.raises(LightAborted, match="alice: NotReadyError: alice: the ccw sensor is set to 1310 nm"):
        asked.relay.output_photons("ccw")
    asked.relay.darken()
    asked.relay.over("no light to measure")
    with pytest.raises(LightAborted, match="the relay gave up: no light to measure"):
        asked.ended.result(5)
    assert asked.station.switch.in_bypass


@pytest.mark.parametrize("power_w", [0.0, 10 * DARK_W])
def test_a_relay_that_goes_silent_leaves_the_station_dark_and_out_of_no_lit_ring(power_w: float) -> None:
    asked = Asked(timeout_s=0.2)
    asked.relay.take_in()
    asked.station.shine(power_w)
    with pytest.raises(LightAborted, match="said nothing"):
        asked.ended.result(5)
    assert asked.station.attenuator.shut
    assert asked.station.switch.in_bypass == (power_w == 0.0)


@pytest.mark.parametrize("garbage", [b"", b"\x81\xa4type", encode(Over()) + b"x"])
def test_garbage_ends_it_dark(garbage: bytes) -> None:
    asked = Asked()
    asked.relay.take_in()
    asked.line.send(garbage)
    with pytest.raises(LightAborted, match="malformed"):
        asked.ended.result(5)
    assert asked.station.attenuator.shut


def test_a_user_that_says_nothing_is_told_of() -> None:
    line, _ = memory_channel_pair()
    with pytest.raises(ChannelTimeoutError):
        ChannelStation(line, "alice", 0.1).take_in()


def test_a_malformed_answer_ends_it() -> None:
    near, far = memory_channel_pair()
    assert isinstance(far, MemoryChannel)
    far.send(b"\xc1")
    with pytest.raises(LightAborted, match="alice: malformed answer"):
        ChannelStation(near, "alice", 1.0).darken()
