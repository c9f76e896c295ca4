"""Simulated Keysight 33622A: waveform memory, sequences that wait for triggers, levels and units, error queue.

Sequences (``DATA:SEQuence``) play their segments one after the other and begin anew; one marked ``onceWaitTrig`` plays
and waits for an edge at the trigger input, while ``TRIGger:SOURce`` is EXT.  A waveform whose name is in memory cannot be
loaded again (+786), there is no deleting but of all of a channel's, and bursts do not play sequences (-221).  Playing takes
no time here.  What comes out goes into 50 ohm, whatever load the display reckons with, with edges that the output stage and
the filter make.

Sources: those of :mod:`drivers.modulators.keysight_33600`.  Unverified: codes +785 and +781, which are those of the 33220A
family; +580 for a reference that is not there; that the waiting bit of the operation register is set while a sequence waits;
that a sequence begins when the output is switched on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from drivers.links.ieee488 import split_outside_quotes, unquote
from sim_backends.faults import FaultInjector
from sim_backends.lines import Edge, crosses
from sim_backends.modulators.cabled import TTL_EDGE, Alone, Around, OneChannel
from sim_backends.modulators.trueform_settings import INFINITE, SOURCE, Settings, shown
from sim_backends.optics_parts import Drive
from sim_backends.servers import (
    DATA_OUT_OF_RANGE,
    DATA_TYPE,
    SETTINGS_CONFLICT,
    Call,
    ScpiDevice,
    ScpiError,
    ScpiTwin,
)
from sim_backends.site import Simulated, Site

IDENTITY = "Agilent Technologies,33622A,SIM{serial:05d},A.02.03-3.15-03-64-02"
BUILT_IN = "INT:\\BUILTIN\\EXP_RISE.ARB"
FUNCTIONS = ("SINusoid", "SQUare", "TRIangle", "RAMP", "PULSe", "PRBS", "NOISe", "ARBitrary", "DC")
PLAYS = ("once", "onceWaitTrig", "repeat", "repeatInf", "repeatTilTrig")
EDGE_PS = 2900.0
"""Rise of the output stage, 10 to 90 %."""
FILTER_BANDS = {"NORM": 0.27, "STEP": 0.13}
"""-3 dB of the filters over the sample rate (Keysight's help pages, waveform generation tutorial; STEP unverified)."""
MOST_UNFILTERED_HZ, MOST_HZ = 250e6, 1e9
_NO_ROOM, _NO_WAVEFORM, _IN_MEMORY = (
    (781, "Not enough memory to store new arb waveform"),
    (785, "Specified arb waveform does not exist"),
    (786, "Specified arb waveform already exists"),
)
NO_REFERENCE = (580, "Reference phase-locked loop is unlocked")
_WAITING = 1 << 5
_VRMS_PER_VPP = 1 / (2 * math.sqrt(2))

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Segment:
    """A waveform of a sequence, how often it plays, and what comes then."""

    waveform: str
    repeat: int
    play: str


@dataclass
class Output:
    """One channel: level, memory, and where its sequence stands."""

    on: bool = False
    function: str = "SIN"
    volts: float = 0.1
    offset_v: float = 0.0
    unit: str = "VPP"
    rate_hz: float = 40e3
    filter: str = "STEP"
    burst: bool = False
    asset: str = BUILT_IN
    waveforms: dict[str, Samples] = field(default_factory=dict, repr=False)
    sequences: dict[str, list[Segment]] = field(default_factory=dict)
    step: int = 0
    waiting: bool = False
    driven: bool = False

    def run(self, step: int) -> list[Samples]:
        """Play from segment ``step`` until one waits or has no end; what was played, each float32 of shape (samples,)."""
        segments, played = self.sequences[self.asset], list[Samples]()
        for self.step in [*range(step, len(segments)), *range(step)]:
            segment = segments[self.step]
            waveform = self.waveforms[segment.waveform]
            played.extend([waveform] * (max(segment.repeat, 1) if segment.play == "repeat" else 1))
            self.waiting = segment.play in ("onceWaitTrig", "repeatTilTrig")
            if self.waiting or segment.play == "repeatInf":
                break
        return played


class _Device(ScpiDevice):
    """The command tree."""

    def __init__(self, faults: FaultInjector, identity: str, memory: int, around: Around) -> None:
        super().__init__(identity, faults, no_error='+0,"No error"')
        self._around = around
        self._memory = memory
        self.outputs = {1: Output(), 2: Output()}
        self.reference = "INT"
        self.event = 0
        self.settings = Settings(self, self._follow)
        self.add("*RST", self._reset)
        self.add("*OPT?", lambda call: "MEM" if memory > 4_000_000 else "0")
        self.add("*TRG", lambda call: None)  # advances bursts of source BUS; no sequence (public notes)
        self.add("ABORt", lambda call: None)
        self.add(f"{SOURCE}PHASe:SYNChronize", lambda call: None)
        for silent in ("SYSTem:BEEPer[:IMMediate]", "DISPlay:TEXT", "DISPlay:TEXT:CLEar"):
            self.add(silent, lambda call: None)
        self._add_levels()
        self._add_arbitrary()
        self._add_lines()

    # Declarations

    def _add_levels(self) -> None:
        self.add("OUTPut#[:STATe]", self._switch)
        self.add("OUTPut#[:STATe]?", lambda c: str(int(self._output(c).on)))
        self.add(f"{SOURCE}FUNCtion", lambda c: self._choose(c, "function", *FUNCTIONS))
        self.add(f"{SOURCE}FUNCtion?", lambda c: self._output(c).function)
        self.add(f"{SOURCE}VOLTage:UNIT", lambda c: self._choose(c, "unit", "VPP", "VRMS", "DBM"))
        self.add(f"{SOURCE}VOLTage:UNIT?", lambda c: self._output(c).unit)
        self.add(f"{SOURCE}VOLTage[:AMPLitude]", self._set_amplitude)
        self.add(f"{SOURCE}VOLTage[:AMPLitude]?", lambda c: shown(_in_unit(self._output(c))))
        self.add(f"{SOURCE}VOLTage:OFFSet", lambda c: self._set_number(c, "offset_v", -5.0, 5.0))
        self.add(f"{SOURCE}VOLTage:OFFSet?", lambda c: shown(self._output(c).offset_v))
        for name, sign in (("HIGH", 1), ("LOW", -1)):
            self.add(f"{SOURCE}VOLTage:{name}", lambda c, sign=sign: self._set_end(c, sign))  # type: ignore[misc]
            self.add(
                f"{SOURCE}VOLTage:{name}?",
                lambda c, sign=sign: shown(self._output(c).offset_v + sign * self._output(c).volts / 2),  # type: ignore[misc]
            )

    def _add_arbitrary(self) -> None:
        add, source = self.add, f"{SOURCE}FUNCtion:ARBitrary"
        add(source, self._select)
        add(f"{source}?", lambda c: f'"{self._output(c).asset}"')
        add(f"{source}:SRATe", self._set_rate)
        add(f"{source}:SRATe?", lambda c: shown(self._output(c).rate_hz))
        add(f"{source}:FILTer", self._set_filter)
        add(f"{source}:FILTer?", lambda c: self._output(c).filter)
        add(f"{SOURCE}BURSt:STATe", self._set_burst)
        add(f"{SOURCE}BURSt:STATe?", lambda c: str(int(self._output(c).burst)))
        add(f"{SOURCE}DATA:VOLatile:CLEar", self._clear)
        add(f"{SOURCE}DATA:VOLatile:FREE?", lambda c: f"{self._free(self._output(c)):+d}")
        add(f"{SOURCE}DATA:VOLatile:CATalog?", lambda c: _catalogue(self._output(c)))
        add(f"{SOURCE}DATA:ARBitrary#:DAC", lambda c: self._load(c, dac=True))
        add(f"{SOURCE}DATA:ARBitrary#", lambda c: self._load(c, dac=False))
        add(f"{SOURCE}DATA:SEQuence", self._load_sequence)

    def _add_lines(self) -> None:
        self.add("ROSCillator:SOURce", self._set_reference)
        self.add("ROSCillator:SOURce?", lambda c: self.reference)
        self.add("STATus:OPERation:CONDition?", lambda c: f"{self._condition():+d}")
        self.add("STATus:OPERation[:EVENt]?", self._read_event)

    # Levels

    def _output(self, call: Call) -> Output:
        if call.suffixes[0] not in self.outputs:
            raise ScpiError(-114, "Header suffix out of range")
        return self.outputs[call.suffixes[0]]

    def _choose(self, call: Call, attribute: str, *words: str) -> None:
        output = self._output(call)
        setattr(output, attribute, call.choice(0, *words))
        if attribute == "function":
            self._begin(output)

    def _set_number(self, call: Call, attribute: str, low: float, high: float) -> None:
        if not low <= (value := call.number(0)) <= high:
            raise ScpiError(*DATA_OUT_OF_RANGE)
        setattr(self._output(call), attribute, value)
        self._follow()

    def _set_amplitude(self, call: Call) -> None:
        output = self._output(call)
        volts = _from_unit(call.number(0), output.unit)
        if not 1e-3 <= volts <= 10.0:
            raise ScpiError(*DATA_OUT_OF_RANGE)
        output.volts = volts

    def _set_end(self, call: Call, sign: int) -> None:
        output, value = self._output(call), call.number(0)
        other = output.offset_v - sign * output.volts / 2
        if not 1e-3 <= (volts := sign * (value - other)) <= 10.0:
            raise ScpiError(*DATA_OUT_OF_RANGE)
        output.volts, output.offset_v = volts, (value + other) / 2

    def _switch(self, call: Call) -> None:
        output = self._output(call)
        output.on = call.boolean(0)
        self._begin(output)

    # Memory

    def _free(self, output: Output) -> int:
        return self._memory - sum(each.size for each in output.waveforms.values())

    def _load(self, call: Call, *, dac: bool) -> None:
        output, name = self._output(call), unquote(call.text(0))
        samples = self._samples(call, dac=dac)
        if name in output.waveforms or name in output.sequences:
            raise ScpiError(*_IN_MEMORY)
        if not 32 <= samples.size <= self._free(output):
            raise ScpiError(*(_NO_ROOM if samples.size >= 32 else DATA_OUT_OF_RANGE))
        if not (samples.max() <= 1.0 and samples.min() >= -1.0):
            raise ScpiError(*DATA_OUT_OF_RANGE)
        output.waveforms[name] = samples

    def _samples(self, call: Call, *, dac: bool) -> Samples:
        scale = np.float32(1 / 32767 if dac else 1.0)
        if call.block is None:
            numbers = [call.number(each) for each in range(1, len(call.arguments))]
            return np.array(numbers, np.float32) * scale
        order = "<" if self.settings.word("FORMat:BORDer", 1) == "SWAP" else ">"
        kind = np.dtype(f"{order}i2" if dac else f"{order}f4")
        if call.block_bytes % kind.itemsize:
            raise ScpiError(*DATA_TYPE)
        samples: Samples = np.frombuffer(call.block, kind).astype(np.float32)
        samples *= scale
        return samples

    def _load_sequence(self, call: Call) -> None:
        output = self._output(call)
        text = bytes(call.block).decode("latin-1") if call.block is not None else ",".join(call.arguments)
        name, *rest = [unquote(each) for each in split_outside_quotes(text, ",")]
        rows = [rest[at : at + 5] for at in range(0, len(rest), 5)]
        if name in output.sequences or name in output.waveforms:
            raise ScpiError(*_IN_MEMORY)
        try:
            segments = [Segment(wave, int(repeat), play) for wave, repeat, play, _, _ in rows]
        except ValueError:
            raise ScpiError(*DATA_TYPE) from None
        if not segments or any(each.play not in PLAYS for each in segments):
            raise ScpiError(*DATA_TYPE)
        if any(each.waveform not in output.waveforms for each in segments):
            raise ScpiError(*_NO_WAVEFORM)
        output.sequences[name] = segments

    def _clear(self, call: Call) -> None:
        """The default waveform takes the place of what was selected."""
        output = self._output(call)
        output.waveforms.clear()
        output.sequences.clear()
        output.asset = BUILT_IN
        self._begin(output)

    def _select(self, call: Call) -> None:
        output, name = self._output(call), unquote(call.text(0))
        if name not in (*output.waveforms, *output.sequences, BUILT_IN):
            raise ScpiError(*_NO_WAVEFORM)
        output.asset = name
        self._begin(output)

    def _set_rate(self, call: Call) -> None:
        output = self._output(call)
        most_hz = MOST_UNFILTERED_HZ if output.filter == "OFF" else MOST_HZ
        self._set_number(call, "rate_hz", 1e-6, most_hz)

    def _set_filter(self, call: Call) -> None:
        output, word = self._output(call), call.choice(0, "NORMal", "STEP", "OFF")
        if word == "OFF" and output.rate_hz > MOST_UNFILTERED_HZ:
            raise ScpiError(*SETTINGS_CONFLICT)
        output.filter = word

    def _set_burst(self, call: Call) -> None:
        output, on = self._output(call), call.boolean(0)
        if on and output.asset in output.sequences:
            raise ScpiError(SETTINGS_CONFLICT[0], "Settings conflict; not able to burst this function")
        output.burst = on

    # Lines

    def _set_reference(self, call: Call) -> None:
        self.reference = call.choice(0, "INTernal", "EXTernal")
        if self.lost:
            raise ScpiError(*NO_REFERENCE)

    @property
    def lost(self) -> bool:
        """Whether the clock has nothing to follow, though it should."""
        return self.reference == "EXT" and not self._around.has_reference()

    def _condition(self) -> int:
        return _WAITING if any(each.waiting for each in self.outputs.values()) else 0

    def _read_event(self, call: Call) -> str:
        event, self.event = self.event, 0
        return f"{event:+d}"

    def _begin(self, output: Output) -> None:
        """After a change of what is selected: a sequence starts at its first segment, anything else ends it."""
        output.waiting = False
        if output.on and output.function == "ARB" and output.asset in output.sequences:
            output.run(0)
            self.event |= _WAITING * output.waiting
        self._follow()

    def _follow(self) -> None:
        """A channel that is off, or whose sequence begins anew, gives 0 V."""
        for number, output in self.outputs.items():
            if output.driven and not (output.on and output.asset in output.sequences):
                output.driven = False
                self._around.drive(f"ch{number}", None, clock_error=self._clock_error())

    def _clock_error(self) -> float:
        return self._around.clock_error(external=self.reference == "EXT")

    def trigger(self, edge: Edge) -> dict[int, Drive]:
        """Advance the channels that see the edge; what each that is not silent puts out."""
        plays: dict[int, Drive] = {}
        with self.lock:
            for number, output in self.outputs.items():
                if not (output.waiting and self._sees(number, edge)):
                    continue
                if self.lost:
                    self.errors.push(ScpiError(*NO_REFERENCE))
                segments = len(output.sequences[output.asset])
                played = output.run((output.step + 1) % segments)
                self.event |= _WAITING * output.waiting
                if any(each.any() for each in played):
                    plays[number] = self._drive(number, output, played, edge.at_ps)
            for number, drive in plays.items():
                self.outputs[number].driven = True
                self._around.drive(f"ch{number}", drive, clock_error=self._clock_error())
        return plays

    def _sees(self, number: int, edge: Edge) -> bool:
        rising = self.settings.word("TRIGger#:SLOPe", number) == "POS"
        external = self.settings.word("TRIGger#:SOURce", number) == "EXT"
        return external and crosses(edge, self.settings.number("TRIGger#:LEVel", number), rising=rising)

    def _drive(self, number: int, output: Output, played: list[Samples], at_ps: float) -> Drive:
        while not played[-1].any():
            played.pop()
        samples = played[0] if len(played) == 1 else np.concatenate(played)
        load_ohm = self.settings.number("OUTPut#:LOAD", number)
        into_50 = 0.5 if load_ohm == INFINITE else (load_ohm + 50) / (2 * load_ohm)
        sign = -1.0 if self.settings.word("OUTPut#:POLarity", number) == "INV" else 1.0
        if output.offset_v:
            samples = samples + np.float32(2 * output.offset_v / output.volts)
        delay_ps = 1e12 * self.settings.number("TRIGger#:DELay", number)
        return Drive(
            samples,
            1e12 / output.rate_hz / (1 + self._clock_error()),
            sign * into_50 * output.volts,
            at_ps + self._around.latency_ps + delay_ps,
            rise_ps=_rise_ps(output),
        )

    def _reset(self, call: Call | None = None) -> None:
        """Waveforms stay in memory until they are cleared or the power goes."""
        for output in self.outputs.values():
            kept = Output(waveforms=output.waveforms, sequences=output.sequences, driven=output.driven)
            output.__dict__.update(kept.__dict__)
        self.reference = "INT"
        self.settings.reset()
        self._follow()

    def leave(self) -> None:
        """The state in which an earlier user left it: other units, load and clock, outputs on, a waveform in memory."""
        for number, output in self.outputs.items():
            output.on, output.unit, output.offset_v, output.burst = True, "VRMS", 0.3, True
            output.volts, output.rate_hz, output.filter = 4.0, 1e9, "NORM"
            output.waveforms["of_someone"] = np.full(32, 0.5, np.float32)
            for header, value in (
                ("OUTPut#:LOAD", INFINITE),
                ("OUTPut#:POLarity", "INV"),
                (f"{SOURCE}AM:STATe", True),
                (f"{SOURCE}COMBine:FEED", "CH2"),
                ("TRIGger#:SOURce", "BUS"),
                ("TRIGger#:SLOPe", "NEG"),
                ("TRIGger#:LEVel", 3.0),
                ("TRIGger#:DELay", 1e-3),
                ("OUTPut:TRIGger[:STATe]", True),
                ("INITiate#:CONTinuous", False),
            ):
                self.settings.put(header, number, value)
        self.errors.push(ScpiError(-113, "Undefined header"))
        self.errors.push(ScpiError(*DATA_OUT_OF_RANGE))


def _rise_ps(output: Output) -> float:
    """Of the output stage, and of the filter where one is on: .35 over its band."""
    band = FILTER_BANDS.get(output.filter)
    return math.hypot(EDGE_PS, 0.35e12 / (band * output.rate_hz)) if band else EDGE_PS


def _in_unit(output: Output) -> float:
    """The amplitude in its unit, of a sine wave."""
    vrms = output.volts * _VRMS_PER_VPP
    return {"VPP": output.volts, "VRMS": vrms, "DBM": 10 * math.log10(vrms**2 / 50 * 1e3)}[output.unit]


def _from_unit(value: float, unit: str) -> float:
    if unit == "DBM":
        value = math.sqrt(50 * 1e-3 * 10 ** (value / 10))
    return value if unit == "VPP" else value / _VRMS_PER_VPP


def _catalogue(output: Output) -> str:
    return ",".join(f'"{name}"' for name in (BUILT_IN, *output.waveforms, *output.sequences))


def build(site: Site) -> Simulated:
    """The generator whose channel, named by the option ``channel``, drives what it serves; memory as the options say."""
    around = OneChannel(site, f"ch{site.options.get('channel', 1)}")
    twin = Keysight33622ATwin(
        serial=site.number, memory_msa=int(str(site.options.get("memory_msa", 4))), around=around
    )
    site.on_trigger(twin.edge)
    return Simulated(twin, lambda: twin.serve(site.host, *site.ports))


class Keysight33622ATwin(ScpiTwin):
    """The simulated generator: :meth:`serve` it, :meth:`trigger` it, inspect its :meth:`state`."""

    def __init__(
        self,
        *,
        serial: int = 1,
        memory_msa: int = 4,
        left_by_someone: bool = False,
        around: Around | None = None,
    ) -> None:
        faults = FaultInjector()
        identity = IDENTITY.format(serial=serial)
        self._device = _Device(faults, identity, memory_msa * 1_000_000, around or Alone())
        super().__init__(self._device, faults)
        if left_by_someone:
            self._device.leave()

    def edge(self, edge: Edge) -> None:
        """An edge arrives at the trigger input."""
        self._device.trigger(edge)

    def trigger(self, edge: Edge = TTL_EDGE) -> dict[int, Drive] | None:
        """An edge arrives: what each channel plays, None when all give 0 V."""
        return self._device.trigger(edge) or None

    def is_safe(self) -> bool:
        """Outputs off, and no waveform left: waveforms are secret."""
        device = self._device
        with device.lock:
            return not any(each.on or each.waveforms for each in device.outputs.values())

    def state(self) -> dict[str, object]:
        """Settings and names; never samples."""
        device = self._device
        with device.lock:
            outputs = device.outputs
            return {
                "outputs": {n: each.on for n, each in outputs.items()},
                "functions": {n: each.function for n, each in outputs.items()},
                "amplitude_vpp": {n: each.volts for n, each in outputs.items()},
                "offset_v": {n: each.offset_v for n, each in outputs.items()},
                "rate_hz": {n: each.rate_hz for n, each in outputs.items()},
                "filter": {n: each.filter for n, each in outputs.items()},
                "waiting": {n: each.waiting for n, each in outputs.items()},
                "waveforms": {
                    n: {k: v.size for k, v in each.waveforms.items()} for n, each in outputs.items()
                },
                "sequences": {n: list(each.sequences) for n, each in outputs.items()},
                "clock_source": device.reference,
                "errors": len(device.errors),
            }
