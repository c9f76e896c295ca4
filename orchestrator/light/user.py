"""A user's side of the light phase: intensity, fresh symbols, one play per frame, kept clicks.

While the light of frame ``k`` is in the ring the user already draws and uploads frame ``k + 1`` into the
other waveform buffer.  PulseSymbols of slots that did not click are forgotten with the frame.  Three things end
the block: a second trigger (the modulator would have put the same phases on fresh light, so it plays each
frame once and reports the extra trigger), an announcement that is not the expected one, and an intensity
above the bound that the proof uses.  A frame without an announcement, or without a trigger, is lost and no more
(:mod:`orchestrator.light.block_record`).

The light comes from the relay, which is not trusted and knows when it fires.  So the intensity is read before the first
frame, at the end of the last, and between at moments of the user's own choosing, while frames go on
(:mod:`orchestrator.light.intensity_watch`).
What a power meter cannot show remains assumed: a source that brightens and dims again between two readings, or faster
than the meter averages.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from drivers.links.errors import NotReadyError
from lab.testbed import Testbed
from orchestrator import runtime
from orchestrator.light.aligning import climb_in_turn
from orchestrator.light.block_record import BlockRecord, Lost
from orchestrator.light.clicks import BlockClicks, FrameClicks, LevelClicks
from orchestrator.light.intensity_watch import IntensityWatch
from orchestrator.light.messages import (
    Armed,
    ClimbTurn,
    Finished,
    LaunchClosed,
    LightAborted,
    LightOff,
    LightOn,
    LookOver,
    LookTurn,
    OthersClimb,
    StationIn,
    aborting,
    read_light_message,
    reason_of,
    unexpected,
)
from orchestrator.light.own_station import Direction, OwnStation, StationInstruments
from orchestrator.light.phase_look import Look, look, quarter_turns
from orchestrator.light.symbols import Drawn, RandomInto, SymbolFrame, compile_kernels, drive_table
from orchestrator.light.timing import FrameTiming, frame_timing
from orchestrator.light.tracking.correction import OnCorrection
from orchestrator.light.tracking.polarization import Holding, OwnPolarization, Pair
from orchestrator.light.tracking.polarization_kept import KeptSettings
from orchestrator.protocols.base import PulseSymbols
from orchestrator.randomness import random_into
from orchestrator.wire.channel import Channel, ChannelError
from orchestrator.wire.codec import encode

if TYPE_CHECKING:
    from drivers.kinds import PhaseModulator

logger = logging.getLogger(__name__)

BUFFERS: tuple[tuple[Literal[0, 1], Literal[0, 1]], ...] = ((0, 1), (1, 0))
"""Waveform buffer of even and odd frames, and the one filled meanwhile."""
READ_EVERY_S = 1.0
"""From the end of a reading of the intensity to the next."""
OTHERS_PATIENCE = 6.0
"""So many times the time-out the other user may take for its readings before the first frame, and after the last."""


@dataclass(frozen=True)
class ScannedFrame:
    """A frame of private levels that was announced.

    ``slots`` uint32 and ``outcomes`` uint8 of shape (n,) as announced; ``driven``: whether each slot's level was another than
    0 V, a bit per slot, uint8 as by numpy.packbits.
    """

    timing: FrameTiming
    slots: npt.NDArray[np.uint32]
    outcomes: npt.NDArray[np.uint8]
    driven: npt.NDArray[np.uint8]

    def __repr__(self) -> str:
        return f"<ScannedFrame: {self.slots.size} clicks>"


class UserLight:
    """One user's instruments in the light phase."""

    def __init__(
        self,
        testbed: Testbed,
        user: str,
        awg: PhaseModulator,
        station: StationInstruments,
        *,
        kept: KeptSettings | None = None,
        random_into: RandomInto = random_into,
        timeout_s: float = 10.0,
        clock: Callable[[], float] = runtime.now,
    ) -> None:
        """``kept``: settings of the own polarisation controller."""
        self._testbed = testbed
        self._protocol = testbed.protocol
        self._user = testbed.user(user)
        self._awg = awg
        self._station = OwnStation(testbed, user, station)
        self.polarization = OwnPolarization.of(user, station.polarization, kept)
        self._random_into = random_into
        self._timeout_s = timeout_s
        self._clock = clock
        self._waveform = np.zeros(0, np.float32)
        self._timing = FrameTiming(0, 0.0)
        self._in_phase = runtime.lock()
        compile_kernels()

    def use(self, testbed: Testbed) -> None:
        """Go on with these values, of the same testbed; what changed is set up.  Sensors keep the zero that these were found with."""
        if testbed is not self._testbed:
            self._testbed, self._protocol = testbed, testbed.protocol
            self._user = testbed.user(self._user.name)
            self._station.use(testbed)
            self._timing = FrameTiming(0, 0.0)
            self._station.tune()
            self._configure_generator()

    def set_up(self) -> None:
        """Configure the instruments, after connecting and after a failure."""
        self._station.set_up()
        self._configure_generator()

    def stays_in(self) -> str:
        """Why the station could not leave the ring, where it should have; nobody else's light passes it."""
        return self._station.stays_in

    def is_in_ring(self) -> bool:
        """Whether the station was taken in, and not out since."""
        return self._station.is_in

    def _configure_generator(self) -> None:
        self._awg.configure(
            sample_rate_hz=self._protocol.clock_hz * self._protocol.samples_per_slot,
            amplitude_vpp=self._user.awg_amplitude_vpp,
            fine_delay_ps=self._timing.fine_delay_ps,
        )

    def _aim(self, timings: Sequence[FrameTiming]) -> None:
        """Room for frames laid out like this, and the generator set up for the first."""
        lead = max(timing.lead_samples for timing in timings)
        size = lead + self._protocol.slots_per_frame * self._protocol.samples_per_slot
        if size != self._waveform.size:
            self._waveform = np.zeros(size, np.float32)
        self._waveform[:] = 0
        self._time(timings[0])

    def _time(self, timing: FrameTiming) -> None:
        """Have the next frame come as ``timing`` says; whole samples of it are in the waveform."""
        if timing != self._timing:
            self._timing = timing
            self._configure_generator()

    def run(
        self,
        channel: Channel,
        *,
        symbols: PulseSymbols,
        mu: float,
        direction: Direction,
        n_frames: int,
        correction_rad: float = 0.0,
        on_look: Look | None = None,
        pair: Pair = (),
        on_frame: Callable[[int], None] = lambda frame: None,
        on_lost: Callable[[str], None] = lambda reason: None,
        on_tracked: OnCorrection = lambda frame, correction: None,
    ) -> tuple[BlockClicks, list[bytes]]:
        """Play ``n_frames`` frames; returns the kept clicks and the announcements as received, LOST for a lost frame.

        ``correction_rad`` is added to the phases of all symbols (:mod:`orchestrator.light.tracking.loop_phase`), or what
        ``on_look`` makes of it before the first frame (:mod:`orchestrator.light.phase_look`).  In the light of a ``pair`` the own polarisation is aligned and held.  ``on_lost`` is told why the latest of lost frames was lost,
        ``on_tracked`` what was corrected after a frame.
        Raises LightAborted (nothing of the block may be used), ChannelError or InstrumentError.
        """

        def drawn(rad: float) -> Drawn:
            return Drawn(symbols.of_bytes, self._drive(symbols, direction, rad))

        def look_first(take: Look) -> Drawn:
            return drawn(self._look(channel, symbols, direction, correction_rad, take))

        return self._run(
            channel,
            drawn(correction_rad),
            mu,
            direction,
            n_frames,
            on_frame,
            on_lost,
            pair=pair,
            on_tracked=on_tracked,
            follows=True,
            look_first=partial(look_first, on_look) if on_look else None,
        )

    def calibrate(
        self,
        channel: Channel,
        *,
        levels: npt.NDArray[np.float32],
        mu: float,
        direction: Direction,
        n_frames: int,
        pair: Pair = (),
        on_frame: Callable[[int], None] = lambda frame: None,
    ) -> LevelClicks:
        """Play ``n_frames`` frames of levels drawn privately, which become known afterwards: never key.

        ``levels``: float32 of shape (256,), in [-1, 1] of amplitude/2, each as likely as any other; all 0 for a station
        that only stands in the ring.  Raises as :meth:`run` does.
        """
        drawn = Drawn(np.arange(256, dtype=np.uint8), levels)
        block, _ = self._run(channel, drawn, mu, direction, n_frames, on_frame, pair=pair)
        return LevelClicks.of(block)

    def scan(
        self,
        channel: Channel,
        *,
        levels: npt.NDArray[np.float32],
        mu: float,
        direction: Direction,
        timings: Sequence[FrameTiming],
        pair: Pair = (),
        on_frame: Callable[[int], None] = lambda frame: None,
    ) -> list[ScannedFrame]:
        """Play one frame of private levels at each of these times; returns those that were announced, never key.

        ``levels``: float32 of shape (256,) as for :meth:`calibrate`, each 0 V or one other.  Raises as :meth:`run` does.
        """
        scanned: list[ScannedFrame] = []

        def keep(clicks: FrameClicks, symbols: SymbolFrame) -> None:
            driven = np.packbits(symbols.all())
            scanned.append(ScannedFrame(timings[clicks.frame], clicks.slots, clicks.outcomes, driven))

        drawn = Drawn((levels != 0).astype(np.uint8), levels)
        self._run(
            channel, drawn, mu, direction, len(timings), on_frame, timings=timings, on_kept=keep, pair=pair
        )
        return scanned

    def _run(
        self,
        channel: Channel,
        drawn: Drawn,
        mu: float,
        direction: Direction,
        n_frames: int,
        on_frame: Callable[[int], None] = lambda frame: None,
        on_lost: Callable[[str], None] = lambda reason: None,
        timings: Sequence[FrameTiming] = (),
        on_kept: Callable[[FrameClicks, SymbolFrame], None] = lambda clicks, symbols: None,
        pair: Pair = (),
        on_tracked: OnCorrection = lambda frame, correction: None,
        follows: bool = False,
        look_first: Callable[[], Drawn] | None = None,
    ) -> tuple[BlockClicks, list[bytes]]:
        """``follows``: trim between frames too; where arms are not calibrated yet two users disagree on what they read.

        ``look_first``: what a look at the phase makes of ``drawn``, when the relay offers one.
        """
        with self._in_phase:
            own, holding = self.polarization if pair else None, None
            timings = timings or [frame_timing(self._testbed, self._user.name, direction)] * n_frames
            self._aim(timings)
            frames = [SymbolFrame(self._protocol.slots_per_frame, drawn.of_bytes) for _ in range(2)]
            record = BlockRecord(
                self._protocol.slots_per_frame, n_frames, self._protocol.lost_frames_limit, on_kept
            )
            watch = IntensityWatch(
                lambda: self._station.intensity(direction, mu),
                lambda actual: self._station.is_bright(mu, actual),
                lambda actual: self._station.judge(direction, mu, actual),
                self._random_into,
                self._clock,
                READ_EVERY_S,
            )
            drive = drawn.drive
            try:
                self._awg.prepare(self._waveform.size)
                self._load(frames[0], drive, 0, timings[0])
                self._station.take_in()
                if own:
                    own.prepare(pair)
                channel.send(encode(StationIn()))
                if seen := self._await_light(channel, pair, look_first):
                    drive = seen.drive
                    self._load(frames[0], drive, 0, timings[0])
                holding = own.hold(self._testbed, pair, on_tracked) if own else None
                if trimmed := self._station.trim(direction, mu):
                    on_tracked(0, trimmed)
                watch.begin()
                for index in range(n_frames):
                    self._play(channel, index, timings, frames, drive, record, watch, holding)
                    on_frame(index)
                    watch.at(2)
                    if follows:
                        self._follow(index, mu, watch.taken(), on_tracked)
                watch.finish()
                block = record.block()
                if record.lost_frames:
                    on_lost(record.lost_reason)
                channel.send(encode(Finished()))
                self._leave(closed=self._hears_light_off(channel, complete=True))
            except BaseException as error:
                self._give_up(channel, error)
                raise
            finally:
                record.wipe()
                for frame_symbols in frames:
                    frame_symbols.erase()
                self._waveform[:] = 0
                try:
                    self._awg.erase_all()
                finally:
                    watch.close()
                if holding:
                    holding.end()
            return block, record.announcements

    def _follow(self, frame: int, mu: float, actual: float | None, on_tracked: OnCorrection) -> None:
        """Trim the own light by a reading, if there is a fresh one."""
        correction = None if actual is None else self._station.follow(mu, actual)
        if correction is not None:
            on_tracked(frame, correction)

    def step_aside_if_dark(self) -> None:
        """Out of the ring, if an end without the relay's word left the station in it; nothing while a light phase runs."""
        if self._in_phase.acquire(blocking=False):
            try:
                self._station.bypass_if_dark()
            finally:
                self._in_phase.release()

    def _drive(
        self, symbols: PulseSymbols, direction: Direction, correction_rad: float
    ) -> npt.NDArray[np.float32]:
        # The own pulse is the one of a pair's two that carries the loop's phase away: counter-clockwise minus clockwise.
        loop_rad = self._testbed.loop_phase_rad(self._user.name)
        return drive_table(
            symbols,
            v_pi_v=self._user.v_pi_v,
            rf_gain=self._user.rf_gain,
            amplitude_vpp=self._user.awg_amplitude_vpp,
            offset_rad=correction_rad - (loop_rad if direction == "ccw" else 0.0),
        )

    def _play(
        self,
        channel: Channel,
        index: int,
        timings: Sequence[FrameTiming],
        frames: list[SymbolFrame],
        drive: npt.NDArray[np.float32],
        record: BlockRecord,
        watch: IntensityWatch,
        holding: Holding | None,
    ) -> None:
        """One frame: armed, told, announced and recorded or lost; the next one is loaded meanwhile."""
        buffer, other = BUFFERS[index % 2]
        self._time(timings[index])
        if holding:
            holding.before(index)
        self._awg.arm(buffer)
        channel.send(encode(Armed(index)))
        watch.at(0)
        if index + 1 < len(timings):
            self._load(frames[other], drive, other, timings[index + 1])
        watch.at(1)
        patience = 1.0 if index else OTHERS_PATIENCE  # the other user trims its light first
        heard = record.hear(channel, patience * self._timeout_s)
        missed = self._missed(index)
        if isinstance(heard, Lost):
            record.lose(frames[buffer], heard.reason)
        elif missed:
            record.lose(frames[buffer], missed)
        else:
            record.keep(heard, frames[buffer])
            if holding:
                holding.after(index, heard.clicks.slots.size)

    def _await_light(
        self, channel: Channel, pair: Pair, look_first: Callable[[], Drawn] | None
    ) -> Drawn | None:
        """Until the light is on, align the own polarisation and look at the phase when asked; what is drawn after a look."""
        patience_s, seen = OTHERS_PATIENCE * self._timeout_s, None
        while not isinstance(message := read_light_message(channel.recv(patience_s)), LightOn):
            if isinstance(message, ClimbTurn):
                climb_in_turn(self.polarization, self._testbed, pair, channel, message, patience_s)
            elif isinstance(message, LookTurn):
                if look_first is None:
                    channel.send(encode(LookOver()))
                else:
                    seen = look_first()
            elif not isinstance(message, OthersClimb):
                raise unexpected("LightOn", message)
        return seen

    def _look(
        self, channel: Channel, symbols: PulseSymbols, direction: Direction, played_rad: float, take: Look
    ) -> float:
        """Look at the loop's phase with frames of quarter turns, and return the correction to play."""
        buffer, timing = BUFFERS[0][1], self._timing

        def play(rad: float) -> SymbolFrame:
            turns = quarter_turns(symbols, self._drive(symbols, direction, rad))
            frame = SymbolFrame(self._protocol.slots_per_frame, turns.of_bytes)
            self._load(frame, turns.drive, buffer, timing)
            self._awg.arm(buffer)
            return frame

        patience_s = OTHERS_PATIENCE * self._timeout_s
        return look(channel, play, lambda: self._missed(0), take, played_rad, symbols, patience_s)

    def _give_up(self, channel: Channel, error: BaseException) -> None:
        """Tell the relay, dark at once, and out of the ring."""
        closed = isinstance(error, LaunchClosed)
        if not closed:
            with contextlib.suppress(ChannelError):
                channel.send(aborting(error))
        try:
            self._station.darken()
        finally:
            self._leave(closed=closed or self._hears_light_off(channel, complete=False))

    def _leave(self, *, closed: bool) -> None:
        """Out of the ring, but only if the launch is ``closed`` by the relay's word, or it is dark."""
        if closed:
            self._station.bypass()
            return
        logger.warning("%s: the relay did not say that the launch is closed", self._user.name)
        self._station.darken()
        self._station.bypass_if_dark()

    def _hears_light_off(self, channel: Channel, *, complete: bool) -> bool:
        """Whether the relay closes the launch in time, whatever else it says before.

        LightAborted where it gives up a block that is ``complete`` here: the other user's is not.
        """
        deadline = self._clock() + self._timeout_s * (OTHERS_PATIENCE if complete else 1.0)
        try:
            while (left_s := deadline - self._clock()) > 0:
                try:
                    if isinstance(read_light_message(channel.recv(left_s)), LightOff):
                        return True
                except LightAborted:
                    if complete:
                        raise
        except ChannelError:
            logger.debug("nothing more comes from the relay")
        return False

    def _missed(self, frame: int) -> str:
        """Why the frame was not played, "" where its one trigger came; more of them raise LightAborted."""
        try:
            if self._awg.extra_trigger_seen():
                raise LightAborted(f"{self._user.name}: more than one trigger in frame {frame}")
        except NotReadyError as error:
            return reason_of(error)
        return ""

    def _load(
        self,
        frame: SymbolFrame,
        drive: npt.NDArray[np.float32],
        buffer: Literal[0, 1],
        timing: FrameTiming,
    ) -> None:
        frame.draw(self._random_into)
        if (
            timing.lead_samples != self._timing.lead_samples
        ):  # other samples are driven: what they held is secret
            self._waveform[:] = 0
        frame.write_waveform(
            drive,
            self._waveform,
            samples_per_slot=self._protocol.samples_per_slot,
            lead_samples=timing.lead_samples,
        )
        self._awg.upload(buffer, self._waveform)
