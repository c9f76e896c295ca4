"""Whose turn it is on a link: one thread at a time, somebody urgent before everybody else, who waited before who comes.

The last of these is for whoever watches: a thread that takes one reading after another gives the link back for less than a
thread needs to wake up, and would keep the others waiting for good.

A :class:`Hold` is one entered ``with``.  Those of one thread nest; the first of them decides whose turn it is.  What is
known are two tuples, the holds and the urgent ones, and each change of them is a single store.

A stop button may break in between any two lines, also between taking a turn and the block that would give it back.  So
nothing is counted up and down, and a hold is believed for as long as the function that entered it is running: whoever
comes next, of any thread, forgets the others first.  No wait is without a limit.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

POLL_S = 0.05
"""A thread that waits looks this often whether those before it are gone."""


class Hold:
    """One ``with`` of the thread that makes it, on behalf of the running function that calls ``depth`` levels up."""

    def __init__(self, depth: int) -> None:
        self.thread = threading.get_ident()
        self.epoch = 0
        frame = sys._getframe(depth + 1)
        while frame.f_back is not None and _is_passing(frame):
            frame = frame.f_back
        self.frame = frame

    def is_alive(self) -> bool:
        """Whether the function that entered it is still running."""
        here: FrameType | None = (
            sys._getframe()
            if self.thread == threading.get_ident()
            else sys._current_frames().get(self.thread)
        )
        while here is not None and here is not self.frame:
            here = here.f_back
        return here is not None


def _is_passing(frame: FrameType) -> bool:
    """Whether a frame only passes a ``with`` on: a generator that is a context manager, and what runs it."""
    return (
        bool(frame.f_code.co_flags & inspect.CO_GENERATOR) or frame.f_code.co_filename == contextlib.__file__
    )


class Turns:
    """The turns of one link."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()  # as a with, the one thing that no stop button breaks
        self._waiting: tuple[threading.Lock, ...] = ()
        self._called: tuple[float, tuple[threading.Lock, ...]] = (0.0, ())
        """Who waited when the link was last given back and has not had it since, and until when others let them go first."""
        self._holds: tuple[Hold, ...] = ()
        self._urgent: tuple[Hold, ...] = ()
        self._cut: tuple[Hold, ...] = ()  # of threads that the link was taken from, and that do not know yet
        self.epoch = 0
        """Counts urgent callers; a hold begun before the last of them has lost its turn."""
        self._cuts = 0

    @property
    def is_mine(self) -> bool:
        """Whether this thread holds the link."""
        holds = self._holds
        return bool(holds) and holds[0].thread == threading.get_ident()

    @property
    def is_urgent(self) -> bool:
        """Whether this thread is the urgent one."""
        urgent = self._urgent
        return bool(urgent) and urgent[0].thread == threading.get_ident()

    @property
    def has_turn(self) -> bool:
        """Whether nobody urgent wants the link, or had it since this thread began to hold it, if it does."""
        if self.is_urgent:
            return True
        if self.is_mine:
            return self._holds[0].epoch == self.epoch
        return not self._urgent and all(each.thread != threading.get_ident() for each in self._cut)

    @property
    def my_epoch(self) -> int:
        """The epoch in which this thread began to hold the link."""
        return self._holds[0].epoch if self.is_mine else self.epoch

    @property
    def depth(self) -> int:
        """How many holds there are."""
        return len(self._holds)

    def take(self, hold: Hold, limit_s: float) -> str:
        """Hold the link when nobody else does; else why not: "late", or "cut" when it was taken from its holder meanwhile."""
        cuts = self._cuts

        def free(bell: threading.Lock) -> bool:
            if self.is_mine or self._holds:
                return self.is_mine
            return self.is_urgent or not (self._urgent or self._lets_others_first(bell))

        def lost() -> bool:
            mine = any(each.thread == hold.thread for each in self._cut)
            return self._cuts != cuts or (mine and not self.is_urgent)

        def enter() -> str:
            if lost():
                return "cut"
            self._push(hold)
            return ""

        return self._when(lambda bell: free(bell) or lost(), enter, limit_s)

    def come_urgently(self, hold: Hold, limit_s: float) -> str:
        """Be the urgent one, after others that are; "late" when they do not end."""

        def enter() -> str:
            self._urgent = (*self._urgent, hold)
            self.epoch += 1
            return ""

        return self._when(lambda _: not self._urgent or self.is_urgent, enter, limit_s)

    def take_urgently(self, hold: Hold, limit_s: float) -> str:
        """As :meth:`take`, for the urgent one."""

        def enter() -> str:
            self._push(hold)
            # Whoever makes safe in the midst of a transaction goes on with it.
            self._holds[0].epoch = self.epoch
            return ""

        return self._when(lambda _: self.is_mine or not self._holds, enter, limit_s)

    def cut(self, hold: Hold) -> None:
        """Take the link from whoever holds it."""
        with self._mutex:
            hold.epoch = self.epoch
            self._cuts += 1
            self._cut = (*self._cut, *self._holds)
            self._holds = (hold,)
            self._wake()

    def give_back(self, hold: Hold) -> None:
        """Hold no longer; once more does no harm."""
        with self._mutex:
            for place, each in enumerate(self._holds):
                if each is hold:
                    self._holds = self._holds[:place]
                    break
            self._urgent = tuple(each for each in self._urgent if each is not hold)
            self._cut = tuple(each for each in self._cut if each is not hold)
            self._wake()

    def _push(self, hold: Hold) -> None:
        hold.epoch = self.epoch
        self._holds = (*self._holds, hold)

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, ()
        until_s, called = self._called
        now_s = time.monotonic()
        coming = called if now_s < until_s else ()  # woken by the end of an inner hold, and not back here yet
        self._called = now_s + POLL_S, (*coming, *(each for each in waiting if each not in coming))
        for each in waiting:
            each.release()

    def _lets_others_first(self, bell: threading.Lock) -> bool:
        """Whether somebody was called who has not come yet; for a moment only, as they may be gone."""
        until_s, called = self._called
        return bool(called) and bell not in called and time.monotonic() < until_s

    def _when(self, free: Callable[[threading.Lock], bool], enter: Callable[[], str], limit_s: float) -> str:
        """``enter`` when it is ``free``, both under the mutex, and what that says; "late" after ``limit_s``."""
        give_up = time.monotonic() + limit_s
        bell = threading.Lock()
        bell.acquire()
        while True:
            with self._mutex:
                self._forget_the_gone()
                if free(bell):
                    until_s, called = self._called
                    self._called = until_s, tuple(each for each in called if each is not bell)
                    return enter()
                left_s = give_up - time.monotonic()
                if left_s <= 0:
                    return "late"
                if bell not in self._waiting:
                    self._waiting = (*self._waiting, bell)
            bell.acquire(timeout=min(left_s, POLL_S))

    def _forget_the_gone(self) -> None:
        self._holds = tuple(each for each in self._holds if each.is_alive())
        self._urgent = tuple(each for each in self._urgent if each.is_alive())
        self._cut = tuple(each for each in self._cut if each.is_alive())
