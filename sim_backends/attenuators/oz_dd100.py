"""A simulated OZ Optics DD-100-MC behind a pseudo-terminal.

Commands end in CR or CR LF.  A reply is lines ended by CR LF, then ``Done`` and an empty line, sent in one
piece; an error is one line.  A move takes its travel divided by ``speed_db_per_s`` and is answered when it is
over; attenuations have steps of 0.01 dB.  After a power cycle the position is unknown until the motor was homed
or sent somewhere; ``left_by_someone`` wakes up wide open, with the echo on.

Two firmwares are known by their replies, and ``firmware`` chooses:

* ``DPos:``/``ATTEN:12.00`` and ``Error!`` (QMI ``tests/instruments/ozoptics/test_dd100mc.py``, pylablib
  ``pylablib/devices/OZOptics/base.py``); ``refuses_unhomed`` makes it insist on ``H``, as pylablib's comment says;
* ``Pos:``/``Atten:12.00(dB)``, ``Diff=`` after homing and ``Error-2`` (COO-Utilities/ozoptics ``dd100mc.py``,
  which also lists the manual's commands; the ``OZOpticsVOA`` driver of keckogeco, whose three units home at the
  first ``A``).

No source says what a unit does with a command that comes while its motor runs; the list of commands has none that
stops it.  ``while_moving`` "queue" executes it afterwards, "ignore" loses it.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from typing import Literal

from sim_backends.faults import FaultInjector
from sim_backends.serial_server import PtyServer
from sim_backends.site import Simulated, Site

STEPS_PER_DB = 200
Firmware = Literal["upper", "mixed"]


def build(site: Site) -> Simulated:
    """The attenuator in the light of its owner."""
    twin = OzDD100Twin(
        on_attenuation=lambda attenuation_db: site.set_attenuation("", attenuation_db, True),
        serial_number=site.serial,
        clock=site.clock,
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
        refuses_unhomed: bool = False,
        left_by_someone: bool = False,
        firmware: Firmware = "upper",
        while_moving: Literal["queue", "ignore"] = "queue",
        serial_number: str = "SIM0001",
        clock: Callable[[], float] = time.monotonic,
        faults: FaultInjector | None = None,
    ) -> None:
        self.faults = faults or FaultInjector()
        self._on_attenuation = on_attenuation
        self._low = round(insertion_loss_db * 100)  # in hundredths of a dB
        self._high = round(max_attenuation_db * 100)
        self._speed = speed_db_per_s
        self._homed = homed
        self._refuses_unhomed = refuses_unhomed
        self._mixed = firmware == "mixed"
        self._ignores = while_moving == "ignore"
        self._echo = left_by_someone
        self._serial_number = serial_number
        self._clock = clock
        self._position = self._low if left_by_someone else self._high
        self._received = b""
        self._stops: list[int] = []  # where the motor still has to go
        self._arrives_at = 0.0
        self._reply_on_arrival: list[str] | None = None
        self._last_reply = ""
        self._lock = threading.Lock()
        moves_by_time = self.tick if speed_db_per_s is not None else None
        self._server = PtyServer(self._receive, self.faults, on_tick=moves_by_time, tick_s=0.01)
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
            moving = bool(self._stops)
            return {"attenuation_db": self._position / 100, "moving": moving, "homed": self._homed}

    def is_safe(self) -> bool:
        """At rest at its largest attenuation."""
        with self._lock:
            return self._position >= self._high and not self._stops

    def tick(self) -> None:
        """Let the motor arrive if its time has come, and obey what was asked meanwhile."""
        while True:
            if self._stops:
                if self._clock() < self._arrives_at:
                    return
                self._arrive()
            elif b"\r" in self._received:
                self._obey()
            else:
                return

    def _receive(self, data: bytes) -> None:
        if self._echo:
            self._server.send(data)
        if self._stops and self._ignores:
            return
        self._received = (self._received + data.replace(b"\n", b""))[-4096:]
        self.tick()

    def _obey(self) -> None:
        command, _, self._received = self._received.partition(b"\r")
        text = command.decode("ascii", "replace").strip()
        if text:
            lines = None if self.faults.latched_error is not None else self._execute(text)
            if not self._stops:
                self._reply(lines)

    def _reply(self, lines: list[str] | None) -> None:
        if lines is None:
            text = "Error-2\r\n" if self._mixed else "Error!\r\n"
        else:
            text = "".join(f"{line}\r\n" for line in (*lines, "Done", ""))
        self._last_reply = text
        self._server.send(text.encode("ascii"))

    def _execute(self, command: str) -> list[str] | None:
        """The lines of the reply, or None for an error; a command that moves is answered on arrival."""
        answers: dict[str, Callable[[], list[str]]] = {
            "CD": self._configuration,
            "D": lambda: [f"{'Pos' if self._mixed else 'DPos'}:{self._steps()}", self._attenuation()],
            "A?": lambda: [self._attenuation()],
            "S?": lambda: [f"Pos:{self._steps()}"],
            "RES?": lambda: self._last_reply.split("\r\n")[:-3],
            "E0": lambda: self._set_echo(False),
            "E1": lambda: self._set_echo(True),
        }
        if command in answers:
            return answers[command]()
        if command in ("H", "RST"):
            self._reply_on_arrival = self._configuration() if command == "RST" else self._home_reply()
            self._travel(self._low)
            return []
        return self._move(command)

    def _move(self, command: str) -> list[str] | None:
        if not self._homed and self._refuses_unhomed:
            return None
        if command in ("F", "B"):
            target = self._position + (1 if command == "F" else -1) * 100 // STEPS_PER_DB
        elif found := re.fullmatch(r"A(\d{1,3}(?:\.\d+)?)", command):
            target = round(float(found[1]) * 100)
        elif found := re.fullmatch(r"S([+-]?)(\d{1,6})", command):
            moved = int(found[2]) * 100 // STEPS_PER_DB
            target = moved if not found[1] else self._position + int(found[1] + "1") * moved
        else:
            return None
        if not self._low <= target <= self._high:
            return None
        self._reply_on_arrival = None
        self._travel(*([] if self._homed else [self._low]), target)
        return []

    def _travel(self, *stops: int) -> None:
        with self._lock:
            self._stops = list(stops)
            self._set_out()

    def _set_out(self) -> None:
        travel_db = abs(self._stops[0] - self._position) / 100
        self._arrives_at = self._clock() + (travel_db / self._speed if self._speed is not None else 0.0)

    def _arrive(self) -> None:
        with self._lock:
            self._position = self._stops.pop(0)
            self._homed = True
        self._on_attenuation(self._position / 100)
        if self._stops:
            self._set_out()
        else:
            self._reply(self._reply_on_arrival or [f"Pos:{self._steps()}"])

    def _set_echo(self, on: bool) -> list[str]:
        self._echo = on
        return []

    def _configuration(self) -> list[str]:
        return [
            "DD-100-MC",
            f"SN:{self._serial_number}",
            f"IL:{self._low / 100:.2f}",
            f"MAX ATTEN:{self._high / 100:.2f}",
        ]

    def _home_reply(self) -> list[str]:
        return ["Diff=0"] if self._mixed else [f"Pos:{self._low * STEPS_PER_DB // 100}"]

    def _attenuation(self) -> str:
        if not self._homed:
            return "Atten:unknown" if self._mixed else "ATTEN:Unknown"
        shown = f"{self._position / 100:.2f}"
        return f"Atten:{shown}(dB)" if self._mixed else f"ATTEN:{shown}"

    def _steps(self) -> int:
        return self._position * STEPS_PER_DB // 100
