"""The relay's side of the light phase: launch light, fire one trigger per frame, announce the clicks.

The relay is untrusted: it never learns symbols, and a false announcement can cost the users key but never secrecy.
It owns the laser, the launch attenuator, the detectors and the time tagger, and nothing at the users.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lab.testbed import Testbed
from orchestrator import runtime
from orchestrator.light.clicks import tags_to_clicks
from orchestrator.light.messages import (
    Armed,
    Finished,
    LightAborted,
    LightOn,
    announce,
    read_light_message,
)
from orchestrator.wire.channel import Channel
from orchestrator.wire.codec import encode

if TYPE_CHECKING:
    from drivers.kinds import Attenuator, Laser, PhotonDetectors, TimeTagger

logger = logging.getLogger(__name__)

PS_PER_S = 1e12
SETTLE_PS = 1_000_000
"""Extra record length after the last slot, so that delayed tags of the frame still fall into it."""

WATCH_S = 1.0
"""How often laser and detectors are asked whether they still run; a frame says nothing about them."""


class RelayLight:
    """The relay's instruments in the light phase."""

    def __init__(
        self,
        testbed: Testbed,
        laser: Laser,
        launch: Attenuator,
        detectors: PhotonDetectors,
        tagger: TimeTagger,
        *,
        timeout_s: float = 10.0,
        pause: Callable[[float], None] = runtime.sleep,
        clock: Callable[[], float] = runtime.now,
    ) -> None:
        self._testbed = testbed
        self._laser = laser
        self._launch = launch
        self._detectors = detectors
        self._tagger = tagger
        self._timeout_s = timeout_s
        self._pause = pause
        self._clock = clock

    def set_up(self) -> None:
        """Configure all but the laser, after connecting and after a failure; no light yet."""
        self._launch.tune(self._testbed.ring.wavelength_nm)
        detectors = self._testbed.detectors
        self._detectors.bias_current_ua(list(detectors.bias_ua))
        self._detectors.trigger_level_mv(list(detectors.trigger_mv))
        self._detectors.enabled(True)
        self._tagger.configure(detectors.channels, detectors.threshold_v)
        self._tagger.start_streams(detectors.channels)

    def light_on(self) -> None:
        """Launch light at the configured power."""
        ring = self._testbed.ring
        self._laser.power_mw(ring.laser_power_mw)
        self._launch.attenuation_db(ring.launch_attenuation_db)
        self._laser.emission(True)
        self._laser.check_emitting()
        self._launch.let_through()

    def check_running(self) -> None:
        """NotReadyError unless the laser emits and the detectors are biased, as after a power cut of one."""
        self._laser.check_emitting()
        self._detectors.check_biased()

    def light_blocked(self) -> None:
        """Launch nothing; the laser keeps running for the next lease."""
        self._launch.block()

    def run(
        self,
        channels: tuple[Channel, Channel],
        n_frames: int,
        *,
        on_frame: Callable[[int, int], None] = lambda frame, clicks: None,
    ) -> int:
        """Serve the light phase of one lease; returns the number of clicks announced.

        ``on_frame`` gets the frame index and its clicks.  Raises LightAborted, ChannelError or
        InstrumentError.
        """
        self._tagger.restart_streams()
        self.light_on()
        try:
            self.check_running()
            checked_s = self._clock()
            for channel in channels:
                channel.send(encode(LightOn()))
            total = 0
            for frame in range(n_frames):
                self._await(channels, Armed(frame))
                slots, outcomes = self._expose()
                if frame == n_frames - 1 or self._clock() - checked_s >= WATCH_S:
                    self.check_running()
                    checked_s = self._clock()
                data = announce(frame, slots, outcomes)
                for channel in channels:
                    channel.send(data)
                total += slots.size
                on_frame(frame, slots.size)
            self._await(channels, Finished())
            return total
        finally:
            self.light_blocked()

    def _await(self, channels: tuple[Channel, Channel], expected: Armed | Finished) -> None:
        for channel in channels:
            message = read_light_message(channel.recv(self._timeout_s))
            if message != expected:
                raise LightAborted(f"expected {expected}, got {type(message).__name__}")

    def _expose(self) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint8]]:
        """One frame: trigger, wait for its end, read the tags of both detectors."""
        protocol, detectors = self._testbed.protocol, self._testbed.detectors
        slot_ps = PS_PER_S / protocol.clock_hz
        frame_ps = round(protocol.slots_per_frame * slot_ps) + SETTLE_PS
        self._tagger.play_record(frame_ps)
        deadline = self._clock() + self._timeout_s + frame_ps / PS_PER_S
        while self._tagger.record_playing():
            if self._clock() > deadline:
                raise LightAborted("the tagger's record did not end in time")
            self._pause(0.0005)
        times = [self._tagger.read_tags(channel)[:, 0].astype(np.int64) for channel in detectors.channels]
        return tags_to_clicks(
            (times[0], times[1]),
            self._testbed.calibration.detector_delays_ps,
            slot_ps=slot_ps,
            gate_ps=protocol.gate_ns * 1000,
            slots_per_frame=protocol.slots_per_frame,
        )
