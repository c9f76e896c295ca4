"""The local control socket of a process: how an operator of the same machine tells a running role something.

A Unix domain socket ``control`` in the role's own state folder (0700), mode 0600.  The kernel says which user is at
the other end (``SO_PEERCRED``, unix(7)); everybody but the role's own user and root is told so and nothing happens.
An interlock has a socket of its own beside it, so that nothing slow stands before it (:mod:`lab.interlock`).
One request and one reply per connection, each a length of four bytes and one message; a version goes first.  What
may be asked depends on the role, see :data:`Request`.

A socket's address is at most 108 bytes (``sun_path``, unix(7)); a folder with a longer path is reached through its
descriptor, ``/proc/self/fd/N/control``.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from msgspec import Meta

from orchestrator import runtime
from orchestrator.events.status import Alarm
from orchestrator.wire.attack_control import AttackRequest, AttackShown
from orchestrator.wire.codec import Message, WireError, decode, encode
from orchestrator.wire.fields import Seconds
from orchestrator.wire.key_control import KeyReply, KeyRequest
from orchestrator.wire.queue_control import QueueReply, QueueRequest

logger = logging.getLogger(__name__)

VERSION = 1
SOCKET_FILE = "control"
ADDRESS_BYTES = 107
LARGEST = 1 << 20
PATIENCE_S = 5.0
STRANGER_PATIENCE_S = 0.5

RoleName: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64)]


class ControlError(ConnectionError):
    """No process answers at the control socket, or not to this user."""


class ControlRefusedError(Exception):
    """The process did not do what it was asked; the text is its own."""


class _NothingAskedError(WireError):
    """The other end connected and went: it only wanted to know whether anybody listens."""


# -- what may be asked ---------------------------------------------------------------------------------


class ShowKeys(Message, frozen=True):
    """A node: stock, ledger and generation of every pair."""


class TakeSecret(Message, frozen=True):
    """A node: keep the secret in the file ``path`` for its pair's next generation, and destroy the file."""

    path: Annotated[str, Meta(min_length=1, max_length=4096)]


class MeetNow(Message, frozen=True):
    """A node: meet ``peer`` although so few authentication bits are left that it waits for an operator."""

    peer: RoleName


class Revoke(Message, frozen=True):
    """Any process that serves others: refuse the key of ``role`` from here on, and end its connections."""

    role: RoleName


class ShowRevoked(Message, frozen=True):
    """Any process that serves others: the roles whose keys it refuses."""


class Trip(Message, frozen=True):
    """An interlock: make everything dark and latch; ``text`` says who wants it and why."""

    text: Annotated[str, Meta(max_length=400)]


class Acknowledge(Message, frozen=True):
    """An interlock: ``operator`` has looked; release it if the cause is gone."""

    operator: RoleName


class ShowInterlock(Message, frozen=True):
    """An interlock: whether and why it is latched, and what is dark."""


class ShowAlarms(Message, frozen=True):
    """Relay or node: the alarms that stand, shelved ones too."""


AlarmId: TypeAlias = Annotated[str, Meta(min_length=1, max_length=256)]


class AcknowledgeAlarm(Message, frozen=True):
    """Relay or node: an operator has seen this alarm."""

    identity: AlarmId


class ShelveAlarm(Message, frozen=True):
    """Relay or node: keep this alarm out of the way for so long; 0 brings it back."""

    identity: AlarmId
    for_s: Seconds


Request: TypeAlias = (
    ShowKeys
    | KeyRequest
    | TakeSecret
    | MeetNow
    | Revoke
    | ShowRevoked
    | Trip
    | Acknowledge
    | ShowInterlock
    | ShowAlarms
    | AcknowledgeAlarm
    | ShelveAlarm
    | QueueRequest
    | AttackRequest
)


class Ask(Message, frozen=True):
    """A request and the version of this protocol that the asker speaks."""

    version: int
    request: Request


# -- what is answered ----------------------------------------------------------------------------------


