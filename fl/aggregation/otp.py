"""Pairwise one-time pads (QuNetQFL, arXiv:2501.12709): information-theoretic, no drop-outs within a round.

Client i uploads ``w_i q_i + sum_{j>i} k_ij - sum_{j<i} k_ij mod 2^b`` with a fresh pad k_ij of ``b`` bits
per value for each pair.  The pads cancel in the sum over all participants and only there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from fl.aggregation.base import Aggregation
from fl.keys import KeyServiceError, KeyWait, NodeKeys, ProtectedUpdate
from orchestrator.delivery.messages import RoundContext


class OneTimePads(Aggregation):
    """Mode ``otp``."""

    label = "otp"
    uses_keys = True

    def key_bits_per_pair(self, n_values: int, ring_bits: int) -> int:
        return n_values * ring_bits

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
        if keys is None:
            raise KeyServiceError("mode otp needs a node that delivers keys, and none is configured")
        return keys.mask(context, values, weight, sum_bound, cancelled, tell)
