"""Wires between a driver and its twin that can misbehave: late, twice, in pieces, out of order, or not at all.

A wire hands every reply of the twin to its :class:`Desk`, which numbers the replies of one instrument over all of its
wires and says what the driver gets instead: :class:`Piece` after piece, each after a time.  A delay holds up nothing
but its reply, so that the twin goes on doing what it is told.  What comes late over TCP or ZeroMQ goes to the
connection that asked, as from a real instrument; a serial line has only one.
"""

from __future__ import annotations

import heapq
import itertools
import os
import select
import shutil
import socket
import tempfile
import threading
import time
import tty
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zmq

Judge = Callable[[int, bytes], "Iterable[Piece]"]
Hear = Callable[[bytes], "Iterable[bytes] | None"]


@dataclass(frozen=True)
class Piece:
    """``data`` goes to whom it answers ``after_s`` the reply came, or once ``until`` is set; then the line is cut, if
    so wanted, and ``then`` is done."""

    data: bytes = b""
    after_s: float = 0.0
    until: threading.Event | None = None
    then: Callable[[], object] | None = None
    hang_up: bool = False


@dataclass
class Desk:
    """What happens to the replies of one instrument: by default they pass.

    ``judge(number, reply)`` says what the driver gets; ``hear(request)`` may answer in the twin's place, and then the
    twin never hears the request.  ``replies`` are those that came since :meth:`listen`.
    """

    judge: Judge = lambda number, reply: (Piece(reply),)
    hear: Hear = lambda request: None
    replies: list[bytes] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def listen(self, judge: Judge | None = None) -> None:
        """Number replies from 0 and treat them so; without ``judge`` they pass."""
        with self._lock:
            self.replies = []
            self.judge = judge or (lambda number, reply: (Piece(reply),))

    def pieces(self, reply: bytes) -> list[Piece]:
        with self._lock:
            self.replies.append(reply)
            number, judge = len(self.replies) - 1, self.judge
        return list(judge(number, reply))


class Wire(ABC):
    """One thread that owns the line; ``address`` is what the driver opens in place of the twin's."""

    def __init__(self, desk: Desk) -> None:
        self.address = ""
        self.desk = desk
        self._due: list[tuple[float, int, Any, Piece]] = []
        self._held: list[tuple[Any, Piece]] = []
        self._order = itertools.count()
        self._closing = threading.Event()
        self._restarted = ""
        self._poller = zmq.Poller()
        self._thread = threading.Thread(target=self._run, name="wire", daemon=True)

    def start(self) -> Wire:
        self._thread.start()
        return self

    def restart(self, twin_address: str) -> None:
        """Another twin is at the end of the line, as after a power cut: connections end, what was under way is lost."""
        self._restarted = twin_address
        while self._restarted:
            time.sleep(0.002)

    def close(self) -> None:
        self._closing.set()
        self._thread.join(timeout=5)
        self._shut()

    def _run(self) -> None:
        while not self._closing.is_set():
            if self._restarted:
                self._due.clear()
                self._rewire(self._restarted)
                self._restarted = ""
            now = time.monotonic()
            wait_s = min(self._due[0][0] - now if self._due else 0.02, 0.02)
            for ready, _ in self._poller.poll(max(wait_s, 0.0) * 1000):
                self._take(ready)
            while self._due and self._due[0][0] <= time.monotonic():
                self._deliver(*heapq.heappop(self._due)[2:])
            for each in [(whom, piece) for whom, piece in self._held if piece.until and piece.until.is_set()]:
                self._held.remove(each)
                self._deliver(*each)

    def _answer(self, whom: Any, reply: bytes) -> None:
        now = time.monotonic()
        for piece in self.desk.pieces(reply):
            if piece.until is not None:
                self._held.append((whom, piece))
                continue
            heapq.heappush(self._due, (now + piece.after_s, next(self._order), whom, piece))

    def _deliver(self, whom: Any, piece: Piece) -> None:
        if piece.data:
            self._send(whom, piece.data)
        if piece.hang_up:
            self._hang_up(whom)
        if piece.then is not None:
            piece.then()

    def _asked(self, whom: Any, request: bytes, pass_on: Callable[[bytes], object]) -> None:
        answers = self.desk.hear(request)
        if answers is None:
            pass_on(request)
        else:
            for answer in answers:
                self._answer(whom, answer)

    @abstractmethod
    def _take(self, ready: Any) -> None:
        """Something can be read at ``ready``."""

    @abstractmethod
    def _send(self, whom: Any, data: bytes) -> None: ...

    @abstractmethod
    def _hang_up(self, whom: Any) -> None: ...

    @abstractmethod
    def _rewire(self, twin_address: str) -> None: ...

    @abstractmethod
    def _shut(self) -> None: ...


