"""The settings of a simulated ID900: their headers, what they may be, and what they are after power-up.

Times are in ``TB``, which is 1 ps whatever the resolution.  Sources: ID Quantique, Time Controller Series User Manual,
sections 8 and 9; MSLNZ/pr-single-photons ``photons/equipment/idq_time_controller.py`` (defaults of the inputs, ranges);
a Qudi module for the ID1000 (combiners, triggering of the record generator).  The bounds of the threshold and the
default of histograms are not documented.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from drivers.links.ieee488 import NUMBER_AND_UNIT, is_word

INPUTS = (0, 1, 2, 3, 4)  # 0 is START
FOUR = (1, 2, 3, 4)
RESOLUTION_PS = {"HIRES": 13, "LOWRES": 100}

_LINK = re.compile(
    r"NONE|STAR|START|REC|(?:INPU|INPUT)[1-4]|TSCO[1-8]|(?:DELA|DELAY)[1-8]|TSGE[1-8]|GEN[1-8]"
)
_PREFIX = {"": 1.0, "K": 1e3, "G": 1e9, "T": 1e12, "U": 1e-6, "N": 1e-9}


class Refusal(Exception):
    """A command that the instrument refuses; the text is the error suffix of the reply."""


@dataclass(frozen=True)
class Setting:
    """One stored setting: a word out of ``choices``, a ``link`` to a block, or a number in [low, high] (where high is not 0).

    ``default`` holds for every channel, or is one value for each.
    """

    header: str
    default: str | float | tuple[str, ...]
    choices: tuple[str, ...] = ()
    link: bool = False
    low: float = 0.0
    high: float = 0.0
    unit: str = ""
    channels: tuple[int, ...] = (0,)

    def defaults(self) -> dict[tuple[str, int], str | float]:
        """The value of every channel after ``CONFiguration:LOAD``."""
        each = self.default if isinstance(self.default, tuple) else (self.default,) * len(self.channels)
        return {(self.header, channel): value for channel, value in zip(self.channels, each, strict=True)}

    def parse(self, text: str) -> str | float:
        """The value in ``text``; Refusal when it is none."""
        if self.link:
            if not _LINK.fullmatch(text.upper()):
                raise Refusal("SCPI_ERR_PARAM_TYPE")
            return re.sub("START|INPUT|DELAY", lambda word: word[0][:4], text.upper())
        if self.choices:
            for choice in self.choices:
                if is_word(choice, text):
                    return choice.upper()
            if not self.high:
                raise Refusal("SCPI_ERR_PARAM_TYPE")
        found = NUMBER_AND_UNIT.fullmatch(text)
        if found is None:
            raise Refusal("SCPI_ERR_PARAM_TYPE")
        value = float(found[1]) * (self._scale(found[2].upper()) if found[2] else 1.0)
        if not self.low <= value <= self.high:
            raise Refusal("SCPI_ERR_INVALID_VALUE")
        return value

    def _scale(self, unit: str) -> float:
        prefix = unit.removesuffix(self.unit) if self.unit and unit.endswith(self.unit) else "?"
        if prefix == "M":  # volts come in milli, times in mega
            return 1e-3 if self.unit == "V" else 1e6
        if prefix not in _PREFIX:
            raise Refusal("SCPI_ERR_PARAM_UNITS")
        return _PREFIX[prefix]

    def show(self, value: str | float) -> str:
        """The value as a query reports it: volts as ``1V``, times as ``1000TB``."""
        return value if isinstance(value, str) else f"{value:.15g}{self.unit}"


_ON_OFF = ("ON", "OFF")
_EDGES = ("RISIng", "FALLing")
_EIGHT = tuple(range(1, 9))
_OPERATIONS = ("AND", "OR", "ONLYFIR", "ONLYSEC", "MUTE")
_FORWARDED = tuple(f"TSCO{n}" for n in (5, 6, 7, 8))


def _input_settings(block: str, channels: tuple[int, ...]) -> tuple[Setting, ...]:
    return (
        Setting(f"{block}:ENABle", "OFF", choices=_ON_OFF, channels=channels),
        Setting(f"{block}:COUPling", "DC", choices=("AC", "DC"), channels=channels),
        Setting(f"{block}:EDGE", "RISING", choices=_EDGES, channels=channels),
        Setting(f"{block}:THREshold", 1.0, low=-2.0, high=2.0, unit="V", channels=channels),
        Setting(
            f"{block}:SELEct", "UNSHAPED", choices=("LOOP", "OUTPut", "SHAPed", "UNSHaped"), channels=channels
        ),
        Setting(f"{block}:COUNter:MODE", "CYCLE", choices=("ACCUm", "CYCLe"), channels=channels),
        Setting(f"{block}:COUNter:INTEgrationtime", 1000.0, low=1.0, high=65535.0, channels=channels),
    )


def _time(header: str, default: float, channels: tuple[int, ...] = (0,), high: float = 1e18) -> Setting:
    return Setting(header, default, low=0.0, high=high, unit="TB", channels=channels)


def _link(header: str, default: str | tuple[str, ...], channels: tuple[int, ...] = (0,)) -> Setting:
    return Setting(header, default, link=True, channels=channels)


SETTINGS = (
    *_input_settings("STARt", (0,)),
    *_input_settings("INPUt#", FOUR),
    _time("STARt:DELAy", 0.0, high=1e12),
    Setting("INPUt#:RESYncpolicy", "AUTO", choices=("AUTO", "MANUal"), channels=FOUR),
    Setting("DEVIce:SYNC", "INTERNAL", choices=("INTErnal", "EXTErnal")),
    Setting("DEVIce:RESolution", "HIRES", choices=("HIRES", "LOWRES")),
    Setting("RECord:TRIGger:ARM:MODE", "MANUAL", choices=("MANUal", "AUTO")),
    _link("RECord:TRIGger:LINK", "NONE"),
    _time("RECord:TRIGger:DELAy", 0.0),
    Setting("RECord:ENABle", "OFF", choices=_ON_OFF),
    _time("RECord:DURation", 1e12),
    _time("RECord:PWIDth", 1e6),
    _time("RECord:PPERiod", 0.0),
    *(
        _link(f"RAW#:[INPOrt:]{port}:LINK", default, FOUR)
        for port, default in (("REF", "NONE"), ("STOP", _FORWARDED), ("ENABle", "REC"))
    ),
    Setting("RAW#:SEND", "OFF", choices=_ON_OFF, channels=FOUR),
    *(
        _link(f"HISTogram#:[INPOrt:]{port}:LINK", default, FOUR)
        for port, default in (("REF", "STAR"), ("STOP", _FORWARDED), ("ENABle", "REC"))
    ),
    *(
        Setting(f"HISTogram#:{port}:FILTer", "RISING", choices=(*_EDGES, "ALL"), channels=FOUR)
        for port in ("REF", "STOP")
    ),
    _time("HISTogram#:MINimum", 0.0, FOUR),
    _time("HISTogram#:BWIDth", 100.0, FOUR, high=1e9),
    Setting("HISTogram#:BCOUnt", 16384.0, low=1.0, high=16384.0, channels=FOUR),
    _time("DELAy#:VALUe", 0.0, _EIGHT, high=1e12),
    _link("DELAy#:[INPOrt:]LINK", (*(f"INPU{n}" for n in FOUR), *(("NONE",) * 4)), _EIGHT),
    _link("TSCOmbiner#:FIRst:LINK", (*(("NONE",) * 4), *(f"DELA{n}" for n in FOUR)), _EIGHT),
    _link("TSCOmbiner#:SECond:LINK", "NONE", _EIGHT),
    *(
        Setting(f"TSCOmbiner#:{name}", "ONLYFIR", choices=_OPERATIONS, channels=_EIGHT)
        for name in ("OPIN", "OPOUt")
    ),
    Setting("TSCOmbiner#:WINDow:ENABle", "OFF", choices=_ON_OFF, channels=_EIGHT),
    *(_link(f"TSCOmbiner#:WINDow:{end}:LINK", "NONE", _EIGHT) for end in ("BEGIn", "END")),
    *(_time(f"TSCOmbiner#:WINDow:{end}:DELAy", 0.0, _EIGHT) for end in ("BEGIn", "END")),
    *(
        Setting(f"TSCOmbiner#:WINDow:{end}:EDGE", "RISING", choices=_EDGES, channels=_EIGHT)
        for end in ("BEGIn", "END")
    ),
    Setting("GENerator#:ENABle", "OFF", choices=_ON_OFF, channels=FOUR),
    Setting("GENerator#:TRIGger:ARM:MODE", "MANUAL", choices=("MANUal", "AUTO"), channels=FOUR),
    _link("GENerator#:TRIGger:LINK", "NONE", FOUR),
    Setting("GENerator#:PNUMber", 1.0, choices=("INF",), low=1.0, high=1e9, channels=FOUR),
    _time("GENerator#:PPERiod", 1e6, FOUR),
    _time("GENerator#:PWIDth", 1e5, FOUR),
    Setting("OUTPut#:ENABle", "OFF", choices=_ON_OFF, channels=FOUR),
    Setting("OUTPut#:MODE", "NIM", choices=("NIM", "TTL"), channels=FOUR),
    _link("OUTPut#:LINK", "NONE", FOUR),
    Setting("TSGEnerator#:ENABle", "OFF", choices=_ON_OFF, channels=_EIGHT),
    Setting("DEVIce:LEDS", "ON", choices=_ON_OFF),
)

LEFT_BY_SOMEONE = (
    "DEVIce:SYNC EXTERNAL;RESolution LOWRES",
    *(
        f"INPU{n}:ENAB ON;COUP AC;EDGE FALLING;THRE -1200mV;SELE LOOP;RESY MANUAL;COUN:MODE ACCU;INTE 250"
        for n in (1, 2, 3, 4)
    ),
    "STAR:ENAB ON;COUP AC;EDGE FALLING;THRE -1.2V;DELA 5000;COUN:MODE ACCU;INTE 250",
    *(f"DELA{n}:VALU {n}00000;LINK INPU{5 - n}" for n in (1, 2, 3, 4)),
    "DELA5:LINK STAR;VALU 0",
    "TSCO5:WIND:ENAB ON;BEGI:LINK DELA3;DELA 100000;:TSCO5:OPOU MUTE",
    "TSCO6:FIR:LINK DELA1;:TSCO6:OPIN OR",
    "HIST1:REF:LINK TSCO6;:HIST1:STOP:LINK TSCO7;:HIST1:MIN 250000;BWID 400;BCOU 40;ENAB:LINK TSGE8",
    "HIST2:STOP:FILT FALLING",
    "RAW1:STOP:LINK TSCO6;:RAW1:REF:LINK TSCO5;:RAW2:ENAB:LINK TSGE8;:RAW4:SEND ON",
    "REC:TRIG:LINK DELA5;DELA 1000;ARM:MODE AUTO;:REC:ENAB ON;NUM INF;DUR 3000 GTB",
    "GEN1:PPER 4000000;PWID 4000;PNUM INF;TRIG:LINK INPU4;:GEN1:ENAB ON;PLAY",
    "TSCO1:FIR:LINK GEN1;:TSCO1:OPIN OR;:OUTP1:ENAB ON;MODE NIM;LINK TSCO1",
)
"""Gated histograms, coincidences and a generator that runs without end (IDQ example ``Histogram_acquisition_filtred``), a
record generator armed by START (a Qudi module for the ID1000), inputs that hear the built-in test signals."""
