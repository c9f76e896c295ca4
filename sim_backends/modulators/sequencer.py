"""The memory and the player of the simulated AWG: waveforms, sequences, channels. No input or output.

The player follows the manual's description (github tektronix/tm_devices
``commands/gen_btm6t_awg/slist.py``): a step waits for its trigger, plays its waveform, and goes to NEXT, a
number, FIRSt, LAST or END, where 0 V play until the run is stopped.  After the last step NEXT is END.
Playing takes no time here; a step that waits for nothing plays until the run is stopped.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]
"""1-d float32: one sample per element, full scale -1 to 1."""
TriggerInput = Literal["ATR", "BTR"]

_CHUNK = 1 << 18


@dataclass
class Waveform:
    """Normalised samples; ``loading`` while a block is arriving, ``silent`` when all samples are 0."""

    samples: Samples = field(repr=False)
    markers: npt.NDArray[np.uint8] | None = field(default=None, repr=False)
    loading: bool = False
    silent: bool = True

    def check(self) -> bool:
        """Recompute ``silent`` after a write; out-of-range samples (or NaN) clear the waveform: False."""
        low, high = levels(self.samples)
        good = low >= -1.0 and high <= 1.0
        if not good:
            self.samples.fill(0.0)
        self.silent = not good or low == high == 0.0
        return good


@dataclass
class Step:
    """One step of a sequence: waveform name per track, wait input, repeat count (0 = infinite), goto."""

    waveforms: dict[int, str] = field(default_factory=dict)
    wait: str = "OFF"
    repeat: int = 1
    goto: str = "NEXT"


@dataclass
class Sequence:
    """Steps and the number of tracks."""

    steps: list[Step]
    tracks: int


@dataclass
class AwgChannel:
    """Settings and player state of an output; ``step`` counts from 0, None outside a sequence's steps."""

    amplitude_vpp: float = 0.5
    offset_v: float = 0.0
    resolution: int = 10
    output: bool = False
    run_mode: str = "CONT"
    trigger_input: str = "ATR"
    hold: str = "ZERO"
    stopped: str = "OFF"
    path: str = "DIR"
    skew_s: float = 0.0
    asset: str = ""
    track: int = 0
    state: Literal["stopped", "waiting", "playing"] = "stopped"
    step: int | None = None
    marker_levels_v: dict[tuple[int, str], float] = field(default_factory=dict)
    marker_words: dict[tuple[int, str], str] = field(default_factory=dict)


@dataclass
class Memory:
    """The waveform list and the sequence list."""

    waveforms: dict[str, Waveform] = field(default_factory=dict)
    sequences: dict[str, Sequence] = field(default_factory=dict)

    def uses(self, channel: AwgChannel, waveform: str) -> bool:
        """Whether ``channel`` would play ``waveform``."""
        if not channel.track:
            return channel.asset == waveform
        sequence = self.sequences.get(channel.asset)
        return sequence is not None and any(waveform in step.waveforms.values() for step in sequence.steps)


def levels(samples: Samples) -> tuple[float, float]:
    """(minimum, maximum) of all samples and 0; NaN if any sample is.  In chunks that stay in the cache."""
    low = high = np.float32(0.0)
    for start in range(0, samples.size, _CHUNK):
        chunk = samples[start : start + _CHUNK]
        low, high = np.minimum(low, chunk.min()), np.maximum(high, chunk.max())
    return float(low), float(high)


def start(channel: AwgChannel, memory: Memory) -> None:
    """Put a channel with an asset into its first state after RUN."""
    if not channel.asset:
        return
    if channel.track:
        _enter(channel, memory.sequences[channel.asset], 0)
    else:
        channel.step = None
        channel.state = "playing" if channel.run_mode == "CONT" else "waiting"


def stop(channel: AwgChannel) -> None:
    """Put a channel into the stopped state."""
    channel.state, channel.step = "stopped", None


def trigger(channel: AwgChannel, memory: Memory, source: TriggerInput) -> Waveform | None:
    """A trigger arrives: the waveform that plays (None = nothing), and the channel moves on."""
    if not channel.track:
        plays = channel.state == "playing"
        if channel.state == "waiting" and channel.trigger_input == source:
            plays = True
            channel.state = "playing" if channel.run_mode == "TCON" else "waiting"
        return memory.waveforms.get(channel.asset) if plays else None
    if channel.state != "waiting" or channel.step is None:
        return None
    sequence = memory.sequences[channel.asset]
    step = sequence.steps[channel.step]
    if step.wait != source:
        return None
    if step.repeat:
        _enter(channel, sequence, _target(step.goto, channel.step, len(sequence.steps)))
    else:
        channel.state = "playing"
    waveform = memory.waveforms.get(step.waveforms.get(channel.track, ""))
    if waveform is None or step.repeat <= 1:
        return waveform
    return Waveform(np.tile(waveform.samples, step.repeat), None, waveform.loading, waveform.silent)


def _target(goto: str, current: int, n_steps: int) -> int:
    """0-based number of the step that follows ``current``; ``n_steps`` for the end."""
    named = {"NEXT": current + 1, "FIRS": 0, "LAST": n_steps - 1, "END": n_steps}
    return named[goto] if goto in named else int(goto) - 1


def _enter(channel: AwgChannel, sequence: Sequence, step: int) -> None:
    if step >= len(sequence.steps):
        channel.state, channel.step = "playing", None
    else:
        channel.step = step
        channel.state = "playing" if sequence.steps[step].wait == "OFF" else "waiting"
