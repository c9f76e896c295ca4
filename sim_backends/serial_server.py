"""A pseudo-terminal that stands for a serial instrument.

The address handed out is a symbolic link to the terminal, so that it stays the same when the line is cut
and a new terminal takes the old one's place (``faults.disconnect``).  It leads there by way of this process's own
descriptor: the system gives the number of a terminal to the next one as soon as its simulator is gone, and a driver
that looks for a killed instrument must find nothing rather than somebody else's.  The server keeps the slave end open:
without that, its reads fail with EIO between two clients.  One thread reads what clients write, hands it to
``on_bytes`` and calls ``on_tick`` every ``tick_s`` for whatever happens by itself (warm-up, motion).
"""

from __future__ import annotations

import os
import select
import shutil
import tempfile
import threading
import tty
from collections.abc import Callable
from pathlib import Path

from sim_backends.faults import FaultInjector

MAX_READ_BYTES = 65536
FOLDER_PREFIX = "qunetlab-pty-"
DESCRIPTORS = Path("/proc/self/fd")
"""Not on every system."""


class PtyServer:
    """Serves one pseudo-terminal in a thread."""

    def __init__(
        self,
        on_bytes: Callable[[bytes], None],
        faults: FaultInjector,
        *,
        on_tick: Callable[[], None] | None = None,
        tick_s: float = 0.02,
    ) -> None:
        self.closing = threading.Event()
        self._on_bytes = on_bytes
        self._on_tick = on_tick
        self._tick_s = tick_s
        self._faults = faults
        self._folder: Path | None = None
        self._thread: threading.Thread | None = None
        self._master = self._slave = -1
        self._wake_read, self._wake_write = -1, -1

    def serve(self, name: str = "tty") -> str:
        """Open a terminal and answer in a thread; returns the path that a driver opens."""
        self._folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))
        self._wake_read, self._wake_write = os.pipe()
        link = self._folder / name
        self._open_terminal(link)
        self._thread = threading.Thread(target=self._run, args=(link,), name=f"pty-{name}", daemon=True)
        self._thread.start()
        return str(link)

    def send(self, data: bytes) -> None:
        """Send a reply to the client, subject to the planned faults."""
        outgoing = self._faults.reply(data)
        while outgoing and not self.closing.is_set():
            _, writable, _ = select.select([], [self._master], [], 0.1)
            if writable:
                outgoing = outgoing[os.write(self._master, outgoing) :]

    def close(self) -> None:
        """Stop the thread and remove the terminal; closing twice does no harm."""
        if self._folder is None:
            return
        self.closing.set()
        os.write(self._wake_write, b"x")
        if self._thread is not None:
            self._thread.join()
        _close((self._master, self._slave, self._wake_read, self._wake_write))
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = None

    def _open_terminal(self, link: Path) -> None:
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        fresh = link.with_suffix(".next")
        fresh.symlink_to(
            f"/proc/{os.getpid()}/fd/{self._slave}" if DESCRIPTORS.is_dir() else os.ttyname(self._slave)
        )
        fresh.replace(link)

    def _run(self, link: Path) -> None:
        while not self.closing.is_set():
            wait_s = self._tick_s if self._on_tick is not None else None
            ready, _, _ = select.select([self._master, self._wake_read], [], [], wait_s)
            if self._on_tick is not None:
                self._on_tick()
            if self._master not in ready:
                continue
            data = os.read(self._master, MAX_READ_BYTES)
            if self._faults.take_disconnect():
                old = self._master, self._slave
                self._open_terminal(link)  # first, so that the address never leads nowhere
                _close(old)
                continue
            self._on_bytes(data)


def is_simulated(path: Path) -> bool:
    """Whether ``path`` is, or was, a link to a terminal of a simulator, dead or alive."""
    named = [path.parent.name] + ([Path(os.readlink(path)).parent.name] if path.is_symlink() else [])
    return any(name.startswith(FOLDER_PREFIX) for name in named)


def _close(descriptors: tuple[int, ...]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
