"""A user's side of the light phase: intensity, fresh symbols, one play per frame, kept clicks.

While the light of frame ``k`` is in the ring the user already draws and uploads frame ``k + 1`` into the
other waveform buffer.  PulseSymbols of slots that did not click are forgotten with the frame.  Three things end
the block: a second trigger (the modulator would have put the same phases on fresh light, so it plays each
frame once and reports the extra trigger), an announcement that is not the expected one, and an intensity
above the bound that the proof uses.  A frame without an announcement, or without a trigger, is lost and no more
(:mod:`orchestrator.light.block_record`).

The light comes from the relay, which is not trusted and knows when it fires.  So the intensity is read twice
per frame: while the armed frame waits for its trigger or plays, at a moment of the user's own choosing, and
again after the announcement.  What a power meter cannot show remains assumed: a source that brightens and
dims again between two readings, or faster than the meter averages.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from drivers.links.errors import NotReadyError
from lab.testbed import Testbed
from orchestrator.light.block_record import BlockRecord
from orchestrator.light.clicks import BlockClicks
from orchestrator.light.messages import (
    Armed,
    Finished,
    LightAborted,
    LightOn,
    read_light_message,
)
from orchestrator.light.symbols import RandomInto, SymbolFrame, drive_table
from orchestrator.protocols.base import PulseSymbols
from orchestrator.randomness import random_into
from orchestrator.wire.channel import Channel
from orchestrator.wire.codec import encode

if TYPE_CHECKING:
    from drivers.kinds import Attenuator, PhaseModulator, PowerSensor

logger = logging.getLogger(__name__)

PLANCK_J_S = 6.62607015e-34
LIGHT_SPEED_M_S = 299_792_458.0
ATTENUATION_STEP_DB = 0.01

BUFFERS: tuple[tuple[Literal[0, 1], Literal[0, 1]], ...] = ((0, 1), (1, 0))
"""Waveform buffer of even and odd frames, and the one filled meanwhile."""

CLOCKWISE_GATE, COUNTER_CLOCKWISE_GATE = 0, 1


def photons_per_slot(power_w: float, wavelength_nm: float, clock_hz: float) -> float:
    """Mean photons in one slot of light of average power ``power_w``: P lambda / (h c f)."""
    return power_w * wavelength_nm * 1e-9 / (PLANCK_J_S * LIGHT_SPEED_M_S * clock_hz)


class UserLight:
    """One user's instruments in the light phase."""

    def __init__(
        self,
        testbed: Testbed,
        user: str,
        awg: PhaseModulator,
        attenuator: Attenuator,
        monitor: PowerSensor,
        *,
        random_into: RandomInto = random_into,
        timeout_s: float = 10.0,
    ) -> None:
        self._protocol = testbed.protocol
        self._wavelength_nm = testbed.ring.wavelength_nm
        self._user = testbed.user(user)
        self._awg = awg
        self._attenuator = attenuator
        self._monitor = monitor
        self._random_into = random_into
        self._timeout_s = timeout_s
        slots, samples = self._protocol.slots_per_frame, self._protocol.samples_per_slot
        self._waveform = np.zeros(slots * samples, np.float32)

    def set_up(self) -> None:
        """Configure the instruments, after connecting and after a failure."""
        samples = self._protocol.samples_per_slot
        self._monitor.wavelength_nm(self._wavelength_nm)
        self._attenuator.tune(self._wavelength_nm)
        self._awg.configure(
            sample_rate_hz=self._protocol.clock_hz * samples,
            amplitude_vpp=self._user.awg_amplitude_vpp,
        )

    def set_intensity(self, mu: float) -> float:
        """Set the attenuator for at most ``mu`` photons per slot at the output; returns the set value.

        Raises LightAborted when the light is too weak, too strong or the attenuator falls short.
        """
        arriving = self._arriving_photons()
        if arriving <= mu:
            raise LightAborted(
                f"{self._user.name}: only {arriving:.3g} photons per slot reach the attenuator, "
                f"{mu:.3g} are wanted at the output; is light launched, is monitor_ratio right?"
            )
        wanted_db = math.ceil(10 * math.log10(arriving / mu) / ATTENUATION_STEP_DB) * ATTENUATION_STEP_DB
        self._attenuator.attenuation_db(wanted_db)
        self._attenuator.let_through()
        return self.check_intensity(mu)

    def check_intensity(self, mu: float) -> float:
        """Mean photons per slot at the output, from monitor and attenuator read back.

        The proof assumes at most ``mu`` plus the tolerance.  The reading itself may be wrong by the monitor's
        uncertainty, so only the rest is left for deviations that can be seen.  Raises LightAborted beyond
        them, in either direction: the block was planned for other light.
        """
        actual = self._arriving_photons() * 10 ** (-self._attenuator.attenuation_db() / 10)
        deviation_db = 10 * math.log10(actual / mu) if actual > 0 else -math.inf
        allowed_db = self._protocol.intensity_tolerance_db - self._protocol.monitor_uncertainty_db
        if not abs(deviation_db) <= allowed_db:
            raise LightAborted(
                f"{self._user.name}: output is {deviation_db:+.3f} dB off the planned {mu:.4g} photons per "
                f"slot, {allowed_db:g} dB are allowed"
            )
        return actual

    def _arriving_photons(self) -> float:
        power_w = self._monitor.power_w() * self._user.monitor_ratio
        if not power_w > 0:
            raise LightAborted(f"{self._user.name}: the power monitor reads {power_w:g} W; no light arrives")
        return photons_per_slot(power_w, self._wavelength_nm, self._protocol.clock_hz)

    def run(
        self,
        channel: Channel,
        *,
        symbols: PulseSymbols,
        mu: float,
        gate: int,
        n_frames: int,
        on_frame: Callable[[int], None] = lambda frame: None,
    ) -> tuple[BlockClicks, list[bytes]]:
        """Play ``n_frames`` frames; returns the kept clicks and the announcements as received, LOST for a lost frame.

        Raises LightAborted (nothing of the block may be used), ChannelError or InstrumentError.
        """
        drive = drive_table(
            symbols,
            v_pi_v=self._user.v_pi_v,
            rf_gain=self._user.rf_gain,
            amplitude_vpp=self._user.awg_amplitude_vpp,
        )
        frames = [SymbolFrame(self._protocol.slots_per_frame, symbols) for _ in range(2)]
        self._waveform[:] = 0
        record = BlockRecord(self._protocol.slots_per_frame, n_frames, self._protocol.lost_frames_limit)
        early = np.zeros(n_frames, np.uint8)
        self._random_into(early.data)
        try:
            self._awg.prepare(self._waveform.size)
            self._load(frames[0], drive, gate, 0)
            message = read_light_message(channel.recv(self._timeout_s))
            if not isinstance(message, LightOn):
                raise LightAborted(f"expected LightOn, got {type(message).__name__}")
            self.set_intensity(mu)
            for index in range(n_frames):
                buffer, other = BUFFERS[index % 2]
                self._awg.arm(buffer)
                channel.send(encode(Armed(index)))
                if early[index] & 1:
                    self.check_intensity(mu)
                if index + 1 < n_frames:
                    self._load(frames[other], drive, gate, other)
                if not early[index] & 1:
                    self.check_intensity(mu)
                heard = record.hear(channel, self._timeout_s)
                if self._played(index) and heard is not None:
                    record.keep(heard, frames[buffer])
                else:
                    record.lose(frames[buffer])
                on_frame(index)
                self.check_intensity(mu)
            block = record.block()
            channel.send(encode(Finished()))
        finally:
            record.wipe()
            for frame_symbols in frames:
                frame_symbols.erase()
            self._waveform[:] = 0
            self._awg.erase_all()
        return block, record.announcements

    def _played(self, frame: int) -> bool:
        """Whether the one trigger came; more of them raise LightAborted."""
        try:
            if self._awg.extra_trigger_seen():
                raise LightAborted(f"{self._user.name}: more than one trigger in frame {frame}")
        except NotReadyError as error:
            logger.warning("frame %d is lost: %s", frame, error)
            return False
        return True

    def _load(
        self, frame: SymbolFrame, drive: npt.NDArray[np.float32], gate: int, buffer: Literal[0, 1]
    ) -> None:
        frame.draw(self._random_into)
        frame.write_waveform(
            drive, self._waveform, samples_per_slot=self._protocol.samples_per_slot, gate=gate
        )
        self._awg.upload(buffer, self._waveform)
