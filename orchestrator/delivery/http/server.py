"""The server of a node's keys: mutual TLS 1.3 on one address, in a thread with a loop of its own.

A connection is taken in three steps: it is counted before anything is read, so that a flood costs a descriptor for a
moment; it shakes hands, and whoever has no certificate of this testbed's authority is gone
(:mod:`orchestrator.delivery.http.proving`), as is whoever took longest where too many are at it; it becomes a
:class:`~orchestrator.delivery.http.connection.Connection`.  TLS sessions are not resumed: each handshake looks at the
certificate anew, and applications keep their connections.  Once a second the server closes connections whose
certificate has been revoked, and takes a renewed certificate of its own into use.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections import Counter
from collections.abc import Callable
from functools import partial

from orchestrator import runtime
from orchestrator.delivery.certificates import NodeCertificates
from orchestrator.delivery.http.callers import Register
from orchestrator.delivery.http.connection import Connection, House
from orchestrator.delivery.http.limits import Limits
from orchestrator.delivery.http.proving import Proving
from orchestrator.delivery.key_desk import KeyDesk
from orchestrator.events.delivery import DeliveryEvent, KeyCallerTurnedAway, KeyServerFault, TurnedAway
from orchestrator.wire.fields import REASON_LIMIT

LOOK_S = 1.0
BACKLOG = 128
SEND_BUFFER_BYTES = 65536
"""In the kernel for each connection: a caller that takes no answers is noticed after a few hundred of them."""
RETRY_S = 0.1
"""After a connection that could not be accepted, as a rule for want of descriptors."""
GOODBYE_S = 2.0
"""For the other end to say that it closes, too."""
FAREWELL_S = 0.25
"""The same when the server ends, whose node has instruments to make dark."""


class KeyServerError(Exception):
    """The server of keys cannot start; the text says why, and what to do."""


class KeyServer:
    """Serves ``desk`` to applications with certificates; made, :meth:`start`\\ ed, and :meth:`close`\\ d once."""

    def __init__(
        self,
        desk: KeyDesk,
        *,
        certificates: NodeCertificates,
        known: Callable[[str], bool],
        listen: str = "127.0.0.1:0",
        limits: Limits | None = None,
        tell: Callable[[DeliveryEvent], None] = lambda _: None,
    ) -> None:
        """``known`` says whether an SAE ID is one that this node serves; it is asked at each request.

        It, ``certificates`` and ``tell`` are called by the server's thread.
        """
        self._proving, self._tell = Proving(certificates), tell
        self._listen = listen
        self._limits = limits or Limits()
        self._house = House(desk, self._limits, Register(self._limits), known, self._proving, tell)
        self._handshakes: Counter[str] = Counter()
        self._greetings: dict[asyncio.Task[None], str] = {}
        """Handshakes and the addresses they are with, oldest first."""
        self._ready: runtime.Future[None] = runtime.future()
        self._thread: runtime.Thread | None = None
        self._url = ""

    @property
    def url(self) -> str:
        """``https://HOST:PORT`` as it was bound; empty before :meth:`start`."""
        return self._url

    def start(self) -> None:
        """Listen, and serve from here on; raises KeyServerError."""
        try:
            self._context, self._files = self._proving.context(), self._proving.files()
        except (OSError, ValueError) as error:
            raise KeyServerError(f"the certificate or key of the node cannot be used: {error}") from error
        self._listener, self._url = listener_at(self._listen)
        self._thread = runtime.spawn(self._run, name="etsi014")
        try:
            self._ready.result()
        except OSError as error:
            self._listener.close()
            raise KeyServerError(f"keys cannot be served: {error}") from error

    def close(self) -> None:
        """Answer what has been asked, bounded by ``drain_s``, and close everything; again does nothing."""
        if self._thread is None:
            return
        with contextlib.suppress(RuntimeError):  # its loop has ended
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        self._thread = None

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as error:  # noqa: BLE001 - whoever starts it is told, or the log
            if not self._ready.done():
                self._ready.set_exception(error)
            else:
                self._tell(KeyServerFault("the server", type(error).__name__))

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(self._loop_failed)
        self._stopping = asyncio.Event()
        self._ready.set_result(None)
        tasks = [asyncio.create_task(each) for each in (self._accept(), self._look())]
        try:
            await self._stopping.wait()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._listener.close()
        await self._drain()

    async def _accept(self) -> None:
        while True:
            try:
                accepted, peer = await self._loop.sock_accept(self._listener)
            except OSError as error:
                self._tell(KeyServerFault("accepting a connection", type(error).__name__))
                await asyncio.sleep(RETRY_S)
                continue
            address = str(peer[0])
            if (why := self._full(address)) is not None:
                accepted.close()
                self._tell(KeyCallerTurnedAway(address, why))
                continue
            self._handshakes[network_of(address)] += 1
            if len(self._greetings) >= self._limits.handshakes:
                self._end_oldest_handshake()
            task = asyncio.create_task(self._greet(accepted, address))
            self._greetings[task] = address
            task.add_done_callback(lambda ended: self._greetings.pop(ended, None))
            await asyncio.sleep(
                0
            )  # it has begun before it may be ended, and others have their turn in a flood

    def _full(self, address: str) -> TurnedAway | None:
        """Why nobody more from ``address`` is let in."""
        if len(self._house.connections) >= self._limits.connections:
            return "too many connections"
        if self._handshakes[network_of(address)] >= self._limits.handshakes_per_address:
            return "too many handshakes of one address"
        return None

    def _end_oldest_handshake(self) -> None:
        """Whoever means it has shaken hands long before so many others came."""
        task, address = next(iter(self._greetings.items()))
        del self._greetings[task]
        task.cancel()
        self._tell(KeyCallerTurnedAway(address, "too many handshakes"))

    async def _greet(self, accepted: socket.socket, address: str) -> None:
        try:
            await self._loop.connect_accepted_socket(
                partial(Connection, self._house, address),
                accepted,
                ssl=self._context,
                ssl_handshake_timeout=self._limits.handshake_s,
                ssl_shutdown_timeout=GOODBYE_S,
            )
        except OSError as error:  # TLS's and time-outs among them
            self._tell(KeyCallerTurnedAway(address, "handshake", detail=str(error)[:REASON_LIMIT]))
        finally:
            network = network_of(address)
            self._handshakes[network] -= 1
            if not self._handshakes[network]:
                del self._handshakes[network]

    async def _look(self) -> None:
        """Once a second: revoked certificates, and a renewed one of our own."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                for connection in tuple(self._house.connections):
                    connection.cut_off_revoked()
                if (files := self._proving.files()) != self._files:
                    self._context, self._files = self._proving.renewed(), files
            except Exception as error:  # noqa: BLE001 - told, and tried again; what was in use stays in use
                self._tell(KeyServerFault("looking at certificates", type(error).__name__))

    async def _drain(self) -> None:
        for task in tuple(self._greetings):
            task.cancel()
        for connection in tuple(self._house.connections):
            connection.finish()
        await self._wait(
            lambda: any(each.is_answering for each in self._house.connections), self._limits.drain_s
        )
        await self._wait(lambda: bool(self._house.connections), FAREWELL_S)
        for connection in tuple(self._house.connections):
            connection.abort()
        await asyncio.sleep(0)

    async def _wait(self, goes_on: Callable[[], bool], seconds: float) -> None:
        end_s = self._loop.time() + seconds
        while goes_on() and self._loop.time() < end_s:
            await asyncio.sleep(0.01)

    def _loop_failed(self, _: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """What no code caught; the text of an error might hold key, so only its kind is told."""
        error = context.get("exception")
        self._tell(KeyServerFault("the loop", type(error).__name__ if error else "no error"))


def network_of(address: str) -> str:
    """Whose an address is: itself, or for IPv6 its network of 64 bits, all of which one machine may use (RFC 8981)."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if found.version == 4:
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(found) >> 64 << 64, 64)))


def listener_at(listen: str) -> tuple[socket.socket, str]:
    """A socket that listens at ``HOST:PORT`` (``[::1]:0`` for IPv6, 0 for any free port), and its URL; raises KeyServerError."""
    host, _, port = listen.rpartition(":")
    try:
        if not 0 <= int(port) < 65536:
            raise ValueError("a port is 0 to 65535")
        family, kind, _, _, where = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            bound.setblocking(False)
            bound.bind(where)
            bound.listen(BACKLOG)
        except OSError:
            bound.close()
            raise
    except (OSError, ValueError) as error:
        raise KeyServerError(
            f"keys cannot be served at {listen!r}: {error}; name HOST:PORT of this machine"
        ) from error
    address, number = bound.getsockname()[:2]
    return bound, f"https://{f'[{address}]' if family == socket.AF_INET6 else address}:{number}"
