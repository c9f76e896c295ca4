"""Child processes of one run on one machine: started, watched, stopped in order, never left behind.

Children are started with ``-P`` (a folder of our names in the current directory cannot shadow the packages)
in sessions of their own, so that Ctrl-C reaches the supervisor alone and *it* stops them in order.  Every
child holds the read end of a pipe whose write end only the supervisor has: when the supervisor dies, however
that happens, the pipe closes and the children shut down by themselves.

One that ends with a fault of the machine (SIGSEGV) writes where its threads were to its log: functions, files and
lines, no values.
"""

from __future__ import annotations

import errno
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from lab.runs.full_disk import NEARLY_FULL_BYTES
from orchestrator.events.common import Serving, Unknown
from orchestrator.events.process import Ended, Failed, ProcessEvent, event_of

PARENT_FD = "QUNETLAB_PARENT_FD"
HONEST = ("lab.cli.main",)
"""The module that a child runs, ``qunetlab`` itself."""


class ChildError(Exception):
    """A child process failed to start or ended when it should not."""


class Child:
    """One child process: its JSON lines on standard output become events, its errors go to a log file."""

    def __init__(
        self,
        name: str,
        process: subprocess.Popen[str],
        log: Path,
        arguments: tuple[str, ...],
        program: tuple[str, ...] = HONEST,
    ) -> None:
        """``program``: the module that it runs, and what stands before its arguments."""
        self.name = name
        self.arguments = arguments
        self.program = program
        self.process = process
        self.log = log
        self.failed: Failed | None = None
        """What it said of the error that it ends with."""
        self.ended = False
        """Whether its output is at its end; another child may bear its name while that is still to be heard."""

    def failure(self, lines: int = 12) -> Failed:
        """Why it ended: its own word, the last lines of its log, or that there is no room for a log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        if self.failed is None and not text and shutil.disk_usage(self.log.parent).free < NEARLY_FULL_BYTES:
            return Failed(f"{self.log} is empty: {os.strerror(errno.ENOSPC)}", disk_full=True)
        return self.failed or Failed("its log ends:\n" + "\n".join(text.splitlines()[-lines:]))


class Supervisor:
    """Starts ``qunetlab`` sub-commands as children and collects their events.

    ``events`` holds ``(child name, event)``; the end of a child's output arrives as :class:`~orchestrator.events.process.Ended`.
    """

    def __init__(self, log_dir: Path, *inherited: int) -> None:
        """Children inherit the descriptors ``inherited``."""
        self.log_dir = log_dir
        self.events: queue.Queue[tuple[str, ProcessEvent]] = queue.Queue()
        self.children: dict[str, Child] = {}
        self._readers: dict[Child, threading.Thread] = {}
        self._read_fd, self._write_fd = os.pipe()
        self._inherited = (self._read_fd, *inherited)
        self._environment = {**os.environ, PARENT_FD: str(self._read_fd)}

    def start(self, name: str, *arguments: str, program: tuple[str, ...] = HONEST) -> Child:
        """Start ``qunetlab ARGUMENTS``, or another ``program``, under ``name``."""
        log = self.log_dir / f"{name}.log"
        with log.open("ab") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-P", "-X", "faulthandler", "-m", *program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,
                pass_fds=self._inherited,
                env=self._environment,
            )
        child = Child(name, process, log, arguments, program)
        self.children[name] = child
        reader = threading.Thread(target=self._read, args=(child,), daemon=True, name=f"read-{name}")
        self._readers[child] = reader
        reader.start()
        return child

    def restart(self, name: str) -> Child:
        """Start a child that has ended once more, with the same program and arguments."""
        ended = self.children.pop(name)
        return self.start(name, *ended.arguments, program=ended.program)

    def replace(self, name: str, program: tuple[str, ...]) -> Child:
        """End a child and start another ``program`` with its arguments; that it ended is no event."""
        ended = self.children[name]
        self.stop([name])
        self._readers.pop(ended).join(timeout=5)
        for event in self.drain():
            if event != (name, Ended()):
                self.events.put(event)
        del self.children[name]
        return self.start(name, *ended.arguments, program=program)

    def join_readers(self) -> None:
        """Wait until the output of every ended child has become events."""
        for reader in self._readers.values():
            reader.join(timeout=5)

    def _read(self, child: Child) -> None:
        assert child.process.stdout is not None
        for line in child.process.stdout:
            event = event_of(line)
            child.failed = event if isinstance(event, Failed) else child.failed
            self.events.put((child.name, event))
        child.ended = True
        self.events.put((child.name, Ended()))

    def wait_for(
        self,
        wanted: Callable[[str, ProcessEvent], bool],
        timeout_s: float,
        doing: str,
        on_event: Callable[[str, ProcessEvent], None] = lambda name, event: None,
    ) -> ProcessEvent:
        """The first event that ``wanted`` accepts; every event on the way goes to ``on_event``.

        Raises ChildError when a child fails or nothing comes in time.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise ChildError(f"{doing}: not within {timeout_s:g} s")
            try:
                name, event = self.events.get(timeout=min(left, 0.5))
            except queue.Empty:
                continue
            on_event(name, event)
            child = self.children.get(name)
            if isinstance(event, Ended) and child and child.ended and child.process.wait() != 0:
                self.raise_ended(name, doing)
            if wanted(name, event):
                return event

    def raise_ended(self, name: str, doing: str) -> None:
        """Raise the error that tells which child ended, and why; from an OSError where for want of room."""
        child = self.children[name]
        code, failed = child.process.wait(), child.failure()
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) if failed.disk_full else None
        raise ChildError(f"{doing}: {name} ended with exit code {code}: {failed.text}") from full

    def ready(
        self,
        names: list[str],
        timeout_s: float,
        on_event: Callable[[str, ProcessEvent], None] = lambda name, event: None,
    ) -> dict[str, Serving]:
        """Wait until every child named has printed its ready line; those lines by name.  Other events go to ``on_event``.

        Raises ChildError as :meth:`wait_for`, and where a ready line is of another version.
        """
        lines: dict[str, Serving] = {}

        def collect(name: str, event: ProcessEvent) -> bool:
            if isinstance(event, Unknown) and name in names:
                raise ChildError(f"starting {name}: {event.told_by(name)}: {event.reason}")
            if isinstance(event, Serving):
                lines[name] = event
            return set(names) <= set(lines)

        self.wait_for(collect, timeout_s, f"starting {', '.join(names)}", on_event)
        return lines

    def stop(self, names: list[str], timeout_s: float = 15.0) -> dict[str, int]:
        """Stop the children named together: SIGTERM, then SIGKILL for what stays; their exit codes."""
        chosen = [self.children[name] for name in names if name in self.children]
        for child in chosen:
            if child.process.poll() is None:
                child.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + timeout_s
        codes = {}
        for child in chosen:
            try:
                child.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
            codes[child.name] = child.process.returncode
        return codes

    def stop_all(self, order: list[list[str]]) -> dict[str, int]:
        """Stop groups of children in order, then whatever is left."""
        codes: dict[str, int] = {}
        for group in [*order, list(self.children)]:
            codes |= self.stop([name for name in group if name not in codes])
        return codes

    def drain(self) -> list[tuple[str, ProcessEvent]]:
        """Events that have arrived and were not yet taken."""
        drained = []
        while True:
            try:
                drained.append(self.events.get_nowait())
            except queue.Empty:
                return drained


def watch_parent(stop: Callable[[], None]) -> None:
    """In a child: call ``stop`` when the supervisor is gone; nothing happens without a supervisor."""
    text = os.environ.get(PARENT_FD)
    if text is None:
        return
    read_fd = int(text)
    os.set_inheritable(read_fd, False)

    def wait() -> None:
        while os.read(read_fd, 1):
            pass
        stop()

    threading.Thread(target=wait, daemon=True, name="watch-parent").start()