class TcpWire(Wire):
    """Listens on a port of its own; each connection has one of its own to the twin."""

    def __init__(self, desk: Desk, twin_address: str) -> None:
        super().__init__(desk)
        self._twin = _host_port(twin_address)
        self._listener = socket.create_server((self._twin[0], 0))
        self.address = f"{self._twin[0]}:{self._listener.getsockname()[1]}"
        self._pairs: dict[int, tuple[socket.socket, socket.socket]] = {}  # by descriptor: (driver's, twin's)
        self._poller.register(self._listener, zmq.POLLIN)

    def _take(self, ready: Any) -> None:
        if ready == self._listener.fileno():
            self._accept()
            return
        if ready not in self._pairs:
            return
        driver, twin = pair = self._pairs[ready]
        from_twin = ready == twin.fileno()
        try:
            data = (twin if from_twin else driver).recv(1 << 20)
        except OSError:
            data = b""
        if not data:
            self._part(pair)
        elif from_twin:
            self._answer(pair, data)
        else:
            self._asked(pair, data, twin.sendall)

    def _accept(self) -> None:
        driver, _ = self._listener.accept()
        try:
            twin = socket.create_connection(self._twin, timeout=2)
        except OSError:
            driver.close()
            return
        for each in (driver, twin):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._pairs[each.fileno()] = (driver, twin)
            self._poller.register(each, zmq.POLLIN)

    def _send(self, whom: Any, data: bytes) -> None:
        try:
            whom[0].sendall(data)
        except OSError:
            return  # the driver left this connection

    def _hang_up(self, whom: Any) -> None:
        self._part(whom)

    def _rewire(self, twin_address: str) -> None:
        for pair in set(self._pairs.values()):
            self._part(pair)
        self._twin = _host_port(twin_address)

    def _part(self, pair: tuple[socket.socket, socket.socket]) -> None:
        for each in pair:
            if self._pairs.pop(each.fileno(), None) is not None:
                self._poller.unregister(each)
            each.close()

    def _shut(self) -> None:
        for pair in set(self._pairs.values()):
            self._part(pair)
        self._listener.close()


class PtyWire(Wire):
    """A terminal of its own; when it is cut another takes its place under the same name."""

    def __init__(self, desk: Desk, twin_address: str) -> None:
        super().__init__(desk)
        self._folder = Path(tempfile.mkdtemp(prefix="qunetlab-wire-"))
        self.address = str(self._folder / "tty")
        self._open_twin(twin_address)
        self._open()

    def _open_twin(self, address: str) -> None:
        self._twin = os.open(address, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        self._poller.register(self._twin, zmq.POLLIN)

    def _open(self) -> None:
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        fresh = self._folder / "next"
        fresh.symlink_to(os.ttyname(self._slave))
        fresh.replace(self.address)
        self._poller.register(self._master, zmq.POLLIN)

    def _take(self, ready: Any) -> None:
        if ready == self._twin:
            self._answer(None, os.read(self._twin, 1 << 16))
        elif ready == self._master:
            self._asked(None, os.read(self._master, 1 << 16), lambda data: os.write(self._twin, data))

    def _send(self, whom: Any, data: bytes) -> None:
        if select.select([], [self._master], [], 0.1)[1]:
            os.write(self._master, data)

    def _hang_up(self, whom: Any) -> None:
        self._poller.unregister(self._master)
        old = (self._master, self._slave)
        self._open()  # first, so that the name never leads nowhere
        for each in old:
            os.close(each)

    def _rewire(self, twin_address: str) -> None:
        """The adapter of the line keeps its power: only what it is connected to restarts."""
        self._poller.unregister(self._twin)
        os.close(self._twin)
        self._open_twin(twin_address)

    def _shut(self) -> None:
        for each in (self._master, self._slave, self._twin):
            os.close(each)
        shutil.rmtree(self._folder, ignore_errors=True)


class ZmqWire(Wire):
    """Requests and replies, frame by frame; each goes back to who asked."""

    def __init__(self, desk: Desk, twin_address: str) -> None:
        super().__init__(desk)
        self._context = zmq.Context()
        self._connect(twin_address)
        self._endpoint = f"tcp://{_host_port(twin_address)[0]}:*"
        self._bind()

    def _connect(self, twin_address: str) -> None:
        self._twin = self._context.socket(zmq.DEALER)
        self._twin.setsockopt(zmq.LINGER, 0)
        self._twin.connect(f"tcp://{twin_address}")
        self._poller.register(self._twin, zmq.POLLIN)

    def _bind(self) -> None:
        self._front = self._context.socket(zmq.ROUTER)
        self._front.setsockopt(zmq.LINGER, 0)
        for _ in range(
            200
        ):  # the port of a socket just closed is free only when ZeroMQ's thread is done with it
            try:
                self._front.bind(self._endpoint)
                break
            except zmq.ZMQError:
                time.sleep(0.005)
        self._endpoint = self._front.getsockopt_string(zmq.LAST_ENDPOINT)
        self.address = self._endpoint.removeprefix("tcp://")
        self._poller.register(self._front, zmq.POLLIN)

    def _take(self, ready: Any) -> None:
        frames = ready.recv_multipart()
        envelope, body = tuple(frames[:-1]), frames[-1]
        if ready is self._twin:
            self._answer(envelope, body)
        else:
            self._asked(envelope, body, lambda data: self._twin.send_multipart([*envelope, data]))

    def _send(self, whom: Any, data: bytes) -> None:
        self._front.send_multipart([*whom, data])

    def _hang_up(self, whom: Any) -> None:
        self._poller.unregister(self._front)
        self._front.close(linger=0)
        self._bind()

    def _rewire(self, twin_address: str) -> None:
        self._hang_up(None)
        self._poller.unregister(self._twin)
        self._twin.close(linger=0)
        self._connect(twin_address)

    def _shut(self) -> None:
        self._context.destroy(linger=0)


def _host_port(address: str) -> tuple[str, int]:
    host, port = address.split(":")
    return host, int(port)
