"""The guard of the instruments that a process uses: another process, which makes them safe when the first one ends.

The owner starts the guard (:mod:`drivers.guard_process`) with a pipe on its standard input, and writes one line whenever
it changes what has to be made safe: a JSON list of :class:`Watched`, empty when there is nothing.  The guard loads the
drivers, so that it can act at once, and answers one byte.  When the pipe closes - the owner ended, was killed, or wants
the guard to act - the last whole line counts.  The guard holds no secret and opens nothing while the owner lives.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec

GUARD_LIMIT_S = 60.0
"""What a guard takes at most."""
DISMISS_LIMIT_S = 10.0
READY_LIMIT_S = 20.0
READY = b"\n"
LOGS_AS = "--json="


class WhenDark(msgspec.Struct, frozen=True):
    """Once each of these sensors, by instrument and channel, reads less than ``below_w``, a switch may go to cross."""

    sensors: list[tuple[str, str]]
    below_w: float


class Watched(msgspec.Struct, frozen=True):
    """How to make the driver of one instrument: its class as ``module:Class``, and the arguments.

    ``order`` is the :class:`drivers.catalogue.SafeOrder` of its model; None: as the catalogue has it for the class.
    ``aside``: of the switch that takes a station out of a ring, and when.
    """

    driver: str
    name: str
    address: str
    options: dict[str, Any]
    order: int | None = None
    aside: WhenDark | None = None


class Guard:
    """The owner's handle on its guard process.

    ``owner`` is for messages and for whoever lists processes.  With ``logs_as`` it logs as the role of this name does.  ``locks`` are descriptors of lock files that the
    guard keeps open and empties when it takes over (:mod:`lab.claims`).
    """

    def __init__(self, owner: str, *, locks: Sequence[int] = (), logs_as: str = "") -> None:
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-m",
                "drivers.guard_process",
                *((LOGS_AS + logs_as,) if logs_as else ()),
                owner,
                *map(str, locks),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
            pass_fds=locks,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        self._unanswered = 0
        self._asking = threading.Lock()
        _guards.add(self)

    @property
    def lives(self) -> bool:
        """Whether there is a guard."""
        return self._process.poll() is None

    def watch(self, watched: Sequence[Watched]) -> None:
        """Tell what has to be made safe from here on; raises OSError when the guard is gone."""
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(watched) + b"\n")
        self._unanswered += 1

    def await_ready(self) -> None:
        """Wait until the guard could act at once; raises OSError when it is gone, or not ready in time.  From any thread."""
        assert self._process.stdout is not None
        until = time.monotonic() + READY_LIMIT_S
        with self._asking:
            while self._unanswered:
                if not select.select([self._process.stdout], [], [], max(until - time.monotonic(), 0.0))[0]:
                    raise TimeoutError(f"the guard process is not ready after {READY_LIMIT_S:g} s")
                answers = self._process.stdout.read(4096)
                if not answers:
                    raise BrokenPipeError("the guard process has ended")
                self._unanswered -= len(answers)

    def dismiss(self) -> None:
        """Tell the guard that the instruments are safe already, and wait for its end."""
        with suppress(OSError):
            self.watch([])
        self._end(DISMISS_LIMIT_S)

    def call(self) -> bool:
        """Have the guard make the instruments safe; whether it could."""
        return self._end(GUARD_LIMIT_S) == 0

    def _end(self, timeout_s: float) -> int:
        self.let_go()
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def let_go(self) -> None:
        """Close this process's end of the pipe; the guard acts when no process has it open."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


_guards: weakref.WeakSet[Guard] = weakref.WeakSet()


def _forked() -> None:
    """A child that outlives the owner must not keep the guard waiting."""
    for guard in _guards:
        guard.let_go()


os.register_at_fork(after_in_child=_forked)
