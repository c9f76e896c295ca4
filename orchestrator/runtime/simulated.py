"""A runtime in which threads take turns in an order that follows from a seed, on a clock of their own.

The threads are real ones, but only one of them runs: it holds the baton.  Whatever may wait is one operation,
:meth:`Simulation.wait_until`: "go on when this holds, or when so much time is over".  The thread that runs asks all
the others what they wait for, draws the next one among those that can go on, and hands the baton over.  When nobody
can go on, the clock jumps to the earliest time-out; when there is none either, nobody ever will, and that is an
error which says who waits for what.  Locks, events, conditions, queues and futures are a few lines each on top.

Nothing but the seed decides: the same threads doing the same with the same seed take the same turns
(:attr:`Simulation.turns` says so in one number).  Computing takes no time; each operation takes :data:`STEP_S`, so
that a loop which only looks at the clock comes to its end.  A time-out is never before an earlier one.

Not simulated: whatever waits for something outside, such as a socket.  A thread that does so stops all others.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from dataclasses import dataclass, field
from queue import Empty
from types import TracebackType
from typing import Any, Generic, TypeVar

import numpy as np

from orchestrator.runtime import Thread, current

logger = logging.getLogger(__name__)

T = TypeVar("T")

STEP_S = 1e-6
SWITCH_SHARE = 0.2
"""How often a thread that could go on lets another one go first."""
UNWIND_S = 10.0
"""Real seconds that a thread may take to come to its end after the simulation is over."""


class SimulationError(Exception):
    """A thread of the simulation failed, or does not end."""


class DeadlockError(SimulationError):
    """Every thread waits for another one, and no time-out will end that."""


class _OverError(BaseException):
    """Ends a thread that still waits when the simulation is over; no ``except Exception`` holds it up."""


def _at_once() -> bool:
    return True


def _held_lock() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


@dataclass(eq=False)
class _Turn:
    """A thread of the simulation; while it does not run, what it waits for."""

    name: str
    ready: Callable[[], bool] = _at_once
    deadline_s: float | None = None
    baton: threading.Lock = field(default_factory=_held_lock)
    real: threading.Thread | None = None
    done: bool = False
    waits_for: str = "its first turn"


class Simulation:
    """One world of threads; :meth:`run` makes its first."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._now_s = 0.0
        self._threads: list[_Turn] = []
        self._spawned = 0
        self._running = _Turn("main")
        self._over = False
        self._deadlock = ""
        self._turns = hashlib.sha256()
        self.failures: list[tuple[str, BaseException]] = []

    @property
    def turns(self) -> str:
        """A digest of who had which turn, when, and what it waited for."""
        return self._turns.hexdigest()

    def run(self, main: Callable[[], T]) -> T:
        """What ``main`` returns, called in this thread as the first of the simulation; ends all the others.

        Raises DeadlockError, or SimulationError when a thread has ended with an exception.
        """
        self._running.real = threading.current_thread()
        self._threads.append(self._running)
        token = current.set(self)
        try:
            result = main()
        except BaseException as error:
            for name, failure in self.failures:
                error.add_note(f"before, the thread {name!r} failed: {failure!r}")
            raise
        finally:
            self._over = True
            current.reset(token)
            self._unwind()
        for name, failure in self.failures:
            raise SimulationError(f"the thread {name!r} failed: {failure!r}") from failure
        return result

    # -- the scheduler -------------------------------------------------------------------------------

    def wait_until(self, ready: Callable[[], bool], timeout_s: float | None, waits_for: str) -> bool:
        """Let the others run until ``ready()``; False if ``timeout_s`` was over first."""
        me = self._running
        if threading.current_thread() is not me.real:
            raise SimulationError(
                f"{waits_for} is waited for by a thread outside the simulation it belongs to"
            )
        self._check_over(me)
        self._now_s += STEP_S
        if ready() and self._rng.random() >= SWITCH_SHARE:
            return True
        me.ready, me.waits_for = ready, waits_for
        me.deadline_s = None if timeout_s is None else self._now_s + max(0.0, timeout_s)
        self._hand_over(me)
        return ready()

    def _check_over(self, me: _Turn) -> None:
        if self._over:
            raise _OverError
        if self._deadlock and me is self._threads[0]:
            raise DeadlockError(self._deadlock)

    def _hand_over(self, me: _Turn) -> None:
        """Give the baton to whoever is drawn; returns when it is back."""
        chosen = self._choose()
        if chosen is not me:
            chosen.baton.release()
            if me.done:
                return
            me.baton.acquire()
        self._check_over(me)

    def _choose(self) -> _Turn:
        """The thread whose turn is next; the clock jumps to its time-out where nobody can go on before."""
        able = [each for each in self._threads if each.ready()]
        timed = [each for each in self._threads if each.deadline_s is not None and each not in able]
        if timed:
            first = min(timed, key=_deadline)
            if not able:
                self._now_s = max(self._now_s, _deadline(first))
            if _deadline(first) <= self._now_s:
                able.append(first)
        if not able:
            waiting = "; ".join(f"{each.name} for {each.waits_for}" for each in self._threads)
            self._deadlock = f"nobody can go on after {self._now_s:.6f} s: {waiting}"
            able = self._threads[:1]
        chosen = able[int(self._rng.random() * len(able))]
        self._turns.update(f"{chosen.name} {chosen.waits_for} {self._now_s:.6f}\n".encode())
        self._running = chosen
        return chosen

    def _begin(self, me: _Turn, target: Callable[..., object], args: tuple[object, ...]) -> None:
        me.baton.acquire()
        try:
            if not self._over:
                target(*args)
        except _OverError:
            pass
        except BaseException as error:
            logger.exception("the thread %r failed", me.name)
            self.failures.append((me.name, error))
        me.done = True
        self._threads.remove(me)
        if not self._over:
            self._hand_over(me)

    def _unwind(self) -> None:
        """Bring every thread but the first to its end, one after the other."""
        while len(self._threads) > 1:
            self._running = each = self._threads[1]
            each.baton.release()
            assert each.real is not None
            each.real.join(UNWIND_S)
            if each.real.is_alive():
                raise SimulationError(
                    f"the thread {each.name!r} does not end: it waits for something outside"
                )
        self._running = self._threads.pop()
        self._running.real = None

    # -- the runtime ---------------------------------------------------------------------------------

    def now(self) -> float:
        return self._now_s

    def sleep(self, seconds: float, /) -> None:
        self.wait_until(lambda: False, seconds, "time to pass")

    def spawn(self, target: Callable[..., object], args: tuple[object, ...], name: str) -> Thread:
        self._spawned += 1
        turn = _Turn(f"{name}#{self._spawned}")
        turn.real = threading.Thread(
            target=copy_context().run, args=(self._begin, turn, target, args), name=name, daemon=True
        )
        self._threads.append(turn)
        turn.real.start()
        return _Thread(self, turn)

    def event(self) -> _Event:
        return _Event(self)

    def lock(self) -> _Lock:
        return _Lock(self)

    def rlock(self) -> _Lock:
        return _Lock(self, reentrant=True)

    def condition(self) -> _Condition:
        return _Condition(self)

    def queue(self) -> _Queue[Any]:
        return _Queue(self)

    def future(self) -> Future[Any]:
        return _Future(self)

    def running(self) -> object:
        """The thread that holds the baton."""
        return self._running

    def step(self, what: str) -> None:
        """A moment at which another thread may go first."""
        self.wait_until(_at_once, None, what)

    @property
    def ends(self) -> bool:
        """Whether waits are cut off, so that the threads come to their end."""
        return self._over or bool(self._deadlock)


