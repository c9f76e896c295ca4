"""Tektronix AWG70002A: plays one frame of modulator voltages, once per arming.

Two waveforms ``frame0`` and ``frame1`` are double-buffered: one plays while the other is being loaded.
Each has a sequence of two steps that both wait for trigger A:

    step 1   the frame, once, then next
    step 2   a short waveform of zeros, once, then END (0 V until stopped)

After the one expected trigger the generator waits in step 2.  An extra trigger therefore outputs zeros,
nothing secret, and is visible: the generator no longer waits (:meth:`AWG70002A.extra_trigger_seen`).
A buffer can be armed once per upload, so that a pattern is never silently repeated.

What must be so before an output is switched on is in :mod:`drivers.modulators.awg_state`; so must be a level within the
limits of the set-up.  Changing the clock takes the instrument seconds to minutes, loading a long waveform too: each
class of command has a time-out of its own, and the safe state waits for none of them.

Waveforms are key.  They go through the waveform list (``WLISt:WAVeform:DATA``), never through a file on the
generator's disk; while waiting the output holds 0 V instead of the first sample; samples appear in no
parameter, snapshot, log or error.

Commands: Tektronix's own open command tables, github tektronix/tm_devices ``commands/gen_chhuo_awg`` (``clock.py``:
``CLOCk:PHASe:ADJust:TIMe`` moves all outputs against the system clock; unverified that it takes seconds, and that more is
later) and ``gen_btm6t_awg/slist.py`` (syntax and descriptions of the AWG70000A programmer manual), and qcodes
``instrument_drivers/tektronix/AWG70000A.py``.  Sequence use as in github Ulm-IQO/qudi-iqo-modules
``hardware/awg/tektronix_awg70k.py``.  ``SOURce:SCSTep?`` answers ``"2"`` or ``END``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from qcodes.parameters import Parameter

from drivers.links.errors import InstrumentRefusedError, LimitError, NotReadyError
from drivers.links.ieee488 import unquote
from drivers.links.limits import Within, Words
from drivers.links.scpi_replies import parse_word
from drivers.modulators.awg_samples import MAX_SAMPLES, MIN_SAMPLES, Samples, why_refused
from drivers.modulators.awg_state import (
    CARVER_PATTERN,
    SEQUENCING_OPTION,
    ZEROS,
    ClockSource,
    FrameBuffer,
    Trigger,
    carving_commands,
    frame_name,
    required,
    required_trigger,
    sequence_commands,
    sequence_name,
)
from drivers.scpi import ScpiInstrument
from drivers.scpi_state import KnownState

log = logging.getLogger(__name__)

SAMPLE_RATE_LIMITS_HZ = (1.49e3, 25e9)
AMPLITUDE_LIMITS_VPP = (0.25, 0.5)
CLOCK_DELAY_LIMITS_PS = (-1e6, 1e6)
"""No source gives the range: what an instrument does not take it refuses."""
CLOCK_DELAY_RESOLUTION_PS = 20.0
"""No source gives the step; a whole degree of a sample of 5 ns is 14 ps."""
EXTERNAL_CLOCK_LIMITS_HZ = (6.25e9, 12.5e9)
TRIGGER_LEVEL_LIMITS_V = (-5.0, 5.0)
"""Unverified: what the data sheet of the series gives for trigger inputs."""
CHANNELS = (1, 2)
RUN_STATES = {"0": "stopped", "1": "waiting for trigger", "2": "running"}
_POLL_S = 2e-3


class AWG70002A(ScpiInstrument):
    """Driver of one AWG70002A, using one of its channels.

    Options: ``channel`` 1 or 2; ``max_amplitude_vpp``, a limit of the set-up; ``clock_source``, the reference of 10 MHz
    unless told otherwise (generators that share none run slots apart within a frame), and with EXTernal
    ``external_clock_hz``; ``trigger_...`` of input A; ``clock_timeout_s`` for a change of the clock (other drivers of
    the series wait 30 to 240 s), ``memory_timeout_s`` for making and deleting waveforms, ``upload_timeout_s`` for one
    waveform and a second more per ``upload_bytes_per_s``, ``arm_timeout_s`` for loading a sequence until it waits;
    ``settle_s`` how late the generator may report its step; ``pause`` and ``clock`` for tests.
    """

    MODELS = frozenset({"AWG70002A", "AWG70002B"})

    frame_limits_samples = (MIN_SAMPLES, MAX_SAMPLES)

    def __init__(
        self,
        name: str,
        address: str,
        *,
        channel: Literal[1, 2] = 1,
        max_amplitude_vpp: float = AMPLITUDE_LIMITS_VPP[1],
        clock_source: ClockSource = "EFIXed",
        external_clock_hz: float = EXTERNAL_CLOCK_LIMITS_HZ[0],
        trigger_level_v: float = 1.4,
        trigger_slope: Literal["POSitive", "NEGative"] = "POSitive",
        trigger_impedance_ohm: Literal[50, 1000] = 50,
        trigger_mode: Literal["SYNChronous", "ASYNchronous"] = "ASYNchronous",
        timeout_s: float = 2.0,
        clock_timeout_s: float = 240.0,
        memory_timeout_s: float = 30.0,
        upload_timeout_s: float = 30.0,
        upload_bytes_per_s: float = 5e6,
        arm_timeout_s: float = 30.0,
        settle_s: float = 2.0,
        pause: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, address, timeout_s=timeout_s, clock=clock, **kwargs)
        if channel not in CHANNELS:
            raise LimitError(f"channel {channel} is not 1 or 2", instrument=name, address=address)
        for what, value, (low, high) in (
            ("max_amplitude_vpp", max_amplitude_vpp, AMPLITUDE_LIMITS_VPP),
            ("external_clock_hz", external_clock_hz, EXTERNAL_CLOCK_LIMITS_HZ),
            ("trigger_level_v", trigger_level_v, TRIGGER_LEVEL_LIMITS_V),
        ):
            if not low <= value <= high:
                raise LimitError(
                    f"{what} is {value:g}, outside {low:g}..{high:g}", instrument=name, address=address
                )
        self._channel = channel
        self._max_amplitude_vpp = max_amplitude_vpp
        self._settle_s = settle_s
        self._clock_timeout_s = clock_timeout_s
        self._memory_timeout_s = memory_timeout_s
        self._upload_timeout_s = upload_timeout_s
        self._upload_bytes_per_s = upload_bytes_per_s
        self._arm_timeout_s = arm_timeout_s
        self._pause = pause
        self._clock = clock
        self._n_samples = 0
        self._loaded = [False, False]
        self._configured: tuple[float, float, float] | None = None
        self._installed: list[str] = []
        trigger = Trigger(trigger_level_v, trigger_slope, trigger_impedance_ohm, trigger_mode)
        self.state = KnownState(
            self.link, required(channel, clock_source, external_clock_hz, clock_timeout_s)
        )
        self.trigger_state = KnownState(self.link, required_trigger(trigger))
        self.trigger_threshold = (
            trigger_level_v,
            trigger_slope == "POSitive",
        )  # volts, and whether it is crossed upward
        self._add_parameters()

    def _add_parameters(self) -> None:
        link, channel = self.link, self._channel
        self.sample_rate_hz: Parameter[float, AWG70002A] = self.add_setting(
            "sample_rate_hz",
            label="Sample rate",
            unit="Hz",
            get=lambda: link.query_float("CLOCk:SRATe?"),
            put=self._set_sample_rate,
            limits=Within(*SAMPLE_RATE_LIMITS_HZ, "Hz"),
            resolution=1.0,
        )
        self.amplitude_vpp: Parameter[float, AWG70002A] = self.add_setting(
            "amplitude_vpp",
            label="Amplitude, peak to peak",
            unit="V",
            get=self._amplitude,
            put=lambda value: link.command(f"SOURce{channel}:VOLTage {value:.6g}"),
            limits=Within(AMPLITUDE_LIMITS_VPP[0], self._max_amplitude_vpp, "V"),
            resolution=1e-3,  # the instrument works in dBm and rounds (qcodes AWG70000A.py)
        )
        self.clock_delay_ps: Parameter[float, AWG70002A] = self.add_setting(
            "clock_delay_ps",
            label="Delay of all samples by the phase of the clock",
            unit="ps",
            get=lambda: 1e12 * link.query_float("CLOCk:PHASe:ADJust:TIMe?"),
            put=lambda value: link.command(f"CLOCk:PHASe:ADJust:TIMe {1e-12 * value:.9g}"),
            limits=Within(*CLOCK_DELAY_LIMITS_PS, "ps"),
            resolution=CLOCK_DELAY_RESOLUTION_PS,
        )
        self.output: Parameter[bool, AWG70002A] = self.add_reading(
            "output", label="Output on", get=lambda: link.query_bool(f"OUTPut{channel}:STATe?")
        )
        self.run_state: Parameter[str, AWG70002A] = self.add_reading(
            "run_state",
            label="Run state",
            get=lambda: link.query_word("AWGControl:RSTATe?", RUN_STATES),
            vals=Words(RUN_STATES.values()),
        )

    def _amplitude(self) -> float:
        return self.link.query_float(f"SOURce{self._channel}:VOLTage?")

    def _set_sample_rate(self, value: float) -> None:
        """Returns once ``*OPC?`` is answered, whatever it answers: some are slow and some block until it is done."""
        self.link.command(f"CLOCk:SRATe {value:.12g}", timeout_s=self._clock_timeout_s)
        self.link.query("*OPC?", timeout_s=self._clock_timeout_s)

    def know_state(self) -> None:
        """Old errors, options, modes, clock, path, level; outputs that "all off" held back go off first.

        An output at a level above the limit goes off too.
        """
        super().know_state()
        self._installed = [unquote(each) for each in unquote(self.link.query("*OPT?")).split(",")]
        if SEQUENCING_OPTION not in self._installed:
            log.warning("%s at %s: %s", self.name, self.address, self._without_sequencing())
        if self.link.query_bool("OUTPut:OFF?"):
            for channel in CHANNELS:
                self.link.command(f"OUTPut{channel}:STATe 0")
        self.state.hold()
        held = self._amplitude()
        if held > self._max_amplitude_vpp:
            log.warning("%s at %s: %s", self.name, self.address, self._too_high(held))
            self.link.command(f"OUTPut{self._channel}:STATe 0")

    def _without_sequencing(self) -> str:
        return (
            f"answers '*OPT?' with {','.join(self._installed)[:60]!r}: sequencing (option {SEQUENCING_OPTION}), "
            "which plays a frame once, seems not to be installed"
        )

    def _too_high(self, held_vpp: float) -> str:
        return (
            f"holds an amplitude of {held_vpp:g} Vpp, above the limit of {self._max_amplitude_vpp:g} Vpp; "
            "set amplitude_vpp before it plays"
        )

    # Configuration

    def configure(self, sample_rate_hz: float, amplitude_vpp: float, fine_delay_ps: float = 0.0) -> None:
        """Stop, and set clock and level, with all samples ``fine_delay_ps`` later, by the phase of the clock.

        Raises LimitError outside 1.49e3..25e9 Hz, 0.25..0.5 V and one sample, and InstrumentRefusedError when
        the generator refuses, reads back something else, or is not in its known state, as without its reference.
        """
        self.sample_rate_hz.validate(sample_rate_hz)
        self.amplitude_vpp.validate(amplitude_vpp)
        if not abs(fine_delay_ps) < 1e12 / sample_rate_hz:
            raise self.error(
                LimitError,
                f"a fine delay of {fine_delay_ps:g} ps is not less than a sample; nothing was sent",
            )
        self.clock_delay_ps.validate(fine_delay_ps)
        with self.link.transaction():
            self.link.command("AWGControl:STOP")
            self._configured = (sample_rate_hz, amplitude_vpp, fine_delay_ps)
            self.state.hold()
            self.state.require()
            self._apply_configuration()

    def _apply_configuration(self) -> None:
        if self._configured is not None:
            rate_hz, level_vpp, delay_ps = self._configured
            self.sample_rate_hz.set(rate_hz)
            self.amplitude_vpp.set(level_vpp)
            self.clock_delay_ps.set(delay_ps)

    def restore_passive(self) -> None:
        """After a reopened link: stopped, outputs off, memory erased, clock and level as configured."""
        self._make_safe()
        self._apply_configuration()

    def prepare(self, slots: int, samples_per_slot: int = 1) -> None:
        """Set trigger A, create both waveforms of ``slots * samples_per_slot`` samples and their sequences, once.

        Does nothing when they exist with this length.  Raises LimitError for a length that the generator
        cannot hold.
        """
        n_samples = slots * samples_per_slot
        if not MIN_SAMPLES <= n_samples <= MAX_SAMPLES:
            raise self.error(
                LimitError, f"a frame of {n_samples} samples is outside {MIN_SAMPLES}..{MAX_SAMPLES} samples"
            )
        with self.link.transaction():
            if n_samples == self._n_samples:
                return
            self.link.command("AWGControl:STOP")
            self._delete_all()
            self.trigger_state.hold()
            self._change_memory(f'WLISt:WAVeform:NEW "{ZEROS}",{MIN_SAMPLES}')
            for buffer in (0, 1):
                self._change_memory(f'WLISt:WAVeform:NEW "{frame_name(buffer)}",{n_samples}')
                self._make_sequence(buffer)
            self._n_samples = n_samples

    def _make_sequence(self, buffer: FrameBuffer) -> None:
        try:
            for command in sequence_commands(buffer):
                self._change_memory(command)
        except InstrumentRefusedError as error:
            if SEQUENCING_OPTION in self._installed:
                raise
            raise self.error(InstrumentRefusedError, f"{self._without_sequencing()} ({error})") from error

    def _change_memory(self, command: str) -> None:
        self.link.command(command, timeout_s=self._memory_timeout_s)

    # A frame

    def upload(self, buffer: FrameBuffer, samples: Samples) -> None:
        """Load ``samples`` (float32, C-contiguous, in [-1, 1] of amplitude/2) into ``buffer``.

        Returns once the generator has accepted them.  Raises NotReadyError without :meth:`prepare`,
        LimitError for a wrong type, length or level.
        """
        with self.link.transaction():
            self._require_prepared()
            self._check_samples(samples, self._n_samples)
            self.must_end_dark()
            self._loaded[buffer] = False
            self._send(frame_name(buffer), samples)
            self._loaded[buffer] = True

    def arm(self, buffer: FrameBuffer) -> None:
        """Assign the sequence of ``buffer``, output on, run, and confirm "waiting for trigger".

        Raises NotReadyError when the buffer holds no fresh frame, or when the generator does not wait for a trigger
        within ``arm_timeout_s``; LimitError when it holds an amplitude above the limit; InstrumentRefusedError when its
        state is not known, or the output reads off.
        """
        channel = self._channel
        with self.link.transaction():
            self._require_prepared()
            if not self._loaded[buffer]:
                raise self.error(
                    NotReadyError, f"buffer {buffer} holds no fresh frame; each upload can be armed once"
                )
            self.state.require()
            self.trigger_state.require()
            if (held := self._amplitude()) > self._max_amplitude_vpp * (1 + 1e-6):
                raise self.error(LimitError, self._too_high(held))
            self._loaded[buffer] = False
            self.link.command(
                f'AWGControl:STOP;:SOURce{channel}:CASSet:SEQuence "{sequence_name(buffer)}",1;'
                f":OUTPut{channel}:STATe 1;:AWGControl:RUN",
                timeout_s=self._arm_timeout_s,
            )
            since = self.link.urgencies
        self._await_waiting(since)
        if not self.output.get():
            raise self.error(InstrumentRefusedError, f"output {channel} reads off after it was switched on")

    def _await_waiting(self, since: int) -> None:
        self.link.wait_until(
            lambda: self.run_state.get() == "waiting for trigger",
            self._arm_timeout_s,
            "arming: waiting for trigger (is trigger A quiet, and does nobody else operate it?)",
            since=since,
            poll_s=_POLL_S,
            pause=self._pause,
        )

    def extra_trigger_seen(self) -> bool:
        """After a frame: False when exactly one trigger came, True when more did (or the run was stopped).

        Raises NotReadyError when no trigger came at all, and InstrumentRefusedError when the generator found something
        wrong meanwhile, as a reference that was pulled.  It updates its current step with a
        delay, so the answer may take up to ``settle_s`` where something is wrong; it is immediate where
        all is well.
        """
        deadline = self._clock() + self._settle_s
        while True:
            state, step = self._progress()
            if step == "END" or state == "stopped":
                return True
            if state == "waiting for trigger" and step == "2":
                self.link.require_no_errors("playing a frame")
                return False
            if self._clock() >= deadline:
                if state == "waiting for trigger":
                    raise self.error(
                        NotReadyError,
                        f"no trigger came (still waiting in step {step}); check the trigger cable",
                    )
                return True
            self._pause(_POLL_S)

    def _progress(self) -> tuple[str, str]:
        """(run state, current sequence step as text)."""
        return self.link.query_parsed(f"AWGControl:RSTATe?;:SOURce{self._channel}:SCSTep?", parse_progress)

    # A carver's pattern, which is public and may repeat

    def carve(self, pattern: Samples, sample_rate_hz: float, amplitude_vpp: float) -> None:
        """Wait for trigger A, then play ``pattern`` without end, until :meth:`stop`.

        Its edges keep their distance to every later trigger that comes on the grid of the reference.  Raises LimitError
        for a pattern of a wrong type, length or level, and what :meth:`configure` and :meth:`arm` raise.
        """
        self._check_samples(pattern, pattern.size)
        self.configure(sample_rate_hz, amplitude_vpp)
        with self.link.transaction():
            self._delete_all()
            self.trigger_state.hold()
            self.trigger_state.require()
            self.must_end_dark()
            self._change_memory(f'WLISt:WAVeform:NEW "{CARVER_PATTERN}",{pattern.size}')
            self._send(CARVER_PATTERN, pattern)
            for command in carving_commands(self._channel):
                self.link.command(command, timeout_s=self._arm_timeout_s)
            since = self.link.urgencies
        self._await_waiting(since)

    def check_carving(self) -> None:
        """NotReadyError unless the pattern runs, InstrumentRefusedError where the generator found something wrong."""
        self.link.require_no_errors("repeating the carver's pattern")
        if (state := self.run_state()) != "running":
            raise self.error(
                NotReadyError,
                f"the carver's pattern does not run ({state}); check the trigger cable and its levels",
            )

    def stop(self) -> None:
        """0 V: the pattern ends and the output is off."""
        with self.link.transaction():
            self.link.command(f"AWGControl:STOP;:OUTPut{self._channel}:STATe 0")

    # Erasing

    def erase(self, buffer: FrameBuffer) -> None:
        """Overwrite the frame in ``buffer`` with zeros.

        The next :meth:`upload` into a buffer overwrites it just as well, so this is for a buffer that is
        not used again soon.
        """
        with self.link.transaction():
            self._loaded[buffer] = False
            if self._n_samples:
                self._send(frame_name(buffer), np.zeros(self._n_samples, np.float32))

    def erase_all(self) -> None:
        """Stop, overwrite both frames, and delete all waveforms and sequences; :meth:`prepare` is next."""
        with self.link.transaction():
            self.link.command("AWGControl:STOP")
            for buffer in (0, 1):
                self.erase(buffer)
            self._delete_all()

    def safe_state(self) -> None:
        """Stop, switch both outputs off, delete all sequences and waveforms; all of it read back."""
        self.link.urgently(self._make_safe)

    def _make_safe(self) -> None:
        self._forget()
        link = self.link
        for command in ("AWGControl:STOP", *(f"OUTPut{channel}:STATe 0" for channel in CHANNELS)):
            link.tell(command)
        wrong = [f"output {n} is on" for n in CHANNELS if link.query_bool(f"OUTPut{n}:STATe?")]
        for command in ("SLISt:SEQuence:DELete ALL", "WLISt:WAVeform:DELete ALL"):
            link.tell(command)
        if state := link.query_int("AWGControl:RSTATe?"):
            wrong.append(f"run state is {state}")
        lacks_sequences = self._installed and SEQUENCING_OPTION not in self._installed
        for what in ("WLISt:SIZE?",) if lacks_sequences else ("WLISt:SIZE?", "SLISt:SIZE?"):
            if left := link.query_int(what, timeout_s=self._memory_timeout_s):
                wrong.append(f"{what} is {left}")
        if wrong:
            raise self.error(
                NotReadyError,
                f"{', '.join(wrong)} after it was stopped, switched off and erased; switch it off at its front panel",
            )

    def _delete_all(self) -> None:
        self._forget()
        for command in ("SLISt:SEQuence:DELete ALL", "WLISt:WAVeform:DELete ALL"):
            self._change_memory(command)

    def _forget(self) -> None:
        self._n_samples = 0
        self._loaded = [False, False]

    # Helpers

    def _send(self, waveform: str, samples: Samples) -> None:
        self.link.write_block(
            f'WLISt:WAVeform:DATA "{waveform}",0,{samples.size},',
            samples.data,
            timeout_s=self._upload_timeout_s + samples.nbytes / self._upload_bytes_per_s,
        )

    def _require_prepared(self) -> None:
        if not self._n_samples:
            raise self.error(
                NotReadyError, "no waveforms are prepared (or the link was reopened); call prepare() first"
            )

    def _check_samples(self, samples: Samples, n_samples: int) -> None:
        if why := why_refused(samples, n_samples):
            raise self.error(LimitError, f"{why}; nothing was sent")


def parse_progress(reply: str) -> tuple[str, str]:
    """Run state and step from ``1;"2"``.  Raises ValueError for anything else."""
    state, _, step = reply.partition(";")
    if not step:
        raise ValueError("not a run state and a step")
    return parse_word(state, RUN_STATES), unquote(step).upper()
