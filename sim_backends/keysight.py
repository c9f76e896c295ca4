"""What the simulated Keysight boxes share: slots with parts, the form of numbers, and operations that take time.

Written from the Keysight N77xx Series Programming Guide (N7744-90C): replies end with CR LF, the error queue holds 30
entries, out-of-range values give -222, words outside a list -224, what does not go together -221, empty slots -303.
``*OPC?`` answers 0 while something is under way.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from sim_backends.faults import FaultInjector
from sim_backends.servers import SETTINGS_CONFLICT, Call, ScpiDevice, ScpiError, ScpiTwin

IDENTITY = "Keysight Technologies,{model},SIM{serial:05d},1.000"
TOO_LARGE = (-222, "Data out of range (StatParmTooLarge)")
TOO_SMALL = (-222, "Data out of range (StatParmTooSmall)")
EMPTY_SLOT = (-303, "Module slot empty or slot / channel invalid")
METRES: Mapping[str, float] = {"PM": 1e-12, "NM": 1e-9, "UM": 1e-6, "MM": 1e-3, "M": 1.0}
DECIBELS: Mapping[str, float] = {"MDB": 1e-3, "DB": 1.0}
SECONDS: Mapping[str, float] = {"US": 1e-6, "MS": 1e-3, "S": 1.0}


def bounded(call: Call, limits: tuple[float, float], default: float, units: Mapping[str, float]) -> float:
    """Argument 0: a number with one of ``units`` within ``limits``, or MIN, MAX, DEF."""
    word = call.text(0).upper()
    named = {"MIN": limits[0], "MAX": limits[1], "DEF": default}
    if word in named:
        return named[word]
    value = call.number(0, units)
    if value > limits[1]:
        raise ScpiError(*TOO_LARGE)
    if value < limits[0]:
        raise ScpiError(*TOO_SMALL)
    return value


def asked(call: Call, value: float, limits: tuple[float, float], default: float) -> str:
    """The reply to a query with or without MIN, MAX, DEF."""
    named = {"MIN": limits[0], "MAX": limits[1], "DEF": default}
    return nr3(named[call.choice(0, "MIN", "MAX", "DEF")] if call.arguments else value)


def switch(call: Call, words: tuple[str, str]) -> bool:
    """Argument 0 as off or on, or as the word that stands for it."""
    word = call.text(0).upper()
    return word == words[1] if word in words else call.boolean(0)


def nr3(value: float) -> str:
    """The guide's form of a number, ``+1.55000000E-006``."""
    mantissa, _, exponent = f"{value:+.8E}".partition("E")
    return f"{mantissa}E{int(exponent):+04d}"


class Part(ABC):
    """What is in some slots of a box; the device's lock is held when it is called."""

    @abstractmethod
    def is_busy(self) -> bool:
        """Whether an operation is under way."""

    @abstractmethod
    def reset(self) -> None:
        """``*RST``."""

    @abstractmethod
    def leave(self) -> None:
        """The state in which an earlier user left it."""


class KeysightDevice(ScpiDevice):
    """A box of parts, which declare their own commands."""

    def __init__(self, identity: str, faults: FaultInjector) -> None:
        super().__init__(identity, faults, no_error='+0,"No error"', queue_depth=30, line_end=b"\r\n")
        self.parts: list[Part] = []
        self.add("*RST", self._reset)

    def is_complete(self) -> bool:
        """Whether no part is busy."""
        return not any(part.is_busy() for part in self.parts)

    def leave(self) -> None:
        """As an earlier user left it, with two errors of his in the queue."""
        for part in self.parts:
            part.leave()
        self.errors.push(ScpiError(-410, "Query INTERRUPTED"))
        self.errors.push(ScpiError(*SETTINGS_CONFLICT))

    def _reset(self, call: Call) -> None:
        self.errors.clear()
        for part in self.parts:
            part.reset()


class KeysightTwin(ScpiTwin):
    """A simulated box, served on the network."""

    def __init__(self, model: str, serial: int) -> None:
        faults = FaultInjector()
        self._device = KeysightDevice(IDENTITY.format(model=model, serial=serial), faults)
        super().__init__(self._device, faults)
