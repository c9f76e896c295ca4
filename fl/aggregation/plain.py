"""No protection at all: the server sees every update.  For comparison only, and labelled "none"."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from fl.aggregation.base import Aggregation
from fl.keys import KeyWait, NodeKeys, ProtectedUpdate
from orchestrator.delivery.masking import pack_values
from orchestrator.delivery.messages import RoundContext


class Plain(Aggregation):
    """Mode ``plain``."""

    label = "none"
    uses_keys = False

    def key_bits_per_pair(self, n_values: int, ring_bits: int) -> int:
        return 0

    def protect(
        self,
        context: RoundContext,
        values: npt.NDArray[np.int64],
        weight: int,
        sum_bound: int,
        keys: NodeKeys | None,
        cancelled: threading.Event,
        tell: Callable[[KeyWait], None],
    ) -> ProtectedUpdate:
        return ProtectedUpdate(pack_values(values, context.ring_bits, weight), 0)
