"""Pads without nodes, for Flower's simulation: pseudorandom, and labelled "simulated" wherever they are named.

Where a whole federation runs on one machine there is nothing to protect and no node to ask.  Both ends of a
pair derive the same stretch with AES-256-CTR,

    key = SHA-256(purpose | seed | pair),   nonce = first 16 bytes of SHA-256(purpose | context digest),

so that masks are really added and cancel, and a round that differs in anything has other pads.  Everyone
who knows the seed knows them all: this protects nothing.  A stretch is used once because the mod refuses a
round number that it has seen (:mod:`fl.carriers.flower.mod`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from orchestrator.bits import PackedBits, packed_size
from orchestrator.delivery.client import MaskedUpdate, PeerStocks, Wait
from orchestrator.delivery.expansion import expand_key
from orchestrator.delivery.masking import mask
from orchestrator.delivery.messages import RoundContext
from orchestrator.delivery.ring_width import largest_sum
from orchestrator.delivery.sharing import ShareChannel

PURPOSE = b"qunetlab-simulated-pads-v1"


@dataclass(frozen=True)
class SimulatedDelivery:
    """What a node's delivery is to its user ``owner``, with pads that follow from ``seed``."""

    owner: str
    seed: int

    def stock(self, timeout_s: float = 5.0) -> PeerStocks:
        """Nothing is in stock: pads are made when they are asked for."""
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
        place = context.participants.index(self.owner)
        pads, signs = [], []
        for other, peer in enumerate(context.participants):
            if other != place:
                pad = pad_of(self.seed, (self.owner, peer), context)
                if context.cipher == "expanded":
                    pad = expand_key(pad, context.value_bits, context.digest())
                pads.append(pad)
                signs.append(1 if other > place else -1)
        packed = mask(q, pads, signs, context.ring_width, weight)
        spent = len(pads) * context.pad_bits
        return MaskedUpdate(packed, context.n_values, context.ring_width, spent, context.digest())

    def share_channel(
        self,
        context: RoundContext,
        journal_dir: Path,
        timeout_s: float,
        on_wait: Callable[[Wait], None] | None = None,
    ) -> ShareChannel:
        """The channel for one round's secret shares."""
        peers = [peer for peer in context.participants if peer != self.owner]
        return ShareChannel(context, {peer: pad_of(self.seed, (self.owner, peer), context) for peer in peers})


def pad_of(seed: int, pair: tuple[str, str], context: RoundContext) -> PackedBits:
    """The simulated pad of a pair (in either order) for one context: ``context.pad_bits`` bits, packed."""
    first, second = sorted(pair)
    key = hashlib.sha256(PURPOSE + f"|{seed}|{first}|{second}".encode()).digest()
    nonce = hashlib.sha256(PURPOSE + context.digest()).digest()[:16]
    stream = Cipher(algorithms.AES256(key), modes.CTR(nonce)).encryptor()
    pad = np.frombuffer(bytearray(stream.update(bytes(packed_size(context.pad_bits)))), np.uint8)
    if context.pad_bits % 8:
        pad[-1] &= (1 << (context.pad_bits % 8)) - 1
    return pad
