"""A role as a service: what it tells systemd, in datagrams to the socket that ``NOTIFY_SOCKET`` names (sd_notify(3)).

``READY=1`` once it serves, ``STATUS=`` words, ``STOPPING=1`` when it was told to end, and, where the unit has ``WatchdogSec=``,
``WATCHDOG=1`` as long as the role's control loop is alive.  Every such loop asks again and again whether it is to stop, from
the main thread; asking is the sign of life (:class:`AskedEvent`).  A loop that hangs asks no more, a process that stands
still says nothing at all, and the service manager ends and restarts either.  Without a service manager nothing is done.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

FED_PER_TIMEOUT = 4
"""Signs of life within the time in which systemd wants one."""
LOOP_S, LEARNING_LOOP_S = 20, 600
"""A loop that has asked nothing for so long hangs; one of learning works through a whole evaluation between two turns."""


def loop_limit_s(role: str) -> int:
    """After how long without a sign of life the loop of ``role`` is taken to hang."""
    return LEARNING_LOOP_S if role.startswith("fl-") else LOOP_S


class AskedEvent(threading.Event):
    """An event that knows when the main thread last asked for it, by a monotonic clock in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self.asked_s = clock()

    @property
    def silent_s(self) -> float:
        """For how long the main thread has not asked, s; 0 once it has been told to stop."""
        return 0.0 if super().is_set() else max(0.0, self._clock() - self.asked_s)

    def begin(self) -> None:
        """The loop begins at this moment; what came before it is no silence."""
        self.asked_s = self._clock()

    def is_set(self) -> bool:
        if threading.current_thread() is threading.main_thread():
            self.asked_s = self._clock()
        return super().is_set()


class ServiceManager:
    """Whoever started this process as a service, if anybody did."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        name = environment.get("NOTIFY_SOCKET", "")
        self._address = f"\0{name[1:]}" if name.startswith("@") else name
        usual = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        wanted = environment.get("WATCHDOG_USEC", "0") if usual and self._address else "0"
        self.timeout_s = int(wanted) * 1e-6 if wanted.isdecimal() else 0.0
        """The watchdog's; 0 where there is none."""
        self._ready = False

    def tell(self, **words: object) -> None:
        """Send ``NAME=value`` lines; a service manager that is away or full is no reason to stop working."""
        if not self._address:
            return
        lines = "\n".join(f"{name}={str(value).replace(chr(10), ' ')}" for name, value in words.items())
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.setblocking(False)
            out.sendto(lines.encode(), self._address)

    def ready(self, status: str, stop: AskedEvent) -> None:
        """The role serves; from here on its loop is watched, where that is wanted.  Only the first call counts."""
        if self._ready:
            return
        self._ready = True
        stop.begin()
        self.tell(READY=1, STATUS=status)
        if self.timeout_s:
            threading.Thread(target=self._feed, args=(stop,), daemon=True, name="watchdog").start()

    def _feed(self, stop: AskedEvent) -> None:
        every_s = self.timeout_s / FED_PER_TIMEOUT
        while True:
            if time.monotonic() - stop.asked_s < self.timeout_s - every_s:
                self.tell(WATCHDOG=1)
            time.sleep(every_s)
