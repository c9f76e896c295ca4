"""A simulated OZ Optics DD-100-MC behind a pseudo-terminal.

Commands end in CR or CR LF.  A reply is lines ended by CR LF, then ``Done`` and an empty line, sent in one
piece; an unknown command or a value out of range is answered by ``Error!``.  A move takes its travel
divided by ``speed_db_per_s`` and is answered when it is over; attenuations have steps of 0.01 dB.
Sources: QMI ``tests/instruments/ozoptics/test_dd100mc.py``, pylablib ``pylablib/devices/OZOptics/base.py``.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable

from sim_backends.faults import FaultInjector
from sim_backends.serial_server import PtyServer
from sim_backends.site import Simulated, Site

STEPS_PER_DB = 200


def build(site: Site) -> Simulated:
    """The attenuator in the light of its owner."""
    twin = OzDD100Twin(
        on_attenuation=lambda attenuation_db: site.set_attenuation("", attenuation_db, True),
        serial_number=site.serial,
    )
    return Simulated(twin, twin.serve)


class OzDD100Twin:
    """The attenuator; ``on_attenuation`` hears every attenuation (dB) that the motor comes to rest at.

    It wakes up homed at its largest attenuation.  ``speed_db_per_s`` of None moves at once.
    """

    def __init__(
        self,
        *,
        on_attenuation: Callable[[float], None] = lambda attenuation_db: None,
        insertion_loss_db: float = 1.0,
        max_attenuation_db: float = 60.0,
        speed_db_per_s: float | None = None,
        homed: bool = True,
        serial_number: str = "SIM0001",
        faults: FaultInjector | None = None,
    ) -> None:
        self.faults = faults or FaultInjector()
        self._on_attenuation = on_attenuation
        self._low = round(insertion_loss_db * 100)  # in hundredths of a dB
        self._high = round(max_attenuation_db * 100)
        self._speed = speed_db_per_s
        self._homed = homed
        self._serial_number = serial_number
        self._position = self._high
        self._moving = False
        self._received = b""
        self._lock = threading.Lock()
        self._server = PtyServer(self._receive, self.faults)
        on_attenuation(self._position / 100)

    def serve(self, host: str = "") -> str:
        """Open a pseudo-terminal; ``host`` does not matter on a serial line."""
        return self._server.serve("dd100")

    def close(self) -> None:
        """Stop serving."""
        self._server.close()

    def state(self) -> dict[str, object]:
        """What an observer may see."""
        with self._lock:
            return {"attenuation_db": self._position / 100, "moving": self._moving, "homed": self._homed}

    def is_safe(self) -> bool:
        """At rest at its largest attenuation."""
        with self._lock:
            return self._position >= self._high and not self._moving

    def _receive(self, data: bytes) -> None:
        self._received = (self._received + data.replace(b"\n", b""))[-4096:]
        while b"\r" in self._received:
            command, _, self._received = self._received.partition(b"\r")
            text = command.decode("ascii", "replace").strip()
            if text:
                self._server.send(self._answer(text))

    def _answer(self, command: str) -> bytes:
        lines = None if self.faults.latched_error is not None else self._execute(command)
        if lines is None:
            return b"Error!\r\n"
        return "".join(f"{line}\r\n" for line in (*lines, "Done", "")).encode("ascii")

    def _execute(self, command: str) -> list[str] | None:
        """The lines of the reply, or None for an error."""
        if command == "CD":
            return [
                "DD-100-MC",
                f"SN:{self._serial_number}",
                f"IL:{self._low / 100:.2f}",
                f"MAX ATTEN:{self._high / 100:.2f}",
            ]
        if command == "D":
            shown = f"{self._position / 100:.2f}" if self._homed else "Unknown"
            return [f"DPos:{self._steps()}", f"ATTEN:{shown}"]
        if command in ("H", "RST"):
            self._travel(self._low)
            self._homed = True
            return [] if command == "RST" else [f"Pos:{self._steps()}"]
        move = re.fullmatch(r"A(\d{1,3}(?:\.\d+)?)", command)
        if move is None or not self._homed:
            return None
        target = round(float(move[1]) * 100)
        if not self._low <= target <= self._high:
            return None
        self._travel(target)
        return [f"Pos:{self._steps()}"]

    def _travel(self, target: int) -> None:
        if self._speed is not None:
            with self._lock:
                self._moving = True
            self._server.closing.wait(abs(target - self._position) / 100 / self._speed)
        with self._lock:
            self._position, self._moving = target, False
        self._on_attenuation(target / 100)

    def _steps(self) -> int:
        return round(self._position / 100 * STEPS_PER_DB)
