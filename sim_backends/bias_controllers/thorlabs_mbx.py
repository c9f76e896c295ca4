"""A simulated Thorlabs MBX modulator bias controller behind a pseudo-terminal.

Commands end in LF, CR LF, CR or LF CR; headers have a short and a long form; a parameter comes behind a colon.  What is no
command is answered with ``Err: Undefined header``, what cannot be with ``Err: Parameter error`` (Remote Control User Guide
for the MX, MBX, TLX1 and TLX2 series, revision E, chapter 2; VOA in section 2.6).  MZM and RGB commands, and the numbers of
the bias modes: pymeasure ``thorlabs/thorlabsmbxseries.py``; ``SYStem`` as public drivers of the MX10 spell it.

Sources differ on two things, and each is chosen here.  ``line_end``: the guide has LF, pymeasure reads up to CR; CR LF
serves both.  ``acknowledges``: the guide has every command answered with 1, pymeasure expects that of ``VOA:MODE`` and
``MZM:RESET`` only, as the public drivers of the MX10 do of a few others; by default "few", for pymeasure's sake.

It wakes up with the bias off and the attenuator as it was left, by default on and at its largest attenuation: what an
instrument keeps no source says.  ``left_by_someone`` has a bias by hand, and the attenuator off.  A calibration takes
``calibration_s``, and finds its point only in the light (:mod:`sim_backends.bias_controllers.bias_loop`).
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Literal

from sim_backends.bias_controllers import bias_loop
from sim_backends.faults import FaultInjector
from sim_backends.serial_server import PtyServer
from sim_backends.servers import header_pattern
from sim_backends.site import Simulated, Site

UNKNOWN, WRONG_VALUE = "Err: Undefined header", "Err: Parameter error"
MODES = ("", "peak", "null", "quad+", "quad-", "quad+", "quad-", "", "power+", "power-")
"""The point that each bias mode takes; none for off (0) and manual (7)."""
OFF, HELD, MANUAL = 0, (5, 6), 7
LEAST_DB, MOST_DB = 1.0, 20.0
SETTINGS: dict[str, tuple[float, float]] = {
    "MZM:MODE": (0, 9),
    "MZM:HOLD:Ratio": (250, 10_000),
    "MZM:HOLD:Voltage": (-10_000, 10_000),
    "VOA:POWer": (0, 1),
    "VOA:MODE": (0, 1),
    "VOA:ATTen": (LEAST_DB, MOST_DB),
    "VOA:OUTput:MW": (0.01, 100.0),
    "RGB:POWer": (0, 2),
    "RGB:RED": (0, 100),
    "RGB:GREEN": (0, 100),
    "RGB:BLUE": (0, 100),
    "RGB:WHITE": (0, 100),
    "SYStem:WAVElength": (1310, 1590),
}
"""What is set and asked for by the same header, with its limits."""
WITH_DECIMALS = ("VOA:ATTen", "VOA:OUTput:MW")
ALWAYS_ACKNOWLEDGED = ("VOA:MODE", "MZM:RESET")
MAX_COMMAND_BYTES = 4096
TICK_S = 0.1
_COMMAND = re.compile(r"([*A-Za-z:_]+?)(?:(\?)|:\s*([-+.\d]\S*))?")


def build(site: Site) -> Simulated:
    """The controller of its owner's pulse carver, in line with the light."""
    twin = ThorlabsMBXTwin(
        power=site.carver_power_w,
        on_bias=site.set_carver_bias,
        on_attenuation=partial(site.set_behind_carver, "voa"),
        serial_number=site.serial,
        clock=site.clock,
    )
    return Simulated(twin, twin.serve)


