"""One user in a light phase with instruments in memory; the test is the relay."""

from __future__ import annotations

import threading
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from station_in_memory import StationInMemory, sensor_w

from drivers.links.errors import InstrumentError
from lab.runs.testbeds.folder import template_path
from lab.testbed import Testbed, parse_testbed
from orchestrator.light.messages import (
    Armed,
    Finished,
    LightAbort,
    LightAborted,
    LightOff,
    LightOn,
    StationIn,
    announce,
)
from orchestrator.light.messages import read_light_message as read
from orchestrator.light.user import UserLight
from orchestrator.protocols.four_phase.symbols import FourPhases
from orchestrator.wire.channel import ChannelError
from orchestrator.wire.codec import decode, encode
from orchestrator.wire.memory_channel import memory_channel_pair

MU, SLOTS, PATIENCE_S = 0.01, 1 << 12, 5.0


@cache
def small_testbed() -> Testbed:
    data = tomllib.loads(template_path("simulated-four-node").read_text(encoding="utf-8"))
    data["protocol"] |= {"slots_per_frame": SLOTS, "pulses_per_block": 4 * SLOTS}
    return parse_testbed(data, Path("t"))


class Phase:
    """Alice in a light phase of her own; the test is the relay."""

    def __init__(self, n_frames: int = 2, timeout_s: float = PATIENCE_S) -> None:
        self.station = StationInMemory()
        self.light = UserLight(
            small_testbed(), "alice", self.station.generator, self.station.owned, timeout_s=timeout_s
        )
        self.relay, self.channel = memory_channel_pair()
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(n_frames,))

    def _run(self, n_frames: int) -> None:
        try:
            self.light.run(self.channel, symbols=FourPhases(0.75), mu=MU, direction="ccw", n_frames=n_frames)
        except (LightAborted, ChannelError, InstrumentError) as error:
            self.error = error

    def start(self) -> Phase:
        self._thread.start()
        assert self.hear() == StationIn()
        return self

    def hear(self) -> Any:
        return read(self.relay.recv(PATIENCE_S))

    def say(self, *messages: Any) -> None:
        for message in messages:
            self.relay.send(message if isinstance(message, bytes) else encode(message))

    def light_on(self, factor: float = 1.0) -> None:
        self.station.shine(factor * sensor_w(small_testbed(), "alice", "ccw", MU))
        self.say(LightOn())

    def light_off(self) -> None:
        self.station.shine(0.0)
        self.say(LightOff())

    def frame(self, index: int) -> None:
        assert self.hear() == Armed(index)
        self.station.generator.trigger()
        self.say(announce(index, np.array([1, 5], np.uint32), np.array([1, 2], np.uint8)))

    def given_up(self) -> str:
        """Frames until the user gives up; why it does."""
        while True:
            message = decode(self.relay.recv(PATIENCE_S), LightAbort | Armed | Finished)
            if isinstance(message, LightAbort):
                return message.reason
            assert isinstance(message, Armed), "it came to the end"
            self.station.generator.trigger()
            self.say(announce(message.frame, np.zeros(0, np.uint32), np.zeros(0, np.uint8)))

    def end(self) -> list[str]:
        """Wait for the end; what was done to switch and attenuator, in order."""
        self._thread.join(2 * PATIENCE_S)
        assert not self._thread.is_alive()
        assert not self.station.generator.holds_symbols
        return self.station.log
