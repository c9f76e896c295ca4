"""The relay's side of the light phase: launch light, fire one trigger per frame, announce the clicks.

A record that failed on a tagger which works and can be started anew costs its frame alone: both users are told that
it is lost.

The relay is untrusted: it never learns symbols, and a false announcement can cost the users key but never secrecy.
It owns the laser, the launch attenuator, the detectors and the time tagger, and nothing at the users.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from drivers.links.errors import InstrumentRefusedError, NotReadyError
from lab.testbed import Testbed
from orchestrator import runtime
from orchestrator.light.clicks import tags_to_clicks
from orchestrator.light.in_step import UsersInStep
from orchestrator.light.messages import FrameLost, LightOn, announce
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

USER_PATIENCE = 2.0
"""A user may need this many times the time-out for a frame: it waits one for an announcement that does not come."""


@dataclass(frozen=True)
class FramesServed:
    """What a light phase came to: clicks announced, and frames without an announcement."""

    announced: int
    lost_frames: int


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
        on_frame: Callable[[int, int | None], None] = lambda frame, clicks: None,
    ) -> FramesServed:
        """Serve the light phase of one lease.

        ``on_frame`` gets the frame index and its clicks, None for a frame that was fired and lost.  Raises
        LightAborted, ChannelError or InstrumentError.
        """
        self._tagger.restart_streams()
        self.light_on()
        try:
            self.check_running()
            checked_s = self._clock()
            users = UsersInStep(channels, n_frames, USER_PATIENCE * self._timeout_s)
            users.send(encode(LightOn()))
            announced = recorded = 0
            while (frame := users.next_frame()) is not None:
                clicks = self._expose(frame)
                if frame == n_frames - 1 or self._clock() - checked_s >= WATCH_S:
                    self.check_running()
                    checked_s = self._clock()
                if clicks is None:
                    users.send(encode(FrameLost(frame)))
                    on_frame(frame, None)
                    continue
                users.send(announce(frame, *clicks))
                announced, recorded = announced + clicks[0].size, recorded + 1
                on_frame(frame, clicks[0].size)
            return FramesServed(announced, n_frames - recorded)
        finally:
            self.light_blocked()

    def _expose(self, frame: int) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint8]] | None:
        """The slots that clicked and their outcomes; None where the record failed and the tagger works again."""
        try:
            return self._record()
        except (InstrumentRefusedError, NotReadyError) as error:
            logger.warning("frame %d is lost: %s", frame, error)
            self._tagger.restart_streams()
            return None

    def _record(self) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint8]]:
        """One frame: trigger, wait for its end, read the tags of both detectors."""
        protocol, detectors = self._testbed.protocol, self._testbed.detectors
        slot_ps = PS_PER_S / protocol.clock_hz
        frame_ps = round(protocol.slots_per_frame * slot_ps) + SETTLE_PS
        self._tagger.play_record(frame_ps)
        deadline = self._clock() + self._timeout_s + frame_ps / PS_PER_S
        while self._tagger.record_playing():
            if self._clock() > deadline:
                raise NotReadyError("the tagger's record did not end in time")
            self._pause(0.0005)
        times = [self._tagger.read_tags(channel)[:, 0].astype(np.int64) for channel in detectors.channels]
        return tags_to_clicks(
            (times[0], times[1]),
            self._testbed.calibration.detector_delays_ps,
            slot_ps=slot_ps,
            gate_ps=protocol.gate_ns * 1000,
            slots_per_frame=protocol.slots_per_frame,
        )