class ThorlabsMBXTwin:
    """The controller.

    ``power`` is the light (W) behind the modulator at a bias; ``on_bias`` hears every bias and whether it follows a point,
    ``on_attenuation`` every attenuation (dB) of the attenuator.
    """

    def __init__(
        self,
        *,
        power: bias_loop.Power = lambda bias_v: 0.0,
        on_bias: Callable[[float, bool], None] = lambda bias_v, follows: None,
        on_attenuation: Callable[[float], None] = lambda attenuation_db: None,
        kept_attenuation_db: float = MOST_DB,
        left_by_someone: bool = False,
        model: str = "MBX",
        line_end: bytes = b"\r\n",
        acknowledges: Literal["few", "all"] = "few",
        calibration_s: float = 0.0,
        serial_number: str = "SIM0001",
        clock: Callable[[], float] = time.monotonic,
        faults: FaultInjector | None = None,
    ) -> None:
        self.faults = faults or FaultInjector()
        self._power = power
        self._on_bias = on_bias
        self._on_attenuation = on_attenuation
        self._line_end = line_end
        self._acknowledges_all = acknowledges == "all"
        self._calibration_s = calibration_s
        self._clock = clock
        self._lock = threading.RLock()
        self._held = {
            "MZM:MODE": float(MANUAL if left_by_someone else OFF),
            "MZM:HOLD:Ratio": 400.0,
            "MZM:HOLD:Voltage": 3000.0 if left_by_someone else 0.0,
            "VOA:POWer": float(not left_by_someone),
            "VOA:MODE": float(left_by_someone),
            "VOA:ATTen": kept_attenuation_db,
            "VOA:OUTput:MW": 1.0,
            "RGB:POWer": 1.0,
            "RGB:RED": 0.0,
            "RGB:GREEN": 0.0,
            "RGB:BLUE": 100.0,
            "RGB:WHITE": 0.0,
            "SYStem:WAVElength": 1550.0,
        }
        self._bias_v = 0.0
        self._found = False  # whether the mode's point was
        self._calibrated_at: float | None = None  # when the calibration under way is over
        self._attenuation_db = math.nan
        self._received = b""
        self._questions = self._all_questions(model, serial_number)
        self._patterns = {
            header: header_pattern(header) for header in (*SETTINGS, *self._questions, "MZM:RESET")
        }
        self._server = PtyServer(self._receive, self.faults, on_tick=self.tick, tick_s=TICK_S)
        self._apply_mode()
        self._apply_voa()

    def serve(self, host: str = "") -> str:
        """Open a pseudo-terminal; ``host`` does not matter on a serial line."""
        return self._server.serve("mbx")

    def close(self) -> None:
        """Stop serving."""
        self._server.close()

    def state(self) -> dict[str, object]:
        """What an observer may see."""
        with self._lock:
            return {
                "mode": int(self._held["MZM:MODE"]),
                "bias_v": self._bias_v,
                "locked": self._is_locked(),
                "attenuation_db": self._attenuation_db,
            }

    def is_safe(self) -> bool:
        """As little light as it can let through."""
        with self._lock:
            return self._attenuation_db >= MOST_DB

    def tick(self) -> None:
        """End a calibration whose time has come, and follow the point that was found."""
        with self._lock:
            if self._calibrated_at is not None:
                if self._clock() < self._calibrated_at:
                    return
                self._calibrated_at = None
                self._take(bias_loop.find(self._power, self._point(), self._ratio()))
            elif self._point() and not self._found:
                self._take(bias_loop.find(self._power, self._point(), self._ratio()))
            elif self._point() and int(self._held["MZM:MODE"]) not in HELD:
                self._take(bias_loop.follow(self._power, self._point(), self._bias_v, self._ratio()))
            self._apply_voa()

    # The bias

    def _point(self) -> str:
        return MODES[int(self._held["MZM:MODE"])]

    def _ratio(self) -> float:
        return self._held["MZM:HOLD:Ratio"] / 100

    def _take(self, bias_v: float | None) -> None:
        self._found = bias_v is not None
        if bias_v is not None:
            self._bias_v = bias_v
        self._on_bias(self._bias_v, self._found and int(self._held["MZM:MODE"]) not in HELD)

    def _apply_mode(self) -> None:
        if self._point():
            self._calibrate()
            return
        self._calibrated_at, self._found = None, False
        self._bias_v = self._held["MZM:HOLD:Voltage"] / 1000 if self._held["MZM:MODE"] == MANUAL else 0.0
        self._on_bias(self._bias_v, False)

    def _calibrate(self) -> None:
        self._found = False
        if self._point():
            self._calibrated_at = self._clock() + self._calibration_s

    def _is_locked(self) -> bool:
        return self._found and bias_loop.extremes(self._power) is not None

    def _is_there(self) -> bool:
        """Whether the bias is where its mode wants it; off has nowhere to be."""
        return self._is_locked() if self._point() else self._held["MZM:MODE"] == MANUAL

    # The attenuator

    def _apply_voa(self) -> None:
        light_mw = self._power(self._bias_v) * 1e3
        attenuation_db = self._held["VOA:ATTen"]
        if not self._held["VOA:POWer"]:
            attenuation_db = 0.0
        elif self._held["VOA:MODE"]:
            wanted_mw = self._held["VOA:OUTput:MW"]
            attenuation_db = 10 * math.log10(light_mw / wanted_mw) if light_mw > wanted_mw else 0.0
            attenuation_db = min(attenuation_db, MOST_DB)
        if attenuation_db != self._attenuation_db:
            self._attenuation_db = attenuation_db
            self._on_attenuation(attenuation_db)

    def _behind_mw(self) -> float:
        return float(self._power(self._bias_v) * 1e3 * 10 ** (-self._attenuation_db / 10))

    def _voa_error_db(self) -> float:
        return self._attenuation_db - self._held["VOA:ATTen"]

    def _is_attenuated(self) -> bool:
        return self._behind_mw() > 0 and abs(self._voa_error_db()) <= 0.1

    # The line

    def _all_questions(self, model: str, serial_number: str) -> dict[str, Callable[[], str]]:
        """Questions that have no command of the same header."""
        return {
            "MZM:CALibrating": lambda: str(int(self._calibrated_at is not None)),
            "MZM:SETpoint": lambda: str(int(self._is_there())),
            "MZM:Voltage": lambda: f"{self._bias_v:.3f}",
            "MZM:TAP:MW": lambda: f"{self._power(self._bias_v) * 1e3:.6g}",
            "VOA:SETpoint": lambda: str(int(self._is_attenuated())),
            "VOA:MEASured": lambda: f"{self._attenuation_db:.2f}",
            "VOA:ERRor": lambda: f"{self._voa_error_db():.2f}",
            "VOA:TAP:MW": lambda: f"{self._behind_mw():.6g}",
            "SYStem:MODEL": lambda: model,
            "SYStem:SERial": lambda: serial_number,
            "SYStem:FIRMware": lambda: "V1.9.5",
        }

    def _receive(self, data: bytes) -> None:
        self._received = (self._received + data.replace(b"\r", b"\n"))[-MAX_COMMAND_BYTES:]
        while b"\n" in self._received:
            command, _, self._received = self._received.partition(b"\n")
            if command.strip() and (reply := self._obey(command.decode("latin-1").strip())) is not None:
                self._server.send(reply.encode("ascii") + self._line_end)

    def _obey(self, command: str) -> str | None:
        """The reply to a command, None for none."""
        said = _COMMAND.fullmatch(command)
        header = next(
            (name for name, pattern in self._patterns.items() if said and pattern.fullmatch(said[1])), ""
        )
        if said is None or not header or self.faults.latched_error is not None:
            return UNKNOWN
        self.tick()
        with self._lock:
            if said[2]:
                return self._answer(header)
            if header == "MZM:RESET" and not said[3]:
                self._calibrate()
            elif header not in SETTINGS or not said[3]:
                return UNKNOWN
            elif not self._set(header, said[3]):
                return WRONG_VALUE
        return "1" if self._acknowledges_all or header in ALWAYS_ACKNOWLEDGED else None

    def _answer(self, header: str) -> str:
        if header in SETTINGS:
            held = self._held[header]
            return f"{held:.2f}" if header in WITH_DECIMALS else str(int(held))
        return self._questions[header]() if header in self._questions else UNKNOWN

    def _set(self, header: str, text: str) -> bool:
        try:
            value = float(text)
        except ValueError:
            return False
        low, high = SETTINGS[header]
        if not low <= value <= high or (header not in WITH_DECIMALS and value != int(value)):
            return False
        if header == "SYStem:WAVElength" and value not in (1310, 1550, 1590):
            return False
        self._held[header] = value
        if header.startswith("MZM"):
            self._apply_mode()
        if header.startswith("VOA"):
            self._apply_voa()
        return True
