"""The command language of the simulated ID900 as a state machine: request text in, reply text out.

Every request gets exactly one reply string, setters too.  ``;`` chains commands: the next header continues
in the subsystem of the one before unless it starts with ``:`` or ``*``, and the replies of a chain are
joined by line feeds (an ID1000 client reads chained counters with ``splitlines``).  Headers are accepted in
their short (capital letters) and long forms, in either case.  An error is the reply itself, ending in
``SCPI_ERR_INVALID_CMD``, ``SCPI_ERR_PARAM_CNT``, ``SCPI_ERR_PARAM_TYPE``, ``SCPI_ERR_PARAM_UNITS`` or
``SCPI_ERR_INVALID_VALUE``; it ends the chain.

Sources: IDQ Python examples ``utils/common.py``, ``utils/acquisitions.py``; MSLNZ/pr-single-photons
``photons/equipment/idq_time_controller.py``; the error names of the JPA-SCPI parser.  The wording of a
setter's reply is documented only for ``COUNter:RESEt`` and the two ``CLEAR`` commands; clients look for the
error suffix alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

INPUTS = (0, 1, 2, 3, 4)  # 0 is START
TIME_BASE_PS = {"HIRES": 13, "LOWRES": 100}
STOPPED, PLAYING = "STOPPED", "PLAYING"

_NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([A-Za-z]*)")
_LINK = re.compile(
    r"NONE|STAR|START|REC|(?:INPU|INPUT)[1-4]|TSCO[1-8]|(?:DELA|DELAY)[1-8]|TSGE[1-8]|GEN[1-8]"
)


class Refusal(Exception):
    """A command that the instrument refuses; the text is the error suffix of the reply."""


def spelling(word: str) -> str:
    """A regular expression for the short (capitals and digits) and the long form of one SCPI word."""
    short = "".join(c for c in word if not c.islower())
    return re.escape(short) if short == word else f"(?:{re.escape(short)}|{re.escape(word.upper())})"


def header_pattern(header: str) -> re.Pattern[str]:
    """``"INPUt#:[INPOrt:]LINK"`` -> a pattern over upper-case headers; ``#`` captures a channel number."""
    parts = []
    for optional, word in re.findall(r"\[([A-Za-z]+):\]|([A-Za-z]+#?)(?::|$|(?=\[))", header):
        if optional:
            parts.append(f"(?:{spelling(optional)}:)?")
        else:
            parts.append(spelling(word.rstrip("#")) + (r"(\d+)" if word.endswith("#") else "") + ":")
    return re.compile("".join(parts).removesuffix(":"))


@dataclass(frozen=True)
class Setting:
    """One stored setting: a word out of ``choices``, a ``link`` to a block, or a number in [low, high]."""

    header: str
    default: str | float
    choices: tuple[str, ...] = ()
    link: bool = False
    low: float = 0.0
    high: float = 0.0
    unit: str = ""
    channels: tuple[int, ...] = (0,)

    def parse(self, text: str) -> str | float:
        """The value in ``text``; Refusal when it is none."""
        if self.link:
            if not _LINK.fullmatch(text.upper()):
                raise Refusal("SCPI_ERR_PARAM_TYPE")
            return text.upper()
        if self.choices:
            for choice in self.choices:
                if re.fullmatch(spelling(choice), text.upper()):
                    return choice.upper()
            raise Refusal("SCPI_ERR_PARAM_TYPE")
        found = _NUMBER.fullmatch(text)
        if found is None:
            raise Refusal("SCPI_ERR_PARAM_TYPE")
        if found[2] and found[2].upper() != self.unit.upper():
            raise Refusal("SCPI_ERR_PARAM_UNITS")
        if not self.low <= float(found[1]) <= self.high:
            raise Refusal("SCPI_ERR_INVALID_VALUE")
        return float(found[1])

    def show(self, value: str | float, time_base_ps: int) -> str:
        """The value as a query reports it: volts as ``1V``, times (given in ps) in time bases as ``77TB``."""
        if isinstance(value, str):
            return value
        if self.unit == "ps":
            return f"{round(value / time_base_ps)}TB"
        return f"{value:.12g}{self.unit}"


_ON_OFF = ("ON", "OFF")
_ALL = (1, 2, 3, 4)


