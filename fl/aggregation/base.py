"""What a way of aggregating is: how a client protects its update, and how the server reads the sum.

In every mode the updates are integers modulo ``2^b``, packed at ``b`` bits each, and the server's work is
the same sum; the modes differ in what is added to an update before it leaves the client.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from fl.keys import KeyWait, NodeKeys, ProtectedUpdate
from orchestrator.bits import PackedBits
from orchestrator.delivery.masking import add_packed, unpack_values
from orchestrator.delivery.messages import RoundContext


class Aggregation(ABC):
    """One way of adding up updates; ``label`` is what configuration, logs and results call it."""

    label: ClassVar[str]
    uses_keys: ClassVar[bool]

    @abstractmethod
    def key_bits_per_pair(self, n_values: int, ring_bits: int) -> int:
        """Key that every pair of participants spends in a round."""

    @abstractmethod
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
        """What the client uploads for ``weight * values``.

        ``sum_bound`` is the largest magnitude the sum of all clients can reach.  Raises CancelledError or
        KeyServiceError.
        """

    def total(self, uploads: Sequence[PackedBits], n_values: int, ring_bits: int) -> npt.NDArray[np.int64]:
        """The sum of all updates of a round, read as signed numbers.

        ``uploads`` holds one packed array per participant; with one missing the result is noise.
        """
        if not uploads:
            raise ValueError("there is nothing to add up")
        total = uploads[0]
        for packed in uploads[1:]:
            total = add_packed(total, packed, n_values, ring_bits)
        return unpack_values(total, n_values, ring_bits)
