"""What an FL client asks of its node: key in good time, and one masked update or set of shares per round.

Masking happens in the delivery client, the node's side of the trust border; training hands over its
quantised update together with the *context* of the round and gets back what it may upload.  The nodes of
all participants compare the context before they release a pad, so clients that were told different
participants, sizes or rounds get nothing, and neither does the server.

Waiting is cut into slices so that a round which ends meanwhile is noticed, and is reported with its reason and an
estimate of how long it will take.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from orchestrator import runtime
from orchestrator.bits import PackedBits
from orchestrator.delivery.client import MaskedUpdate, PeerStocks, Wait
from orchestrator.delivery.errors import (
    DeliveryError,
    DeliveryTimeoutError,
    DeliveryUnreachableError,
    PadsGoneError,
)
from orchestrator.delivery.messages import RoundContext
from orchestrator.delivery.sharing import ShareChannel

T = TypeVar("T")

SLICE_S = 1.0
RETRY_S = 0.25

_log = logging.getLogger(__name__)


class KeySpentError(Exception):
    """``key_bits`` of pad are gone all the same, those shared with ``spent_with`` (empty: with everybody)."""

    def __init__(self, message: str, key_bits: int = 0, spent_with: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.key_bits = key_bits
        self.spent_with = spent_with


class KeyServiceError(KeySpentError):
    """The node could not mask the update."""


class CancelledError(KeySpentError):
    """The round ended before its update was protected; pads reserved by then are burnt."""


@dataclass(frozen=True)
class ProtectedUpdate:
    """What a client uploads: ``packed`` at the ring width; ``key_bits`` of pad were spent on it."""

    packed: PackedBits = field(repr=False)
    key_bits: int


@dataclass(frozen=True)
class KeyWait:
    """Why a client waits: for key, or only for its peers to ask for theirs.

    ``eta_s`` is None while no rate is known; ``missing_bits`` per peer, empty where the node cannot tell.
    """

    detail: str
    eta_s: float | None
    for_keys: bool = True
    missing_bits: Mapping[str, int] = field(default_factory=dict)


class KeySupply(Protocol):
    """Whoever keeps a user's key: its node (:class:`orchestrator.delivery.client.DeliveryClient`), or a store or a
    generator in this process (:class:`fl.keys.local.LocalKeys`)."""

    def stock(self, timeout_s: float = 5.0) -> PeerStocks: ...

    def demand(self, bits: Mapping[str, int], timeout_s: float = 5.0) -> None: ...

    def abandon(self, context: RoundContext, timeout_s: float = 5.0) -> tuple[str, ...]: ...

    def stored_update(self, context: RoundContext, journal_dir: Path) -> MaskedUpdate | None: ...

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
    ) -> MaskedUpdate: ...

    def share_channel(
        self,
        context: RoundContext,
        journal_dir: Path,
        timeout_s: float,
        on_wait: Callable[[Wait], None] | None = None,
    ) -> ShareChannel: ...


@dataclass
class GrowthEstimate:
    """How long until nothing is missing, from how fast the missing bits have become fewer so far.

    The slowest pair decides.
    """

    _start: tuple[float, dict[str, int]] | None = field(default=None, init=False)

    def eta_s(self, missing_bits: Mapping[str, int], now_s: float) -> float | None:
        """Seconds left, or None while some pair's stock has not grown."""
        if self._start is None or not set(missing_bits) <= set(self._start[1]):
            self._start = (now_s, dict(missing_bits))
        start_s, at_start = self._start
        slowest = 0.0
        for peer, bits in missing_bits.items():
            grown = at_start[peer] - bits
            if grown <= 0:
                return None
            slowest = max(slowest, bits * (now_s - start_s) / grown)
        return slowest


