"""Pairwise pads (QuNetQFL, arXiv:2501.12709): no drop-outs within a round.

Client i uploads ``w_i q_i + sum_{j>i} k_ij - sum_{j<i} k_ij mod 2^b`` with a fresh pad k_ij of ``b`` bits
per value for each pair.  The pads cancel in the sum over all participants and only there.  A pad is key as it
comes from the node (:class:`OneTimePads`), or the stream of a cipher under 256 bits of such key
(:class:`ExpandedKeys`: computational security, and key use that does not grow with the model).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from fl.keys.node import NodeKeys, ProtectedUpdate
from fl.modes.base import NO_MODEL, Aggregation, Protection, RoundInputs, Security
from orchestrator.bits import PackedBits
from orchestrator.delivery.masking import add_packed, unpack_values
from orchestrator.delivery.messages import Cipher, RoundContext


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


class OneTimePads(Aggregation):
    """Mode ``otp``."""

    label = "otp"
    security: ClassVar[Security] = "information-theoretic"
    cipher: ClassVar[Cipher] = "otp"

    @property
    def value_bits(self) -> int:
        return self.config.ring_width

    @property
    def key_bits_per_pair(self) -> int:
        return self.context(1, self.config.clients).pad_bits

    @property
    def padded(self) -> tuple[int, int]:
        return self.n_values, self.value_bits

    def context(
        self, round_number: int, participants: tuple[str, ...], model: bytes = NO_MODEL
    ) -> RoundContext:
        return RoundContext(
            self.config.run_id,
            round_number,
            participants,
            self.n_values,
            self.value_bits,
            self.cipher,
            self.binding(),
            self.run,
            model,
        )

    def stored(self, context: RoundContext, keys: NodeKeys | None) -> ProtectedUpdate | None:
        return None if keys is None else keys.stored(context)

    def prepare(self, inputs: RoundInputs) -> Protection:
        return _Masking(inputs, inputs.need_keys(self.label))

    def total(
        self,
        participants: Sequence[str],
        uploads: Mapping[str, PackedBits],
        answers: Mapping[str, PackedBits],
    ) -> npt.NDArray[np.int64]:
        packed = [uploads[name] for name in participants]
        return self.check_total(sum_of(packed, self.n_values, self.value_bits), participants)


class ExpandedKeys(OneTimePads):
    """Mode ``expanded``: 256 bits per pair and round, stretched by ChaCha20 in the delivery client.

    The secrecy of an update then rests on a cipher.  The mode is labelled "computational" wherever it is named,
    and is taken only where server and client were both told to.
    """

    label = "expanded"
    security = "computational"
    cipher = "expanded"
