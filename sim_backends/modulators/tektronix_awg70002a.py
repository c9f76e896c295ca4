"""Simulated Tektronix AWG70002A: waveform list, sequences, trigger A, error queue, files of QCoDeS uploads.

Command syntax and ranges from github tektronix/tm_devices (``commands/awg70ka_commands.py``) and from what
qcodes ``AWG70000A.py`` and Ulm-IQO/qudi-iqo-modules ``tektronix_awg70k.py`` send.  Deleting a loaded waveform
stops the run and switches the channel off.  Waveform blocks are received straight into the waveform's memory.

:meth:`AWG70002ATwin.trigger` is the trigger input.  Whether an edge triggers follows from level and slope of the input,
when samples come from the clock's source, phase and latency.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from drivers.links.ieee488 import short_form, unquote
from sim_backends.faults import FaultInjector
from sim_backends.lines import Edge
from sim_backends.modulators.awg_clock import NO_REFERENCE, ClockAndTrigger
from sim_backends.modulators.awg_fgen import FunctionGenerator
from sim_backends.modulators.awg_lists import MIN_SAMPLES, ListCommands
from sim_backends.modulators.cabled import TTL_EDGE, Alone, Around, OneChannel
from sim_backends.modulators.sequencer import AwgChannel, Memory, TriggerInput, Waveform, start, stop, trigger
from sim_backends.optics_parts import Drive
from sim_backends.servers import (
    DATA_OUT_OF_RANGE,
    ILLEGAL_VALUE,
    SETTINGS_CONFLICT,
    Call,
    ScpiDevice,
    ScpiError,
    ScpiTwin,
)
from sim_backends.site import Simulated, Site

IDENTITY = "TEKTRONIX,{model},SIM{serial:05d},FV:6.3.0080.0"
_HARDWARE_MISSING = (-241, "Hardware missing")
_SUFFIX_OUT_OF_RANGE = (-114, "Header suffix out of range")


class _Device(ScpiDevice):
    """The command tree."""

    def __init__(
        self, faults: FaultInjector, identity: str, options: str, clock_change_s: float, around: Around
    ) -> None:
        super().__init__(identity, faults)
        self._around = around
        self._playing: dict[int, tuple[Drive, float]] = {}
        self.memory = Memory()
        self.channels = {1: AwgChannel(), 2: AwgChannel()}
        self.all_off = False
        self._dc_amplifier = False
        self.add("*RST", self._reset)
        self.add("*OPT?", lambda call: options)
        self._add_outputs()
        self._add_paths()
        self.clock = ClockAndTrigger(self, clock_change_s, around.has_reference)
        self.lists = ListCommands(self, self.memory, self._unload, sequencing="03" in options.split(","))
        self.functions = FunctionGenerator(self, self._number_of)

    # Declarations

    def _add_outputs(self) -> None:
        number, switch = self._number, self._switch
        self.add("SOURce#:CASSet:WAVeform", self._assign_waveform)
        self.add("SOURce#:WAVeform", self._assign_waveform)
        self.add("SOURce#:CASSet:SEQuence", self._assign_sequence)
        self.add("SOURce#:CASSet:CLEar", self._clear_asset)
        self.add("SOURce#:CASSet?", lambda c: f'"{self._channel(c).asset}"')
        number("SOURce#:VOLTage[:LEVel][:IMMediate][:AMPLitude]", "amplitude_vpp", 0.25, 0.5)
        self.add("SOURce#:DAC:RESolution", self._set_resolution)
        self.add("SOURce#:DAC:RESolution?", lambda c: str(self._channel(c).resolution))
        self.add("SOURce#:MARKer#:VOLTage[:LEVel][:IMMediate]:HIGH", lambda c: self._set_marker(c, "HIGH"))
        self.add("SOURce#:MARKer#:VOLTage[:LEVel][:IMMediate]:LOW", lambda c: self._set_marker(c, "LOW"))
        self.add("SOURce#:MARKer#:VOLTage[:LEVel][:IMMediate]:HIGH?", lambda c: self._marker(c, "HIGH"))
        self.add("SOURce#:MARKer#:VOLTage[:LEVel][:IMMediate]:LOW?", lambda c: self._marker(c, "LOW"))
        self._marker_word("OUTPut#:WVALue:MARKer#", "waiting", "FIRSt", "LOW", "HIGH")
        self._marker_word("OUTPut#:SVALue:MARKer#", "stopped", "OFF", "LOW")
        switch("OUTPut#[:STATe]", self._set_output, lambda c: self._channel(c).output)
        switch("OUTPut:OFF", self._set_all_off, lambda c: self.all_off)
        self._word("OUTPut#:WVALue[:ANALog][:STATe]", "hold", "FIRSt", "ZERO")
        self._word("OUTPut#:SVALue[:ANALog][:STATe]", "stopped", "OFF", "ZERO")
        self._word("SOURce#:RMODe", "run_mode", "CONTinuous", "TRIGgered", "TCONtinuous")
        self._word("SOURce#:TINPut", "trigger_input", "ITRigger", "ATRigger", "BTRigger")
        self.add("AWGControl:RUN[:IMMediate]", self._run_all)
        self.add("AWGControl:STOP[:IMMediate]", self._stop_all)
        self.add("AWGControl:RSTate?", lambda c: str(self.run_state()))
        self.add("SOURce#:SCSTep?", self._current_step)
        self.add("TRIGger:IMMediate", self._software_trigger)

    def _add_paths(self) -> None:
        """Other ways from DAC to connector than the direct one need a DC amplifier (tm_devices ``output.py``)."""
        self.add("OUTPut#:PATH", self._set_path)
        self.add("OUTPut#:PATH?", self._ask_path)
        self.add("SOURce#:VOLTage[:LEVel][:IMMediate]:OFFSet", self._set_offset)
        self.add("SOURce#:VOLTage[:LEVel][:IMMediate]:OFFSet?", lambda c: f"{self._channel(c).offset_v:.10E}")
        self._number("SOURce#:SKEW", "skew_s", -100e-12, 100e-12)

    def _set_path(self, call: Call) -> None:
        path = call.choice(0, "DIRect", "AC", "DCAmplified")
        if not self._dc_amplifier:
            raise ScpiError(*_HARDWARE_MISSING)
        self._channel(call).path = path

    def _ask_path(self, call: Call) -> str:
        if not self._dc_amplifier:
            raise ScpiError(*_HARDWARE_MISSING)
        return self._channel(call).path

    def _set_offset(self, call: Call) -> None:
        value, channel = call.number(0), self._channel(call)
        if not self._dc_amplifier or channel.path != "DCAM":
            raise ScpiError(*SETTINGS_CONFLICT)
        if not -2.0 <= value <= 2.0:
            raise ScpiError(*DATA_OUT_OF_RANGE)
        channel.offset_v = value

    def _number(self, notation: str, attribute: str, low: float, high: float) -> None:
        def store(call: Call) -> None:
            value = call.number(0)
            if not low <= value <= high:
                raise ScpiError(*DATA_OUT_OF_RANGE)
            setattr(self._channel(call), attribute, value)

        self.add(notation, store)
        self.add(notation + "?", lambda c: f"{getattr(self._channel(c), attribute):.10E}")

    def _word(self, notation: str, attribute: str, *words: str) -> None:
        self.add(notation, lambda c: setattr(self._channel(c), attribute, c.choice(0, *words)))
        self.add(notation + "?", lambda c: str(getattr(self._channel(c), attribute)))

    def _switch(self, notation: str, store: Callable[[Call], None], load: Callable[[Call], bool]) -> None:
        self.add(notation, store)
        self.add(notation + "?", lambda c: str(int(load(c))))

    def _marker_word(self, notation: str, when: str, *words: str) -> None:
        """A marker's level while ``when``; the first of ``words`` is in force after ``*RST``."""
        first = short_form(words[0])

        def store(call: Call) -> None:
            levels = self._channel(call).marker_words
            levels[self._marker_number(call), when] = call.choice(0, *words)

        def load(call: Call) -> str:
            return self._channel(call).marker_words.get((self._marker_number(call), when), first)

        self.add(notation, store)
        self.add(notation + "?", load)

    # Outputs and run control

    def _number_of(self, call: Call) -> int:
        if call.suffixes[0] not in self.channels:
            raise ScpiError(*_SUFFIX_OUT_OF_RANGE)
        return call.suffixes[0]

    def _channel(self, call: Call) -> AwgChannel:
        return self.channels[self._number_of(call)]

    def _marker_number(self, call: Call) -> int:
        if call.suffixes[1] not in (1, 2):
            raise ScpiError(*_SUFFIX_OUT_OF_RANGE)
        return call.suffixes[1]

    def _set_resolution(self, call: Call) -> None:
        value = call.integer(0)
        if value not in (8, 9, 10):
            raise ScpiError(*ILLEGAL_VALUE)
        self._channel(call).resolution = value

    def _set_marker(self, call: Call, level: str) -> None:
        value = call.number(0)
        if not -1.4 <= value <= 1.4 or call.suffixes[1] not in (1, 2):
            raise ScpiError(*DATA_OUT_OF_RANGE)
        self._channel(call).marker_levels_v[call.suffixes[1], level] = value

    def _marker(self, call: Call, level: str) -> str:
        default = 1.0 if level == "HIGH" else 0.0
        return f"{self._channel(call).marker_levels_v.get((call.suffixes[1], level), default):.10E}"

    def _set_output(self, call: Call) -> None:
        self._channel(call).output = call.boolean(0)
        self._follow()

    def _set_all_off(self, call: Call) -> None:
        self.all_off = call.boolean(0)
        self._follow()

    def _assign_waveform(self, call: Call) -> None:
        channel, name = self._channel(call), unquote(call.text(0))
        if name not in self.memory.waveforms:
            raise ScpiError(*ILLEGAL_VALUE)
        stop(channel)
        channel.asset, channel.track = name, 0
        self._follow()

    def _assign_sequence(self, call: Call) -> None:
        channel, name = self._channel(call), unquote(call.text(0))
        track = call.integer(1) if len(call.arguments) > 1 else 1
        sequence = self.memory.sequences.get(name)
        if sequence is None:
            raise ScpiError(*ILLEGAL_VALUE)
        if not 1 <= track <= sequence.tracks:
            raise ScpiError(*DATA_OUT_OF_RANGE)
        if any(track not in step.waveforms for step in sequence.steps):
            raise ScpiError(*SETTINGS_CONFLICT)
        stop(channel)
        channel.asset, channel.track = name, track
        self._follow()

    def _clear_asset(self, call: Call) -> None:
        channel = self._channel(call)
        stop(channel)
        channel.asset, channel.track = "", 0
        self._follow()

    def _unload(self, name: str) -> None:
        """A deleted asset leaves the channels: the run stops and the channel is switched off."""
        for channel in self.channels.values():
            if channel.asset == name or self.memory.uses(channel, name):
                self._stop_all()
                channel.asset, channel.track, channel.output = "", 0, False

    def block_sink(self, text: bytes, length: int) -> memoryview | None:
        """See :meth:`ListCommands.block_sink`."""
        with self.lock:
            return self.lists.block_sink(text, length)

    def block_aborted(self, text: bytes) -> None:
        """See :meth:`ListCommands.block_aborted`."""
        with self.lock:
            self.lists.block_aborted(text)

    def _reset(self, call: Call) -> None:
        self.memory.waveforms.clear()
        self.memory.sequences.clear()
        self.channels = {1: AwgChannel(), 2: AwgChannel()}
        self.clock.reset()
        self.all_off = False
        self.functions.reset()
        self._follow()

    def _run_all(self, call: Call) -> None:
        if self.clock.mode != "AWG" or not any(channel.asset for channel in self.channels.values()):
            raise ScpiError(*SETTINGS_CONFLICT)
        if self.clock.lost:
            raise ScpiError(*NO_REFERENCE)
        for channel in self.channels.values():
            start(channel, self.memory)
        self._follow()

    def _stop_all(self, call: Call | None = None) -> None:
        for channel in self.channels.values():
            stop(channel)
        self._follow()

    def run_state(self) -> int:
        """0 stopped, 1 waiting for a trigger, 2 running."""
        states = {channel.state for channel in self.channels.values()}
        return 2 if "playing" in states else 1 if "waiting" in states else 0

    def _current_step(self, call: Call) -> str:
        channel = self._channel(call)
        if channel.step is not None:
            return f'"{channel.step + 1}"'
        return "END" if channel.track and channel.state == "playing" else '""'

    def _software_trigger(self, call: Call) -> None:
        word = call.choice(0, "ATRigger", "BTRigger") if call.arguments else "ATR"
        level_v = self.clock.inputs[word].level_v
        step = 1.0 if self.clock.inputs[word].slope == "POS" else -1.0
        self.trigger("ATR" if word == "ATR" else "BTR", Edge(0.0, level_v - step, level_v + step))

    def trigger(self, source: TriggerInput, edge: Edge) -> dict[int, Drive]:
        """Advance all channels that see the edge; what each audible one begins to play."""
        plays: dict[int, Drive] = {}
        with self.lock:
            if not self.clock.sees(source, edge):
                return plays
            if self.clock.lost:
                self.errors.push(ScpiError(*NO_REFERENCE))
            for number, channel in self.channels.items():
                ran = channel.state == "playing"
                waveform = trigger(channel, self.memory, source)
                if waveform is None or ran or waveform.loading or waveform.silent:
                    continue
                if self._audible(channel):
                    plays[number] = self._drive(channel, waveform, edge.at_ps + self._around.latency_ps)
            for number, (drive, error) in self._playing.items():  # a clock that has lost its reference since
                if self.channels[number].state == "playing" and error != self._clock_error():
                    self._put_out(number, drive)
            for number, drive in plays.items():
                self._put_out(number, drive)
        return plays

    def _audible(self, channel: AwgChannel) -> bool:
        return channel.output and not self.all_off

    def _clock_error(self) -> float:
        return self._around.clock_error(external=self.clock.external)

    def _drive(self, channel: AwgChannel, waveform: Waveform, start_ps: float) -> Drive:
        samples = waveform.samples.view()
        samples.flags.writeable = False
        return Drive(
            samples,
            1e12 / self.clock.sample_rate_hz / (1 + self._clock_error()),
            channel.amplitude_vpp,
            start_ps + self.clock.delay_ps,
        )

    def _put_out(self, number: int, drive: Drive | None) -> None:
        error = self._clock_error()
        if drive is None:
            self._playing.pop(number, None)
        else:
            self._playing[number] = drive, error
        self._around.drive(f"ch{number}", drive, clock_error=error)

    def _follow(self) -> None:
        """After a change: channels that no longer play, or whose output is off, give 0 V."""
        for number, channel in self.channels.items():
            playing = channel.state == "playing" and self._audible(channel)
            waveform = self.memory.waveforms.get(channel.asset)
            if not playing and number in self._playing:
                self._put_out(number, None)
            elif playing and number not in self._playing and waveform is not None and not waveform.silent:
                # A run that waited for nothing began at no particular time.
                self._put_out(number, self._drive(channel, waveform, 0.0))

    def leave(self) -> None:
        """The state in which an earlier user left it: other modes and clock, outputs on, a waveform in memory."""
        self.clock.leave()
        self._dc_amplifier = True
        for channel in self.channels.values():
            channel.output, channel.amplitude_vpp, channel.offset_v = True, 0.5, 0.2
            channel.hold, channel.stopped, channel.path, channel.skew_s = "FIRS", "ZERO", "DCAM", 50e-12
            channel.resolution, channel.run_mode, channel.trigger_input = 8, "TRIG", "BTR"
            channel.asset = "of_someone"
        self.memory.waveforms["of_someone"] = Waveform(np.full(MIN_SAMPLES, 0.5, np.float32), silent=False)
        self.all_off = True
        self.errors.push(ScpiError(-113, "Undefined header"))
        self.errors.push(ScpiError(*DATA_OUT_OF_RANGE))


