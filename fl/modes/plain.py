"""No protection at all: the server sees every update.  For comparison only, and labelled "none"."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fl.keys.node import NodeKeys, ProtectedUpdate
from fl.modes.base import Protection, RoundInputs
from fl.modes.otp import PairwisePads
from orchestrator.delivery.masking import pack_values
from orchestrator.delivery.messages import RoundContext


@dataclass(frozen=True)
class _Packing:
    ring_width: int

    def protect(self, values: npt.NDArray[np.int64], weight: int) -> ProtectedUpdate:
        return ProtectedUpdate(pack_values(values, self.ring_width, weight), 0)


class Plain(PairwisePads):
    """Mode ``plain``: the sums of mode ``otp`` without its pads."""

    def binding(self, n_participants: int) -> str:
        return f"{self.mode.name} {super().binding(n_participants)}"

    def stored(self, context: RoundContext, keys: NodeKeys | None) -> ProtectedUpdate | None:
        return None

    def prepare(self, inputs: RoundInputs) -> Protection:
        return _Packing(self.value_bits)
