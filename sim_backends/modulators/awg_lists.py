"""Waveform list, sequence list and file commands of the simulated AWG.

Syntax from github tektronix/tm_devices (``commands/gen_chhuo_awg/wlist.py``, ``gen_btm6t_awg/slist.py``);
the ``.wfmx`` format from qcodes ``AWG70000A.py``.  Waveform blocks are received straight into the waveform's
memory; a block with a sample outside [-1, 1] clears the waveform and pushes -222.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import numpy as np

from drivers.links.ieee488 import split_outside_quotes, unquote
from sim_backends.modulators.sequencer import Memory, Sequence, Step, Waveform
from sim_backends.servers import (
    DATA_OUT_OF_RANGE,
    ILLEGAL_VALUE,
    MISSING_PARAMETER,
    SETTINGS_CONFLICT,
    Call,
    ScpiDevice,
    ScpiError,
)

MIN_SAMPLES, MAX_SAMPLES = 2400, 2_000_000_000
MAX_STEPS = 16383
DEFAULT_FOLDER = "\\Users\\OEM\\Documents"
_FILE_NOT_FOUND = (-256, "File name not found")
_OPTION_MISSING = (-241, "Hardware missing")
_BLOCK_SIZE = (-161, "Invalid block data")
_SAMPLE_BYTES = 4
_DATA = re.compile(rb"\s*:?WLIS(?:T)?:WAV(?:EFORM)?:DATA\s+(.*)", re.IGNORECASE | re.DOTALL)


class ListCommands:
    """Declares the list commands on ``device``; ``unload(name)`` takes a deleted asset out of the channels.

    Sequences are an option of the instrument; which code refuses them without it is unverified.
    """

    def __init__(
        self, device: ScpiDevice, memory: Memory, unload: Callable[[str], None], *, sequencing: bool
    ) -> None:
        self._memory = memory
        self._sequencing = sequencing
        self._unload = unload
        self._directory = DEFAULT_FOLDER
        self._files: dict[str, memoryview] = {}
        add = device.add
        add("WLISt:LIST?", lambda c: '"' + ",".join(memory.waveforms) + '"')
        add("WLISt:SIZE?", lambda c: str(len(memory.waveforms)))
        add("WLISt:NAME?", lambda c: _name_at(memory.waveforms, c))
        add("WLISt:WAVeform:NEW", self._new_waveform)
        add("WLISt:WAVeform:DATA", self._data)
        add("WLISt:WAVeform:MARKer:DATA", self._marker_data)
        add("WLISt:WAVeform:LENGth?", lambda c: str(self._waveform(c.text(0)).samples.size))
        add("WLISt:WAVeform:LMINimum?", lambda c: str(MIN_SAMPLES))
        add("WLISt:WAVeform:LMAXimum?", lambda c: str(MAX_SAMPLES))
        add("WLISt:WAVeform:GRANularity?", lambda c: "1")
        add("WLISt:WAVeform:DELete", self._delete_waveform)
        self._add_sequences(device)
        add("MMEMory:CDIRectory", self._set_directory)
        add("MMEMory:CDIRectory?", lambda c: f'"{self._directory}"')
        add("MMEMory:DATA", self._store_file)
        add("MMEMory:DELete", self._delete_file)
        add("MMEMory:OPEN", self._open_file)

    def _add_sequences(self, device: ScpiDevice) -> None:
        add, sequences = device.add, self._memory.sequences
        add("SLISt:SIZE?", lambda c: str(len(sequences)))
        add("SLISt:NAME?", lambda c: _name_at(sequences, c))
        add("SLISt:SEQuence:NEW", self._new_sequence)
        add("SLISt:SEQuence:DELete", self._delete_sequence)
        add("SLISt:SEQuence:LENGth?", lambda c: str(len(self._sequence(c).steps)))
        add("SLISt:SEQuence:EVENt:JTIMing", lambda c: None)
        add("SLISt:SEQuence:STEP:MAX?", lambda c: str(MAX_STEPS))
        add("SLISt:SEQuence:STEP#:TASSet#:WAVeform", self._step_waveform)
        add("SLISt:SEQuence:STEP#:TASSet#?", lambda c: f'"{self._step(c).waveforms.get(c.suffixes[1], "")}"')
        add("SLISt:SEQuence:STEP#:WINPut", self._step_wait)
        add("SLISt:SEQuence:STEP#:WINPut?", lambda c: self._step(c).wait)
        add("SLISt:SEQuence:STEP#:RCOunt", self._step_repeat)
        add("SLISt:SEQuence:STEP#:RCOunt?", lambda c: str(self._step(c).repeat or "INF"))
        add("SLISt:SEQuence:STEP#:GOTO", self._step_goto)
        add("SLISt:SEQuence:STEP#:GOTO?", lambda c: self._step(c).goto)

    # Blocks

    def block_sink(self, text: bytes, length: int) -> memoryview | None:
        """The waveform's own memory for WLISt:WAVeform:DATA; scratch memory for other blocks."""
        match = _DATA.fullmatch(text)
        if match is None:
            return memoryview(bytearray(length))
        try:
            waveform, target = self._data_target(_arguments(match.group(1)), length)
        except ScpiError:
            return None
        waveform.loading = True
        return target

    def block_aborted(self, text: bytes) -> None:
        """A half-received waveform is cleared."""
        match = _DATA.fullmatch(text)
        waveform = self._memory.waveforms.get(_arguments(match.group(1))[0]) if match else None
        if waveform is not None:
            waveform.samples.fill(0.0)
            waveform.silent, waveform.loading = True, False

    def _data_target(self, arguments: list[str], length: int) -> tuple[Waveform, memoryview]:
        """The waveform named and the part of its memory that ``start`` and ``count`` select."""
        waveform = self._waveform(arguments[0] if arguments else "")
        try:
            start, count = (int(part) for part in [*arguments[1:], str(waveform.samples.size)][:2])
        except ValueError:
            raise ScpiError(*MISSING_PARAMETER) from None
        if start < 0 or count < 1 or start + count > waveform.samples.size:
            raise ScpiError(*DATA_OUT_OF_RANGE)
        if length != count * _SAMPLE_BYTES:
            raise ScpiError(*_BLOCK_SIZE)
        return waveform, waveform.samples[start : start + count].data.cast("B")

    def _data(self, call: Call) -> None:
        waveform, _ = self._data_target([unquote(part) for part in call.arguments], call.block_bytes)
        waveform.loading = False
        if call.block is None:
            raise ScpiError(*SETTINGS_CONFLICT)
        if not waveform.check():
            raise ScpiError(*DATA_OUT_OF_RANGE)

    def _marker_data(self, call: Call) -> None:
        waveform = self._waveform(call.text(0))
        start, count = call.integer(1), call.integer(2)
        if call.block is None or call.block_bytes != count:
            raise ScpiError(*_BLOCK_SIZE)
        if start < 0 or start + count > waveform.samples.size:
            raise ScpiError(*DATA_OUT_OF_RANGE)
        if waveform.markers is None:
            waveform.markers = np.zeros(waveform.samples.size, np.uint8)
        waveform.markers[start : start + count] = np.frombuffer(call.block, np.uint8)

    # Waveform list

    def _waveform(self, name: str) -> Waveform:
        try:
            return self._memory.waveforms[unquote(name)]
        except KeyError:
            raise ScpiError(*ILLEGAL_VALUE) from None

    def _new_waveform(self, call: Call) -> None:
        name, size = unquote(call.text(0)), call.integer(1)
        if not MIN_SAMPLES <= size <= MAX_SAMPLES:
            raise ScpiError(*DATA_OUT_OF_RANGE)
        if not name or name in self._memory.waveforms:
            raise ScpiError(*ILLEGAL_VALUE)
        self._memory.waveforms[name] = Waveform(np.zeros(size, np.float32))

    def _delete_waveform(self, call: Call) -> None:
        names = list(self._memory.waveforms) if call.text(0).upper() == "ALL" else [unquote(call.text(0))]
        for name in names:
            self._waveform(name)
            self._unload(name)
            self._memory.waveforms.pop(name).samples.fill(0.0)

    # Sequence list

    def _sequence(self, call: Call) -> Sequence:
        try:
            return self._memory.sequences[unquote(call.text(0))]
        except KeyError:
            raise ScpiError(*ILLEGAL_VALUE) from None

    def _step(self, call: Call) -> Step:
        steps = self._sequence(call).steps
        if not 1 <= call.suffixes[0] <= len(steps):
            raise ScpiError(*DATA_OUT_OF_RANGE)
        return steps[call.suffixes[0] - 1]

    def _new_sequence(self, call: Call) -> None:
        name, n_steps = unquote(call.text(0)), call.integer(1)
        tracks = call.integer(2) if len(call.arguments) > 2 else 1
        if not 1 <= n_steps <= MAX_STEPS or not 1 <= tracks <= 8:
            raise ScpiError(*DATA_OUT_OF_RANGE)
        if not self._sequencing:
            raise ScpiError(*_OPTION_MISSING)
        if not name or name in self._memory.sequences:
            raise ScpiError(*ILLEGAL_VALUE)
        self._memory.sequences[name] = Sequence([Step() for _ in range(n_steps)], tracks)

    def _delete_sequence(self, call: Call) -> None:
        sequences = self._memory.sequences
        names = list(sequences) if call.text(0).upper() == "ALL" else [unquote(call.text(0))]
        for name in names:
            if name not in sequences:
                raise ScpiError(*ILLEGAL_VALUE)
            self._unload(name)
            del sequences[name]

    def _step_waveform(self, call: Call) -> None:
        step, name, track = self._step(call), unquote(call.text(1)), call.suffixes[1]
        self._waveform(name)
        if not 1 <= track <= self._sequence(call).tracks:
            raise ScpiError(*DATA_OUT_OF_RANGE)
        step.waveforms[track] = name

    def _step_wait(self, call: Call) -> None:
        self._step(call).wait = call.choice(1, "ATRigger", "BTRigger", "ITRigger", "OFF")

    def _step_repeat(self, call: Call) -> None:
        word = call.text(1).upper()
        if word == "ONCE":
            count = 1
        elif word in ("INF", "INFINITE"):
            count = 0
        else:
            count = call.integer(1)
            if not 1 <= count <= 1048576:
                raise ScpiError(*DATA_OUT_OF_RANGE)
        self._step(call).repeat = count

    def _step_goto(self, call: Call) -> None:
        step, word = self._step(call), call.text(1)
        if not word.isdigit():
            step.goto = call.choice(1, "LAST", "FIRSt", "NEXT", "END")
        elif 1 <= int(word) <= len(self._sequence(call).steps):
            step.goto = word
        else:
            raise ScpiError(*DATA_OUT_OF_RANGE)

    # Files, as QCoDeS uploads them

    def _path(self, name: str) -> str:
        name = name.replace("/", "\\")
        full = name if "\\" in name else f"{self._directory}\\{name}"
        return full.lower().removeprefix("c:")

    def _set_directory(self, call: Call) -> None:
        self._directory = unquote(call.text(0)).rstrip("\\")

    def _store_file(self, call: Call) -> None:
        if call.block is None:
            raise ScpiError(*_BLOCK_SIZE)
        self._files[self._path(unquote(call.text(0)))] = call.block

    def _delete_file(self, call: Call) -> None:
        if self._files.pop(self._path(unquote(call.text(0))), None) is None:
            raise ScpiError(*_FILE_NOT_FOUND)

    def _open_file(self, call: Call) -> None:
        path = self._path(unquote(call.text(0)))
        if path not in self._files:
            raise ScpiError(*_FILE_NOT_FOUND)
        waveform = read_wfmx(self._files[path])
        self._memory.waveforms[path.rpartition("\\")[2].rpartition(".")[0]] = waveform


