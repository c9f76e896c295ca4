"""Keysight 33622A: plays one frame of modulator voltages, once per arming, at up to 50 MSa/s.

A frame is a segment of a sequence (:mod:`drivers.modulators.keysight_33600`):

    0 V until a trigger | the frame, once | 0 V until a trigger | 0 V without end

After the one expected trigger the generator waits in the third segment; an extra one lets it out of it, outputs nothing
secret, and is seen by that it no longer waits (:meth:`Keysight33622A.extra_trigger_seen`).

*What it can do in a ring, and what not.*  Its edges take some 2.9 ns and its samples are 14 bits at 1 GSa/s at most, with
filter off, which leaves edges as they are, at 250 MSa/s.  It has no way to shift its samples by less than one, and the
pulses want their symbols to a tenth of a sample: so each sample of a frame is played :data:`OVERSAMPLING` times and the
frame begins a few of these later.  That allows 50 MSa/s: two samples a slot at a clock of 25 MHz.  A pulse carver it is not:
pulses of 0.4 ns need 2.5 GSa/s.

*Memory.*  4 MSa a channel, 64 MSa with option MEM (``memory_msa``), a fifth of that for a frame.  A waveform can be neither
replaced nor deleted alone, only the whole memory of a channel, and then a default waveform takes its place.  So there is no
loading behind a frame that plays: :meth:`Keysight33622A.upload` keeps the frame here, and :meth:`Keysight33622A.arm` clears
the memory, with the output off, and sends it: ten bytes for each sample.

Waveforms are key: they are cleared by ``DATA:VOLatile:CLEar`` and held here no longer than until they are sent.  Unverified
whether the instrument overwrites what it clears; that full scale is the amplitude whatever levels a frame has; and how long
sending takes on a real line.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from qcodes.parameters import Parameter

from drivers.links.errors import InstrumentRefusedError, LimitError, NotReadyError
from drivers.links.ieee488 import split_outside_quotes, unquote
from drivers.links.limits import Within
from drivers.modulators.awg_samples import Samples, why_refused
from drivers.modulators.keysight_33600 import (
    AMPLITUDE_LIMITS_VPP,
    CHANNELS,
    FRAME,
    IDLE,
    MIN_SAMPLES,
    MOST_UNFILTERED_HZ,
    ONCE,
    TRIGGER_LEVEL_LIMITS_V,
    WAITING,
    ClockSource,
    Slope,
    Trigger,
    required,
    required_trigger,
    sequence_command,
)
from drivers.scpi import ScpiInstrument
from drivers.scpi_state import KnownState

log = logging.getLogger(__name__)

OVERSAMPLING = 5
"""So often each sample of a frame is played: delays are made to a tenth of a sample."""
SAMPLE_RATE_LIMITS_HZ = (1.0, MOST_UNFILTERED_HZ / OVERSAMPLING)
FULL_SCALE = 32767
BUILT_IN = "INT:\\BUILTIN\\"
"""Where the waveform is from that stands in a cleared memory."""
_POLL_S = 2e-3
_RESERVED = 2 * MIN_SAMPLES
"""Samples of memory that are no frame's."""
FrameBuffer = Literal[0, 1]
Levels = npt.NDArray[np.int16]
"""1-d little-endian int16, full scale -32767 to 32767."""


