"""A user's secret symbols of one frame: from one random byte per slot to the voltage on its phase modulator.

What a byte means, and which phase it gives, is for the protocol to say
(:class:`orchestrator.protocols.base.PulseSymbols`).  The raw bytes are key material until the announcement is in: they live
in one buffer per frame, which :meth:`SymbolFrame.erase` overwrites.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from orchestrator.kernels import kernel
from orchestrator.protocols.base import PulseSymbols

RandomInto = Callable[[memoryview], None]
"""Fills a writable buffer with random bytes: the interface of a node's random source."""


@dataclass(frozen=True)
class Drawn:
    """What the values of a random byte become: the codes kept of clicks, uint8, and the samples played, float32 in [-1, 1].

    Both of shape (256,).
    """

    of_bytes: npt.NDArray[np.uint8]
    drive: npt.NDArray[np.float32]


def driven_phases(symbols: PulseSymbols, offset_rad: float = 0.0) -> npt.NDArray[np.float64]:
    """What the modulator is to turn each symbol by, with ``offset_rad`` and within half a turn of zero: rad, float64 of shape (n,)."""
    phases = np.array(symbols.phases_rad)
    if offset_rad:
        phases = np.remainder(phases + offset_rad + math.pi, 2 * math.pi) - math.pi
    return phases


def drive_table(
    symbols: PulseSymbols, *, v_pi_v: float, rf_gain: float, amplitude_vpp: float, offset_rad: float = 0.0
) -> npt.NDArray[np.float32]:
    """Normalised AWG sample (full scale = +-1 = +-amplitude/2) of each byte value, float32 of shape (256,).

    The modulator turns a drive of ``v`` volts into the phase ``pi * rf_gain * v / v_pi_v``.  ``offset_rad`` is added to
    every phase, which stays within half a turn of zero.
    """
    full_scale_rad = math.pi * rf_gain * amplitude_vpp / 2 / v_pi_v
    phases = driven_phases(symbols, offset_rad)
    levels = phases / full_scale_rad
    if np.abs(levels).max() > 1:
        raise ValueError(
            f"the drive reaches {full_scale_rad:.3f} rad and the protocol needs {np.abs(phases).max():.3f}"
            " rad; raise rf_gain or the amplitude"
        )
    return levels[symbols.of_bytes].astype(np.float32)


@kernel
def _fill(raw: npt.NDArray[np.uint8], table: npt.NDArray[np.float32], out: npt.NDArray[np.float32]) -> None:
    for slot in range(raw.size):
        out[slot] = table[raw[slot]]


@kernel
def _fill_gated(
    raw: npt.NDArray[np.uint8],
    table: npt.NDArray[np.float32],
    samples_per_slot: int,
    first: int,
    length: int,
    out: npt.NDArray[np.float32],
) -> None:
    for slot in range(raw.size):
        level = table[raw[slot]]
        start = slot * samples_per_slot + first
        for sample in range(start, start + length):
            out[sample] = level


class SymbolFrame:
    """The symbols of one frame of one user."""

    def __init__(self, slots: int, of_bytes: npt.NDArray[np.uint8]) -> None:
        """``of_bytes``: the code of each value of a random byte, uint8 of shape (256,)."""
        self._raw = np.zeros(slots, np.uint8)
        self._codes = of_bytes

    @property
    def slots(self) -> int:
        """Of the frame."""
        return self._raw.size

    def draw(self, random_into: RandomInto) -> None:
        """Fresh symbols for every slot, from the node's random source."""
        random_into(self._raw.data)

    def write_waveform(
        self,
        table: npt.NDArray[np.float32],
        out: npt.NDArray[np.float32],
        *,
        samples_per_slot: int,
        lead_samples: int,
    ) -> None:
        """Write the drive of every slot into ``out`` (float32, lead_samples + slots * samples_per_slot).

        Slot ``k`` drives the half slot that begins at sample ``lead_samples + k samples_per_slot``; the rest is left as
        it is, which is zero.
        """
        half = samples_per_slot // 2
        frame = out[lead_samples:]
        if half == 1:
            _fill(self._raw, table, frame[::2])
        else:
            _fill_gated(self._raw, table, samples_per_slot, 0, half, frame)

    def at(self, slots: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint8]:
        """Symbol codes (uint8) of the announced slots (uint32), both of shape (n,)."""
        return self._codes[self._raw[slots]]

    def all(self) -> npt.NDArray[np.uint8]:
        """Symbol codes of all slots, announced or not, uint8 of shape (slots,): of frames that never make key."""
        return self._codes[self._raw]

    def erase(self) -> None:
        """Overwrite every symbol."""
        self._raw[:] = 0

    def __repr__(self) -> str:
        return f"<SymbolFrame: {self._raw.size} slots>"


def compile_kernels() -> None:
    """Have the kernels compiled, or loaded with the libraries that numba wants for it, before anybody waits in a lease."""
    raw, table = np.zeros(8, np.uint8), np.zeros(256, np.float32)
    _fill(raw, table, np.zeros(16, np.float32)[::2])
    _fill_gated(raw, table, 4, 0, 2, np.zeros(32, np.float32))