def _input_settings(block: str, channels: tuple[int, ...]) -> tuple[Setting, ...]:
    return (
        Setting(f"{block}:ENABle", "OFF", choices=_ON_OFF, channels=channels),
        Setting(f"{block}:COUPling", "DC", choices=("AC", "DC"), channels=channels),
        Setting(f"{block}:EDGE", "RISING", choices=("RISIng", "FALLing"), channels=channels),
        Setting(f"{block}:THREshold", 1.0, low=-2.0, high=2.0, unit="V", channels=channels),
        Setting(
            f"{block}:SELEct", "UNSHAPED", choices=("LOOP", "OUTPut", "SHAPed", "UNSHaped"), channels=channels
        ),
        Setting(f"{block}:COUNter:MODE", "CYCLE", choices=("ACCUm", "CYCLe"), channels=channels),
        Setting(f"{block}:COUNter:INTEgrationtime", 1000.0, low=1.0, high=65535.0, channels=channels),
    )


SETTINGS = (
    *_input_settings("STARt", (0,)),
    *_input_settings("INPUt#", _ALL),
    Setting("INPUt#:RESYncpolicy", "AUTO", choices=("AUTO", "MANUal"), channels=_ALL),
    Setting("DEVIce:SYNC", "INTERNAL", choices=("INTErnal", "EXTErnal")),
    Setting("DEVIce:RESolution", "HIRES", choices=("HIRES", "LOWRES")),
    Setting("RECord:TRIGger:ARM:MODE", "MANUAL", choices=("MANUal", "AUTO")),
    Setting("RECord:ENABle", "OFF", choices=_ON_OFF),
    Setting("RECord:DURation", 1e12, low=1.0, high=1e18, unit="ps"),
    Setting("RECord:PWIDth", 1e6, low=0.0, high=1e18, unit="ps"),
    Setting("RECord:PPERiod", 0.0, low=0.0, high=1e18, unit="ps"),
    Setting("RAW#:[INPOrt:]REF:LINK", "NONE", link=True, channels=_ALL),
    Setting("RAW#:[INPOrt:]STOP:LINK", "NONE", link=True, channels=_ALL),
    Setting("RAW#:SEND", "OFF", choices=_ON_OFF, channels=_ALL),
    Setting("DELAy#:VALUe", 0.0, low=0.0, high=1e12, unit="ps", channels=tuple(range(1, 9))),
    Setting("DELAy#:[INPOrt:]LINK", "NONE", link=True, channels=tuple(range(1, 9))),
)

Action = Callable[[int, str], str]


