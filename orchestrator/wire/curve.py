"""CURVE keys, and sockets that cannot be used without them.

Every link between our processes runs under CURVE.  CURVE alone only encrypts: a server without a ZAP
handler (RFC 27) lets *any* client key in.  So every server socket made here names a ZAP domain and sets
``ZMQ_ZAP_ENFORCE_DOMAIN``, which makes libzmq refuse everybody while no handler answers
(:class:`orchestrator.wire.zeromq.ZapGate`).  It fails closed: no gate, a dead gate, an unknown
domain, another mechanism or an unknown key all mean no connection.

Key files: ``curve.public`` and ``curve.secret``, 40 characters of Z85 (ZeroMQ RFC 32) each.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import zmq
from zmq.utils import z85

from orchestrator.durable import create_file, make_folder
from orchestrator.secret import SecretBits
from orchestrator.wire.links import SERVER_QUEUES, QueueLimits, Target

DOMAIN = "qunetlab"
PUBLIC_FILE = "curve.public"
SECRET_FILE = "curve.secret"
CONNECT_MS = 1000
"""What opening a connection may take before another is tried.  The system knocks after 0, 1, 3, 7 and 15 s: a cable that is back
just after a knock would wait for the next as long as it was out."""


class CurveError(Exception):
    """Base of what can go wrong with CURVE keys."""


class KeyFileError(CurveError):
    """A key file is missing, malformed or readable by others."""


@dataclass(frozen=True)
class CurveKeys:
    """A key pair: ``public`` as Z85 text, ``secret`` as the 320 bits of its Z85 text."""

    public: str
    secret: SecretBits = field(repr=False)


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


def raw_key(text: bytes) -> bytes:
    """The 32 bytes of a public or secret key in Z85."""
    return bytes(z85.decode(text))


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


def server_socket(
    context: zmq.Context[zmq.Socket[bytes]],
    keys: CurveKeys,
    endpoint: str,
    limits: QueueLimits = SERVER_QUEUES,
) -> tuple[zmq.Socket[bytes], str]:
    """A bound CURVE ROUTER and the endpoint it really has.

    ``endpoint`` "auto" or a port of 0 or ``*`` means any free port (of 127.0.0.1 for "auto").
    """
    socket = _socket(context, zmq.ROUTER, keys, limits)
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt_string(zmq.ZAP_DOMAIN, DOMAIN)
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
    # A peer that is gone, or reads nothing, is an error; libzmq would drop the message without a word.
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
    keys: CurveKeys,
    target: Target,
    before_connect: Callable[[zmq.Socket[bytes]], None] | None = None,
) -> zmq.Socket[bytes]:
    """A CURVE DEALER that connects to ``target`` and speaks to nobody else.

    Nothing is queued for a server that was never reached (ZMQ_IMMEDIATE): a send then raises zmq.Again.
    ``before_connect`` is where a monitor is attached, so that it sees every event.
    """
    socket = _socket(context, zmq.DEALER, keys, target.limits)
    socket.setsockopt_string(zmq.CURVE_SERVERKEY, check_public(target.public))
    socket.setsockopt(zmq.IMMEDIATE, 1)
    socket.setsockopt(zmq.RECONNECT_IVL, 100 if target.reconnect else -1)
    if target.reconnect:
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
    socket.setsockopt(zmq.CONNECT_TIMEOUT, CONNECT_MS)
    if target.unacknowledged_s is not None:
        socket.setsockopt(zmq.TCP_MAXRT, int(1000 * target.unacknowledged_s))
    if before_connect is not None:
        before_connect(socket)
    try:
        socket.connect(target.endpoint)
    except zmq.ZMQError as error:
        socket.close()
        raise OSError(error.errno, f"cannot connect to {target.endpoint}: {error.strerror}") from error
    return socket


def _socket(
    context: zmq.Context[zmq.Socket[bytes]], kind: int, keys: CurveKeys, limits: QueueLimits
) -> zmq.Socket[bytes]:
    socket = context.socket(kind)
    socket.setsockopt(zmq.LINGER, 500)
    socket.setsockopt(zmq.SNDTIMEO, 2000)
    socket.setsockopt(zmq.MAXMSGSIZE, limits.frame_bytes)
    socket.setsockopt(zmq.SNDHWM, limits.unsent)
    socket.setsockopt(zmq.RCVHWM, limits.unread)
    socket.setsockopt(zmq.HANDSHAKE_IVL, 5000)
    socket.setsockopt_string(zmq.CURVE_PUBLICKEY, keys.public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret.reveal_bytes())
    return socket
