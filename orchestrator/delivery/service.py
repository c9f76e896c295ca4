"""The delivery service of a node: pads for its own federated-learning client, and for nobody else.

A listener whose gate knows one key.  One thread owns it; requests that wait for peers run in threads of their own
and hand their replies back through a queue.  A request that is repeated (the
client lost patience or its connection) takes over the one in work.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

from msgspec.structs import replace

from orchestrator import runtime
from orchestrator.delivery.messages import (
    Abandon,
    Burnt,
    Collect,
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
from orchestrator.delivery.rounds import (
    PadError,
    PadPeerError,
    PadReleasedError,
    PadRounds,
    PadShortError,
    Reserve,
)
from orchestrator.keystore.errors import KeyStoreError
from orchestrator.keystore.lanes import Lane
from orchestrator.keystore.store import KeyStore
from orchestrator.log_context import about
from orchestrator.records.keeping import Records
from orchestrator.secret import SecretBits
from orchestrator.wire.codec import WireError, decode, encode
from orchestrator.wire.curve import CurveKeys
from orchestrator.wire.links import Frame, LinkBusyError, LinkError, QueueLimits, Transport
from orchestrator.wire.revoked import RevokedKeys
from orchestrator.wire.zeromq import ZeroMQ

logger = logging.getLogger(__name__)

WAITING_INTERVAL_S = 0.5
QUEUES = QueueLimits(unsent=16)
"""Few replies, pads among them, that wait for a client that does not read."""
SEND_PATIENCE_S = 2.0
JOBS_AT_A_TIME = 16
"""Requests in work, each with a thread of its own; a client has one, and a restarted one a few."""


@dataclass
class _Job:
    """A pad request in work, and where its answer goes."""

    context: RoundContext
    connection: bytes
    request: int


class DeliveryService:
    """Serves the client whose CURVE key is ``client_key``.

    ``reserve(peer, n_bits, context_digest)`` agrees with the peer's node and may block; ``demand(bits per
    peer)`` passes wishes on; ``estimate_s(missing bits per peer)`` guesses how long making them takes.  ``records`` get
    what leaves the store.
    """

    def __init__(
        self,
        store: KeyStore,
        peers: Iterable[str],
        reserve: Reserve,
        *,
        keys: CurveKeys,
        client_key: str,
        client_role: str = "fl-client",
        endpoint: str = "auto",
        demand: Callable[[dict[str, int]], None] | None = None,
        estimate_s: Callable[[Mapping[str, int]], float | None] | None = None,
        revoked: RevokedKeys | None = None,
        transport: Transport | None = None,
        records: Records | None = None,
    ) -> None:
        self._store = store
        self._peers = tuple(peers)
        self._rounds = PadRounds(store, self._peers, reserve, records)
        self._keys = keys
        self._transport = transport
        self._client_key = client_key
        self._client_role = client_role
        self._wanted_endpoint = endpoint
        self._demand = demand
        self._estimate_s = estimate_s
        self._revoked = revoked
        self._jobs: dict[bytes, _Job] = {}
        self._finished: runtime.Queue[tuple[bytes, Reply]] = runtime.queue()
        self._stop = runtime.event()
        self._thread: runtime.Thread | None = None
        self.endpoint = ""

    def start(self) -> None:
        """Bind and serve; :attr:`endpoint` then says where."""
        with ExitStack() as undo:
            transport = self._transport or undo.enter_context(ZeroMQ())
            self._waiter = transport.waiter()
            undo.callback(self._waiter.close)
            self.gate = undo.enter_context(
                transport.gate({self._client_key: self._client_role}, self._revoked)
            )
            self._listener = self.gate.listen(self._waiter, self._keys, self._wanted_endpoint, QUEUES)
            self._closing = undo.pop_all()
        self.endpoint = self._listener.endpoint
        self._thread = runtime.spawn(self._serve, name="delivery")

    def close(self) -> None:
        """Stop serving; requests in work are dropped."""
        if self._thread is None:
            return
        self._stop.set()
        self._waiter.wake()
        self._thread.join(timeout=10)
        self._thread = None
        self._closing.close()

    def __enter__(self) -> DeliveryService:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def refused(self) -> int:
        """Connections turned away because their key is not the client's."""
        return self.gate.refused

    def _serve(self) -> None:
        next_waiting = runtime.now() + WAITING_INTERVAL_S
        while not self._stop.is_set():
            self._waiter.wait(next_waiting - runtime.now())
            self._answer_finished()
            for connection, role, frames in iter(self._listener.receive, None):
                self._take_request(connection, role, frames)
            if runtime.now() >= next_waiting:
                next_waiting = runtime.now() + WAITING_INTERVAL_S
                for job in self._jobs.values():
                    self._send(job.connection, Waiting(job.request, self._rounds.waiting_for(job.context)))
        self._listener.close()

    def _take_request(self, connection: bytes, role: str | None, frames: list[Frame]) -> None:
        try:
            if role is None:
                raise WireError("the sender's key is not, or no longer, allowed")
            if len(frames) != 1:
                raise WireError(f"a request is one frame, got {len(frames)}")
            request: Request = decode(frames[0], Request)
        except WireError as error:
            logger.warning("request dropped: %s", error)
            return
        context = getattr(request, "context", None)
        with about(round=None if context is None else context.round):
            try:
                self._handle(connection, request)
            except PadError as error:
                self._send(connection, self._failure(request.request, error))
            except Exception as error:
                logger.exception("request %s failed", type(request).__name__)
                self._send(connection, Failure(request.request, "refused", str(error)[:1000], {}))

    def _handle(self, connection: bytes, request: Request) -> None:
        if isinstance(request, PadRequest):
            self._begin(connection, request)
        elif isinstance(request, Collect):
            self._send_pads(connection, request, self._rounds.release(request.context))
        elif isinstance(request, Abandon):
            self._send(connection, Burnt(request.request, self._rounds.abandon(request.context)))
        elif isinstance(request, StockRequest):
            bits = {peer: self._store.stock(peer)[Lane.MASK] for peer in self._peers}
            self._send(connection, StockReply(request.request, bits, self._store.auth_alarms()))
        else:
            if self._demand is not None:
                self._demand({peer: bits for peer, bits in request.bits.items() if peer in self._peers})
            self._send(connection, Done(request.request))

    def _begin(self, connection: bytes, request: PadRequest) -> None:
        digest = request.context.digest()
        job = self._jobs.get(digest)
        if job is not None:
            job.connection, job.request = connection, request.request
            return
        if len(self._jobs) >= JOBS_AT_A_TIME:
            raise PadError(f"{len(self._jobs)} requests are in work already; wait for one or abandon it")
        self._rounds.partners(request.context)
        self._jobs[digest] = _Job(request.context, connection, request.request)
        self._send(connection, Waiting(request.request, self._rounds.waiting_for(request.context)))
        runtime.spawn(self._work, digest, request.context, name="pads")

    def _work(self, digest: bytes, context: RoundContext) -> None:
        reply: Reply = Failure(0, "refused", "the node failed; see its log", {})
        try:
            self._rounds.reserve(context)
            reply = Reserved(0)
        except PadError as error:
            reply = self._failure(0, error)
        except KeyStoreError as error:
            reply = Failure(0, "refused", str(error)[:1000], {})
        finally:
            self._finished.put((digest, reply))
            self._waiter.wake()

    def _failure(self, request: int, error: PadError) -> Failure:
        if isinstance(error, PadShortError):
            wait_s = self._estimate_s(error.missing_bits) if self._estimate_s is not None else None
            return Failure(request, "keys-short", str(error)[:1000], error.missing_bits, wait_s)
        if isinstance(error, PadPeerError):
            return Failure(request, "peer", str(error), {})
        code: Literal["released", "refused"] = (
            "released" if isinstance(error, PadReleasedError) else "refused"
        )
        return Failure(request, code, str(error)[:1000], {})

    def _answer_finished(self) -> None:
        while not self._finished.empty():
            digest, reply = self._finished.get()
            job = self._jobs.pop(digest)
            self._send(job.connection, replace(reply, request=job.request))

    def _send(self, connection: bytes, reply: Reply) -> None:
        try:
            self._transmit(connection, encode(reply))
        except LinkError as error:
            logger.info("%s not sent to the client: %s", type(reply).__name__, str(error))

    def _transmit(self, connection: bytes, *frames: Frame) -> None:
        """Send, and wait a limited time for a client that reads slowly."""
        deadline = runtime.now() + SEND_PATIENCE_S
        while True:
            try:
                return self._listener.send(connection, *frames)
            except LinkBusyError:
                if runtime.now() >= deadline:
                    raise
            runtime.sleep(0.01)

    def _send_pads(self, connection: bytes, request: Collect, pads: dict[str, SecretBits]) -> None:
        header = Pads(request.request, tuple(pads), request.context.pad_bits)
        try:
            views = [pad.reveal().data for pad in pads.values()]
            self._transmit(connection, encode(header), *views)
        except LinkError as error:
            logger.warning("the pads of round %d are lost: %s", request.context.round, str(error))
        finally:
            for pad in pads.values():
                pad.wipe()
