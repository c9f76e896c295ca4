"""Keys without a node: what a delivery client does for its user, with key that is at hand in this process.

``key`` gives the key that the user shares with a peer for one round, the same at both ends: a store in memory, or a
generator (:func:`fl.keys.simulated.seeded_key`, for Flower's simulation).  Masking and sealing are those of the
delivery client.  Nothing is journalled here and nobody is asked for consent; whoever uses this refuses a round
number that it has seen (:mod:`fl.carriers.flower.mod`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from orchestrator.bits import PackedBits
from orchestrator.delivery.client import MaskedUpdate, PeerStocks, Wait, masked_with
from orchestrator.delivery.messages import RoundContext
from orchestrator.delivery.ring_width import largest_sum
from orchestrator.delivery.sharing import ShareChannel


@dataclass(frozen=True)
class LocalKeys:
    """A :class:`fl.keys.node.KeySupply` of the user ``owner``; ``key(peer, context)`` has ``context.pad_bits`` bits."""

    owner: str
    key: Callable[[str, RoundContext], PackedBits]

    def stock(self, timeout_s: float = 5.0) -> PeerStocks:
        """Nothing is in stock: key is had when it is asked for."""
        return PeerStocks({}, ())

    def demand(self, bits: Mapping[str, int], timeout_s: float = 5.0) -> None:
        """No key has to be made in good time."""

    def abandon(self, context: RoundContext, timeout_s: float = 5.0) -> tuple[str, ...]:
        """No pad is reserved."""
        return ()

    def stored_update(self, context: RoundContext, journal_dir: Path) -> MaskedUpdate | None:
        """There is no journal."""
        return None

    def masked_update(
        self,
        context: RoundContext,
        q: npt.NDArray[np.int64],
        weight: int,
        journal_dir: Path,
        timeout_s: float,
        on_wait: Callable[[Wait], None] | None = None,
        *,
        sum_bound: int | None = None,
    ) -> MaskedUpdate:
        """``weight * q``, 1-d int64, masked against every other participant; raises ValueError where the sum could wrap."""
        if sum_bound is not None and sum_bound > largest_sum(context.ring_width):
            raise ValueError(f"sums up to {sum_bound} wrap at a ring width of {context.ring_width} bits")
        keys = self._keys(context)
        spent = len(keys) * context.pad_bits
        packed = masked_with(context, q, weight, keys)
        return MaskedUpdate(packed, context.n_values, context.ring_width, spent, context.digest())

    def share_channel(
        self,
        context: RoundContext,
        journal_dir: Path,
        timeout_s: float,
        on_wait: Callable[[Wait], None] | None = None,
    ) -> ShareChannel:
        """The channel for one round's secret shares."""
        return ShareChannel(context, self._keys(context))

    def _keys(self, context: RoundContext) -> dict[str, PackedBits]:
        return {peer: self.key(peer, context) for peer in context.participants if peer != self.owner}
