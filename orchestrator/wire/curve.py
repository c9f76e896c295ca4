"""CURVE keys, the gate that knows them, and sockets that cannot be used without both.

Every link between our processes runs under CURVE.  CURVE alone only encrypts: a server without a ZAP
handler (RFC 27) lets *any* client key in.  So every server socket made here names a ZAP domain and sets
``ZMQ_ZAP_ENFORCE_DOMAIN``, which makes libzmq refuse everybody while no handler answers, and
:class:`ZapGate` answers only for keys it was given.  It fails closed: no gate, a dead gate, an unknown
domain, another mechanism or an unknown key all mean no connection.

Who a peer is follows from its CURVE key alone, which libzmq attaches to every message as ``User-Id``.
Routing ids and names inside messages can be claimed by anyone and are never used as identity.
:meth:`ZapGate.role_of` asks the *current* list for each message, so a key that is revoked loses its
voice at once although its TCP connection may still stand.

There is one ZAP handler per ``zmq.Context``: two services with different lists in one process (the hub
and a delivery service) use one context and one gate each.

Key files: ``curve.public`` and ``curve.secret``, 40 characters of Z85 (ZeroMQ RFC 32) each.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import zmq
from zmq.auth.base import Authenticator
from zmq.auth.thread import ThreadAuthenticator
from zmq.utils import z85

from orchestrator.durable import create_file, make_folder
from orchestrator.secret import SecretBits
from orchestrator.wire.connections import Connections
from orchestrator.wire.revoked import RevokedError, RevokedKeys

DOMAIN = "qunetlab"
PUBLIC_FILE = "curve.public"
SECRET_FILE = "curve.secret"
CONTROL_LIMIT = 1 << 20
"""Largest message on a control socket, bytes (ZMQ_MAXMSGSIZE)."""
BULK_LIMIT = (1 << 20) + (1 << 16)
"""Largest frame on a bulk socket, bytes (ZMQ_MAXMSGSIZE): one chunk, and room to refuse a longer one politely."""
RECEIVE_QUEUE = 16
"""Messages of one connection that wait unread in a socket: libzmq counts messages, so their number times the
largest size is what a connection can make it hold before TCP holds the other end back."""
BULK_RECEIVE_QUEUE = 32
"""The same for a bulk socket."""
SERVER_SEND_QUEUE = 256
"""Messages for one connection that a server's socket holds while the client does not read."""
CLIENT_SEND_QUEUE = 1000
"""The same of a client: its own messages, which its own outbox bounds."""

_log = logging.getLogger(__name__)


class CurveError(Exception):
    """Base of what can go wrong with CURVE keys."""


class KeyFileError(CurveError):
    """A key file is missing, malformed or readable by others."""


class UnknownKeyError(CurveError):
    """A message came from a key that is not, or no longer, allowed."""


@dataclass(frozen=True)
class CurveKeys:
    """A key pair: ``public`` as Z85 text, ``secret`` as the 320 bits of its Z85 text."""

    public: str
    secret: SecretBits = field(repr=False)


@dataclass(frozen=True)
class Refusal:
    """One connection that the gate turned away; ``public`` is the client's key as Z85 text."""

    public: str
    reason: str


def generate_keys() -> CurveKeys:
    """A fresh pair from libzmq's random source."""
    public, secret = zmq.curve_keypair()
    return CurveKeys(public.decode("ascii"), SecretBits.from_bytes(secret))


def check_public(text: str) -> str:
    """``text`` if it is a public key in Z85, else ValueError."""
    try:
        raw = z85.decode(text.encode("ascii")) if len(text) == 40 else b""
    except (KeyError, ValueError, OverflowError):  # z85.decode lets all three out
        raw = b""
    if len(raw) != 32:
        raise ValueError("a CURVE public key is 40 characters of Z85")
    return text


def write_keys(folder: Path, keys: CurveKeys | None = None) -> CurveKeys:
    """Store ``keys`` (default: a fresh pair) in ``folder``; raises KeyFileError rather than overwrite.

    The folder gets mode 0700, the secret file 0600; files and folder are synced before returning.
    """
    keys = keys or generate_keys()
    make_folder(folder)
    for name, data, mode in (
        (SECRET_FILE, keys.secret.reveal_bytes(), 0o600),
        (PUBLIC_FILE, keys.public.encode("ascii") + b"\n", 0o644),
    ):
        try:
            create_file(folder / name, data, mode)
        except FileExistsError:
            raise KeyFileError(
                f"{folder / name} exists already; move it away first if you mean to replace it"
            ) from None
    return keys


def load_keys(folder: Path) -> CurveKeys:
    """The pair stored in ``folder``; raises KeyFileError if anything about it is not as it must be."""
    public = _read(folder / PUBLIC_FILE, private=False).decode("ascii", "replace").strip()
    secret = _read(folder / SECRET_FILE, private=True).strip()
    try:
        check_public(public)
        matches = zmq.curve_public(secret).decode("ascii") == public
    except (ValueError, KeyError, OverflowError, zmq.ZMQError):
        matches = False
    if not matches:
        raise KeyFileError(
            f"the keys in {folder} are damaged or not a pair; restore both files or make a fresh pair with "
            "`qunetlab init` and put its public key into the testbed file"
        )
    return CurveKeys(public, SecretBits.from_bytes(secret))