def _deadline(turn: _Turn) -> float:
    assert turn.deadline_s is not None
    return turn.deadline_s


class _Thread:
    def __init__(self, world: Simulation, turn: _Turn) -> None:
        self._world = world
        self._turn = turn
        self.name = turn.name

    def join(self, timeout: float | None = None) -> None:
        self._world.wait_until(lambda: self._turn.done, timeout, f"the end of {self.name}")

    def is_alive(self) -> bool:
        return not self._turn.done


class _Event:
    def __init__(self, world: Simulation) -> None:
        self._world = world
        self._set = False

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        self._world.step("an event to be set")

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        return self._world.wait_until(self.is_set, timeout, "an event")


class _Lock:
    def __init__(self, world: Simulation, *, reentrant: bool = False) -> None:
        self._world = world
        self._reentrant = reentrant
        self._owner: object = None
        self._depth = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        me = self._world.running()
        if not (self._reentrant and self._owner is me):
            patience = None if blocking and timeout < 0 else max(0.0, timeout)
            if not self._world.wait_until(lambda: self._owner is None, patience, "a lock"):
                return False
            self._owner = me
        self._depth += 1
        return True

    def release(self) -> None:
        if self._depth == 0:
            if self._world.ends:  # its wait was ended while it had given the lock away
                return
            raise RuntimeError("release of a lock that nobody holds")
        self._depth -= 1
        if self._depth == 0:
            self._owner = None

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.release()


class _Condition(_Lock):
    def __init__(self, world: Simulation) -> None:
        super().__init__(world, reentrant=True)
        self._waiting: dict[object, bool] = {}
        """Those that wait, the longest first, and whether they were told."""

    def wait(self, timeout: float | None = None) -> bool:
        if self._owner is not self._world.running():
            raise RuntimeError("wait on a condition whose lock this thread does not hold")
        waits = object()
        self._waiting[waits] = False
        depth, self._depth, self._owner = self._depth, 0, None
        try:
            self._world.wait_until(lambda: self._waiting[waits], timeout, "a condition")
        finally:
            told = self._waiting.pop(waits)
        self.acquire()
        self._depth = depth
        return told

    def wait_for(self, predicate: Callable[[], T], timeout: float | None = None) -> T:
        end_s = None if timeout is None else self._world.now() + timeout
        while not (result := predicate()):
            left_s = None if end_s is None else end_s - self._world.now()
            if left_s is not None and left_s <= 0:
                break
            self.wait(left_s)
        return result

    def notify(self, n: int = 1) -> None:
        if self._owner is not self._world.running():
            raise RuntimeError("notify on a condition whose lock this thread does not hold")
        for waits in [waits for waits, told in self._waiting.items() if not told][:n]:
            self._waiting[waits] = True

    def notify_all(self) -> None:
        self.notify(len(self._waiting))


class _Queue(Generic[T]):
    def __init__(self, world: Simulation) -> None:
        self._world = world
        self._items: deque[T] = deque()

    def put(self, item: T) -> None:
        self._items.append(item)
        self._world.step("an item to be put")

    def get(self, block: bool = True, timeout: float | None = None) -> T:
        if not self._world.wait_until(lambda: bool(self._items), timeout if block else 0.0, "an item"):
            raise Empty
        return self._items.popleft()

    def get_nowait(self) -> T:
        return self.get(block=False)

    def qsize(self) -> int:
        return len(self._items)

    def empty(self) -> bool:
        return not self._items


class _Future(Future[T]):
    """The standard one, whose only means of waiting is its condition."""

    def __init__(self, world: Simulation) -> None:
        super().__init__()
        self._condition = _Condition(world)  # type: ignore[assignment]