def build(site: Site) -> Simulated:
    """The generator whose channel, named by the option ``channel``, drives what it serves, triggered at input A."""
    around = OneChannel(site, f"ch{site.options.get('channel', 1)}")
    twin = AWG70002ATwin(serial=site.number, around=around)
    site.on_trigger(twin.edge)
    return Simulated(twin, lambda: twin.serve(site.host, *site.ports))


class AWG70002ATwin(ScpiTwin):
    """The simulated generator: :meth:`serve` it, :meth:`trigger` it, inspect its :meth:`state`.

    ``options`` is its answer to ``*OPT?`` (03: sequencing); a change of the clock takes ``clock_change_s``;
    ``left_by_someone`` starts it in another user's state.
    """

    def __init__(
        self,
        *,
        serial: int = 1,
        model: str = "AWG70002A",
        options: str = "01,03,225",
        clock_change_s: float = 0.0,
        left_by_someone: bool = False,
        around: Around | None = None,
    ) -> None:
        faults = FaultInjector()
        identity = IDENTITY.format(model=model, serial=serial)
        self._device = _Device(faults, identity, options, clock_change_s, around or Alone())
        super().__init__(self._device, faults)
        if left_by_someone:
            self._device.leave()

    def edge(self, edge: Edge) -> None:
        """An edge arrives at trigger input A."""
        self._device.trigger("ATR", edge)

    def trigger(self, source: TriggerInput = "ATR", edge: Edge = TTL_EDGE) -> dict[int, Drive] | None:
        """An edge arrives at trigger input A (or B): what each channel plays, None when all give 0 V.

        A channel that is off, not waiting, or whose waveform is all zeros gives 0 V and is left out; the
        sequence advances in any case.  What plays is a read-only view of the waveform memory, which the next upload
        into the same waveform overwrites.
        """
        return self._device.trigger(source, edge) or None

    def is_safe(self) -> bool:
        """Stopped, outputs off, and no waveform left: waveforms are secret."""
        device = self._device
        with device.lock:
            outputs = any(channel.output for channel in device.channels.values()) and not device.all_off
            return not outputs and device.run_state() == 0 and not device.memory.waveforms

    def state(self) -> dict[str, object]:
        """Settings and names; never samples."""
        device = self._device
        with device.lock:
            return {
                "run_state": device.run_state(),
                "sample_rate_hz": device.clock.sample_rate_hz,
                "clock_source": device.clock.source,
                "mode": device.clock.mode,
                "outputs": {n: c.output and not device.all_off for n, c in device.channels.items()},
                "amplitude_vpp": {n: c.amplitude_vpp for n, c in device.channels.items()},
                "offset_v": {n: c.offset_v for n, c in device.channels.items()},
                "hold": {n: c.hold for n, c in device.channels.items()},
                "assets": {n: c.asset for n, c in device.channels.items()},
                "waveforms": {name: w.samples.size for name, w in device.memory.waveforms.items()},
                "silent": {name: w.silent for name, w in device.memory.waveforms.items()},
                "sequences": list(device.memory.sequences),
                "errors": len(device.errors),
            }
