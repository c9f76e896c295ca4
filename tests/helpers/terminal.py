"""A command on a terminal of its own, as somebody sees it who presses Ctrl-C."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from command_line import QUNETLAB

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """What the command has written so far, and its process."""

    def __init__(self, process: subprocess.Popen[bytes], descriptor: int) -> None:
        self.process = process
        self._descriptor = descriptor
        self.raw = ""

    @property
    def text(self) -> str:
        """Without what moves the cursor and colours."""
        return ESCAPES.sub("", self.raw).replace("\r\n", "\n")

    def until(self, wanted: str, timeout_s: float = 60.0) -> str:
        """Read until it says that; AssertionError with what it said if it does not."""
        deadline = time.monotonic() + timeout_s
        while wanted not in self.text:
            assert self._read(deadline - time.monotonic()), f"{wanted!r} is not in:\n{self.text}"
        return self.text

    def interrupted(self, timeout_s: float = 60.0) -> str:
        """Ctrl-C, and what is said to the end."""
        self.process.send_signal(signal.SIGINT)
        return self.to_the_end(timeout_s)

    def to_the_end(self, timeout_s: float = 60.0) -> str:
        """All that is said until the process has ended."""
        deadline = time.monotonic() + timeout_s
        while self._read(deadline - time.monotonic()):
            pass
        self.process.wait(max(0.1, deadline - time.monotonic()))
        return self.text

    def _read(self, timeout_s: float) -> bool:
        if timeout_s <= 0 or not select.select([self._descriptor], [], [], timeout_s)[0]:
            return False
        try:
            data = os.read(self._descriptor, 65536)
        except OSError:  # Linux says so when the other end is closed
            return False
        self.raw += data.decode(errors="replace")
        return bool(data)


@contextmanager
def on_a_terminal(
    *arguments: str, columns: int = 100, environment: Mapping[str, str] | None = None
) -> Iterator[Terminal]:
    """``qunetlab ARGUMENTS`` on a terminal of so many columns; killed at the end if it has not ended."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    process = subprocess.Popen(
        [*QUNETLAB, *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        env={**os.environ, "TERM": "xterm-256color", **(environment or {})},
    )
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(ours)