class ID900Scpi:
    """Settings, counters and errors of one simulated ID900; ``on_play`` and ``on_stop`` drive the record."""

    def __init__(self, identity: str, on_play: Callable[[], None], on_stop: Callable[[], None]) -> None:
        self._identity = identity
        self._on_play = on_play
        self._on_stop = on_stop
        self.stage = STOPPED
        self.number_of_records = 1  # 0 is endless
        self.counters = dict.fromkeys(INPUTS, 0)
        self.hires_errors = dict.fromkeys(INPUTS, 0)
        self.raw_errors = dict.fromkeys(_ALL, 0)
        self._values = {(s.header, channel): s.default for s in SETTINGS for channel in s.channels}
        self._settings = [(header_pattern(s.header), s) for s in SETTINGS]
        self._actions: list[tuple[re.Pattern[str], bool, Action, tuple[int, ...]]] = []
        self._register_actions()

    def value(self, header: str, channel: int = 0) -> str | float:
        """The stored value of the setting with that header (as in SETTINGS)."""
        return self._values[header, channel]

    def input_value(self, name: str, channel: int) -> str | float:
        """A setting of an input by the part of its header after the block (channel 0 is START)."""
        return self._values[f"INPUt#:{name}" if channel else f"STARt:{name}", channel]

    @property
    def time_base_ps(self) -> int:
        """One unit of the timestamps, in ps."""
        return TIME_BASE_PS[str(self.value("DEVIce:RESolution"))]

    def execute(self, request: str) -> str:
        """Carry out one request (a chain of commands) and return its one reply."""
        replies: list[str] = []
        path = ""
        for command in request.strip().split(";"):
            header, _, argument = command.strip().partition(" ")
            if header.startswith(":"):
                header = header[1:]
            elif path and not header.startswith("*"):
                header = path + header
            path = header[: header.rfind(":") + 1]
            try:
                replies.append(self._one(header.upper(), argument.strip()))
            except Refusal as refusal:
                replies.append(f"{command.strip()} {refusal}")
                break
        return "\n".join(replies)

    def _one(self, header: str, argument: str) -> str:
        query = header.endswith("?")
        name = header.removesuffix("?")
        if query and argument:
            raise Refusal("SCPI_ERR_PARAM_CNT")
        for pattern, is_query, action, channels in self._actions:
            found = pattern.fullmatch(name)
            if found and is_query == query:
                return action(_channel(found, channels), argument)
        for pattern, setting in self._settings:
            found = pattern.fullmatch(name)
            if found:
                return self._setting(setting, _channel(found, setting.channels), query, argument)
        raise Refusal("SCPI_ERR_INVALID_CMD")

    def _setting(self, setting: Setting, channel: int, query: bool, argument: str) -> str:
        if query:
            return setting.show(self._values[setting.header, channel], self.time_base_ps)
        if not argument:
            raise Refusal("SCPI_ERR_PARAM_CNT")
        value = setting.parse(argument)
        self._values[setting.header, channel] = value
        return f"Value set to {setting.show(value, self.time_base_ps)}"

    def _register_actions(self) -> None:
        def add(header: str, query: bool, action: Action, channels: tuple[int, ...] = (0,)) -> None:
            self._actions.append((header_pattern(header), query, action, channels))

        self._actions.append((re.compile(r"\*IDN"), True, lambda _c, _a: self._identity, (0,)))
        add("DEVIce:RESolution:BWIDth", True, lambda _c, _a: str(self.time_base_ps))
        add("DEVIce:CONFiguration:LOAD", False, lambda _c, argument: self._load(argument))
        add("RECord:NUMber", True, lambda _c, _a: str(self.number_of_records or "INF"))
        add("RECord:NUMber", False, lambda _c, argument: self._set_number(argument))
        add("RECord:PLAY", False, lambda _c, _a: self._play())
        add("RECord:STOP", False, lambda _c, _a: self._stop())
        add("RECord:STAGe", True, lambda _c, _a: self.stage)
        for block, channels in (("STARt", (0,)), ("INPUt#", _ALL)):
            add(f"{block}:COUNter", True, lambda c, _a: str(self.counters[c]), channels)
            add(f"{block}:COUNter:RESEt", False, lambda c, _a: self._reset_counter(c), channels)
            add(f"{block}:HIRES:ERROR", True, lambda c, _a: str(self._hires_error(c)), channels)
            add(f"{block}:HIRES:ERROR:CLEAR", False, lambda c, _a: self._clear_hires(c), channels)
        add("RAW#:ERRORS", True, lambda c, _a: str(self.raw_errors[c]), _ALL)
        add("RAW#:ERRORS:CLEAR", False, lambda c, _a: self._clear_raw(c), _ALL)

    def _load(self, argument: str) -> str:
        if argument.upper() not in ("INIT", "HISTO", "COUNT", "BLANK"):
            raise Refusal("SCPI_ERR_PARAM_TYPE")
        self._values.update({(s.header, channel): s.default for s in SETTINGS for channel in s.channels})
        return f"Configuration {argument.upper()} loaded"

    def _set_number(self, argument: str) -> str:
        if argument.upper() != "INF" and not argument.isdecimal():
            raise Refusal("SCPI_ERR_PARAM_TYPE")
        self.number_of_records = 0 if argument.upper() == "INF" else int(argument)
        return f"Value set to {self.number_of_records or 'INF'}"

    def _play(self) -> str:
        if self.value("RECord:ENABle") == "ON" and self.stage != PLAYING:
            self.stage = PLAYING
            self._on_play()
        return self.stage

    def _stop(self) -> str:
        self.stage = STOPPED
        self._on_stop()
        return self.stage

    def _reset_counter(self, channel: int) -> str:
        self.counters[channel] = 0
        return "Counter value set to 0 "

    def _hires_error(self, channel: int) -> int:
        return self.hires_errors[channel] if self.input_value("ENABle", channel) == "ON" else 5

    def _clear_hires(self, channel: int) -> str:
        self.hires_errors[channel] = 0
        return "Cleared Highres errors"

    def _clear_raw(self, channel: int) -> str:
        self.raw_errors[channel] = 0
        return "Cleared errors"


def _channel(found: re.Match[str], channels: tuple[int, ...]) -> int:
    channel = int(found[1]) if found.re.groups else 0
    if channel not in channels:
        raise Refusal("SCPI_ERR_INVALID_CMD")
    return channel
