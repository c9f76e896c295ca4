"""Frames of a scan: each begins when it is told to, what clicked is told with every level, and nothing stays behind."""

from __future__ import annotations

import threading
import tomllib
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from station_in_memory import StationInMemory, sensor_w

from lab.runs.testbeds.folder import template_path
from lab.testbed import Testbed, parse_testbed
from orchestrator.light.calibration.delays import scan_levels, scan_timings
from orchestrator.light.messages import Armed, Finished, FrameLost, LightOff, LightOn, StationIn, announce
from orchestrator.light.messages import read_light_message as read
from orchestrator.light.user import ScannedFrame, UserLight
from orchestrator.wire.codec import encode
from orchestrator.wire.memory_channel import memory_channel_pair

MU, SLOTS, PATIENCE_S = 0.01, 1 << 12, 5.0
CLICKED = np.array([3, 700, 4000], np.uint32)


@cache
def small_testbed() -> Testbed:
    data = tomllib.loads(template_path("simulated-four-node").read_text(encoding="utf-8"))
    data["protocol"] |= {"slots_per_frame": SLOTS, "pulses_per_block": 4 * SLOTS, "lost_frames_limit": 0.5}
    return parse_testbed(data, Path("t"))


def driven(waveform: npt.NDArray[np.float32], lead: int) -> npt.NDArray[np.bool_]:
    """Which slots of a waveform are driven; nothing else of it may be."""
    frame = waveform[lead : lead + 2 * SLOTS].reshape(SLOTS, 2)
    assert not waveform[:lead].any()
    assert not waveform[lead + 2 * SLOTS :].any()
    assert not frame[:, 1].any()
    return frame[:, 0] != 0


def test_a_scan_plays_each_frame_at_its_time() -> None:
    testbed, station = small_testbed(), StationInMemory()
    light = UserLight(testbed, "alice", station.generator, station.owned, timeout_s=PATIENCE_S)
    timings = [scan_timings(testbed, "alice")[index] for index in (0, 15, 15, 3)]
    assert len({timing.lead_samples for timing in timings}) == 2
    relay, channel = memory_channel_pair()
    found: list[ScannedFrame] = []

    def scan() -> None:
        levels = scan_levels(testbed, "alice")
        found.extend(light.scan(channel, levels=levels, mu=MU, direction="ccw", timings=timings))

    thread = threading.Thread(target=scan)
    thread.start()
    assert read(relay.recv(PATIENCE_S)) == StationIn()
    station.shine(sensor_w(testbed, "alice", "ccw", MU))
    relay.send(encode(LightOn()))
    played = []
    for index, timing in enumerate(timings):
        assert read(relay.recv(PATIENCE_S)) == Armed(index)
        assert station.generator.settings["fine_delay_ps"] == timing.fine_delay_ps
        waveform = station.generator.trigger()
        assert waveform is not None
        played.append(driven(waveform, timing.lead_samples))
        lost = index == 2
        relay.send(encode(FrameLost(2)) if lost else announce(index, CLICKED, np.array([1, 2, 3], np.uint8)))
    assert read(relay.recv(PATIENCE_S)) == Finished()
    station.shine(0.0)
    relay.send(encode(LightOff()))
    thread.join(2 * PATIENCE_S)
    assert [each.timing for each in found] == [timings[index] for index in (0, 1, 3)]
    for frame, index in zip(found, (0, 1, 3), strict=True):
        bits = np.unpackbits(frame.driven, count=SLOTS).astype(bool)
        assert np.array_equal(bits, played[index])
        assert bits.mean() == pytest.approx(0.25, abs=0.04)
        assert np.array_equal(frame.slots, CLICKED)
        assert repr(frame) == "<ScannedFrame: 3 clicks>"
    assert not np.array_equal(played[0], played[1]), "fresh levels for every frame"
    assert not station.generator.holds_symbols
