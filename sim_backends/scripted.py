"""Instruments that say what a transcript has: the far ends of a driver's links, one script each.

A script is what passed on one link.  It hears what a driver sends, holds it against what was sent then, and says what was
said then; at the first difference it keeps it for whoever asks, and hangs up.  Bytes must be the same, with two exceptions
(:class:`Manner`): the source addresses of Interbus telegrams change from request to request, and a transcript that was
made from somebody else's client may spell a SCPI command in its own way.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import zmq

from drivers.links.ieee488 import is_word, split_outside_quotes
from drivers.links.interbus import Telegram, TelegramReader, encode
from drivers.links.transcript import Passed, Redactor
from sim_backends.faults import FaultInjector
from sim_backends.serial_server import PtyServer
from sim_backends.servers import header_pattern

HOST = "127.0.0.1"
_POLL_MS = 20


@dataclass(frozen=True)
class Difference:
    """At ``entry`` of the transcript (None: behind its end) something else was sent than ``expected``."""

    entry: int | None
    link: int
    expected: str
    sent: str


class Manner:
    """How sent bytes are compared: one by one."""

    def taken(self, expected: bytes, heard: bytes) -> int | None:
        """How many of the bytes ``heard`` are what was ``expected``; None while more must come; -1: something else."""
        if len(heard) >= len(expected):
            return len(expected) if heard.startswith(expected) else -1
        return None if expected.startswith(heard) else -1

    def answer(self, reply: bytes) -> bytes:
        """``reply`` as it goes to whoever sent what was taken last."""
        return reply


class InterbusManner(Manner):
    """Telegrams, whatever their source address is; the answer goes to that address."""

    _sources = (0, 0)

    def taken(self, expected: bytes, heard: bytes) -> int | None:
        """See :class:`Manner`."""
        end = heard.find(b"\n") + 1
        if not end:
            return None
        wanted, found = _telegrams(expected), _telegrams(heard[:end])
        if len(wanted) != 1 or len(found) != 1:
            return super().taken(expected, heard)
        self._sources = wanted[0].source, found[0].source
        return end if _without_source(wanted[0]) == _without_source(found[0]) else -1

    def answer(self, reply: bytes) -> bytes:
        """See :class:`Manner`; what is no telegram stays as it is."""
        then, now = self._sources
        telegrams = _telegrams(reply)
        if b"".join(map(encode, telegrams)) != reply:
            return reply
        return b"".join(
            encode(Telegram(now if each.destination == then else each.destination, *_behind(each)))
            for each in telegrams
        )


class ScpiManner(Manner):
    """SCPI that means the same: short forms, long forms, and other ways to write a number."""

    def taken(self, expected: bytes, heard: bytes) -> int | None:
        """See :class:`Manner`; the driver's commands are in the notation of the manuals."""
        end = heard.find(b"\n") + 1 if expected.endswith(b"\n") else len(heard)
        if not end:
            return None
        wanted, found = (each.decode("latin-1").strip() for each in (expected, heard[:end]))
        return end if means_the_same(found, wanted) else -1


def means_the_same(notation: str, command: str) -> bool:
    """Whether ``command`` is what ``notation`` says, a command with the capitals of the manual."""
    header, _, rest = notation.partition(" ")
    other, _, other_rest = command.partition(" ")
    if not header_pattern(header).fullmatch(other.removeprefix(":")):
        return False
    ours, theirs = (split_outside_quotes(each.strip(), ",") for each in (rest, other_rest))
    return len(ours) == len(theirs) and all(map(_same_argument, ours, theirs))


def _same_argument(ours: str, theirs: str) -> bool:
    ours, theirs = ours.strip(), theirs.strip()
    with contextlib.suppress(ValueError):
        return float(ours) == float(theirs)
    return is_word(ours, theirs)


def _telegrams(data: bytes) -> list[Telegram]:
    return [each for each in TelegramReader().feed(data) if isinstance(each, Telegram)]


def _without_source(telegram: Telegram) -> tuple[int, int, int, bytes]:
    return telegram.destination, telegram.kind, telegram.register, telegram.data


def _behind(telegram: Telegram) -> tuple[int, int, int, bytes]:
    return telegram.source, telegram.kind, telegram.register, telegram.data


