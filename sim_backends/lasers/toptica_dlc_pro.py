"""Simulated TOPTICA DLC pro with a CTL head on its command line.

Light comes out while the interlock is closed, the front key turned, the emission button pressed and the laser's current
on; an open interlock and a locked key let the button out, and nobody but people press it again.  With its power stabilization on
the laser emits the set point, otherwise what its current makes.  A motor tunes, ``nm_per_s`` fast; ``on_output`` hears each
change of (power in W, wavelength in nm), with 0.0 W for dark.

Everything that is set survives a power cycle, so a controller wakes up as somebody left it: ``left_by_someone`` starts with
the current on, the stabilization off, a scan and the analogue inputs on, another wavelength, and expressions echoed.

Parameters: toptica-lasersdk ``toptica/lasersdk/dlcpro/v3_3_3.py``; threshold and slope of the diode are of the order of such heads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from sim_backends.faults import FaultInjector
from sim_backends.lasers.decof import (
    GREETING,
    CommandLine,
    DecofError,
    Interpreter,
    Parameter,
    Value,
    boolean,
    number,
)
from sim_backends.site import Simulated, Site

WAVELENGTH_NM = (1510.0, 1630.0)
MOTOR_NM_PER_S = 10.0
_THRESHOLD_MA, _MW_PER_MA, _CLIP_MA = 60.0, 0.2, 350.0
_SWITCHES = (
    "power-stabilization:enabled",
    "scan:enabled",
    "dl:lock:lock-enabled",
    "dl:cc:external-input:enabled",
    "dl:cc:feedforward-enabled",
    "dl:pc:external-input:enabled",
    "ctl:remote-control:enabled",
)


def build(site: Site) -> Simulated:
    """The laser whose light goes where the site's does; its key is turned and its button pressed, as people do first."""
    twin = DLCProTwin(
        on_output=site.set_laser,
        serial_number=site.serial,
        nm_per_s=MOTOR_NM_PER_S,
        command_port=site.ports[0],
        clock=site.clock,
    )
    return Simulated(twin, lambda: twin.serve(site.host))