def _read(path: Path, *, private: bool) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise KeyFileError(f"cannot read {path}: {error.strerror}; `qunetlab init` makes keys") from None
    with os.fdopen(descriptor, "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise KeyFileError(f"{path} is not a regular file")
        if private and mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise KeyFileError(
                f"{path} has mode {stat.S_IMODE(mode):04o}, others on this machine could read it; "
                f"if nobody did, run `chmod 600 {path}`, otherwise replace the pair"
            )
        return file.read(256)


class _OneAtATime(Authenticator):
    """Takes and frees the handler's address at once.

    Closing alone would free it some time later, and a gate that follows in the same context could not bind.
    """

    def start(self) -> None:
        try:
            super().start()
        except zmq.ZMQError as error:
            self.zap_socket.close()
            self.zap_socket = None  # type: ignore[assignment]
            raise CurveError(f"this context has a gate already: one context, one gate ({error})") from error

    def stop(self) -> None:
        if self.zap_socket:
            self.zap_socket.unbind("inproc://zeromq.zap.01")
        super().stop()


class _Authenticator(ThreadAuthenticator, _OneAtATime):
    """pyzmq's handler thread; CURVE is the only mechanism it may accept.

    The base class answers "200" to the NULL mechanism, which would admit unencrypted clients wherever
    a server socket was made without CURVE by mistake.
    """

    async def handle_zap_message(self, msg: list[bytes]) -> None:
        if len(msg) >= 6 and msg[5] != b"CURVE":
            self._send_zap_reply(msg[1], b"400", b"CURVE only")
            return
        await super().handle_zap_message(msg)


class ZapGate:
    """Admits the keys of ``allowed`` (public key in Z85 -> role name) to the server sockets of ``context``.

    Running from construction to :meth:`close`.  ``on_refused`` is called in the gate's thread for every
    connection turned away; the last hundred are kept in :attr:`refusals`.  ``revoked`` is where revoked keys
    are kept over restarts.  Services tell :attr:`connections` where they listen.  Thread-safe.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        allowed: Mapping[str, str],
        on_refused: Callable[[Refusal], None] | None = None,
        revoked: RevokedKeys | None = None,
    ) -> None:
        self._lock = threading.Lock()
        self._all: dict[str, str] = {}
        self._roles: dict[str, str] = {}
        self._revoked = revoked
        self._on_refused = on_refused
        self._refused = 0
        self._warned: set[str] = set()
        self.refusals: deque[Refusal] = deque(maxlen=100)
        self.connections = Connections()
        self.set_allowed(allowed)
        self._authenticator = _Authenticator(context, log=logging.getLogger(f"{__name__}.zap"))
        self._authenticator.configure_curve_callback(DOMAIN, self)
        self._authenticator.start()

    @property
    def refused(self) -> int:
        """How many connections were turned away."""
        return self._refused

    def set_allowed(self, allowed: Mapping[str, str]) -> None:
        """Replace the list: {public key in Z85: role name}, one key per role.  Acts on the next message."""
        for public, role in allowed.items():
            try:
                check_public(public)
            except ValueError as error:
                raise CurveError(f"key of {role}: {error}") from None
        if len(set(allowed.values())) != len(allowed):
            raise CurveError("two keys are given for one role; a role has exactly one key")
        with self._lock:
            self._all = dict(allowed)
            self._roles = dict(allowed) if self._revoked is None else self._revoked.without(allowed)

    @property
    def revoked(self) -> list[str]:
        """The roles whose keys are refused, in order."""
        return sorted(set(self._all.values()) - set(self._roles.values()))

    def revoke(self, role: str) -> None:
        """Refuse the key of ``role`` from here on, durably where a list of revoked keys was given, and end its
        connections.  Raises RevokedError for a role that is not served here, OSError if the list cannot be kept.
        """
        with self._lock:
            if self._revoked is not None:
                self._revoked.add(role, self._all)
            elif role not in self._all.values():
                raise RevokedError(f"no role {role!r} is served here")
            self._roles = {key: name for key, name in self._roles.items() if name != role}
        ended = self.connections.end({role})
        _log.warning("the key of %s is revoked; %d connections were ended", role, ended)

    def is_allowed(self, role: str) -> bool:
        """Is there a key for ``role``?"""
        return role in self._roles.values()

    def role_of(self, frame: zmq.Frame) -> str:
        """The role whose key sent the message that ``frame`` belongs to; raises UnknownKeyError.

        ``frame`` must come from ``recv(copy=False)`` or ``recv_multipart(copy=False)``.
        """
        try:
            public = str(frame.get("User-Id"))
        except zmq.ZMQError:
            raise UnknownKeyError("the message carries no CURVE identity") from None
        role = self._roles.get(public)
        if role is None:
            raise UnknownKeyError("the sender's key is not, or no longer, allowed")
        self.connections.heard(frame, role)
        return role

    def callback(self, domain: str, key: bytes) -> bool:
        """pyzmq's credentials provider interface: may the client with this Z85 key come in?"""
        public = key.decode("ascii", "replace")
        if public in self._roles:
            return True
        refusal = Refusal(public, "unknown or revoked key")
        self._refused += 1
        self.refusals.append(refusal)
        # A stranger knocks again and again: one warning per key is enough.
        level = logging.DEBUG if public in self._warned else logging.WARNING
        if len(self._warned) < 1000:
            self._warned.add(public)
        _log.log(level, "connection refused in domain %s: key %s is not on the list", domain, public)
        if self._on_refused is not None:
            self._on_refused(refusal)
        return False

    def close(self) -> None:
        """Stop answering: from here on nobody gets in.  Idempotent."""
        self.connections.close()
        self._authenticator.stop()

    def __enter__(self) -> ZapGate:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def server_socket(
    context: zmq.Context[zmq.Socket[bytes]],
    kind: int,
    keys: CurveKeys,
    endpoint: str,
    *,
    max_message: int = CONTROL_LIMIT,
    queue_length: int = SERVER_SEND_QUEUE,
    receive_queue: int = RECEIVE_QUEUE,
) -> tuple[zmq.Socket[bytes], str]:
    """A bound CURVE server socket and the endpoint it really has.

    ``endpoint`` "auto" or a port of 0 or ``*`` means any free port (of 127.0.0.1 for "auto").
    ``queue_length`` is ZMQ_SNDHWM and ``receive_queue`` ZMQ_RCVHWM: messages per connection, not bytes; times
    their size it is what one connection can make libzmq hold.
    """
    socket = _socket(context, kind, keys, max_message, queue_length, receive_queue)
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt_string(zmq.ZAP_DOMAIN, DOMAIN)
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
    if kind == zmq.ROUTER:
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    # ZMTP pings let the server drop connections whose other end vanished without a FIN.
    socket.setsockopt(zmq.HEARTBEAT_IVL, 2000)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 10000)
    if endpoint == "auto":
        endpoint = "tcp://127.0.0.1:*"
    elif endpoint.endswith(":0"):
        endpoint = endpoint[:-1] + "*"
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        socket.close()
        raise OSError(
            error.errno, f"cannot listen on {endpoint}: {error.strerror}; is another instance running?"
        ) from error
    return socket, str(socket.getsockopt_string(zmq.LAST_ENDPOINT))