def read_wfmx(data: memoryview) -> Waveform:
    """Parse a ``.wfmx`` file: XML header of the length it states, float32 samples, marker bytes.

    Raises ScpiError for a file that does not hold what its header says.
    """
    head = bytes(data[:4096]).decode("ascii", "replace")
    offset = re.search(r'offset="(\d+)"', head)
    size = re.search(r"<NumberSamples>(\d+)</NumberSamples>", head)
    if offset is None or size is None:
        raise ScpiError(*_BLOCK_SIZE)
    start, count = int(offset.group(1)), int(size.group(1))
    markers = "<MarkersIncluded>true</MarkersIncluded>" in head
    end = start + count * _SAMPLE_BYTES
    if len(data) != end + (count if markers else 0) or count < MIN_SAMPLES:
        raise ScpiError(*_BLOCK_SIZE)
    waveform = Waveform(np.frombuffer(data[start:end], "<f4").astype(np.float32))
    if markers:
        waveform.markers = np.frombuffer(data[end:], np.uint8).copy()
    if not waveform.check():
        raise ScpiError(*DATA_OUT_OF_RANGE)
    return waveform


def _arguments(text: bytes) -> list[str]:
    """The arguments before a block."""
    parts = split_outside_quotes(text.decode("ascii", "replace"), ",")
    return [unquote(part) for part in parts if part]


def _name_at(names: Iterable[str], call: Call) -> str:
    listed = list(names)
    index = call.integer(0)
    if not 1 <= index <= len(listed):
        raise ScpiError(*DATA_OUT_OF_RANGE)
    return f'"{listed[index - 1]}"'
