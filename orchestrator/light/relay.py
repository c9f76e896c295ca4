"""The relay's side of the light phase: launch light, fire one trigger per frame, announce the clicks.

How light comes into the ring and goes out of it is :mod:`orchestrator.light.launching`.

A record that failed on a tagger which works and can be started anew costs its frame alone: both users are told that
it is lost, and why.

The relay is untrusted: it never learns symbols, and a false announcement can cost the users key but never secrecy.
It owns what makes and detects light, and nothing at the users.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from drivers.links.errors import InstrumentRefusedError, NotReadyError
from lab.calibration.gates import GateCounts
from lab.calibration.steps import Step
from lab.testbed import Testbed
from orchestrator import runtime
from orchestrator.events.status import RELAY
from orchestrator.light.aligning import Climber, Meter, align, own_climber, tell_others, user_climber
from orchestrator.light.calibration.exposures import Exposures
from orchestrator.light.clicks import tags_to_clicks
from orchestrator.light.in_step import UsersInStep
from orchestrator.light.latching import Latching
from orchestrator.light.launching import Launching, PlannedLight, RelayInstruments
from orchestrator.light.messages import (
    LOST,
    FrameLost,
    LightAborted,
    LightOff,
    LightOn,
    aborting,
    announce,
    block_digest,
    frame_digest,
    reason_of,
)
from orchestrator.light.phase_look import serve_looks
from orchestrator.light.recording import PS_PER_S, Times, frame_record_ps, recorded
from orchestrator.light.tracking.between_pulses import BetweenPulses, between_pulses
from orchestrator.light.tracking.correction import Correction, OnCorrection
from orchestrator.light.tracking.polarization import OwnPolarization, parties
from orchestrator.light.tracking.polarization_kept import KeptSettings
from orchestrator.light.tracking.pulses import PulseTracking
from orchestrator.wire.channel import Channel
from orchestrator.wire.codec import encode

logger = logging.getLogger(__name__)

LEVEL_CLICKS, LEVEL_S = 1e5, 0.5
"""A count to a third of a per cent, or as good as it gets in so much light."""
WATCH_S = 1.0
"""How often laser, carver and detectors are asked whether they still run; a frame says nothing about them."""

USER_PATIENCE = 6.0
"""A user may need this many times the time-out for a frame: it waits one for an announcement that does not come, and at the
beginning and the end for readings of its light, which take up to ten seconds each."""


Clicks: TypeAlias = tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint8]]
"""The slots that clicked, uint32 of shape (n,), and the outcome in each, uint8 of shape (n,)."""


@dataclass(frozen=True)
class FramesServed:
    """What a light phase came to: clicks announced, and frames without an announcement.

    ``announcements``: the :func:`~orchestrator.light.messages.block_digest` of what was announced.
    """

    announced: int
    lost: tuple[int, ...]
    announcements: str

    @property
    def lost_frames(self) -> int:
        """How many frames have no announcement."""
        return len(self.lost)


class RelayLight:
    """The relay's instruments in the light phase."""

    def __init__(
        self,
        testbed: Testbed,
        owned: RelayInstruments,
        *,
        kept: KeptSettings | None = None,
        timeout_s: float = 10.0,
        pause: Callable[[float], None] = runtime.sleep,
        clock: Callable[[], float] = runtime.now,
    ) -> None:
        """``kept``: settings of the own polarisation controller."""
        self._testbed = testbed
        self._owned = owned
        self._tagger = owned.tagger
        self.polarization = OwnPolarization.of(RELAY, owned.polarization, kept)
        self._usual: dict[Sequence[str], float] = {}
        self._launching = Launching(testbed, owned, timeout_s=timeout_s, pause=pause, clock=clock)
        self._timeout_s = timeout_s
        self._pause = pause
        self._clock = clock
        self._tracking = PulseTracking()
        self._was_lit = self._is_lit = False

    def is_lit(self) -> bool:
        """Whether the launch may be open at this moment."""
        return self._is_lit

    def was_lit(self) -> bool:
        """Whether the launch was opened in the latest light phase."""
        return self._was_lit

    def use(self, testbed: Testbed) -> None:
        """Go on with these values, of the same testbed; what changed is set up."""
        if testbed is not self._testbed:
            timed_anew = (
                testbed.calibration.detector_delays_ps != self._testbed.calibration.detector_delays_ps
            )
            self._testbed = testbed
            self._launching.use(testbed)
            if timed_anew:
                self._tracking = PulseTracking()
            self._usual.clear()
            self.set_up()

    def set_up(self) -> None:
        """Configure everything, after connecting and after a failure; no light in the ring."""
        self._launching.set_up()

    def run(
        self,
        channels: tuple[Channel, Channel],
        n_frames: int,
        plan: PlannedLight,
        *,
        on_latched: Callable[[str], None] = lambda text: None,
        on_frame: Callable[[int, Clicks | FrameLost], None] = lambda frame, clicks: None,
        on_tracked: OnCorrection = lambda frame, correction: None,
        on_aligning: Callable[[float], None] = lambda part: None,
        on_rest: Callable[[float], None] = lambda backscatter_cps: None,
    ) -> FramesServed:
        """Serve the light phase of one lease.

        ``on_frame`` gets the frame index and its clicks, or what users are told of a frame that was fired and lost.
        ``on_latched`` is told of detectors that were brought back, ``on_tracked`` of what was corrected after a frame,
        ``on_aligning`` now and then of the part of the parties that have aligned their polarisation before the frames,
        ``on_rest`` of what comes between pulses of light at rest less dark counts, per second and detector.
        Raises LightAborted, ChannelError or InstrumentError.
        """
        users = UsersInStep(channels, n_frames, USER_PATIENCE * self._timeout_s)
        last, holding = [encode(LightOff())], None
        self._was_lit = False
        try:
            users.await_stations()
            self._tagger.restart_streams()
            latching = self._launching.latching(plan, on_latched)
            self._was_lit = self._is_lit = True
            self._open_aligned(plan, latching, channels, on_aligning)
            own = self.polarization if plan.pair else None
            holding = own.hold(self._testbed, plan.pair, on_tracked) if own else None
            self._launching.check_running()
            if plan.arriving:
                for corrected in self._corrected_at_rest(plan, latching, on_rest):
                    on_tracked(0, corrected)
                expose = partial(self._expose, 0, plan, latching, on_tracked)
                serve_looks(channels[0], expose, USER_PATIENCE * self._timeout_s)
            checked_s = self._clock()
            users.send_in_turn(encode(LightOn()))
            announced, lost = 0, list[int]()
            said: list[bytes] = []
            while (frame := users.next_frame()) is not None:
                if holding:
                    holding.before(frame)
                clicks = self._expose(frame, plan, latching, on_tracked)
                if frame == n_frames - 1 or self._clock() - checked_s >= WATCH_S:
                    self._launching.check_running()
                    checked_s = self._clock()
                if isinstance(clicks, FrameLost):
                    users.send(encode(clicks))
                    lost.append(frame)
                    said.append(frame_digest(LOST))
                    on_frame(frame, clicks)
                    continue
                users.send(announcement := announce(frame, *clicks))
                if holding:
                    holding.after(frame, clicks[0].size)
                said.append(frame_digest(announcement))
                announced += clicks[0].size
                on_frame(frame, clicks)
            return FramesServed(announced, tuple(lost), block_digest(said))
        except BaseException as error:
            last.insert(0, aborting(error))
            raise
        finally:
            self._launching.close()
            self._is_lit = False
            users.send_last(last)
            if holding:
                holding.end()

    def _open_aligned(
        self,
        plan: PlannedLight,
        latching: Latching,
        channels: tuple[Channel, Channel],
        on_aligning: Callable[[float], None],
    ) -> None:
        """Launch the light, and have everybody with a polarisation controller climb who must."""
        climbers: list[Climber] = []
        for party, channel in zip(plan.pair, channels, strict=False):
            if party in parties(self._testbed, plan.pair):
                climbers.append(user_climber(channel, party, USER_PATIENCE * self._timeout_s))
        if self.polarization and plan.pair:
            self.polarization.prepare(plan.pair)
            climbers.insert(0, own_climber(self.polarization, self._testbed, plan.pair))
        if not climbers:
            self._launching.open(plan, latching)
            return
        self._launching.open(replace(plan, detector_cps=0.0), latching)

        def meanwhile(part: float) -> None:
            tell_others(channels)
            on_aligning(part)

        meter = Meter(self._testbed, self._exposures(), 2 * plan.detector_cps, meanwhile=meanwhile)
        self._usual[plan.pair] = align(meter, climbers, self._usual.get(plan.pair, 1.0))
        self._tagger.restart_streams()

    def _expose(
        self, frame: int, plan: PlannedLight, latching: Latching, on_tracked: OnCorrection
    ) -> Clicks | FrameLost:
        """The slots that clicked and their outcomes.

        FrameLost where the record failed and the tagger works again, and where detectors were latched and are back.
        """
        try:
            times = self._record()
        except (InstrumentRefusedError, NotReadyError) as error:
            logger.warning("frame %d is lost: %s", frame, error)
            self._tagger.restart_streams()
            return FrameLost(frame, reason_of(error))
        if silent := latching.silent_in([each.size for each in times]):
            told = self._launching.bring_back(latching, silent, f"no time stamp in frame {frame}")
            logger.warning("%s", told)
            self._launching.open(plan, latching)
            return FrameLost(frame, told)
        protocol = self._testbed.protocol
        slot_ps = PS_PER_S / protocol.clock_hz
        delays_ps = self.gates_ps()
        for moved in self._tracking.see(times, delays_ps, slot_ps):
            on_tracked(frame, moved)
        return tags_to_clicks(
            times,
            delays_ps,
            slot_ps=slot_ps,
            gate_ps=protocol.gate_ns * 1000,
            slots_per_frame=protocol.slots_per_frame,
        )

    def _corrected_at_rest(
        self, plan: PlannedLight, latching: Latching, on_rest: Callable[[float], None]
    ) -> Iterator[Correction]:
        """With all modulators at rest: the carver's null found anew where light passes between pulses, then the launch levelled.

        LightAborted where it still passes.
        """
        counts, between = self._at_rest(plan)
        if between and between.is_let_through:
            self._launching.find_null(plan, latching)
            self._tagger.restart_streams()
            counts, found = self._at_rest(plan)
            if found is None or found.is_let_through:
                raise LightAborted(
                    f"light of {between.counted_db:.1f} dB of a pulse passes between pulses, and with the carver's null found "
                    f"anew it does still: calibrate {Step.CARVER}",
                    (Step.CARVER,),
                )
            why = f"{found.known_db:.1f} dB may be dark counts and scattered light; the carver's null was found anew"
            yield Correction(
                "light between pulses", between.counted_db, found.counted_db, "dB of a pulse", why
            )
        dark = self._testbed.calibration.dark_count_probability
        on_rest(float(counts.flat_per_gate.mean() - dark) / counts.gate_ns * 1e9)
        if levelled := self._launching.level(plan, counts.arriving):
            yield levelled

    def _at_rest(self, plan: PlannedLight) -> tuple[GateCounts, BetweenPulses | None]:
        """What is counted with all modulators at rest."""
        counts = self._exposures().gated(clicks=LEVEL_CLICKS, longest_s=LEVEL_S)
        return counts, between_pulses(
            counts, self._testbed.calibration.dark_count_probability, plan.backscatter
        )

    def _exposures(self) -> Exposures:
        return Exposures(
            self._testbed,
            self._tagger,
            gates_ps=self.gates_ps(),
            timeout_s=self._timeout_s,
            pause=self._pause,
            clock=self._clock,
        )

    def gates_ps(self) -> tuple[int, int]:
        """Where the pulses stand at the detectors, as far as they were followed."""
        return self._tracking.delays_ps(self._testbed.calibration.detector_delays_ps)

    def _record(self) -> Times:
        """One frame: trigger, wait for its end, read the time stamps of both detectors (1-d int64, ps)."""
        return recorded(
            self._tagger,
            self._testbed.detectors.channels,
            frame_record_ps(self._testbed, self._testbed.protocol.slots_per_frame),
            timeout_s=self._timeout_s,
            pause=self._pause,
            clock=self._clock,
        )
