"""The settings of the simulated 33600A that change nothing but themselves: by command, with what they may be and are at first.

Commands, words and values at power-on: github charkster/keysight_33600a ``keysight_33600a.py``, which holds the answers of
a 33600A; ranges: qcodes ``instrument_drivers/Keysight/KeysightAgilent_33XXX.py`` and pymeasure
``instruments/agilent/agilent33500.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sim_backends.servers import DATA_OUT_OF_RANGE, Call, ScpiDevice, ScpiError

SOURCE = "[SOURce#:]"
INFINITE = 9.9e37


@dataclass(frozen=True)
class Number:
    """A number in [low, high]; ``high`` may be passed by the word INFinity where ``endless``."""

    header: str
    low: float
    high: float
    first: float
    endless: bool = False


@dataclass(frozen=True)
class Word:
    """One of some words, the first at first."""

    header: str
    words: tuple[str, ...]


NUMBERS = (
    Number(f"{SOURCE}FREQuency", 1e-6, 120e6, 1e3),
    Number(f"{SOURCE}PHASe", -360.0, 360.0, 0.0),
    Number(f"{SOURCE}FUNCtion:SQUare:DCYCle", 0.01, 99.99, 50.0),
    Number(f"{SOURCE}FUNCtion:RAMP:SYMMetry", 0.0, 100.0, 100.0),
    Number(f"{SOURCE}FUNCtion:PULSe:PERiod", 8e-9, 1e6, 1e-3),
    Number(f"{SOURCE}FUNCtion:PULSe:WIDTh", 4e-9, 1e6, 1e-4),
    Number(f"{SOURCE}FUNCtion:PULSe:DCYCle", 0.01, 99.99, 10.0),
    Number(f"{SOURCE}FUNCtion:PULSe:TRANsition[:BOTH]", 2.9e-9, 1e-6, 4e-9),
    Number(f"{SOURCE}BURSt:NCYCles", 1, 1e8, 1, endless=True),
    Number(f"{SOURCE}BURSt:PHASe", -360.0, 360.0, 0.0),
    Number(f"{SOURCE}BURSt:INTernal:PERiod", 1e-6, 8e3, 1e-2),
    Number("OUTPut#:LOAD", 1.0, 1e4, 50.0, endless=True),
    Number("TRIGger#:LEVel", 0.9, 3.8, 3.3),
    Number("TRIGger#:DELay", 0.0, 1e3, 0.0),
    Number("TRIGger#:COUNt", 1, 1e6, 1),
    Number("TRIGger#:TIMer", 1e-6, 8e3, 1.0),
)
WORDS = (
    Word(f"{SOURCE}FUNCtion:PULSe:HOLD", ("WIDTh", "DCYCle")),
    Word(f"{SOURCE}BURSt:MODE", ("TRIGgered", "GATed")),
    Word(f"{SOURCE}BURSt:GATE:POLarity", ("NORMal", "INVerted")),
    Word(f"{SOURCE}FUNCtion:ARBitrary:ADVance", ("SRATe", "TRIGger")),
    Word(f"{SOURCE}TRACk", ("OFF", "ON", "INVerted")),
    Word(f"{SOURCE}COMBine:FEED", ("NONE", "CH1", "CH2")),
    Word("OUTPut#:POLarity", ("NORMal", "INVerted")),
    Word("OUTPut#:MODE", ("NORMal", "GATed")),
    Word("OUTPut:SYNC:SOURce", ("CH1", "CH2")),
    Word("TRIGger#:SOURce", ("IMMediate", "EXTernal", "TIMer", "BUS")),
    Word("TRIGger#:SLOPe", ("POSitive", "NEGative")),
    Word("ROSCillator:SOURce:AUTO", ("ON", "OFF")),
    Word("FORMat:BORDer", ("NORMal", "SWAPped")),
)
SWITCHES = (
    *(f"{SOURCE}{each}:STATe" for each in ("AM", "FM", "PM", "FSKey", "BPSK", "PWM", "SUM", "SWEep")),
    "INITiate#:CONTinuous",
    "OUTPut:SYNC[:STATe]",
    "OUTPut:TRIGger[:STATe]",
)
ON_AT_FIRST = ("INITiate#:CONTinuous", "OUTPut:SYNC[:STATe]")


class Settings:
    """Their values by header and channel; ``changed`` is called after each change."""

    def __init__(self, device: ScpiDevice, changed: Callable[[], None]) -> None:
        self._values: dict[tuple[str, int], float | str | bool] = {}
        self._changed = changed
        for each in NUMBERS:
            self._add_number(device, each)
        for word in WORDS:
            self._add_word(device, word)
        for header in SWITCHES:
            self._add_switch(device, header)

    def reset(self) -> None:
        """As after ``*RST``."""
        self._values.clear()

    def number(self, header: str, channel: int) -> float:
        """A number of a channel."""
        first = next(each.first for each in NUMBERS if each.header == header)
        return float(self._values.get((header, channel), first))

    def word(self, header: str, channel: int) -> str:
        """A word of a channel, in its short form."""
        words = next(each.words for each in WORDS if each.header == header)
        return str(self._values.get((header, channel), "".join(c for c in words[0] if not c.islower())))

    def on(self, header: str, channel: int) -> bool:
        """A switch of a channel."""
        return bool(self._values.get((header, channel), header in ON_AT_FIRST))

    def put(self, header: str, channel: int, value: float | str | bool) -> None:
        """Set one as somebody at the front panel does."""
        self._values[header, channel] = value

    def _store(self, header: str, call: Call, value: float | str | bool) -> None:
        self._values[header, _channel(call)] = value
        self._changed()

    def _add_number(self, device: ScpiDevice, each: Number) -> None:
        def write(call: Call) -> None:
            endless = each.endless and call.text(0).upper() in ("INF", "INFINITY")
            value = INFINITE if endless else call.number(0)
            if not (endless or each.low <= value <= each.high):
                raise ScpiError(*DATA_OUT_OF_RANGE)
            self._store(each.header, call, value)

        device.add(each.header, write)
        device.add(each.header + "?", lambda call: shown(self.number(each.header, _channel(call))))

    def _add_word(self, device: ScpiDevice, each: Word) -> None:
        device.add(each.header, lambda call: self._store(each.header, call, call.choice(0, *each.words)))
        device.add(each.header + "?", lambda call: self.word(each.header, _channel(call)))

    def _add_switch(self, device: ScpiDevice, header: str) -> None:
        device.add(header, lambda call: self._store(header, call, call.boolean(0)))
        device.add(header + "?", lambda call: str(int(self.on(header, _channel(call)))))


def _channel(call: Call) -> int:
    return call.suffixes[0] if call.suffixes else 1


def shown(value: float) -> str:
    """A number as the series writes it."""
    return f"{value:+.15E}"
