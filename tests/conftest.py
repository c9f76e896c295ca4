"""Fixtures shared by several rooms."""

from __future__ import annotations

import gc
import itertools
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from orchestrator.hub.agent import Agent
    from orchestrator.hub.hub import Hub
    from orchestrator.wire.curve import CurveKeys

ROLES = ("relay", "alice", "bob", "carol", "observer")
MEMORY = Path("/dev/shm")
ROOM_BYTES = 4 << 30
LONG_S = 600
"""The time limit of a long test that states none; that of pyproject.toml is for tests of seconds."""


def pytest_configure() -> None:
    """Temporary folders lie in memory where there is room: stores wait for the disk thousands of times otherwise."""
    if MEMORY.is_dir() and os.access(MEMORY, os.W_OK):
        room = os.statvfs(MEMORY)
        if room.f_bavail * room.f_frsize >= ROOM_BYTES and not room.f_flag & os.ST_NOEXEC:
            os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What collection makes, whole libraries with it, lives to the end: garbage is looked for among the rest alone."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first, so that nothing is left alone with one of them at the end."""
    items.sort(key=lambda item: item.get_closest_marker("early") is None)
    for item in items:
        if item.get_closest_marker("long") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(LONG_S))


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """A role or command that a test runs in its own process answers signals: not those of the tests after it."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)


@pytest.fixture(autouse=True)
def own_umask() -> Iterator[None]:
    """A role that a test runs in its own process makes private files: those of the tests after it are as ever."""
    before = os.umask(0o077)
    os.umask(before)
    yield
    os.umask(before)


@pytest.fixture(autouse=True)
def no_guard_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Drivers of the tests' own process have no guard: their twins end with it."""
    from drivers.ending import ENDING, Ending

    monkeypatch.setattr(Ending, "_tell", lambda self, *, wait=False: None)
    yield
    ENDING.forked()


class RawPeer:
    """A peer that says exactly what the test makes it say."""

    def __init__(self, world: HubWorld, role: str) -> None:
        import zmq

        from orchestrator.wire.curve import client_socket
        from orchestrator.wire.links import QueueLimits, Target
        from orchestrator.wire.messages import BULK_LIMIT

        keys, hub = world.keys[role], world.hub
        public = world.keys["orchestrator"].public
        self.instance = f"{role:x<16}{id(self):x}"
        self.role = role
        control = Target(hub.control_endpoint, public)
        bulk = Target(hub.bulk_endpoint, public, QueueLimits(BULK_LIMIT))
        self.control, self.bulk = (client_socket(world.context, keys, each) for each in (control, bulk))
        for socket in (self.control, self.bulk):
            assert socket.poll(5000, zmq.POLLOUT)

    def say(self, message: Any) -> None:
        from orchestrator.wire.codec import encode

        self.control.send(encode(message))

    def post(self, message: Any, *payload: bytes) -> None:
        from orchestrator.wire.codec import encode

        self.bulk.send_multipart([encode(message), *payload])

    def hear(self, timeout_ms: int = 5000) -> Any:
        """The next control message that is not a heartbeat, or None."""
        from orchestrator.wire.codec import decode
        from orchestrator.wire.messages import FromHub, Heartbeat

        while self.control.poll(timeout_ms):
            message = decode(self.control.recv(), FromHub)
            if not isinstance(message, Heartbeat):
                return message
        return None

    def get(self, timeout_ms: int = 5000) -> Any:
        """The next bulk message, or None; its payload, if any, in :attr:`payload`."""
        from orchestrator.wire.codec import decode
        from orchestrator.wire.messages import BulkFromHub

        if not self.bulk.poll(timeout_ms):
            return None
        frames = self.bulk.recv_multipart()
        self.payload = frames[1] if len(frames) > 1 else None
        return decode(frames[0], BulkFromHub)

    def join(self) -> RawPeer:
        """Do what an honest agent does to get in."""
        from orchestrator.wire.messages import PROTOCOL_VERSION, BulkHello, BulkWelcome, Hello, Welcome

        self.say(Hello(self.role, PROTOCOL_VERSION, self.instance))
        assert isinstance(self.hear(), Welcome)
        self.post(BulkHello(self.instance))
        assert isinstance(self.get(), BulkWelcome)
        return self


class HubWorld:
    """A hub on free ports of the loopback with fresh keys, and agents that are closed at the end."""

    def __init__(self, stack: ExitStack, **hub_options: Any) -> None:
        from orchestrator.wire.curve import generate_keys
        from orchestrator.wire.zeromq import ZeroMQ

        self.stack = stack
        self.transport = ZeroMQ()
        self.context = self.transport.context
        stack.callback(self.context.destroy, linger=0)
        self.keys: dict[str, CurveKeys] = {role: generate_keys() for role in ("orchestrator", *ROLES)}
        self.allowed = {self.keys[role].public: role for role in ROLES}
        self._epochs = itertools.count(1)
        self._hub_options = hub_options
        self.hub = self.start_hub()

    def start_hub(self, control: str = "auto", bulk: str = "auto") -> Hub:
        from orchestrator.hub.hub import Hub

        self.hub = Hub(
            self.transport,
            self.keys["orchestrator"],
            self.allowed,
            control,
            bulk,
            epoch=next(self._epochs),
            **self._hub_options,
        )
        self.hub.start()
        self.stack.callback(self.hub.close)
        return self.hub

    def restart_hub(self) -> Hub:
        """The next epoch on the same addresses."""
        control, bulk = self.hub.control_endpoint, self.hub.bulk_endpoint
        self.hub.close()
        return self.start_hub(control, bulk)

    def raw(self, role: str) -> RawPeer:
        return RawPeer(self, role)

    def agent(self, role: str, *, wait: bool = True, **options: Any) -> Agent:
        from orchestrator.hub.agent import Agent

        agent = Agent(
            role,
            options.pop("keys", self.keys[role]),
            options.pop("hub_public_key", self.keys["orchestrator"].public),
            self.hub.control_endpoint,
            self.hub.bulk_endpoint,
            **options,
        )
        agent.start()
        self.stack.callback(agent.close)
        if wait:
            assert agent.wait_up(10.0), agent.link_state
        return agent


@pytest.fixture
def hub_world() -> Iterator[HubWorld]:
    """A running hub with default limits."""
    with ExitStack() as stack:
        yield HubWorld(stack)


@pytest.fixture
def make_hub_world() -> Iterator[Any]:
    """Called with options of the Hub, gives a running hub."""
    with ExitStack() as stack:
        yield lambda **options: HubWorld(stack, **options)