class Script:
    """What passed on one link, to be gone through once more; ``passed`` with the number of each in the transcript.

    ``by_connection``: whether opening the link can be seen.
    """

    def __init__(
        self,
        link: int,
        passed: Sequence[tuple[int, Passed]],
        redactor: Redactor,
        *,
        manner: Manner | None = None,
        by_connection: bool,
    ) -> None:
        self.link = link
        self._passed = [each for each in passed if by_connection or each[1].direction != "opened"]
        self._redactor = redactor
        self._manner = manner or Manner()
        self._place = 0
        self._heard = b""
        self._lock = threading.Lock()
        self.difference: Difference | None = None
        """The first thing that was sent otherwise."""

    def open(self) -> list[bytes]:
        """Somebody connects; what is said without being asked."""
        with self._lock:
            self._heard = b""
            if self._place < len(self._passed) and self._passed[self._place][1].direction == "opened":
                self._place += 1
            elif self._place:
                self._differ("opens the link")
            return self._said()

    def hear(self, data: bytes) -> list[bytes] | None:
        """What is said to ``data``; None to hang up, because it is not what was sent."""
        with self._lock:
            self._heard += data
            said: list[bytes] = []
            while self._heard and self.difference is None:
                count = self._taken()
                if count is None:
                    break
                self._heard = self._heard[count:]
                said += self._said()
            return said if self.difference is None else None

    def unfinished(self) -> Difference | None:
        """What was sent then and has not been sent this time."""
        with self._lock:
            for entry, passed in self._passed[self._place :]:
                if passed.direction != "received":
                    return Difference(entry, self.link, _words(passed), "nothing")
            return None

    def _taken(self) -> int | None:
        """How much of what was heard is the next thing that was sent; None for none of it yet, or for a difference."""
        if self._place == len(self._passed):
            self._differ(_shown(self._heard))
            return None
        passed = self._passed[self._place][1]
        if passed.direction == "block":
            if len(self._heard) < int(passed.data):
                return None
            self._place += 1
            return int(passed.data)
        if passed.direction == "opened":
            self._differ(_shown(self._heard))
            return None
        count = self._manner.taken(passed.data, self._heard)
        if count == -1 and self._redactor.clean(self._heard) == passed.data:
            count = len(self._heard)
        if count == -1:
            self._differ(_shown(self._heard))
            return None
        if count is not None:
            self._place += 1
        return count

    def _said(self) -> list[bytes]:
        said: list[bytes] = []
        while self._place < len(self._passed) and self._passed[self._place][1].direction == "received":
            said.append(self._manner.answer(self._passed[self._place][1].data))
            self._place += 1
        return said

    def _differ(self, sent: str) -> None:
        if self._place < len(self._passed):
            entry, passed = self._passed[self._place]
            self.difference = Difference(entry, self.link, _words(passed), sent)
        else:
            self.difference = Difference(None, self.link, "nothing more", sent)


def _words(passed: Passed) -> str:
    if passed.direction == "opened":
        return "opens the link"
    return f"a block of {int(passed.data)} bytes" if passed.direction == "block" else _shown(passed.data)


def _shown(data: bytes) -> str:
    text = repr(data[:120])[1:]
    return text if len(data) <= 120 else f"{text}... ({len(data)} bytes)"


# The far ends


class Peer(ABC):
    """The far end of one link in a thread of its own; ``address`` is what a driver opens."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.address = ""

    @abstractmethod
    def close(self) -> None:
        """Hang up for good."""


class TcpPeer(Peer):
    """Accepts one connection after the other."""

    def __init__(self, script: Script) -> None:
        super().__init__(script)
        self._listener = socket.create_server((HOST, 0))
        self._connection: socket.socket | None = None
        self.address = f"{HOST}:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run, name="scripted-tcp", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """See :class:`Peer`."""
        for each in (self._listener, self._connection):
            if each is not None:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                each.close()
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connection = connection
            with connection, contextlib.suppress(OSError):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.sendall(b"".join(self.script.open()))
                while (data := connection.recv(1 << 16)) and (said := self.script.hear(data)) is not None:
                    connection.sendall(b"".join(said))


class SerialPeer(Peer):
    """A pseudo-terminal."""

    def __init__(self, script: Script) -> None:
        super().__init__(script)
        self._server = PtyServer(self._hear, FaultInjector())
        self._hanging_up: threading.Thread | None = None
        self.address = self._server.serve("scripted")

    def close(self) -> None:
        """See :class:`Peer`."""
        if self._hanging_up is not None:
            self._hanging_up.join()
        self._server.close()

    def _hear(self, data: bytes) -> None:
        said = self.script.hear(data)
        if said:
            self._server.send(b"".join(said))
        elif said is None and self._hanging_up is None:  # the thread that serves the line cannot end itself
            self._hanging_up = threading.Thread(target=self._server.close, daemon=True)
            self._hanging_up.start()


class ZmqPeer(Peer):
    """A ZeroMQ service: one reply to each request."""

    def __init__(self, script: Script) -> None:
        super().__init__(script)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        port = self._socket.bind_to_random_port(f"tcp://{HOST}")
        self.address = f"{HOST}:{port}"
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scripted-zeromq", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """See :class:`Peer`."""
        self._closing.set()
        self._thread.join()
        self._context.destroy(linger=0)

    def _run(self) -> None:
        while not self._closing.is_set():
            if not self._socket.poll(_POLL_MS):
                continue
            *whom, request = self._socket.recv_multipart()
            said = self.script.hear(request)
            if said is None:
                self._socket.close(linger=0)
                return
            for reply in said:
                self._socket.send_multipart([*whom, reply])


PEERS: dict[str, Callable[[Script], Peer]] = {
    "visa": TcpPeer,
    "tcp": TcpPeer,
    "serial": SerialPeer,
    "zeromq": ZmqPeer,
}
"""By the kind of a link."""