class PairKeys(Message, frozen=True):
    """What a node holds with one peer, in bits; ``kept`` secrets wait for the peer to take its half.

    ``old_copy``: whose store, ``self`` or ``peer``, a meeting found to be restored since the node was started.
    """

    peer: str
    generation: int
    kept: int
    lanes: dict[str, int]
    produced: int
    delivered: int
    authentication: int
    burnt: int
    epsilons: dict[str, float]
    low: bool = False
    waits: bool = False
    old_copy: str = ""


class Keys(Message, frozen=True):
    """All pairs of a node."""

    node: str
    pairs: list[PairKeys]


class Revoked(Message, frozen=True):
    """The roles whose keys are refused."""

    roles: list[str]


class Standing(Message, frozen=True):
    """The alarms of a role."""

    role: str
    alarms: list[Alarm]


class LatchedCause(Message, frozen=True):
    """Why an interlock is latched, since when (wall clock, for people), and what an operator does about it."""

    cause: str
    text: str
    at: str
    what_to_do: str


class InterlockState(Message, frozen=True):
    """An interlock; not latched without ``causes``.

    ``dark_s``: what it took from the latest trip until nothing emitted or let light through, as instruments read back;
    None while that is not so, or where nothing tripped since the process began.  ``under_way`` and ``unsafe`` are
    instruments that are not in their safe states yet, and those that could not be brought there, with why.
    ``kept``: a restart would know.
    """

    role: str
    causes: list[LatchedCause]
    dark_s: float | None
    under_way: list[str]
    unsafe: dict[str, str]
    kept: bool = True


class Done(Message, frozen=True):
    """It was done; ``text`` says what."""

    text: str


class Failed(Message, frozen=True):
    """It was not done, and nothing was changed unless ``text`` says so."""

    text: str


Reply: TypeAlias = (
    Keys | KeyReply | Revoked | Standing | InterlockState | QueueReply | AttackShown | Done | Failed
)


class ControlSocket:
    """Serves one process's control socket in a thread of its own, one request at a time unless ``together``.

    ``handle`` answers a request; what it raises of ``expected`` becomes :class:`Failed` with its text.
    """

    def __init__(
        self,
        folder: Path,
        handle: Callable[[Request], Reply],
        expected: tuple[type[Exception], ...] = (OSError, ValueError),
        *,
        user: int | None = None,
        name: str = SOCKET_FILE,
        patience_s: float = PATIENCE_S,
        together: bool = False,
    ) -> None:
        """``together``: each request has a thread, so that one which takes its time keeps no other waiting."""
        self._path = folder / name
        self._together = together
        self._patience_s = patience_s
        self._handle = handle
        self._expected = expected
        self._users = {os.getuid() if user is None else user, 0 if user is None else user}
        self._stop = runtime.event()
        self.refused = 0
        """How many users of the machine were turned away."""

    def start(self) -> None:
        """Listen; raises ControlError if another process does at the same place, or OSError with the place."""
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._bind()
        except ControlError:
            self._listener.close()
            raise
        except OSError as error:
            self._listener.close()
            raise OSError(
                error.errno, f"cannot make the control socket {self._path}: {error.strerror}"
            ) from error
        self._thread = runtime.spawn(self._serve, name="control")

    def _bind(self) -> None:
        os.fchmod(self._listener.fileno(), 0o600)  # what bind creates has this mode from the start
        with _address(self._path) as address:
            if self._path.exists():
                if _somebody_listens(address):
                    raise ControlError(f"another process listens at {self._path}; stop it first")
                self._path.unlink()  # left by a process that was killed
            self._listener.bind(address)
        os.chmod(self._path, 0o600)
        self._listener.listen(8)
        self._listener.settimeout(0.2)

    def close(self) -> None:
        """Stop listening and remove the socket.  Idempotent."""
        if not self._stop.is_set():
            self._stop.set()
            self._thread.join()
            self._listener.close()
            self._path.unlink(missing_ok=True)  # somebody may have tidied up

    def __enter__(self) -> ControlSocket:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _serve(self) -> None:
        while not self._stop.is_set():
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError as error:
                logger.warning("no connection taken at %s: %s", self._path, error)
                self._stop.wait(0.2)
                continue
            if self._together:
                runtime.spawn(self._serve_one, connection, name="control request")
            else:
                self._serve_one(connection)

    def _serve_one(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(self._patience_s)
            try:
                _send(connection, self._answer(connection))
            except _NothingAskedError:
                return
            except (OSError, WireError) as error:
                logger.info("a request on %s failed: %s", self._path, error)

    def _answer(self, connection: socket.socket) -> Reply:
        uid = _credentials(connection)[1]
        if uid not in self._users:
            self.refused += 1
            connection.settimeout(STRANGER_PATIENCE_S)
            with suppress(
                OSError, WireError
            ):  # taken off the socket unread, or closing would lose the answer
                _receive(connection, Ask)
            logger.warning("user %d of this machine was refused at %s", uid, self._path)
            return Failed(
                f"{self._path}: user {uid} may not control this process, only its own user "
                f"({max(self._users)}) and root may; nothing was done"
            )
        ask = _receive(connection, Ask)
        if ask.version != VERSION:
            return Failed(
                f"this process speaks version {VERSION} of the control protocol, not {ask.version}: use the"
                " same release"
            )
        try:
            return self._handle(ask.request)
        except self._expected as error:
            return Failed(str(error))
        except Exception:
            logger.exception("a request on %s failed", self._path)
            return Failed("internal error, see the log of the process")


def ask(folder: Path, request: Request, timeout_s: float = 30.0, *, name: str = SOCKET_FILE) -> Any:
    """The reply of the process whose state folder is ``folder``.

    Raises ControlError if none listens there or this user may not ask it, ControlRefusedError if it answers Failed.
    """
    path = folder / name
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        try:
            with _address(path) as address:
                connection.connect(address)
            _send(connection, Ask(VERSION, request))
            reply = _receive(connection, Reply)
        except PermissionError as error:
            raise ControlError(
                f"{path}: this user may not control the process; run the command as the user that runs it"
            ) from error
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError) as error:
            raise ControlError(
                f"no process listens at {path}; is the role running on this machine?"
            ) from error
        except (OSError, WireError) as error:
            raise ControlError(f"no answer from the process at {path}: {error}") from error
    if isinstance(reply, Failed):
        raise ControlRefusedError(reply.text)
    return reply