class Keysight33622A(ScpiInstrument):
    """Driver of one 33622A, using one of its channels.

    Options: ``channel`` 1 or 2; ``max_amplitude_vpp``, a limit of the set-up; ``memory_msa``, 64 with option MEM;
    ``clock_source``, the reference of 10 MHz unless told otherwise; ``trigger_...`` of the input at its rear;
    ``upload_timeout_s`` for one frame and a second more per ``upload_bytes_per_s``, ``arm_timeout_s`` until it waits;
    ``settle_s`` how late its registers may be; ``pause`` and ``clock`` for tests.
    """

    MODELS = frozenset({"33622A"})

    def __init__(
        self,
        name: str,
        address: str,
        *,
        channel: Literal[1, 2] = 1,
        max_amplitude_vpp: float = AMPLITUDE_LIMITS_VPP[1],
        memory_msa: Literal[4, 64] = 4,
        clock_source: ClockSource = "EXTernal",
        trigger_level_v: float = 1.4,
        trigger_slope: Slope = "POSitive",
        timeout_s: float = 2.0,
        upload_timeout_s: float = 30.0,
        upload_bytes_per_s: float = 5e6,
        arm_timeout_s: float = 30.0,
        settle_s: float = 2.0,
        pause: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, address, timeout_s=timeout_s, clock=clock, **kwargs)
        for what, value, (low, high) in (
            ("max_amplitude_vpp", max_amplitude_vpp, AMPLITUDE_LIMITS_VPP),
            ("trigger_level_v", trigger_level_v, TRIGGER_LEVEL_LIMITS_V),
        ):
            if not low <= value <= high:
                raise self.error(LimitError, f"{what} is {value:g}, outside {low:g}..{high:g}")
        self.frame_limits_samples = (MIN_SAMPLES, memory_msa * 1_000_000 // OVERSAMPLING - _RESERVED)
        self._channel = channel
        self._clock_source = clock_source
        self._max_amplitude_vpp = max_amplitude_vpp
        self._upload_timeout_s = upload_timeout_s
        self._upload_bytes_per_s = upload_bytes_per_s
        self._arm_timeout_s = arm_timeout_s
        self._settle_s = settle_s
        self._pause = pause
        self._clock = clock
        self._n_samples = 0
        self._frames: list[Levels | None] = [None, None]
        self._configured: tuple[float, float, int] | None = None
        trigger = Trigger(trigger_level_v, trigger_slope)
        self.state = KnownState(self.link, required(channel, clock_source))
        self.trigger_state = KnownState(self.link, required_trigger(channel, trigger))
        self.trigger_threshold = (trigger_level_v, trigger_slope == "POSitive")
        self._add_parameters()

    def _add_parameters(self) -> None:
        link, source = self.link, f"SOURce{self._channel}"
        self.sample_rate_hz: Parameter[float, Keysight33622A] = self.add_setting(
            "sample_rate_hz",
            label="Sample rate of frames",
            unit="Hz",
            get=lambda: link.query_float(f"{source}:FUNCtion:ARBitrary:SRATe?") / OVERSAMPLING,
            put=self._set_sample_rate,
            limits=Within(*SAMPLE_RATE_LIMITS_HZ, "Hz"),
            resolution=1e-3,
        )
        self.amplitude_vpp: Parameter[float, Keysight33622A] = self.add_setting(
            "amplitude_vpp",
            label="Amplitude, peak to peak",
            unit="V",
            get=lambda: link.query_float(f"{source}:VOLTage?"),
            put=lambda value: link.command(f"{source}:VOLTage {value:.6g}"),
            limits=Within(AMPLITUDE_LIMITS_VPP[0], self._max_amplitude_vpp, "V"),
            resolution=1e-4,
        )
        self.output: Parameter[bool, Keysight33622A] = self.add_reading(
            "output", label="Output on", get=lambda: link.query_bool(f"OUTPut{self._channel}?")
        )
        self.waiting: Parameter[bool, Keysight33622A] = self.add_reading(
            "waiting", label="Waiting for a trigger", get=self._waits
        )

    def _set_sample_rate(self, value: float) -> None:
        """With the filter off; while it is another rate it may be too fast for that."""
        source = f"SOURce{self._channel}:FUNCtion:ARBitrary"
        self.link.command(f"{source}:FILTer STEP;SRATe {OVERSAMPLING * value:.12g}")
        self.link.command(f"{source}:FILTer OFF")

    def know_state(self) -> None:
        """Old errors, clock, modes, load, units, a rate for frames; an output that is on above the limit goes off."""
        super().know_state()
        self.state.hold()
        if self.sample_rate_hz.get() > SAMPLE_RATE_LIMITS_HZ[1]:
            self._set_sample_rate(SAMPLE_RATE_LIMITS_HZ[1])
        held = self.amplitude_vpp.get()
        if held > self._max_amplitude_vpp:
            log.warning("%s at %s: %s", self.name, self.address, self._too_high(held))
            self._output_off()

    def _too_high(self, held_vpp: float) -> str:
        return (
            f"holds an amplitude of {held_vpp:g} Vpp, above the limit of {self._max_amplitude_vpp:g} Vpp; "
            "set amplitude_vpp before it plays"
        )

    # Configuration

    def configure(self, sample_rate_hz: float, amplitude_vpp: float, fine_delay_ps: float = 0.0) -> None:
        """Output off, and set clock and level, with all samples ``fine_delay_ps`` later, to a tenth of a sample.

        Raises LimitError outside the limits of rate, amplitude and one sample, and InstrumentRefusedError when the generator
        refuses, reads back something else, or is not in its known state, as without its reference.
        """
        self.sample_rate_hz.validate(sample_rate_hz)
        self.amplitude_vpp.validate(amplitude_vpp)
        step_ps = 1e12 / sample_rate_hz / OVERSAMPLING
        if not abs(fine_delay_ps) < OVERSAMPLING * step_ps:
            raise self.error(
                LimitError,
                f"a fine delay of {fine_delay_ps:g} ps is not less than a sample; nothing was sent",
            )
        if (steps := round(fine_delay_ps / step_ps)) < 0:
            raise self.error(
                LimitError,
                f"a fine delay of {fine_delay_ps:g} ps would come before the trigger; nothing was sent",
            )
        with self.link.transaction():
            self._output_off()
            self._configured = (sample_rate_hz, amplitude_vpp, steps)
            self.state.hold()
            self.state.require()
            # Refused without the signal, of which the question about the source says nothing.
            self.link.command(f"ROSCillator:SOURce {self._clock_source}")
            self._apply_configuration()

    def _apply_configuration(self) -> None:
        if self._configured is not None:
            self.sample_rate_hz.set(self._configured[0])
            self.amplitude_vpp.set(self._configured[1])

    def restore_passive(self) -> None:
        """After a reopened link: outputs off, memory cleared, clock and level as configured."""
        self._make_safe()
        self._apply_configuration()

    def prepare(self, slots: int, samples_per_slot: int = 1) -> None:
        """Set the trigger input and make sure that a frame of ``slots * samples_per_slot`` samples has room.

        Raises LimitError for a length that this memory does not hold, with what it has.
        """
        n_samples = slots * samples_per_slot
        low, high = self.frame_limits_samples
        if not low <= n_samples <= high:
            raise self.error(LimitError, f"a frame of {n_samples} samples is outside {low}..{high} samples")
        with self.link.transaction():
            if n_samples == self._n_samples:
                return
            self._clear()
            self.trigger_state.hold()
            needed = (n_samples + 1) * OVERSAMPLING + MIN_SAMPLES
            free = self.link.query_int(f"SOURce{self._channel}:DATA:VOLatile:FREE?")
            if free < needed:
                raise self.error(
                    LimitError,
                    f"a frame of {n_samples} samples needs {needed} of memory and {free} are free; is option MEM "
                    "installed (memory_msa)?",
                )
            self._n_samples = n_samples

    # A frame

    def upload(self, buffer: FrameBuffer, samples: Samples) -> None:
        """Take ``samples`` (float32, C-contiguous, in [-1, 1] of amplitude/2) for ``buffer``; :meth:`arm` sends them.

        Raises NotReadyError without :meth:`prepare`, LimitError for a wrong type, length or level.
        """
        with self.link.transaction():
            self._require_prepared()
            if why := why_refused(samples, self._n_samples, self.frame_limits_samples):
                raise self.error(LimitError, f"{why}; nothing was sent")
            self._drop(buffer)
            self._frames[buffer] = np.rint(samples * np.float32(FULL_SCALE)).astype("<i2")

    def arm(self, buffer: FrameBuffer) -> None:
        """Send the frame, select the sequence that plays it once, output on, and confirm "waiting for trigger".

        Raises NotReadyError when the buffer holds no fresh frame, or when the generator does not wait within
        ``arm_timeout_s``; LimitError when it holds an amplitude above the limit; InstrumentRefusedError when its state
        is not known, or the output reads off.
        """
        source = f"SOURce{self._channel}"
        with self.link.transaction():
            self._require_prepared()
            frame, self._frames[buffer] = self._frames[buffer], None
            if frame is None or self._configured is None:
                raise self.error(
                    NotReadyError, f"buffer {buffer} holds no fresh frame; each upload can be armed once"
                )
            try:
                self.state.require()
                self.trigger_state.require()
                if (held := self.amplitude_vpp.get()) > self._max_amplitude_vpp * (1 + 1e-6):
                    raise self.error(LimitError, self._too_high(held))
                self.must_end_dark()
                self._clear()
                self._load(frame)
            finally:
                frame.fill(0)
            self.link.command(sequence_command(self._channel))
            self.link.command(f'{source}:FUNCtion:ARBitrary "{ONCE}";:{source}:FUNCtion ARB')
            self._apply_configuration()
            self.link.command(f"OUTPut{self._channel} 1")
            since = self.link.urgencies
        self._await_waiting(since)
        if not self.output.get():
            raise self.error(
                InstrumentRefusedError, f"output {self._channel} reads off after it was switched on"
            )

    def _load(self, frame: Levels) -> None:
        assert self._configured is not None
        steps = self._configured[2]
        played = np.zeros(steps + OVERSAMPLING * frame.size, "<i2")
        played[steps:] = np.repeat(frame, OVERSAMPLING)
        try:
            self._send(IDLE, np.zeros(MIN_SAMPLES, "<i2"))
            self._send(FRAME, played)
        finally:
            played.fill(0)

    def _send(self, waveform: str, levels: Levels) -> None:
        self.link.write_block(
            f"SOURce{self._channel}:DATA:ARBitrary:DAC {waveform},",
            levels.data,
            timeout_s=self._upload_timeout_s + levels.nbytes / self._upload_bytes_per_s,
        )

    def _await_waiting(self, since: int) -> None:
        self.link.wait_until(
            self._waits,
            self._arm_timeout_s,
            "arming: waiting for trigger (is the trigger line quiet, and does nobody else operate it?)",
            since=since,
            poll_s=_POLL_S,
            pause=self._pause,
        )
        self._registers()  # that it began to wait is no news any more

    def extra_trigger_seen(self) -> bool:
        """After a frame: False when exactly one trigger came, True when more did (or somebody ended the sequence).

        It waits again after the first trigger, which the event register keeps, and waits no more after a second.  Raises
        NotReadyError when no trigger came at all, and InstrumentRefusedError when the generator found something wrong
        meanwhile, as a reference that was pulled.
        """
        deadline = self._clock() + self._settle_s
        began_again = False
        while True:
            now, since = self._registers()
            began_again = began_again or bool(since & WAITING)
            if now & WAITING and began_again:
                self.link.require_no_errors("playing a frame")
                return False
            if self._clock() >= deadline:
                if now & WAITING:
                    raise self.error(NotReadyError, "no trigger came; check the trigger cable and its level")
                return True
            self._pause(_POLL_S)

    def _waits(self) -> bool:
        return bool(self.link.query_int("STATus:OPERation:CONDition?") & WAITING)

    def _registers(self) -> tuple[int, int]:
        """Condition and event of the operation register; reading clears the event."""
        return self.link.query_parsed("STATus:OPERation:CONDition?;:STATus:OPERation:EVENt?", parse_registers)

    # Erasing

    def _drop(self, buffer: FrameBuffer) -> None:
        """Forget a frame that has not been sent."""
        frame, self._frames[buffer] = self._frames[buffer], None
        if frame is not None:
            frame.fill(0)

    def erase_all(self) -> None:
        """Output off, and forget both frames, here and in the instrument; :meth:`prepare` is next."""
        with self.link.transaction():
            self._forget()
            self._clear()

    def safe_state(self) -> None:
        """Both outputs off and both memories cleared, read back."""
        self.link.urgently(self._make_safe)

    def _make_safe(self) -> None:
        self._forget()
        link = self.link
        for number in CHANNELS:
            link.tell(f"OUTPut{number} 0")
        wrong = [f"output {number} is on" for number in CHANNELS if link.query_bool(f"OUTPut{number}?")]
        for number in CHANNELS:
            link.tell(f"SOURce{number}:DATA:VOLatile:CLEar")
            if left := link.query_parsed(f"SOURce{number}:DATA:VOLatile:CATalog?", loaded):
                wrong.append(f"channel {number} holds {len(left)} waveforms")
        if wrong:
            raise self.error(
                NotReadyError,
                f"{', '.join(wrong)} after it was switched off and cleared; switch it off at its front panel",
            )

    def _output_off(self) -> None:
        self.link.command(f"OUTPut{self._channel} 0")

    def _clear(self) -> None:
        """The output goes off first: a waveform that nobody loaded takes the place of the cleared ones."""
        self._output_off()
        self.link.command(f"SOURce{self._channel}:DATA:VOLatile:CLEar")

    def _forget(self) -> None:
        self._n_samples = 0
        for buffer in (0, 1):
            self._drop(buffer)

    def _require_prepared(self) -> None:
        if not self._n_samples:
            raise self.error(
                NotReadyError, "no frames are prepared (or the link was reopened); call prepare() first"
            )


def parse_registers(reply: str) -> tuple[int, int]:
    """Two registers from ``+32;+0``.  Raises ValueError for anything else."""
    condition, _, event = reply.partition(";")
    return int(condition), int(event)


def loaded(reply: str) -> list[str]:
    """The names in a catalogue that somebody loaded: ``"INT:\\BUILTIN\\EXP_RISE.ARB","frame"`` -> ``["frame"]``."""
    names = [unquote(each) for each in split_outside_quotes(reply, ",")]
    if any(not name for name in names):
        raise ValueError("not a list of names")
    return [name for name in names if not name.upper().startswith(BUILT_IN)]