class DLCProTwin:
    """The controller with one laser.  ``clock`` serves the motor."""

    def __init__(
        self,
        *,
        on_output: Callable[[float, float], None] = lambda power_w, wavelength_nm: None,
        serial_number: str = "SIM00001",
        max_power_mw: float = 60.0,
        nm_per_s: float = 1e4,
        command_port: int = 1998,
        left_by_someone: bool = False,
        clock: Callable[[], float] = time.monotonic,
        faults: FaultInjector | None = None,
    ) -> None:
        self.faults = faults or FaultInjector()
        self._on_output = on_output
        self._serial_number = serial_number
        self._max_power_mw = max_power_mw
        self._nm_per_s = nm_per_s
        self._port = command_port
        self._clock = clock
        self._lock = threading.RLock()
        self._interlock_closed = self._key_turned = self._button = True
        self._current_on = left_by_someone
        self._current_ma = 310.0 if left_by_someone else 120.0
        self._setpoint_mw = max_power_mw * (0.7 if left_by_someone else 0.1)
        self._wavelength_nm = self._from_nm = 1563.0 if left_by_someone else 1550.0
        self._tuned_at = clock()
        self._echo = left_by_someone
        self._user_level = 3
        self._switches = dict.fromkeys(_SWITCHES, left_by_someone)
        self._switches["power-stabilization:enabled"] = False
        self._output = (0.0, 0.0)
        interpreter = Interpreter(self._parameters(), {"change-ul": self._change_level})
        self._interpreter = interpreter
        self._server = CommandLine(
            self._answer, GREETING.format(serial=serial_number), self.faults, lambda: self._echo
        )
        self._report()

    def serve(self, host: str) -> str:
        """Listen at the command port on ``host`` (0: any free one); returns ``host:port``."""
        return self._server.serve(host, self._port)

    def close(self) -> None:
        """Stop serving."""
        self._server.close()

    def state(self) -> dict[str, object]:
        """What an observer may see."""
        with self._lock:
            return {
                "emission": self._current_on,
                "emitting": self._lit(),
                "power_mw": self._setpoint_mw,
                "emitted_mw": self._emitted_mw(),
                "wavelength_nm": self._wavelength_nm,
                "on": sorted(name for name, on in self._switches.items() if on),
                "key_turned": self._key_turned,
                "interlock_closed": self._interlock_closed,
                "button": self._button,
            }

    def is_safe(self) -> bool:
        """No light, and none asked for."""
        with self._lock:
            return not (self._current_on or self._lit())

    def set_interlock(self, closed: bool) -> None:
        """Open or close the interlock; opening it lets the emission button out."""
        self._by_hand(lambda: setattr(self, "_interlock_closed", closed))

    def turn_key(self, on: bool) -> None:
        """Turn the front key; locking it lets the emission button out."""
        self._by_hand(lambda: setattr(self, "_key_turned", on))

    def press_button(self) -> None:
        """Press the emission button, which stays in only with the key turned and the interlock closed."""
        self._by_hand(lambda: setattr(self, "_button", True))

    def _by_hand(self, does: Callable[[], None]) -> None:
        with self._lock:
            does()
            self._button = self._button and self._key_turned and self._interlock_closed
            self._report()

    # Light

    def _lit(self) -> bool:
        return self._current_on and self._button and self.faults.latched_error is None

    def _emitted_mw(self) -> float:
        if not self._lit():
            return 0.0
        if self._switches["power-stabilization:enabled"]:
            return self._setpoint_mw
        return min(max(self._current_ma - _THRESHOLD_MA, 0.0) * _MW_PER_MA, self._max_power_mw)

    def _current_act(self) -> float:
        if not self._lit():
            return 0.0
        stabilized = self._switches["power-stabilization:enabled"]
        return _THRESHOLD_MA + self._setpoint_mw / _MW_PER_MA if stabilized else self._current_ma

    def _wavelength_act(self) -> float:
        """On its way from where it was; the motor turns at one speed."""
        way_nm = (self._clock() - self._tuned_at) * self._nm_per_s
        left_nm = self._wavelength_nm - self._from_nm
        return self._from_nm + max(-way_nm, min(way_nm, left_nm))

    def _report(self) -> None:
        """Tell of the output if it changed."""
        output = (self._emitted_mw() * 1e-3, self._wavelength_nm)
        if output[0] != self._output[0] or (output[0] and output != self._output):
            self._output = output
            self._on_output(*output)

    # The command line

    def _answer(self, line: str) -> str:
        with self._lock:
            said = self._interpreter.answer(line)
            self._report()
            return said

    def _parameters(self) -> dict[str, Parameter]:
        laser = {
            **{name: self._switch_of(name) for name in _SWITCHES},
            "type": Parameter(lambda: "CTL"),
            "product-name": Parameter(lambda: "CTL 1550"),
            "emission": Parameter(self._lit),
            "health-txt": Parameter(self._health),
            "dl:cc:enabled": self._attribute("_current_on", boolean),
            "dl:cc:emission": Parameter(self._lit),
            "dl:cc:current-set": self._attribute("_current_ma", lambda v: number(v, 0.0, _CLIP_MA)),
            "dl:cc:current-clip": Parameter(lambda: _CLIP_MA),
            "dl:cc:current-act": Parameter(self._current_act),
            "dl:tc:temp-act": Parameter(lambda: 24.98),
            "power-stabilization:setpoint": self._attribute(
                "_setpoint_mw", lambda v: number(v, 0.0, self._max_power_mw)
            ),
            "power-stabilization:input-channel-value-act": Parameter(self._emitted_mw),
            "ctl:power:power-act": Parameter(self._emitted_mw),
            "ctl:wavelength-set": Parameter(lambda: self._wavelength_nm, self._tune),
            "ctl:wavelength-act": Parameter(self._wavelength_act),
            "ctl:wavelength-min": Parameter(lambda: WAVELENGTH_NM[0]),
            "ctl:wavelength-max": Parameter(lambda: WAVELENGTH_NM[1]),
            "ctl:state": Parameter(lambda: int(self._wavelength_act() != self._wavelength_nm)),
        }
        return {
            "system-type": Parameter(lambda: "DLCpro"),
            "serial-number": Parameter(lambda: self._serial_number),
            "system-label": Parameter(lambda: "simulated"),
            "fw-ver": Parameter(lambda: "3.3.3"),
            "uptime-txt": Parameter(lambda: "0:10:00"),
            "emission": Parameter(self._lit),
            "emission-button-enabled": Parameter(lambda: self._button),
            "frontkey-locked": Parameter(lambda: not self._key_turned),
            "interlock-open": Parameter(lambda: not self._interlock_closed),
            "system-health-txt": Parameter(self._health),
            "echo": self._attribute("_echo", boolean),
            "ul": Parameter(lambda: self._user_level),
            **{f"laser1:{name}": parameter for name, parameter in laser.items()},
        }

    def _attribute(self, name: str, check: Callable[[Value], Value]) -> Parameter:
        return Parameter(lambda: getattr(self, name), lambda value: setattr(self, name, check(value)))

    def _switch_of(self, name: str) -> Parameter:
        def write(value: Value) -> None:
            self._switches[name] = boolean(value)

        return Parameter(lambda: self._switches[name], write)

    def _tune(self, value: Value) -> None:
        wanted_nm = number(value, *WAVELENGTH_NM)
        self._from_nm, self._tuned_at = self._wavelength_act(), self._clock()
        self._wavelength_nm = wanted_nm

    def _health(self) -> str:
        return self.faults.latched_error or "Ok"

    def _change_level(self, arguments: list[Value]) -> int:
        """Levels below 3 need a password, which nobody has here."""
        level = arguments[0] if arguments else None
        if not isinstance(level, int):
            raise DecofError(-14, "no user level")
        self._user_level = level if level >= 3 else self._user_level
        return self._user_level
