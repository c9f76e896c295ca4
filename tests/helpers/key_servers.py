"""A key server over desks in memory, with its authority, and an application that talks to it byte by byte."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from key_desks_in_memory import linked_desks
from own_certificates import Authority, Credentials, client_context

from orchestrator import runtime
from orchestrator.delivery.certificates import NodeCertificates
from orchestrator.delivery.http.limits import Limits
from orchestrator.delivery.http.server import KeyServer
from orchestrator.delivery.key_desk import KeyDesk
from orchestrator.events.delivery import DeliveryEvent

PATIENCE_S = 20.0


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def message(self) -> str:
        return str(self.json["message"])


@dataclass
class Told:
    """The events of a server, and a way to wait for one."""

    events: list[DeliveryEvent] = field(default_factory=list)
    changed: runtime.Condition = field(default_factory=runtime.condition)

    def __call__(self, event: DeliveryEvent) -> None:
        with self.changed:
            self.events.append(event)
            self.changed.notify_all()

    def wait_for(self, wanted: Callable[[DeliveryEvent], bool]) -> DeliveryEvent:
        with self.changed:
            found = self.changed.wait_for(lambda: next(filter(wanted, self.events), None), PATIENCE_S)
        assert found is not None, self.events
        return found


@dataclass
class Site:
    """An authority, a server and its address; :meth:`ask` is an application with a certificate."""

    authority: Authority
    server: KeyServer
    told: Told
    _contexts: dict[Credentials | None, ssl.SSLContext] = field(default_factory=dict)

    @property
    def where(self) -> tuple[str, int]:
        split = urlsplit(self.server.url)
        assert split.hostname
        assert split.port
        return split.hostname, split.port

    def connection(self, own: Credentials | None) -> http.client.HTTPSConnection:
        if own not in self._contexts:
            self._contexts[own] = client_context(self.authority.ca, own)
        return http.client.HTTPSConnection(*self.where, timeout=PATIENCE_S, context=self._contexts[own])

    def ask(
        self,
        own: Credentials | None,
        method: str,
        path: str,
        body: object = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """One request on a connection of its own; ``body`` is sent as JSON unless it is bytes."""
        connection = self.connection(own)
        try:
            return asked(connection, method, path, body, headers)
        finally:
            connection.close()

    @contextmanager
    def raw(self, own: Credentials | None, source: str = "127.0.0.1") -> Iterator[ssl.SSLSocket]:
        """A bare TLS connection, from an address of this machine."""
        if own not in self._contexts:
            self._contexts[own] = client_context(self.authority.ca, own)
        with (
            _connected(self.where, source) as plain,
            self._contexts[own].wrap_socket(plain, server_hostname=self.where[0]) as secured,
        ):
            yield secured


def asked(
    connection: http.client.HTTPSConnection,
    method: str,
    path: str,
    body: object = None,
    headers: dict[str, str] | None = None,
) -> Answer:
    """One request on a connection that may be used again."""
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    sent = {} if data is None else {"Content-Type": "application/json"}
    connection.request(method, path, body=data, headers=sent | (headers or {}))
    answer = connection.getresponse()
    return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())


def _connected(where: tuple[str, int], source: str) -> socket.socket:
    """With little room on the way, so that who takes no answers, or is not read, is noticed soon."""
    family = socket.AF_INET6 if ":" in where[0] else socket.AF_INET
    plain = socket.socket(family)
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
    plain.settimeout(PATIENCE_S)
    plain.bind((source, 0))
    plain.connect(where)
    return plain


def all_of(secured: ssl.SSLSocket) -> bytes:
    """Everything that comes until the other end closes."""
    found = bytearray()
    while True:
        try:
            data = secured.recv(65536)
        except (ssl.SSLEOFError, ConnectionResetError):
            data = b""
        if not data:
            return bytes(found)
        found += data


@contextmanager
def served(
    authority: Authority,
    desk: KeyDesk | None = None,
    *,
    known: Callable[[str], bool] | None = None,
    listen: str = "127.0.0.1:0",
    **limits: float,
) -> Iterator[Site]:
    """A server over ``desk``, alice's by default."""
    told = Told()
    server = KeyServer(
        linked_desks()[0] if desk is None else desk,
        certificates=NodeCertificates.load(authority.node(), "alice"),
        known=known or (lambda sae: sae.startswith("app")),
        listen=listen,
        limits=replace(Limits(), **{"linger_s": 0.2, **limits}),  # type: ignore[arg-type]
        tell=told,
    )
    server.start()
    try:
        yield Site(authority, server, told)
    finally:
        server.close()


def authority_in(folder: Path) -> Authority:
    """An authority of the folder's own."""
    return Authority(folder / "authority")
