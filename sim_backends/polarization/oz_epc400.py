"""A simulated OZ Optics EPC-400 behind a pseudo-terminal.

Commands end in CR LF.  A reply is one line and ``Done``, both ended by CR LF and without an empty line behind, sent in one
piece (QMI ``tests/instruments/ozoptics/test_epc_driver.py`` quotes each); what is refused ends in ``Error!`` (pylablib
``pylablib/devices/OZOptics/base.py``).  ``SN?``, ``VER?`` and ``ENABLE`` are known by name from TommasoBoscardin/
APC-Characterization ``EPC400.py``; what they answer is in the manner of the others.

It wakes up with what ``SAVE`` kept, by default 0 V in DC mode.  ``left_by_someone`` scrambles, with its outputs off and
voltages set.  In AC mode every voltage swings over its whole range at its own frequency (how far, no source says); with
outputs off the piezos are at 0 V.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable

import numpy as np

from sim_backends.faults import FaultInjector
from sim_backends.optics_polarization import Jones
from sim_backends.polarization.fibre import SqueezedFibre
from sim_backends.serial_server import PtyServer
from sim_backends.site import Simulated, Site

MOST_MV, MOST_HZ = 5000, 100
MAX_COMMAND_BYTES = 4096
TICK_S = 0.05
FREQUENCIES_HZ = [7, 17, 37, 71]
"""As QMI's test quotes them."""
_COMMAND = re.compile(r"(V|F)([1-4]),([+-]?\d{1,5})|(VH|VL|VZ|VF)([1-4])")


def build(site: Site) -> Simulated:
    """The controller in front of its owner's next polariser."""
    twin = OzEPC400Twin(
        on_jones=site.set_polarization,
        fibre=SqueezedFibre.made(site.made, site.spread),
        serial_number=site.serial,
        clock=site.clock,
    )
    return Simulated(twin, twin.serve)


