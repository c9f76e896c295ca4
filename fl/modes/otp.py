"""Pairwise pads (QuNetQFL, arXiv:2501.12709): no drop-outs within a round.

Client i uploads ``w_i q_i + sum_{j>i} k_ij - sum_{j<i} k_ij mod 2^b`` with a fresh pad k_ij of ``b`` bits
per value for each pair.  The pads cancel in the sum over all participants and only there.  A pad is key as it
comes from the node (mode ``otp``), or the stream of a cipher under 256 bits of such key (mode ``expanded``:
:mod:`orchestrator.delivery.expansion`; computational security, and key use that does not grow with the model).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import numpy.typing as npt

from fl.keys.node import NodeKeys, ProtectedUpdate
from fl.modes.base import Aggregation, Protection, RoundInputs
from orchestrator.bits import PackedBits
from orchestrator.delivery.masking import add_packed, unpack_values
from orchestrator.delivery.messages import RoundContext


def sum_of(uploads: Sequence[PackedBits], n_values: int, ring_width: int) -> npt.NDArray[np.int64]:
    """The sum of packed integers modulo 2^ring_width, read as signed numbers."""
    if not uploads:
        raise ValueError("there is nothing to add up")
    total = reduce(lambda one, other: add_packed(one, other, n_values, ring_width), uploads)
    return unpack_values(total, n_values, ring_width)


@dataclass(frozen=True)
class _Masking:
    inputs: RoundInputs
    keys: NodeKeys

    def protect(self, values: npt.NDArray[np.int64], weight: int) -> ProtectedUpdate:
        at = self.inputs
        return self.keys.mask(at.context, values, weight, at.sum_bound, at.cancelled, at.tell)


class PairwisePads(Aggregation):
    """Modes ``otp`` and ``expanded``, which differ in what the nodes release."""

    def padded(self, n_participants: int) -> tuple[int, int]:
        return self.n_values, self.config.ring_width

    def stored(self, context: RoundContext, keys: NodeKeys | None) -> ProtectedUpdate | None:
        return None if keys is None else keys.stored(context)

    def prepare(self, inputs: RoundInputs) -> Protection:
        return _Masking(inputs, inputs.need_keys(self.mode.name))

    def total(
        self,
        participants: Sequence[str],
        uploads: Mapping[str, PackedBits],
        answers: Mapping[str, PackedBits],
    ) -> npt.NDArray[np.int64]:
        packed = [uploads[name] for name in participants]
        return self.check_total(sum_of(packed, self.n_values, self.value_bits), participants)
