"""The four symbols: two phases in each of two bases.

One random byte carries one symbol: the lowest bit is the key bit, the upper seven choose the basis, X for values
below ``128 p_x``.  So ``p_x`` is a multiple of 1/128 and exact.  The symbol code is ``2 * basis + bit``
with X = 0 and Y = 1; its optical phase is 0 or pi in X and pi/2 or -pi/2 (that is 3 pi/2) in Y.
Bases are published; XX rounds make key, YY rounds are disclosed, and of the others the second user tells its symbols
(:mod:`orchestrator.light.tracking.loop_phase` says why it may).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from orchestrator.bits import BitArray
from orchestrator.protocols.base import BoolArray, Codes, PulseSymbols

X_BIT_0, X_BIT_1, Y_BIT_0, Y_BIT_1 = range(4)
P_X_STEPS = 128
"""p_x is a multiple of 1/128: seven bits of a random byte choose the basis."""


@dataclass(frozen=True)
class FourPhases(PulseSymbols):
    """The symbols for a probability ``p_x`` of basis X.

    :attr:`of_bytes` raises ValueError unless it is a multiple of 1/128 strictly between 0 and 1.
    """

    p_x: float
    phases_rad = (0.0, math.pi, math.pi / 2, -math.pi / 2)
    label_bits = 1

    @property
    def of_bytes(self) -> Codes:
        steps = round(self.p_x * P_X_STEPS)
        if not math.isclose(steps, self.p_x * P_X_STEPS, abs_tol=1e-9) or not 0 < steps < P_X_STEPS:
            raise ValueError(f"p_x must be a multiple of 1/{P_X_STEPS} between 0 and 1, got {self.p_x}")
        value = np.arange(256)
        return np.where(value >> 1 < steps, 0, 2).astype(np.uint8) + (value & 1).astype(np.uint8)

    def labels(self, symbols: Codes) -> Codes:
        return symbols >> np.uint8(1)

    def bits(self, symbols: Codes) -> BitArray:
        return symbols & np.uint8(1)

    def kept(self, first: Codes, second: Codes) -> tuple[BoolArray, BoolArray]:
        return (first | second) == 0, (first & second) == 1

    def told(self, first: Codes, second: Codes) -> BoolArray:
        told: BoolArray = first != second
        return told