class OzEPC400Twin:
    """The controller; ``on_jones`` hears what its ``fibre`` makes of light, whenever that changes."""

    def __init__(
        self,
        *,
        on_jones: Callable[[Jones], None] = lambda jones: None,
        fibre: SqueezedFibre | None = None,
        left_by_someone: bool = False,
        serial_number: str = "SIM0001",
        clock: Callable[[], float] = time.monotonic,
        faults: FaultInjector | None = None,
    ) -> None:
        self.faults = faults or FaultInjector()
        self._on_jones = on_jones
        self._fibre = fibre or SqueezedFibre.made(np.random.default_rng(0), 0.0)
        self._serial_number = serial_number
        self._clock = clock
        self._lock = threading.RLock()
        self._mv = [1200, -3400, 0, 4999] if left_by_someone else [0, 0, 0, 0]
        self._hz = list(FREQUENCIES_HZ)
        self._mode = "AC" if left_by_someone else "DC"
        self._waveform = "Triangle" if left_by_someone else "Sine"
        self._output = not left_by_someone
        self._steady = [False] * 4  # channels at their voltage in AC mode, where that is enabled
        self._steady_enabled = False
        self._kept = (list(self._mv), self._mode)
        self._received = b""
        self._server = PtyServer(self._receive, self.faults, on_tick=self.tick, tick_s=TICK_S)
        self._tell()

    def serve(self, host: str = "") -> str:
        """Open a pseudo-terminal; ``host`` does not matter on a serial line."""
        return self._server.serve("epc400")

    def close(self) -> None:
        """Stop serving."""
        self._server.close()

    def state(self) -> dict[str, object]:
        """What an observer may see."""
        with self._lock:
            return {"voltages_mv": list(self._mv), "mode": self._mode, "output": self._output}

    def is_safe(self) -> bool:
        """Always: it emits nothing, and its safe state is wherever it stands."""
        return True

    def tick(self) -> None:
        """While it scrambles, light changes by itself."""
        if self._mode == "AC":
            self._tell()

    def _tell(self) -> None:
        with self._lock:
            jones = self._fibre.jones([mv / 1000 for mv in self._at_piezos_mv()])
        self._on_jones(jones)

    def _at_piezos_mv(self) -> list[float]:
        if not self._output:
            return [0.0] * 4
        if self._mode == "DC":
            return [float(each) for each in self._mv]
        now = self._clock()
        swings = [math.sin(2 * math.pi * hz * now) for hz in self._hz]
        if self._waveform == "Triangle":
            swings = [2 / math.pi * math.asin(each) for each in swings]
        steady = [self._steady_enabled and each for each in self._steady]
        return [
            float(mv) if each else MOST_MV * swing
            for mv, swing, each in zip(self._mv, swings, steady, strict=True)
        ]

    def _receive(self, data: bytes) -> None:
        self._received = (self._received + data)[-MAX_COMMAND_BYTES:]
        while b"\n" in self._received:
            command, _, self._received = self._received.partition(b"\n")
            if text := command.decode("ascii", "replace").strip():
                with self._lock:
                    refused = self.faults.latched_error is not None
                    line = None if refused else self._execute(text)
                if line is not None:
                    self._tell()
                reply = "Error!\r\n" if line is None else f"{line}\r\nDone\r\n"
                self._server.send(reply.encode("ascii"))

    def _execute(self, command: str) -> str | None:
        """The line of the reply, or None for an error."""
        channels = range(4)
        answers: dict[str, Callable[[], str]] = {
            "V?": lambda: "Voltage(mV): " + " ".join(f"CH{n + 1} {self._mv[n]:+05d}" for n in channels),
            "F?": lambda: "Frequency(Hz): " + "  ".join(f"CH{n + 1} {self._hz[n]:03d}" for n in channels),
            "M?": lambda: f"Work Mode: AC({self._waveform})" if self._mode == "AC" else "Work Mode: DC",
            "WF?": lambda: f"AC Waveform: {self._waveform}",
            "VF?": self._say_steady,
            "SN?": lambda: f"Serial Number: {self._serial_number}",
            "VER?": lambda: "Version: 2.10",
            "MDC": lambda: self._set_mode("DC"),
            "MAC": lambda: self._set_mode("AC"),
            "WF1": lambda: self._set_waveform("Sine"),
            "WF2": lambda: self._set_waveform("Triangle"),
            "ENVF0": lambda: self._enable_steady(False),
            "ENVF1": lambda: self._enable_steady(True),
            "ENABLE0": lambda: self._set_output(False),
            "ENABLE1": lambda: self._set_output(True),
            "SAVE": self._save,
            "RESET": self._reset,
        }
        if command in answers:
            return answers[command]()
        found = _COMMAND.fullmatch(command)
        if found is None:
            return None
        if found[1]:
            return self._set(found[1], int(found[2]) - 1, int(found[3]))
        return self._set_to(found[4], int(found[5]) - 1)

    def _set(self, what: str, index: int, value: int) -> str | None:
        if what == "V" and abs(value) <= MOST_MV:
            self._mv[index] = value
            return f"Set CH{index + 1} DC Voltage at: {value}mV"
        if what == "F" and 0 <= value <= MOST_HZ:
            self._hz[index] = value
            return f"Set CH{index + 1} AC Frequency at: {value}Hz"
        return None

    def _set_to(self, what: str, index: int) -> str | None:
        if what == "VF":
            self._steady[index] = not self._steady[index]
            return f"Set CH{index + 1} output to: {'Volt' if self._steady[index] else 'Freq'} (if possible)"
        return self._set("V", index, {"VH": MOST_MV, "VL": -MOST_MV, "VZ": 0}[what])

    def _say_steady(self) -> str:
        channels = ",".join(f"CH{n}-{'V' if each else 'F'}" for n, each in enumerate(self._steady, start=1))
        return f"Hz<->Volt at AC Mode is {'enabled' if self._steady_enabled else 'disabled'}: {channels}"

    def _set_mode(self, mode: str) -> str:
        self._mode = mode
        return f"Set To {mode} Mode"

    def _set_waveform(self, waveform: str) -> str:
        self._waveform = waveform
        return f"Set AC Waveform at: {waveform}"

    def _enable_steady(self, on: bool) -> str:
        self._steady_enabled = on
        return f"{'Enable' if on else 'Disable'} DC Voltage Output at AC Mode"

    def _set_output(self, on: bool) -> str:
        self._output = on
        return f"{'Enable' if on else 'Disable'} Output"

    def _save(self) -> str:
        self._kept = (list(self._mv), self._mode)
        return "Write Setting to Flash memory"

    def _reset(self) -> str:
        mv, self._mode = self._kept
        self._mv = list(mv)
        return "Reset"
