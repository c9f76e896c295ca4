"""The federated-learning client's side of key delivery: updates go in, masked updates come out.

Pads stay inside :meth:`DeliveryClient.masked_update`: they are fetched from the own node, added to the update,
overwritten, and the masked output is journalled before it is returned.  The node is asked for nothing unless the
round is one of a run to which the user's operator consented (:mod:`orchestrator.delivery.consent`; the consents
stand beside the journal).  Secret shares are sealed and opened by
the :class:`~orchestrator.delivery.sharing.ShareChannel` that :meth:`DeliveryClient.share_channel` opens once
per round.  Training code never sees a pad.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from orchestrator import runtime
from orchestrator.bits import PackedBits, packed_size
from orchestrator.delivery.consent_book import ConsentBook
from orchestrator.delivery.errors import (
    DeliveryError,
    DeliveryRefusedError,
    DeliveryTimeoutError,
    DeliveryUnreachableError,
    KeysShortError,
    PadsGoneError,
)
from orchestrator.delivery.expansion import pad_maker
from orchestrator.delivery.journal import (
    JournalEntry,
    check_same_update,
    read_entry,
    update_digest,
    write_entry,
)
from orchestrator.delivery.masking import mask
from orchestrator.delivery.messages import (
    SHARING,
    Abandon,
    Burnt,
    Collect,
    DemandRequest,
    Done,
    Failure,
    PadRequest,
    Pads,
    Reply,
    Request,
    Reserved,
    RoundContext,
    StockReply,
    StockRequest,
    Waiting,
)
from orchestrator.delivery.ring_width import largest_sum
from orchestrator.delivery.sharing import ShareChannel
from orchestrator.wire.codec import WireError, decode, encode
from orchestrator.wire.curve import CurveKeys
from orchestrator.wire.links import LinkError, QueueLimits, Target, Transport
from orchestrator.wire.zeromq import ZeroMQ

R = TypeVar("R")

QUEUES = QueueLimits(frame_bytes=1 << 30)
"""A frame is one pad."""
CONNECT_S = 2.0
"""How long a request waits for the connection."""
SILENCE_S = 3.0
"""A node that says nothing for this long, not even Waiting, has lost the request."""
RETRY_S = 0.25


@dataclass(frozen=True)
class Wait:
    """Why a round waits: missing bits per peer (or empty), peers that have not agreed, estimated time."""

    missing_bits: dict[str, int]
    peers: tuple[str, ...]
    wait_s: float | None
    text: str


@dataclass(frozen=True)
class MaskedUpdate:
    """A masked update, ready to send: ``ring_width`` bits per value, packed; the journal holds a copy."""

    packed: PackedBits
    n_values: int
    ring_width: int
    key_bits_used: int
    context_digest: bytes


@dataclass(frozen=True)
class PeerStocks:
    """Free mask bits per peer, and the peers that need a new initial secret soon."""

    mask_bits: dict[str, int]
    auth_alarms: tuple[str, ...]


class DeliveryClient:
    """One client of one node; methods may be called from any thread, one at a time."""

    def __init__(
        self,
        endpoint: str,
        keys: CurveKeys,
        node_public_key: str,
        *,
        transport: Transport | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._lock = runtime.lock()
        self._request = 0
        self._closing = ExitStack()
        transport = transport or self._closing.enter_context(ZeroMQ())
        self._waiter = transport.waiter()
        target = Target(endpoint, node_public_key, QUEUES, unacknowledged_s=SILENCE_S)
        self._link = transport.connect(self._waiter, keys, target)

    def close(self) -> None:
        self._link.close()
        self._waiter.close()
        self._closing.close()

    def __enter__(self) -> DeliveryClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stock(self, timeout_s: float = 5.0) -> PeerStocks:
        """Free mask bits with every peer."""
        with self._lock:
            reply = self._ask(StockRequest(self._number()), StockReply, timeout_s)
        return PeerStocks(reply.mask_bits, reply.auth_alarms)

    def demand(self, bits: Mapping[str, int], timeout_s: float = 5.0) -> None:
        """Tell the scheduler, through the node, how many mask bits coming rounds need with each peer."""
        with self._lock:
            self._ask(DemandRequest(self._number(), dict(bits)), Done, timeout_s)

    def abandon(self, context: RoundContext, timeout_s: float = 5.0) -> tuple[str, ...]:
        """The round failed before masking: let the node burn what it reserved for it; with whom that was."""
        with self._lock:
            return self._ask(Abandon(self._number(), context), Burnt, timeout_s).peers

    def stored_update(self, context: RoundContext, journal_dir: Path) -> MaskedUpdate | None:
        """The output that was masked for ``context`` before, if any: send this instead of training again."""
        entry = read_entry(journal_dir, context)
        return None if entry is None or not entry.packed else _from_journal(entry, context)

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
        """``weight * q`` masked against every other participant (docs/formulas.md, Secure sums), with cipher otp or expanded.

        ``q``: 1-d int64 of ``context.n_values``.  ``sum_bound``: the largest magnitude that the sum over all clients can reach (L times the sum of the
        weights); refused where it could wrap.  ``on_wait`` is called at least twice a second while waiting; it may
        raise to give up, and the context may be tried again.

        The output is durable in ``journal_dir`` before it is returned; calling again for the same context
        and update returns it.  Raises RoundConflictError for another update or participant set in a round
        that has an output, KeysShortError or DeliveryTimeoutError (try again), PadsGoneError (abandon the
        round), DeliveryRefusedError, and ConsentError before the node is asked for anything.
        """
        _check(context, q, weight, sum_bound)
        ConsentBook(journal_dir).check(context, weight)
        digest = update_digest(q, weight)
        entry = read_entry(journal_dir, context)
        if entry is not None:
            check_same_update(entry, digest)
            return _from_journal(entry, context)
        with self._lock:
            self._reserve(context, runtime.now() + timeout_s, on_wait)
            pads = self._collect(context)
        packed = masked_with(context, q, weight, pads)
        key_bits = len(pads) * context.pad_bits
        return _from_journal(write_entry(journal_dir, context, digest, packed.tobytes(), key_bits), context)

    def share_channel(
        self,
        context: RoundContext,
        journal_dir: Path,
        timeout_s: float,
        on_wait: Callable[[Wait], None] | None = None,
    ) -> ShareChannel:
        """The channel for one round of secret shares (cipher lightsecagg), once per (run, round).

        That it was opened is durable in ``journal_dir`` before the pads leave the node: shares are drawn
        once, and a second set under another context never exists.  Waits and raises as
        :meth:`masked_update` does; PadsGoneError when the round had its channel before.  A journal that cannot be
        written costs what was reserved and nothing else: no pad has left the node by then.
        """
        if context.cipher != SHARING:
            raise ValueError(f"cipher {context.cipher} masks updates; shares are sealed with lightsecagg")
        _check_participants(context)
        ConsentBook(journal_dir).check(context)
        if read_entry(journal_dir, context) is not None:
            raise PadsGoneError(f"the shares of round {context.round} were sealed before; abandon the round")
        with self._lock:
            self._reserve(context, runtime.now() + timeout_s, on_wait)
            write_entry(journal_dir, context)
            return ShareChannel(context, self._collect(context))

    def _reserve(
        self, context: RoundContext, deadline: float, on_wait: Callable[[Wait], None] | None
    ) -> None:
        """Ask until the pads are reserved everywhere or the time is over."""
        tell = on_wait or (lambda _: None)
        last: DeliveryError = DeliveryTimeoutError("the round was given no time")
        while runtime.now() < deadline:
            try:
                self._ask(
                    PadRequest(self._number(), context),
                    Reserved,
                    deadline - runtime.now(),
                    lambda note: tell(Wait({}, note.peers, None, "waiting for the peers' clients")),
                )
                return
            except (PadsGoneError, DeliveryRefusedError):
                raise
            except DeliveryError as error:
                last = error
            if isinstance(last, KeysShortError):
                tell(Wait(last.missing_bits, (), last.wait_s, str(last)))
            else:
                tell(Wait({}, (), None, str(last)))
            runtime.sleep(min(RETRY_S, max(0.0, deadline - runtime.now())))
        raise last

    def _collect(self, context: RoundContext) -> dict[str, PackedBits]:
        """The reserved pads; from here on they are gone from the node."""
        number = self._number()
        self._send(Collect(number, context))
        try:
            reply, frames = self._receive(number, SILENCE_S * 10, None)
        except DeliveryTimeoutError as error:
            raise PadsGoneError(
                f"the node released the pads of round {context.round} but they did not arrive: {error}"
            ) from error
        if not isinstance(reply, Pads):
            raise _as_error(reply)
        expected = set(context.participants)
        if (
            reply.n_bits != context.pad_bits
            or len(frames) != len(reply.peers)
            or len(set(reply.peers)) != len(context.participants) - 1
            or not set(reply.peers) < expected
            or any(len(frame) != packed_size(context.pad_bits) for frame in frames)
        ):
            raise PadsGoneError("the node sent pads of another shape than asked for; abandon the round")
        return {
            peer: np.frombuffer(bytearray(frame), np.uint8)
            for peer, frame in zip(reply.peers, frames, strict=True)
        }

    def _number(self) -> int:
        self._request += 1
        return self._request

    def _ask(
        self,
        request: Request,
        expected: type[R],
        timeout_s: float,
        on_waiting: Callable[[Waiting], None] | None = None,
    ) -> R:
        self._send(request)
        reply, _ = self._receive(request.request, timeout_s, on_waiting)
        if not isinstance(reply, expected):
            raise _as_error(reply)
        return reply

    def _send(self, request: Request) -> None:
        """Hand the request to the link, which may have to connect first."""
        deadline = runtime.now() + CONNECT_S
        while True:
            try:
                return self._link.send(encode(request))
            except LinkError as error:
                if runtime.now() >= deadline:
                    raise DeliveryUnreachableError(
                        f"the node's delivery service at {self._endpoint} cannot be reached ({error}); is the node"
                        " running, and are its endpoint and key those of the testbed file?"
                    ) from error
            self._waiter.wait(max(0.0, deadline - runtime.now()))

    def _receive(
        self, number: int, timeout_s: float, on_waiting: Callable[[Waiting], None] | None
    ) -> tuple[Reply, list[bytes]]:
        """The reply to request ``number``; older replies are dropped."""
        deadline = runtime.now() + timeout_s
        heard = runtime.now()
        while True:
            patience = min(deadline, heard + SILENCE_S) - runtime.now()
            if patience <= 0:
                raise DeliveryTimeoutError(f"the node at {self._endpoint} did not answer in time")
            frames = self._link.receive()
            if frames is None:
                self._waiter.wait(patience)
                continue
            try:
                reply: Reply = decode(frames[0], Reply)
            except WireError as error:
                raise DeliveryRefusedError(f"the node at {self._endpoint} sent no reply: {error}") from error
            if reply.request != number:
                continue
            heard = runtime.now()
            if not isinstance(reply, Waiting):
                return reply, frames[1:]
            if on_waiting is not None:
                on_waiting(reply)


def masked_with(
    context: RoundContext, q: npt.NDArray[np.int64], weight: int, keys: dict[str, PackedBits]
) -> PackedBits:
    """``weight * q`` (1-d int64) with the pads that follow from ``keys``, one per other participant.

    The pad with a later participant is added, that with an earlier one subtracted.  All keys and pads are overwritten.
    """
    order = {name: place for place, name in enumerate(context.participants)}
    (owner,) = set(order) - set(keys)
    signs = [1 if order[peer] > order[owner] else -1 for peer in keys]
    make_pad, pads = pad_maker(context), list[PackedBits]()
    try:
        pads.extend(make_pad(key) for key in keys.values())
        return mask(q, pads, signs, context.ring_width, weight)
    finally:
        for spent in (*keys.values(), *pads):
            spent[:] = 0


def _check_participants(context: RoundContext) -> None:
    if len(set(context.participants)) != len(context.participants):
        raise ValueError("a participant is named twice")


def _check(context: RoundContext, q: npt.NDArray[np.int64], weight: int, sum_bound: int | None) -> None:
    """Everything that can be refused before any key is touched."""
    if context.cipher == SHARING:
        raise ValueError("cipher lightsecagg seals shares (share_channel) and masks no update")
    _check_participants(context)
    if q.dtype != np.int64 or q.shape != (context.n_values,):
        raise ValueError(f"the update is {q.dtype} of shape {q.shape}, not int64 of ({context.n_values},)")
    limit = largest_sum(context.ring_width)
    bound = sum_bound if sum_bound is not None else 0
    own = weight * max(abs(int(q.max(initial=0))), abs(int(q.min(initial=0))))
    if weight < 1 or max(bound, own) > limit:
        raise ValueError(
            f"sums up to {max(bound, own)} wrap at a ring width of {context.ring_width} bits (at most {limit}):"
            " lower the levels or the weights, or take a larger ring width"
        )
    if sum_bound is not None and own > sum_bound:
        raise ValueError(f"the update reaches {own}, more than the announced bound {sum_bound} of the sum")


def _from_journal(entry: JournalEntry, context: RoundContext) -> MaskedUpdate:
    """``entry`` was made in ``context``."""
    return MaskedUpdate(
        entry.packed_array(), context.n_values, context.ring_width, entry.key_bits_used, context.digest()
    )


def _as_error(reply: Reply) -> DeliveryError:
    if not isinstance(reply, Failure):
        return DeliveryRefusedError(f"the node answered with {type(reply).__name__}")
    if reply.code == "keys-short":
        return KeysShortError(reply.missing_bits, reply.wait_s)
    if reply.code == "released":
        return PadsGoneError(f"{reply.text}; abandon the round")
    if reply.code == "peer":
        return DeliveryTimeoutError(reply.text)
    return DeliveryRefusedError(reply.text)
