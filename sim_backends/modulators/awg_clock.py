"""Clock, mode and trigger input commands of the simulated AWG.

Commands, words and values after ``*RST``: github tektronix/tm_devices ``commands/gen_chhuo_awg/clock.py``,
``trigger.py`` and ``instrument.py``.  A change of the clock takes time on the instrument (users report seconds to
minutes): meanwhile the connection that asked for it is answered nothing, others are served.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from sim_backends.lines import Edge, crosses
from sim_backends.servers import DATA_OUT_OF_RANGE, ILLEGAL_VALUE, Call, ScpiDevice, ScpiError

NO_REFERENCE = (-300, "Device-specific error;Reference clock is not present")
"""Unverified: number and words; SCPI-99 keeps -300 for what the device itself finds wrong."""
_INPUTS = ("ATRigger", "BTRigger")
_LEVEL_LIMITS_V = (-5.0, 5.0)
_MOST_DELAY_PS = 1e6
"""No source gives the range of the phase."""


@dataclass
class TriggerInputSettings:
    """Of one of the inputs A and B."""

    level_v: float = 1.4
    slope: str = "POS"
    impedance_ohm: int = 50
    mode: str = "ASYN"


class ClockAndTrigger:
    """Declares the commands on ``device``; ``change_s`` is how long a change of the clock takes."""

    def __init__(
        self, device: ScpiDevice, change_s: float, has_reference: Callable[[], bool] = lambda: True
    ) -> None:
        self._has_reference = has_reference
        self._changed = threading.Condition(device.lock)
        self._change_s = change_s
        self.reset()
        self._add_clock(device.add)
        self._add_trigger(device.add)

    def reset(self) -> None:
        """As after ``*RST``."""
        self.sample_rate_hz = 25e9
        self.source = "INT"
        self.external_hz = 6.25e9
        self.delay_ps = 0.0
        self.jitter = False
        self.mode = "AWG"
        self.trigger_source = "EXT"
        self.inputs = {"ATR": TriggerInputSettings(), "BTR": TriggerInputSettings()}

    def leave(self) -> None:
        """As an earlier user left it."""
        self.sample_rate_hz, self.source, self.jitter, self.mode = 1e9, "EFIX", True, "FGEN"
        self.trigger_source, self.delay_ps = "INT", 250.0
        for each in self.inputs.values():
            each.level_v, each.slope, each.impedance_ohm, each.mode = -2.0, "NEG", 1000, "SYNC"

    @property
    def external(self) -> bool:
        """Whether the clock follows a reference or another clock."""
        return self.source != "INT"

    @property
    def lost(self) -> bool:
        """Whether the clock has nothing to follow, though it should."""
        return self.external and not self._has_reference()

    def sees(self, source: str, edge: Edge) -> bool:
        """Whether an edge at the input ``ATR`` or ``BTR`` triggers."""
        each = self.inputs[source]
        return self.trigger_source == "EXT" and crosses(edge, each.level_v, rising=each.slope == "POS")

    def _add_clock(self, add: Callable[[str, Callable[[Call], str | None]], None]) -> None:
        add("CLOCk:SRATe", self._set_rate)
        add("CLOCk:SRATe?", lambda c: f"{self.sample_rate_hz:.10E}")
        add("CLOCk:SOURce", self._set_source)
        add("CLOCk:SOURce?", lambda c: self.source)
        add("CLOCk:ECLock:FREQuency", self._set_external)
        add("CLOCk:ECLock:FREQuency?", lambda c: f"{self.external_hz:.10E}")
        add("CLOCk:JITTer", lambda c: setattr(self, "jitter", c.boolean(0)))
        add("CLOCk:JITTer?", lambda c: str(int(self.jitter)))
        add("CLOCk:PHASe[:ADJust]:TIMe", lambda c: self._set_delay(c.number(0) * 1e12))
        add("CLOCk:PHASe[:ADJust]:TIMe?", lambda c: f"{self.delay_ps * 1e-12:.10E}")
        add("CLOCk:PHASe[:ADJust][:DEGRees]", lambda c: self._set_delay(c.integer(0) * self._degree_ps))
        add("CLOCk:PHASe[:ADJust][:DEGRees]?", lambda c: f"{self.delay_ps / self._degree_ps:.0f}")
        add("INSTrument:MODE", lambda c: setattr(self, "mode", c.choice(0, "AWG", "FGEN")))
        add("INSTrument:MODE?", lambda c: self.mode)

    def _add_trigger(self, add: Callable[[str, Callable[[Call], str | None]], None]) -> None:
        add("TRIGger:SOURce", lambda c: setattr(self, "trigger_source", c.choice(0, "EXTernal", "INTernal")))
        add("TRIGger:SOURce?", lambda c: self.trigger_source)
        add("TRIGger:LEVel", self._set_level)
        add("TRIGger:LEVel?", lambda c: f"{self._input(c, 0).level_v:.10E}")
        add(
            "TRIGger:SLOPe",
            lambda c: setattr(self._input(c, 1), "slope", c.choice(0, "POSitive", "NEGative")),
        )
        add("TRIGger:SLOPe?", lambda c: self._input(c, 0).slope)
        add("TRIGger:IMPedance", self._set_impedance)
        add("TRIGger:IMPedance?", lambda c: str(self._input(c, 0).impedance_ohm))
        add(
            "TRIGger:MODE",
            lambda c: setattr(self._input(c, 1), "mode", c.choice(0, "SYNChronous", "ASYNchronous")),
        )
        add("TRIGger:MODE?", lambda c: self._input(c, 0).mode)

    def _change(self) -> None:
        """Let the time of a change pass, with the device free for others."""
        if self._change_s > 0:
            self._changed.wait(self._change_s)

    def _set_rate(self, call: Call) -> None:
        value = call.number(0)
        top = 25e9 if self.source != "EXT" else 2 * self.external_hz
        if not 1.49e3 <= value <= top:
            raise ScpiError(*DATA_OUT_OF_RANGE)
        self._change()
        self.sample_rate_hz = value

    def _set_source(self, call: Call) -> None:
        source = call.choice(0, "INTernal", "EFIXed", "EVARiable", "EXTernal")
        if source != "INT" and not self._has_reference():
            raise ScpiError(*NO_REFERENCE)
        if source != self.source:
            self._change()
        self.source = source

    def _set_external(self, call: Call) -> None:
        value = call.number(0)
        if not 6.25e9 <= value <= 12.5e9:
            raise ScpiError(*DATA_OUT_OF_RANGE)
        self.external_hz = value

    @property
    def _degree_ps(self) -> float:
        """Of the sample clock; no source says of which clock the phase is."""
        return 1e12 / self.sample_rate_hz / 360

    def _set_delay(self, delay_ps: float) -> None:
        if not abs(delay_ps) <= _MOST_DELAY_PS:
            raise ScpiError(*DATA_OUT_OF_RANGE)
        self.delay_ps = delay_ps

    def _input(self, call: Call, argument: int) -> TriggerInputSettings:
        """The input that ``argument`` names; A where it is missing."""
        return self.inputs[call.choice(argument, *_INPUTS) if len(call.arguments) > argument else "ATR"]

    def _set_level(self, call: Call) -> None:
        value = call.number(0)
        if not _LEVEL_LIMITS_V[0] <= value <= _LEVEL_LIMITS_V[1]:
            raise ScpiError(*DATA_OUT_OF_RANGE)
        self._input(call, 1).level_v = value

    def _set_impedance(self, call: Call) -> None:
        value = call.integer(0)
        if value not in (50, 1000):
            raise ScpiError(*ILLEGAL_VALUE)
        self._input(call, 1).impedance_ohm = value