def client_socket(
    context: zmq.Context[zmq.Socket[bytes]],
    kind: int,
    keys: CurveKeys,
    server_public: str,
    endpoint: str,
    *,
    max_message: int = CONTROL_LIMIT,
    queue_length: int = CLIENT_SEND_QUEUE,
    receive_queue: int = RECEIVE_QUEUE,
    reconnect: bool = True,
    before_connect: Callable[[zmq.Socket[bytes]], None] | None = None,
) -> zmq.Socket[bytes]:
    """A CURVE client socket, connecting to ``endpoint`` and speaking only to the owner of ``server_public``.

    Nothing is queued for a server that was never reached (ZMQ_IMMEDIATE): a send then raises zmq.Again.
    With ``reconnect`` False libzmq tries once and the owner makes a fresh socket.  ``before_connect`` is
    where a monitor is attached, so that it sees every event.
    """
    socket = _socket(context, kind, keys, max_message, queue_length, receive_queue)
    socket.setsockopt_string(zmq.CURVE_SERVERKEY, check_public(server_public))
    socket.setsockopt(zmq.IMMEDIATE, 1)
    socket.setsockopt(zmq.RECONNECT_IVL, 100 if reconnect else -1)
    if reconnect:
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
    if before_connect is not None:
        before_connect(socket)
    try:
        socket.connect(endpoint)
    except zmq.ZMQError as error:
        socket.close()
        raise OSError(error.errno, f"cannot connect to {endpoint}: {error.strerror}") from error
    return socket


def _socket(
    context: zmq.Context[zmq.Socket[bytes]],
    kind: int,
    keys: CurveKeys,
    max_message: int,
    queue_length: int,
    receive_queue: int,
) -> zmq.Socket[bytes]:
    socket = context.socket(kind)
    socket.setsockopt(zmq.LINGER, 500)
    socket.setsockopt(zmq.SNDTIMEO, 2000)
    socket.setsockopt(zmq.MAXMSGSIZE, max_message)
    socket.setsockopt(zmq.SNDHWM, queue_length)
    socket.setsockopt(zmq.RCVHWM, receive_queue)
    socket.setsockopt(zmq.HANDSHAKE_IVL, 5000)
    socket.setsockopt_string(zmq.CURVE_PUBLICKEY, keys.public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret.reveal_bytes())
    return socket
