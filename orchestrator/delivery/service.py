"""The delivery service of a node: pads for its own federated-learning client, and for nobody else.

A CURVE ROUTER whose gate knows one key.  One thread owns the socket; requests that wait for peers run in
threads of their own and hand their replies back through an inproc pair.  A request that is repeated (the
client lost patience or its connection) takes over the one in work.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import zmq

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
from orchestrator.secret import SecretBits
from orchestrator.wire.codec import WireError, decode, encode
from orchestrator.wire.curve import (
    CONTROL_LIMIT,
    RECEIVE_QUEUE,
    CurveKeys,
    UnknownKeyError,
    ZapGate,
    server_socket,
)
from orchestrator.wire.revoked import RevokedKeys

logger = logging.getLogger(__name__)

WAITING_INTERVAL_S = 0.5
UNREAD_REPLIES = 16
"""Replies, pads among them, that wait for a client that does not read."""
JOBS_AT_A_TIME = 16
"""Requests in work, each with a thread of its own; a client has one, and a restarted one a few."""
_WAKE = "inproc://delivery-wake"


@dataclass
class _Job:
    """A pad request in work, and where its answer goes."""

    context: RoundContext
    route: bytes
    request: int


class DeliveryService:
    """Serves the client whose CURVE key is ``client_key``.

    ``reserve(peer, n_bits, context_digest)`` agrees with the peer's node and may block; ``demand(bits per
    peer)`` passes wishes on; ``estimate_s(missing bits per peer)`` guesses how long making them takes.
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
    ) -> None:
        self._store = store
        self._peers = tuple(peers)
        self._rounds = PadRounds(store, self._peers, reserve)
        self._keys = keys
        self._client_key = client_key
        self._client_role = client_role
        self._wanted_endpoint = endpoint
        self._demand = demand
        self._estimate_s = estimate_s
        self._revoked = revoked
        self._jobs: dict[bytes, _Job] = {}
        self._finished: queue.SimpleQueue[tuple[bytes, Reply]] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.endpoint = ""

    def start(self) -> None:
        """Bind and serve; :attr:`endpoint` then says where."""
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.gate = ZapGate(self._context, {self._client_key: self._client_role}, revoked=self._revoked)
        self._socket, self.endpoint = server_socket(
            self._context, zmq.ROUTER, self._keys, self._wanted_endpoint, queue_length=UNREAD_REPLIES
        )
        self.gate.connections.serve(self.endpoint, RECEIVE_QUEUE * CONTROL_LIMIT)
        self._wake_in = self._context.socket(zmq.PULL)
        self._wake_in.bind(_WAKE)
        self._thread = threading.Thread(target=self._serve, name="delivery", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving; requests in work are dropped."""
        if self._thread is None:
            return
        self._stop.set()
        self._wake()
        self._thread.join(timeout=10)
        self._thread = None
        self._rounds.close()
        self.gate.close()
        self._context.destroy(linger=200)

    def __enter__(self) -> DeliveryService:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def refused(self) -> int:
        """Connections turned away because their key is not the client's."""
        return self.gate.refused

    def _wake(self) -> None:
        try:
            with self._context.socket(zmq.PUSH) as wake:
                wake.setsockopt(zmq.LINGER, 0)
                wake.connect(_WAKE)
                wake.send(b"")
        except zmq.ZMQError as error:  # the service is closing
            logger.debug("delivery service not woken: %s", error)

    def _serve(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._wake_in, zmq.POLLIN)
        next_waiting = time.monotonic() + WAITING_INTERVAL_S
        while not self._stop.is_set():
            ready = dict(poller.poll(max(1, round(1000 * (next_waiting - time.monotonic())))))
            if self._wake_in in ready:
                self._wake_in.recv()
            self._answer_finished()
            if self._socket in ready:
                self._take_request()
            if time.monotonic() >= next_waiting:
                next_waiting = time.monotonic() + WAITING_INTERVAL_S
                for job in self._jobs.values():
                    self._send(job.route, Waiting(job.request, self._rounds.waiting_for(job.context)))
        self._socket.close()
        self._wake_in.close()

    def _take_request(self) -> None:
        frames = self._socket.recv_multipart(copy=False)
        try:
            self.gate.role_of(frames[0])
            if len(frames) != 2:
                raise WireError(f"a request is one frame, got {len(frames) - 1}")
            request: Request = decode(frames[1].bytes, Request)
        except (UnknownKeyError, WireError) as error:
            logger.warning("request dropped: %s", error)
            return
        try:
            self._handle(frames[0].bytes, request)
        except PadError as error:
            self._send(frames[0].bytes, self._failure(request.request, error))
        except Exception as error:
            logger.exception("request %s failed", type(request).__name__)
            self._send(frames[0].bytes, Failure(request.request, "refused", str(error)[:1000], {}))

    def _handle(self, route: bytes, request: Request) -> None:
        if isinstance(request, PadRequest):
            self._begin(route, request)
        elif isinstance(request, Collect):
            self._send_pads(route, request, self._rounds.release(request.context))
        elif isinstance(request, Abandon):
            self._send(route, Burnt(request.request, self._rounds.abandon(request.context)))
        elif isinstance(request, StockRequest):
            bits = {peer: self._store.stock(peer)[Lane.MASK] for peer in self._peers}
            self._send(route, StockReply(request.request, bits, self._store.auth_alarms()))
        else:
            if self._demand is not None:
                self._demand({peer: bits for peer, bits in request.bits.items() if peer in self._peers})
            self._send(route, Done(request.request))

    def _begin(self, route: bytes, request: PadRequest) -> None:
        digest = request.context.digest()
        job = self._jobs.get(digest)
        if job is not None:
            job.route, job.request = route, request.request
            return
        if len(self._jobs) >= JOBS_AT_A_TIME:
            raise PadError(f"{len(self._jobs)} requests are in work already; wait for one or abandon it")
        self._rounds.partners(request.context)
        self._jobs[digest] = _Job(request.context, route, request.request)
        self._send(route, Waiting(request.request, self._rounds.waiting_for(request.context)))
        worker = threading.Thread(target=self._work, args=(digest, request.context), name="pads", daemon=True)
        worker.start()

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
            self._wake()

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
            if isinstance(reply, Failure):
                reply = Failure(job.request, reply.code, reply.text, reply.missing_bits, reply.wait_s)
            else:
                reply = Reserved(job.request)
            self._send(job.route, reply)

    def _send(self, route: bytes, reply: Reply) -> None:
        try:
            self._socket.send_multipart([route, encode(reply)])
        except zmq.ZMQError as error:
            logger.info("the client is gone, %s not sent: %s", type(reply).__name__, error)

    def _send_pads(self, route: bytes, request: Collect, pads: dict[str, SecretBits]) -> None:
        header = Pads(request.request, tuple(pads), request.context.pad_bits)
        try:
            self._socket.send_multipart(
                [route, encode(header), *(pad.reveal().data for pad in pads.values())]
            )
        except zmq.ZMQError as error:
            logger.warning(
                "the client is gone; the pads of round %d are lost: %s", request.context.round, error
            )
        finally:
            for pad in pads.values():
                pad.wipe()
