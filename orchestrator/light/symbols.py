"""A user's secret symbols: from one random byte per slot to the voltage on its phase modulator.

One byte carries one symbol: the lowest bit is the key bit, the upper seven choose the basis, X for values
below ``128 p_x``.  So ``p_x`` is a multiple of 1/128 and exact.  The symbol code is ``2 * basis + bit``
with X = 0 and Y = 1; its optical phase is 0 or pi in X and pi/2 or -pi/2 (that is 3 pi/2) in Y
(four-phase protocol, first step).

The raw bytes are key material until the announcement is in: they live in one buffer per frame, which
:meth:`SymbolFrame.erase` overwrites.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from orchestrator.bits import BitArray
from orchestrator.kernels import kernel

X_BIT_0, X_BIT_1, Y_BIT_0, Y_BIT_1 = range(4)
PHASE_RAD = (0.0, math.pi, math.pi / 2, -math.pi / 2)
BASIS_STEPS = 128
"""Resolution of ``p_x``."""

RandomInto = Callable[[memoryview], None]
"""Fills a writable buffer with random bytes: the interface of a node's random source."""


def symbol_table(p_x: float) -> npt.NDArray[np.uint8]:
    """Symbol code of each byte value, uint8 of shape (256,).

    Raises ValueError unless ``p_x`` is a multiple of 1/128 strictly between 0 and 1.
    """
    steps = round(p_x * BASIS_STEPS)
    if not math.isclose(steps, p_x * BASIS_STEPS, abs_tol=1e-9) or not 0 < steps < BASIS_STEPS:
        raise ValueError(f"p_x must be a multiple of 1/{BASIS_STEPS} between 0 and 1, got {p_x}")
    value = np.arange(256)
    return np.where(value >> 1 < steps, 0, 2).astype(np.uint8) + (value & 1).astype(np.uint8)


def drive_table(
    symbols: npt.NDArray[np.uint8], *, v_pi_v: float, rf_gain: float, amplitude_vpp: float
) -> npt.NDArray[np.float32]:
    """Normalised AWG sample (full scale = +-1 = +-amplitude/2) of each byte value, float32 of shape (256,).

    The modulator turns a drive of ``v`` volts into the phase ``pi * rf_gain * v / v_pi_v``.
    """
    full_scale_rad = math.pi * rf_gain * amplitude_vpp / 2 / v_pi_v
    levels = np.array(PHASE_RAD) / full_scale_rad
    if np.abs(levels).max() > 1:
        raise ValueError(f"the drive reaches {full_scale_rad:.3f} rad, a phase of pi is out of range")
    return levels[symbols].astype(np.float32)


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

    def __init__(self, slots: int, table: npt.NDArray[np.uint8]) -> None:
        self._raw = np.zeros(slots, np.uint8)
        self._table = table

    def draw(self, random_into: RandomInto) -> None:
        """Fresh symbols for every slot, from the node's random source."""
        random_into(self._raw.data)

    def write_waveform(
        self,
        table: npt.NDArray[np.float32],
        out: npt.NDArray[np.float32],
        *,
        samples_per_slot: int,
        gate: int,
    ) -> None:
        """Write the drive of every slot into its half of ``out`` (float32, slots * samples_per_slot).

        ``gate`` 0 drives the first half of each slot (the clockwise pulse), 1 the second half (the
        counter-clockwise pulse); the other half is left as it is, which is zero.
        """
        half = samples_per_slot // 2
        if half == 1:
            _fill(self._raw, table, out[gate::2])
        else:
            _fill_gated(self._raw, table, samples_per_slot, gate * half, half, out)

    def at(self, slots: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint8]:
        """Symbol codes (uint8) of the announced slots."""
        return self._table[self._raw[slots]]

    def erase(self) -> None:
        """Overwrite every symbol."""
        self._raw[:] = 0

    def __repr__(self) -> str:
        return f"<SymbolFrame: {self._raw.size} slots>"


def basis_of(symbols: npt.NDArray[np.uint8]) -> BitArray:
    """0 for X, 1 for Y."""
    return symbols >> np.uint8(1)


def bit_of(symbols: npt.NDArray[np.uint8]) -> BitArray:
    """The key bit."""
    return symbols & np.uint8(1)
