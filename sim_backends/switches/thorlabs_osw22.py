"""A simulated Thorlabs OSW22-xxxxE behind a pseudo-terminal.

Commands end in LF, a CR before it does no harm; replies end in CR LF.  ``S 1`` (bar) and ``S 2`` (cross) have no reply,
``S?``, ``T?`` and ``I?`` have one line each (PnPQ ``src/pnpq/devices/switch_thorlabs_osw_e.py``); anything else is
ignored, as no source says what a switch answers to it.  A move takes ``switch_s``, and the first ``S?`` after it still
tells the position before (Qudi ``hardware/switches/osw12.py``).  Which position a switch wakes up in no source says:
``crossed`` chooses, bar by default; ``left_by_someone`` is in cross, and its first ``S?`` tells bar.  Nor is the text of
``I?`` published, but that it is name and firmware, nor the table of type codes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from sim_backends.faults import FaultInjector
from sim_backends.serial_server import PtyServer
from sim_backends.site import Simulated, Site

MAX_COMMAND_BYTES = 4096
SWITCH_S = 1e-3
"""Thorlabs' catalogue: typical switching time of the MEMS switches."""


def build(site: Site) -> Simulated:
    """The switch of its owner's station."""
    twin = ThorlabsOSW22Twin(on_switch=site.set_switch, clock=site.clock)
    return Simulated(twin, twin.serve)


class ThorlabsOSW22Twin:
    """The switch; ``on_switch`` hears every position that it comes to rest in, True for cross."""

    def __init__(
        self,
        *,
        on_switch: Callable[[bool], None] = lambda crossed: None,
        crossed: bool = False,
        switch_s: float = SWITCH_S,
        left_by_someone: bool = False,
        name: str = "OSW22-1550E v1.0",
        board_type: str = "0",
        clock: Callable[[], float] = time.monotonic,
        faults: FaultInjector | None = None,
    ) -> None:
        self.faults = faults or FaultInjector()
        self._on_switch = on_switch
        self._crossed = crossed or left_by_someone
        self._told = self._crossed and not left_by_someone  # what the next S? says
        self._switch_s = switch_s
        self._moving_to: bool | None = None
        self._arrives_at = 0.0
        self._answers = {b"I?": name, b"T?": board_type}
        self._received = b""
        self._clock = clock
        self._lock = threading.Lock()
        self._server = PtyServer(self._receive, self.faults, on_tick=self.tick)
        on_switch(self._crossed)

    def serve(self, host: str = "") -> str:
        """Open a pseudo-terminal; ``host`` does not matter on a serial line."""
        return self._server.serve("osw22")

    def close(self) -> None:
        """Stop serving."""
        self._server.close()

    def state(self) -> dict[str, object]:
        """What an observer may see."""
        with self._lock:
            return {"crossed": self._crossed, "moving": self._moving_to is not None}

    def is_safe(self) -> bool:
        """Always: it emits nothing, and its safe state is wherever it stands."""
        return True

    def tick(self) -> None:
        """Come to rest if it is time."""
        with self._lock:
            if self._moving_to is None or self._clock() < self._arrives_at:
                return
            self._crossed, self._moving_to = self._moving_to, None
            crossed = self._crossed
        self._on_switch(crossed)

    def _receive(self, data: bytes) -> None:
        self._received = (self._received + data)[-MAX_COMMAND_BYTES:]
        while b"\n" in self._received:
            command, _, self._received = self._received.partition(b"\n")
            if (reply := self._obey(command.strip())) is not None:
                self._server.send(f"{reply}\r\n".encode("ascii"))

    def _obey(self, command: bytes) -> str | None:
        if command in (b"S 1", b"S 2"):
            with self._lock:
                self._moving_to = command == b"S 2"
                self._arrives_at = self._clock() + self._switch_s
            return None
        self.tick()
        if command == b"S?":
            with self._lock:
                told, self._told = self._told, self._crossed
            return "2" if told else "1"
        return self._answers.get(command)