@dataclass(frozen=True)
class NodeKeys:
    """The user ``owner``'s node as its FL client uses it; ``journal_dir`` keeps what was masked.

    One thread at a time.
    """

    delivery: KeySupply
    owner: str
    journal_dir: Path
    clock: Callable[[], float] = runtime.now

    def demand(self, peers: tuple[str, ...], bits: int) -> None:
        """Ask for ``bits`` of key in stock with each peer in good time; a node that is away is no error."""
        try:
            self.delivery.demand(dict.fromkeys(peers, bits))
        except DeliveryError as error:
            _log.warning("key demand of %s not delivered: %s", self.owner, error)

    def stored(self, context: RoundContext) -> ProtectedUpdate | None:
        """What was masked for this round before, if anything; raises KeyServiceError."""
        try:
            kept = self.delivery.stored_update(context, self.journal_dir)
        except DeliveryError as error:
            raise KeyServiceError(str(error)) from error
        return None if kept is None else ProtectedUpdate(kept.packed, kept.key_bits_used)

    def mask(
        self,
        context: RoundContext,
        values: npt.NDArray[np.int64],
        weight: int,
        sum_bound: int,
        cancelled: runtime.Event,
        tell: Callable[[KeyWait], None],
    ) -> ProtectedUpdate:
        """``weight * values`` (1-d int64) masked against all other participants (ciphers otp and expanded).

        Waits for keys and peers until ``cancelled``.  Raises CancelledError or KeyServiceError, after giving
        reserved pads back to the node for burning.
        """

        def once(on_wait: Callable[[Wait], None]) -> ProtectedUpdate:
            masked = self.delivery.masked_update(
                context, values, weight, self.journal_dir, SLICE_S, on_wait, sum_bound=sum_bound
            )
            return ProtectedUpdate(masked.packed, masked.key_bits_used)

        return self._patiently(context, once, cancelled, tell)

    def share_channel(
        self, context: RoundContext, cancelled: runtime.Event, tell: Callable[[KeyWait], None]
    ) -> ShareChannel:
        """The channel for this round's secret shares (cipher lightsecagg); waits and raises as :meth:`mask`."""

        def once(on_wait: Callable[[Wait], None]) -> ShareChannel:
            return self.delivery.share_channel(context, self.journal_dir, SLICE_S, on_wait)

        return self._patiently(context, once, cancelled, tell)

    def _patiently(
        self,
        context: RoundContext,
        once: Callable[[Callable[[Wait], None]], T],
        cancelled: runtime.Event,
        tell: Callable[[KeyWait], None],
    ) -> T:
        """What ``once`` returns, tried again while keys or peers are awaited and nobody cancels."""
        estimate = GrowthEstimate()

        def on_wait(wait: Wait) -> None:
            eta_s = wait.wait_s
            if eta_s is None and wait.missing_bits:
                eta_s = estimate.eta_s(wait.missing_bits, self.clock())
            tell(KeyWait(wait.text, eta_s, bool(wait.missing_bits), wait.missing_bits))

        while not cancelled.is_set():
            try:
                return once(on_wait)
            except DeliveryTimeoutError as error:
                _log.debug("still waiting for pads: %s", error)
            except DeliveryUnreachableError as error:
                tell(KeyWait(str(error), None))
                cancelled.wait(RETRY_S)
            except PadsGoneError as error:
                self._abandon(context)
                raise KeyServiceError(
                    str(error), (len(context.participants) - 1) * context.pad_bits
                ) from error
            except DeliveryError as error:
                raise KeyServiceError(str(error), *self._abandon(context)) from error
        text = f"round {context.round} ended before its pads were released"
        raise CancelledError(text, *self._abandon(context))

    def _abandon(self, context: RoundContext) -> tuple[int, tuple[str, ...]]:
        """Let the node burn what is reserved; (bits, with whom)."""
        try:
            peers = self.delivery.abandon(context)
        except DeliveryError as error:
            _log.warning("pads reserved for round %d stay until the node restarts: %s", context.round, error)
            return 0, ()
        return len(peers) * context.pad_bits, peers
