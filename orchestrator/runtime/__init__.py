"""Threads and clocks: the one seam through which the orchestrator and the learning rounds have them.

A module says ``from orchestrator import runtime`` and then ``runtime.now()``, ``runtime.event()``,
``runtime.spawn(self._serve, name="hub")``; it imports neither ``threading`` nor ``queue``, ``time`` or
``concurrent.futures``.  Two runtimes stand behind these functions.  The real one hands out the classes of the standard
library as they are.  :class:`orchestrator.runtime.simulated.Simulation` replaces all of them by a scheduler that lets
one thread run at a time, in an order that follows from a seed, on a clock that jumps to the next time-out when
everybody waits; whole nodes then live in one process and do the same again for the same seed.

Which runtime is meant is a property of the *thread that asks* (a context variable), not of the process and not of
each object: a thread is in the runtime that spawned it, and what it makes belongs there.  A parameter on every
constructor would say the same at a hundred places, and the one place that forgot it would wait on a real lock inside
a simulation.  Nothing here can be changed from outside while threads run, and several simulations and the real
runtime may stand side by side.

Interface, with the meaning that the standard library gives each name:

======================================  ========================================================================
``now()``                               seconds of a clock that never goes back (``time.monotonic``)
``sleep(seconds)``                      ``time.sleep``
``spawn(target, *args, name=...)``      a daemon thread, started: ``join(timeout)``, ``is_alive()``
``event()``                             ``threading.Event``: ``set``, ``clear``, ``is_set``, ``wait(timeout)``
``lock()``, ``rlock()``                 ``threading.Lock``, ``threading.RLock``: ``with``, ``acquire``, ``release``
``condition()``                         ``threading.Condition`` on a lock of its own: ``wait``, ``wait_for``, ``notify_all``
``queue()``                             ``queue.SimpleQueue``: ``put``, ``get(timeout=...)``, ``qsize``; raises :class:`Empty`
``future()``                            ``concurrent.futures.Future``
``call(function, *args, name=...)``     the future of a call made in a thread of its own
``worker(name)``                        one thread that makes calls in order: ``submit(function, *args)``, ``close()``
======================================  ========================================================================

Everything that can make a thread wait for another one goes through these; a call that only computes or writes a file
(numpy, numba, SQLite) is one step.  A transport that waits for a peer in this process waits on a :func:`condition`.
"""

from __future__ import annotations

import queue as _queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from contextvars import ContextVar, copy_context
from queue import Empty
from types import TracebackType
from typing import Any, Protocol, TypeVar

__all__ = [
    "CancelledError",
    "Condition",
    "Empty",
    "Event",
    "Future",
    "Lock",
    "Queue",
    "Runtime",
    "Thread",
    "Worker",
    "call",
    "condition",
    "event",
    "future",
    "lock",
    "now",
    "queue",
    "rlock",
    "sleep",
    "spawn",
    "worker",
]

T = TypeVar("T")


class Thread(Protocol):
    """A started thread."""

    name: str

    def join(self, timeout: float | None = None) -> None: ...

    def is_alive(self) -> bool: ...


class Event(Protocol):
    """A flag that threads wait for."""

    def is_set(self) -> bool: ...

    def set(self) -> None: ...

    def clear(self) -> None: ...

    def wait(self, timeout: float | None = None) -> bool: ...


class Lock(Protocol):
    """Mutual exclusion."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...

    def release(self) -> None: ...

    def __enter__(self) -> bool: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


class Condition(Lock, Protocol):
    """A lock, and a signal to those that wait under it."""

    def wait(self, timeout: float | None = None) -> bool: ...

    def wait_for(self, predicate: Callable[[], T], timeout: float | None = None) -> T: ...

    def notify(self, n: int = 1) -> None: ...

    def notify_all(self) -> None: ...


class Queue(Protocol[T]):
    """Items from thread to thread, without limit, in order."""

    def put(self, item: T) -> None: ...

    def get(self, block: bool = True, timeout: float | None = None) -> T: ...

    def get_nowait(self) -> T: ...

    def qsize(self) -> int: ...

    def empty(self) -> bool: ...


class Runtime(Protocol):
    """What a runtime must have."""

    def now(self) -> float: ...

    def sleep(self, seconds: float, /) -> None: ...

    def spawn(self, target: Callable[..., object], args: tuple[object, ...], name: str) -> Thread: ...

    def event(self) -> Event: ...

    def lock(self) -> Lock: ...

    def rlock(self) -> Lock: ...

    def condition(self) -> Condition: ...

    def queue(self) -> Queue[Any]: ...

    def future(self) -> Future[Any]: ...


class _Real:
    """The standard library; it has no state."""

    now = staticmethod(time.monotonic)
    sleep = staticmethod(time.sleep)
    event = staticmethod(threading.Event)
    lock = staticmethod(threading.Lock)
    rlock = staticmethod(threading.RLock)
    condition = staticmethod(threading.Condition)
    queue: Callable[[], Queue[Any]] = staticmethod(_queue.SimpleQueue)
    future: Callable[[], Future[Any]] = staticmethod(Future)

    def spawn(self, target: Callable[..., object], args: tuple[object, ...], name: str) -> Thread:
        within = copy_context()  # what its lines in the log are about, and the runtime of a simulation
        thread = threading.Thread(target=within.run, args=(target, *args), name=name, daemon=True)
        thread.start()
        return thread


current: ContextVar[Runtime] = ContextVar("runtime", default=_Real())  # noqa: B039 - nothing in it changes
"""Set by a simulation in the threads that belong to it, and by nobody else."""


def now() -> float:
    return current.get().now()


def sleep(seconds: float) -> None:
    current.get().sleep(seconds)


def spawn(target: Callable[..., object], *args: object, name: str) -> Thread:
    return current.get().spawn(target, args, name)


def event() -> Event:
    return current.get().event()


def lock() -> Lock:
    return current.get().lock()


def rlock() -> Lock:
    return current.get().rlock()


def condition() -> Condition:
    return current.get().condition()


def queue() -> Queue[Any]:
    return current.get().queue()


def future() -> Future[Any]:
    return current.get().future()


def call(function: Callable[..., T], *args: object, name: str) -> Future[T]:
    """The result, or the exception, of ``function(*args)`` called in a thread of its own."""
    result: Future[T] = future()
    spawn(_answer, result, function, args, name=name)
    return result


def _answer(result: Future[T], function: Callable[..., T], args: tuple[object, ...]) -> None:
    if not result.set_running_or_notify_cancel():
        return
    try:
        value = function(*args)
    except BaseException as error:  # noqa: BLE001 - whoever asks for the result gets it
        result.set_exception(error)
    else:
        result.set_result(value)


class Worker:
    """One thread that makes calls one after the other."""

    def __init__(self, name: str) -> None:
        self._calls: Queue[tuple[Future[Any], Callable[..., Any], tuple[object, ...]] | None] = queue()
        self._thread = spawn(self._work, name=name)

    def submit(self, function: Callable[..., T], *args: object) -> Future[T]:
        """The future of ``function(*args)``, called when everything submitted before has been."""
        result: Future[T] = future()
        self._calls.put((result, copy_context().run, (function, *args)))
        return result

    def close(self) -> None:
        """Cancel what has not begun, and wait for what has."""
        while not self._calls.empty():
            try:
                waiting = self._calls.get_nowait()
            except Empty:  # it has just begun
                break
            if waiting is not None:
                waiting[0].cancel()
        self._calls.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (waiting := self._calls.get()) is not None:
            _answer(*waiting)


def worker(name: str) -> Worker:
    return Worker(name)