def listener(folder: Path, *, name: str = SOCKET_FILE) -> int | None:
    """The number of the process that listens in ``folder``, whether it answers or stands still; None without one.

    Of a socket that is bound to a path the peer's credentials are those of whoever called listen(2) (unix(7)).
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(STRANGER_PATIENCE_S)
        try:
            with _address(folder / name) as address:
                probe.connect(address)
        except OSError:
            return None
        return _credentials(probe)[0]


def _credentials(connection: socket.socket) -> tuple[int, int, int]:
    """Process, user and group at the other end."""
    pid, uid, gid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid, gid


def listens(folder: Path, *, name: str = SOCKET_FILE) -> bool:
    """Whether a process listens at the control socket of ``folder``; its user may be another."""
    path = folder / name
    try:
        with _address(path) as address:
            return _somebody_listens(address)
    except OSError:
        return False


def _somebody_listens(address: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a process that stands still may have its queue full
        return probe.connect_ex(address) in (0, errno.EAGAIN, errno.EACCES)


@contextmanager
def _address(path: Path) -> Iterator[str]:
    """``path`` as a socket address, through a descriptor of its folder where it is too long."""
    if len(os.fsencode(path)) <= ADDRESS_BYTES:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _send(connection: socket.socket, message: Message) -> None:
    data = encode(message)
    connection.sendall(len(data).to_bytes(4, "big") + data)


def _receive(connection: socket.socket, type_: Any) -> Any:
    first = connection.recv(1)
    if not first:
        raise _NothingAskedError("the other end closed the connection without a message")
    length = int.from_bytes(first + _read(connection, 3), "big")
    if length > LARGEST:
        raise WireError(f"a message of {length} bytes, at most {LARGEST} are taken")
    return decode(_read(connection, length), type_)


def _read(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise WireError("the other end closed the connection in the middle")
        data += part
    return data
