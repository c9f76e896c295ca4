"""Tektronix AWG70002A: plays one frame of modulator voltages, once per arming.

Two waveforms ``frame0`` and ``frame1`` are double-buffered: one plays while the other is being loaded.
Each has a sequence of two steps that both wait for trigger A:

    step 1   the frame, once, then next
    step 2   a short waveform of zeros, once, then END (0 V until stopped)

After the one expected trigger the generator waits in step 2.  An extra trigger therefore outputs zeros,
nothing secret, and is visible: the generator no longer waits (:meth:`AWG70002A.extra_trigger_seen`).
A buffer can be armed once per upload, so that a pattern is never silently repeated.

Waveforms are key.  They go through the waveform list (``WLISt:WAVeform:DATA``), never through a file on the
generator's disk; while waiting the output holds 0 V instead of the first sample; samples appear in no
parameter, snapshot, log or error.

Commands: Tektronix's own open command tables, github tektronix/tm_devices ``commands/gen_chhuo_awg`` and
``gen_btm6t_awg/slist.py`` (syntax and descriptions of the AWG70000A programmer manual), and qcodes
``instrument_drivers/tektronix/AWG70000A.py``.  Sequence use as in github Ulm-IQO/qudi-iqo-modules
``hardware/awg/tektronix_awg70k.py``.  ``SOURce:SCSTep?`` answers ``"2"`` or ``END``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from qcodes.parameters import Parameter

from drivers.links.errors import InstrumentRefusedError, LimitError, NotReadyError
from drivers.links.limits import Within
from drivers.scpi import ScpiInstrument

FrameBuffer = Literal[0, 1]
Samples = npt.NDArray[np.float32]
"""1-d float32: one sample per element, full scale -1 to 1."""

MIN_SAMPLES = 2400
"""Shortest waveform that the AWG70000 series plays (qcodes AWG70000A.py)."""
MAX_SAMPLES = 249_999_999
"""Samples of 4 bytes in one IEEE 488.2 block."""
SAMPLE_RATE_LIMITS_HZ = (1.49e3, 25e9)
AMPLITUDE_LIMITS_VPP = (0.25, 0.5)
_ZEROS = "zeros"
_CHUNK = 1 << 18
_POLL_S = 2e-3
_STOPPED, _WAITING = 0, 1


def _frame(buffer: FrameBuffer) -> str:
    return f"frame{buffer}"


def _sequence(buffer: FrameBuffer) -> str:
    return f"once{buffer}"


def sequence_commands(buffer: FrameBuffer) -> list[str]:
    """The commands that build the two-step sequence of ``buffer`` from existing waveforms."""
    name = _sequence(buffer)
    commands = [f'SLISt:SEQuence:NEW "{name}",2,1']
    for step, waveform, goto in ((1, _frame(buffer), "NEXT"), (2, _ZEROS, "END")):
        head = f"SLISt:SEQuence:STEP{step}"
        commands += [
            f'{head}:TASSet1:WAVeform "{name}","{waveform}"',
            f'{head}:WINPut "{name}",ATRigger',
            f'{head}:RCOunt "{name}",ONCE',
            f'{head}:GOTO "{name}",{goto}',
        ]
    return commands


class AWG70002A(ScpiInstrument):
    """Driver of one AWG70002A, using one of its channels.

    Options: ``channel`` 1 or 2; ``upload_timeout_s`` for one waveform; ``arm_timeout_s`` for loading a
    sequence until it waits; ``settle_s`` how late the generator may report its step; ``pause`` and
    ``clock`` for tests.
    """

    MODELS = frozenset({"AWG70002A", "AWG70002B"})

    def __init__(
        self,
        name: str,
        address: str,
        *,
        channel: Literal[1, 2] = 1,
        settle_s: float = 2.0,
        upload_timeout_s: float = 30.0,
        arm_timeout_s: float = 10.0,
        pause: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, address, **kwargs)
        if channel not in (1, 2):
            raise LimitError(f"channel {channel} is not 1 or 2", instrument=name, address=address)
        self._channel = channel
        self._settle_s = settle_s
        self._upload_timeout_s = upload_timeout_s
        self._arm_timeout_s = arm_timeout_s
        self._pause = pause
        self._clock = clock
        self._n_samples = 0
        self._loaded = [False, False]
        self._configured: tuple[float, float] | None = None
        self._add_parameters()

    def _add_parameters(self) -> None:
        link, channel = self.link, self._channel
        self.sample_rate_hz: Parameter[float, AWG70002A] = self.add_parameter(
            "sample_rate_hz",
            label="Sample rate",
            unit="Hz",
            get_cmd=lambda: link.query_float("CLOCk:SRATe?"),
            set_cmd=lambda value: link.command(f"CLOCk:SRATe {value:.12g}"),
            vals=Within(*SAMPLE_RATE_LIMITS_HZ, "Hz"),
        )
        self.amplitude_vpp: Parameter[float, AWG70002A] = self.add_parameter(
            "amplitude_vpp",
            label="Amplitude, peak to peak",
            unit="V",
            get_cmd=lambda: link.query_float(f"SOURce{channel}:VOLTage?"),
            set_cmd=lambda value: link.command(f"SOURce{channel}:VOLTage {value:.6g}"),
            vals=Within(*AMPLITUDE_LIMITS_VPP, "V"),
        )
        self.output: Parameter[bool, AWG70002A] = self.add_parameter(
            "output",
            label="Output on",
            get_cmd=lambda: bool(link.query_int(f"OUTPut{channel}:STATe?")),
        )
        self.run_state: Parameter[str, AWG70002A] = self.add_parameter(
            "run_state",
            label="Run state",
            get_cmd="AWGControl:RSTATe?",
            val_mapping={"stopped": "0", "waiting for trigger": "1", "running": "2"},
        )

    def ask_raw(self, cmd: str) -> str:
        """QCoDeS hook for parameters given by a query string."""
        return self.link.query(cmd)

    # Configuration

    def configure(self, sample_rate_hz: float, amplitude_vpp: float) -> None:
        """Stop, and set the clock and the level.

        Raises LimitError outside 1.49e3..25e9 Hz and 0.25..0.5 V, and InstrumentRefusedError when the
        generator refuses or reads back something else.
        """
        self.sample_rate_hz.validate(sample_rate_hz)
        self.amplitude_vpp.validate(amplitude_vpp)
        with self.link.transaction():
            self.link.command("AWGControl:STOP")
            self._configured = (sample_rate_hz, amplitude_vpp)
            self._apply_configuration()

    def _apply_configuration(self) -> None:
        if self._configured is None:
            return
        sample_rate_hz, amplitude_vpp = self._configured
        # 10 bits: no markers, full resolution.  ZERO: never hold the first symbol while waiting.
        self.link.command(f"SOURce{self._channel}:DAC:RESolution 10")
        self.link.command(f"OUTPut{self._channel}:WVALue:ANALog:STATe ZERO")
        self.sample_rate_hz.set(sample_rate_hz)
        self.amplitude_vpp.set(amplitude_vpp)
        for parameter, wanted, relative in (
            (self.sample_rate_hz, sample_rate_hz, 1e-6),
            (self.amplitude_vpp, amplitude_vpp, 1e-2),
        ):
            actual = float(parameter.get())
            if abs(actual - wanted) > relative * wanted:
                raise InstrumentRefusedError(
                    f"{parameter.name} reads back {actual:g} {parameter.unit} after {wanted:g} was set",
                    instrument=self.name,
                    address=self.address,
                )

    def restore_passive(self) -> None:
        """After a reopened link: stopped, outputs off, waveforms deleted, clock and level as configured."""
        self._make_safe()
        self._apply_configuration()

    def prepare(self, slots: int, samples_per_slot: int = 1) -> None:
        """Create both waveforms of ``slots * samples_per_slot`` samples and their sequences, once.

        Does nothing when they exist with this length.  Raises LimitError for a length that the generator
        cannot hold.
        """
        n_samples = slots * samples_per_slot
        if not MIN_SAMPLES <= n_samples <= MAX_SAMPLES:
            raise LimitError(
                f"a frame of {n_samples} samples is outside {MIN_SAMPLES}..{MAX_SAMPLES} samples",
                instrument=self.name,
                address=self.address,
            )
        with self.link.transaction():
            if n_samples == self._n_samples:
                return
            self.link.command("AWGControl:STOP")
            self._delete_all()
            self.link.command(f'WLISt:WAVeform:NEW "{_ZEROS}",{MIN_SAMPLES}')
            for buffer in (0, 1):
                self.link.command(f'WLISt:WAVeform:NEW "{_frame(buffer)}",{n_samples}')
                for command in sequence_commands(buffer):
                    self.link.command(command)
            self._n_samples = n_samples

    # A frame

    def upload(self, buffer: FrameBuffer, samples: Samples) -> None:
        """Load ``samples`` (float32, C-contiguous, in [-1, 1] of amplitude/2) into ``buffer``.

        Returns once the generator has accepted them.  Raises NotReadyError without :meth:`prepare`,
        LimitError for a wrong type, length or level.
        """
        with self.link.transaction():
            self._require_prepared()
            self._check_samples(samples)
            self.must_end_dark()
            self._loaded[buffer] = False
            self._send(buffer, samples)
            self._loaded[buffer] = True

    def arm(self, buffer: FrameBuffer) -> None:
        """Assign the sequence of ``buffer``, output on, run, and confirm "waiting for trigger".

        Raises NotReadyError when the buffer holds no fresh frame, or when the generator does not wait for
        a trigger within ``arm_timeout_s``.
        """
        channel = self._channel
        with self.link.transaction():
            self._require_prepared()
            if not self._loaded[buffer]:
                raise NotReadyError(
                    f"buffer {buffer} holds no fresh frame; each upload can be armed once",
                    instrument=self.name,
                    address=self.address,
                )
            self._loaded[buffer] = False
            self.link.command(
                f'AWGControl:STOP;:SOURce{channel}:CASSet:SEQuence "{_sequence(buffer)}",1;'
                f":OUTPut{channel}:STATe 1;:AWGControl:RUN",
                timeout_s=self._arm_timeout_s,
            )
            deadline = self._clock() + self._arm_timeout_s
            while (state := self.link.query_int("AWGControl:RSTATe?")) != _WAITING:
                if self._clock() >= deadline:
                    raise NotReadyError(
                        f"run state is {state}, not 1 (waiting for trigger), {self._arm_timeout_s:g} s after arming; "
                        "check that nobody else operates the generator and that trigger A is quiet",
                        instrument=self.name,
                        address=self.address,
                    )
                self._pause(_POLL_S)

    def extra_trigger_seen(self) -> bool:
        """After a frame: False when exactly one trigger came, True when more did (or the run was stopped).

        Raises NotReadyError when no trigger came at all.  The generator updates its current step with a
        delay, so the answer may take up to ``settle_s`` where something is wrong; it is immediate where
        all is well.
        """
        deadline = self._clock() + self._settle_s
        while True:
            state, step = self._progress()
            if step == "END" or state == _STOPPED:
                return True
            if state == _WAITING and step == "2":
                return False
            if self._clock() >= deadline:
                if state == _WAITING:
                    raise NotReadyError(
                        f"no trigger came (still waiting in step {step}); check the trigger cable",
                        instrument=self.name,
                        address=self.address,
                    )
                return True
            self._pause(_POLL_S)

    def _progress(self) -> tuple[int, str]:
        """(run state, current sequence step as text)."""
        command = f"AWGControl:RSTATe?;:SOURce{self._channel}:SCSTep?"
        state, _, step = self.link.query(command).partition(";")
        if not step:
            raise self.link.malformed(command, "not a pair of answers")
        return self.link.number(command, state, int), step.strip().strip('"').upper()

    # Erasing

    def erase(self, buffer: FrameBuffer) -> None:
        """Overwrite the frame in ``buffer`` with zeros.

        The next :meth:`upload` into a buffer overwrites it just as well, so this is for a buffer that is
        not used again soon.
        """
        with self.link.transaction():
            self._loaded[buffer] = False
            if self._n_samples:
                self._send(buffer, np.zeros(self._n_samples, np.float32))

    def erase_all(self) -> None:
        """Stop, overwrite both frames, and delete all waveforms and sequences; :meth:`prepare` is next."""
        with self.link.transaction():
            self.link.command("AWGControl:STOP")
            for buffer in (0, 1):
                self.erase(buffer)
            self._delete_all()

    def safe_state(self) -> None:
        """Stop, switch both outputs off, delete all sequences and waveforms."""
        with self.link.transaction():
            self._make_safe()

    def _make_safe(self) -> None:
        self._forget()
        self.link.command(
            "AWGControl:STOP;:OUTPut1:STATe 0;:OUTPut2:STATe 0;"
            ":SLISt:SEQuence:DELete ALL;:WLISt:WAVeform:DELete ALL"
        )

    def _delete_all(self) -> None:
        self._forget()
        self.link.command("SLISt:SEQuence:DELete ALL;:WLISt:WAVeform:DELete ALL")

    def _forget(self) -> None:
        self._n_samples = 0
        self._loaded = [False, False]

    # Helpers

    def _send(self, buffer: FrameBuffer, samples: Samples) -> None:
        self.link.write_block(
            f'WLISt:WAVeform:DATA "{_frame(buffer)}",0,{samples.size},',
            samples.data,
            timeout_s=self._upload_timeout_s,
        )

    def _require_prepared(self) -> None:
        if not self._n_samples:
            raise NotReadyError(
                "no waveforms are prepared (or the link was reopened); call prepare() first",
                instrument=self.name,
                address=self.address,
            )

    def _check_samples(self, samples: Samples) -> None:
        why = ""
        if samples.dtype != np.dtype("<f4") or samples.ndim != 1 or not samples.flags.c_contiguous:
            why = "samples must be a contiguous one-dimensional array of little-endian float32"
        elif samples.size != self._n_samples:
            why = f"a frame has {self._n_samples} samples, not {samples.size}"
        elif not levels_in_range(samples):
            why = "a sample is outside -1..1 or not a number"
        if why:
            raise LimitError(f"{why}; nothing was sent", instrument=self.name, address=self.address)


def levels_in_range(samples: Samples) -> bool:
    """Whether all samples are numbers in [-1, 1]; NaN is out of range."""
    for start in range(0, samples.size, _CHUNK):
        chunk = samples[start : start + _CHUNK]
        if not (chunk.max() <= 1.0 and chunk.min() >= -1.0):
            return False
    return True
