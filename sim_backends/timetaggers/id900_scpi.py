"""The command language of the simulated ID900 as a state machine: request text in, reply text out.

Every request gets exactly one reply string, setters too.  ``;`` chains commands: the next header continues
in the subsystem of the one before unless it starts with ``:`` or ``*``, and the replies of a chain are
joined by line feeds (an ID1000 client reads chained counters with ``splitlines``).  Headers are accepted in
their short (capital letters) and long forms, in either case.  An error is the reply itself, ending in
``SCPI_ERR_INVALID_CMD``, ``SCPI_ERR_PARAM_CNT``, ``SCPI_ERR_PARAM_TYPE``, ``SCPI_ERR_PARAM_UNITS`` or
``SCPI_ERR_INVALID_VALUE``; it ends the chain.  Times are in ``TB``, which is 1 ps whatever the resolution.

Sources: ID Quantique, Time Controller Series User Manual, sections 8 and 9; IDQ Python examples ``utils/common.py``,
``utils/acquisitions.py``; MSLNZ/pr-single-photons ``photons/equipment/idq_time_controller.py``, which cuts the
``STATe?`` replies at fixed places; the error names of the JPA-SCPI parser.  The wording of a setter's reply is
documented only for ``COUNter:RESEt``, ``FLUSh`` and the two ``CLEAR`` commands; clients look for the error suffix alone.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from functools import lru_cache

from sim_backends.lines import Edge, crosses
from sim_backends.servers import header_pattern
from sim_backends.timetaggers.id900_settings import (
    FOUR,
    INPUTS,
    RESOLUTION_PS,
    SETTINGS,
    Refusal,
    Setting,
)

STOPPED, PLAYING, ARMED = "STOPPED", "PLAYING", "ARMED"
"""Stages of the record generator.  All clients look for PLAYING; the others are called differently in each source (IDLE,
WAITing and ARMed in one)."""
LEVELS_V = {"NIM": -0.8, "TTL": 2.5}
"""Of a pulse into 50 ohm; the TTL one is what is left of 5 V behind the instrument's own 50 ohm (chosen)."""
MOST_PULSES = 1000
"""How many pulses of an endless generator leave during one record: more change nothing that a record with one trigger is."""
CONFIGURATIONS = ("INIT", "HISTO", "COUNT", "BLANK")

Action = Callable[[int, str], str]


class ID900Scpi:
    """Settings, counters, histograms and errors of one simulated ID900; ``on_play`` and ``on_stop`` drive the record.

    ``input_rate`` gives the mean counts per second on an input, ``clock`` seconds; without it only the clicks of
    records are counted.  START counts the edges that it hears.  ``has_reference`` says whether 10 MHz arrive.
    """

    def __init__(
        self,
        identity: str,
        on_play: Callable[[], None],
        on_stop: Callable[[], None],
        *,
        on_edge: Callable[[int, Edge], None] = lambda output, edge: None,
        input_rate: Callable[[int], float] | None = None,
        has_reference: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._identity = identity
        self._on_play = on_play
        self._on_stop = on_stop
        self._on_edge = on_edge
        self._input_rate = input_rate
        self._has_reference = has_reference
        self._clock = clock
        self._endless: set[int] = set()
        self._playing = self._armed = False
        self.number_of_records = 1  # 0 is endless
        self.counters = dict.fromkeys(INPUTS, 0)
        self._counting_since = dict.fromkeys(INPUTS, clock())
        self.hires_errors = dict.fromkeys(INPUTS, 0)
        self.raw_errors = dict.fromkeys(FOUR, 0)
        self.histograms: dict[int, list[int]] = {block: [] for block in FOUR}
        self._values: dict[tuple[str, int], str | float] = {}
        self._load("INIT")
        self._settings = [(header_pattern(s.header), s) for s in SETTINGS]
        self._actions: list[tuple[re.Pattern[str], bool, Action, tuple[int, ...]]] = []
        self._register_actions()
        self._find = lru_cache(maxsize=4096)(self._search)

    def value(self, header: str, channel: int = 0) -> str | float:
        """The stored value of the setting with that header (as in SETTINGS)."""
        return self._values[header, channel]

    def input_value(self, name: str, channel: int) -> str | float:
        """A setting of an input by the part of its header after the block (channel 0 is START)."""
        return self._values[f"INPUt#:{name}" if channel else f"STARt:{name}", channel]

    @property
    def resolution_ps(self) -> int:
        """The grid of the timestamps."""
        return RESOLUTION_PS[str(self.value("DEVIce:RESolution"))]

    @property
    def stage(self) -> str:
        """What the record generator does."""
        if self._playing:
            return PLAYING
        automatic = self.value("RECord:TRIGger:ARM:MODE") == "AUTO"
        return ARMED if self.value("RECord:ENABle") == "ON" and (automatic or self._armed) else STOPPED

    def record_ended(self) -> None:
        """A record has run its time."""
        self._playing = False

    def execute(self, request: str) -> str:
        """Carry out one request (a chain of commands) and return its one reply."""
        if not self._has_reference():
            # No source says what an instrument does that does not find its reference: this one goes on by its own clock.
            self._values["DEVIce:SYNC", 0] = "INTERNAL"
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
        if query and argument:
            raise Refusal("SCPI_ERR_PARAM_CNT")
        found, channel = self._find(header.removesuffix("?"), query)
        if not isinstance(found, Setting):
            return found(channel, argument)
        if query:
            return found.show(self._values[found.header, channel])
        if not argument:
            raise Refusal("SCPI_ERR_PARAM_CNT")
        value = self._fitted(found, found.parse(argument))
        self._values[found.header, channel] = value
        if found.header == "GENerator#:ENABle" and value == "OFF":
            self._endless.discard(channel)
        return f"Value set to {found.show(value)}"

    def _search(self, name: str, query: bool) -> tuple[Setting | Action, int]:
        for pattern, is_query, action, channels in self._actions:
            found = pattern.fullmatch(name)
            if found and is_query == query:
                return action, _channel(found, channels)
        for pattern, setting in self._settings:
            found = pattern.fullmatch(name)
            if found:
                return setting, _channel(found, setting.channels)
        raise Refusal("SCPI_ERR_INVALID_CMD")

    def _fitted(self, setting: Setting, value: str | float) -> str | float:
        """A bin width is made a multiple of the resolution, as the vendor's ``adjust_bin_width`` asks for."""
        if setting.header == "HISTogram#:BWIDth" and isinstance(value, float):
            return float(-(-value // self.resolution_ps) * self.resolution_ps) or float(self.resolution_ps)
        return value

    def _register_actions(self) -> None:
        def add(header: str, query: bool, action: Action, channels: tuple[int, ...] = (0,)) -> None:
            self._actions.append((header_pattern(header), query, action, channels))

        add("*IDN", True, lambda _c, _a: self._identity)
        add("DEVIce:RESolution:BWIDth", True, lambda _c, _a: str(self.resolution_ps))
        add("DEVIce:CONFiguration:LOAD", False, lambda _c, argument: self._load(argument))
        add("DEVIce:SAMPling:RECAlibrate", False, lambda _c, _a: "Recalibrated")
        add("RECord:NUMber", True, lambda _c, _a: str(self.number_of_records or "INF"))
        add("RECord:NUMber", False, lambda _c, argument: self._set_number(argument))
        add("RECord:PLAY", False, lambda _c, _a: self._play())
        add("RECord:STOP", False, lambda _c, _a: self._stop())
        add("RECord:STAGe", True, lambda _c, _a: self.stage)
        add("GENerator#:PLAY", False, lambda c, _a: self._generate(c), FOUR)
        add("RECord:TRIGger:ARM", False, lambda _c, _a: self._arm(True))
        add("RECord:TRIGger:DARM", False, lambda _c, _a: self._arm(False))
        for block, channels in (("STARt", (0,)), ("INPUt#", FOUR)):
            add(f"{block}:COUNter", True, lambda c, _a: str(self._counted(c)), channels)
            add(f"{block}:COUNter:RESEt", False, lambda c, _a: self._reset_counter(c), channels)
            add(f"{block}:HIRES:ERROR", True, lambda c, _a: str(self._hires_error(c)), channels)
            add(f"{block}:HIRES:ERROR:CLEAR", False, lambda c, _a: self._clear_hires(c), channels)
            add(f"{block}:STATe", True, lambda c, _a: self._input_state(c), channels)
        add("RAW#:ERRORS", True, lambda c, _a: str(self.raw_errors[c]), FOUR)
        add("RAW#:ERRORS:CLEAR", False, lambda c, _a: self._clear_raw(c), FOUR)
        add("HISTogram#:DATA", True, lambda c, _a: self._histogram(c), FOUR)
        add("HISTogram#:FLUSh", False, lambda c, _a: self._flush(c), FOUR)
        add("HISTogram#:STATe", True, lambda c, _a: self._histogram_state(c), FOUR)
        add("DELAy#:STATe", True, lambda c, _a: self._delay_state(c), tuple(range(1, 9)))
        add("DEVIce:STATe", True, lambda _c, _a: self._device_state())

    def _load(self, argument: str) -> str:
        if argument.upper() not in CONFIGURATIONS:
            raise Refusal("SCPI_ERR_PARAM_TYPE")
        for setting in SETTINGS:
            self._values.update(setting.defaults())
        return f"Configuration {argument.upper()} loaded"

    # Records

    def _set_number(self, argument: str) -> str:
        if argument.upper() != "INF" and not argument.isdecimal():
            raise Refusal("SCPI_ERR_PARAM_TYPE")
        self.number_of_records = 0 if argument.upper() == "INF" else int(argument)
        return f"Value set to {self.number_of_records or 'INF'}"

    def _play(self) -> str:
        if self.value("RECord:ENABle") == "ON" and not self._playing:
            self._playing = True
            self._on_play()
            duration_ps = float(self.value("RECord:DURation"))
            for generator in self._endless:
                period_ps = float(self.value("GENerator#:PPERiod", generator))
                self._pulse(generator, min(MOST_PULSES, math.ceil(duration_ps / max(period_ps, 1.0))))
        return self.stage

    def _stop(self) -> str:
        self._playing = self._armed = False
        self._on_stop()
        return self.stage

    def _arm(self, on: bool) -> str:
        self._armed = on
        return self.stage

    # Generators and outputs

    @property
    def pulsing(self) -> bool:
        """Whether pulses leave an output without end."""
        return any(self._fed(generator) for generator in self._endless)

    def _generate(self, generator: int) -> str:
        if self.value("GENerator#:ENABle", generator) != "ON":
            return STOPPED
        number = self.value("GENerator#:PNUMber", generator)
        if number == "INF":
            self._endless.add(generator)
        else:
            self._pulse(generator, int(float(number)))
        return PLAYING

    def _pulse(self, generator: int, count: int) -> None:
        """Pulses of a generator leave every output that a combiner forwards them to."""
        width_ps, period_ps = (
            float(self.value(f"GENerator#:{each}", generator)) for each in ("PWIDth", "PPERiod")
        )
        for output in self._fed(generator):
            high_v = LEVELS_V[str(self.value("OUTPut#:MODE", output))]
            for number in range(count):
                self._on_edge(output, Edge(number * period_ps, 0.0, high_v))
                self._on_edge(output, Edge(number * period_ps + width_ps, high_v, 0.0))

    def _fed(self, generator: int) -> list[int]:
        """The outputs that give the pulses of a generator."""
        return [
            output
            for output in FOUR
            if self.value("OUTPut#:ENABle", output) == "ON"
            and any(
                self.value("OUTPut#:LINK", output) == f"TSCO{combiner}"
                and self._forwards(combiner, generator)
                for combiner in FOUR
            )
        ]

    def _forwards(self, combiner: int, generator: int) -> bool:
        return (
            self.value("TSCOmbiner#:FIRst:LINK", combiner) == f"GEN{generator}"
            and self.value("TSCOmbiner#:WINDow:ENABle", combiner) == "OFF"
            and all(
                self.value(f"TSCOmbiner#:{way}", combiner) in ("ONLYFIR", "OR") for way in ("OPIN", "OPOUt")
            )
        )

    # Inputs

    def hears(self, channel: int, edge: Edge) -> bool:
        """Whether an input (0 is START) sees an edge, as it is set up."""
        rising = self.input_value("EDGE", channel) == "RISING"
        return (
            self.input_value("ENABle", channel) == "ON"
            and self.input_value("SELEct", channel) in ("SHAPED", "UNSHAPED")
            and crosses(edge, float(self.input_value("THREshold", channel)), rising=rising)
        )

    def loops_back(self, channel: int) -> bool:
        """Whether an input hears the output of its own number (IDQ examples: ``INPU1:SELE OUTP``)."""
        return channel != 0 and self.input_value("SELEct", channel) == "OUTPUT"

    def _counted(self, channel: int) -> int:
        if self._input_rate is None or not channel:
            return self.counters[channel]
        if self.input_value("ENABle", channel) != "ON":
            return 0
        cycle_s = float(self.input_value("COUNter:INTEgrationtime", channel)) * 1e-3
        accumulates = self.input_value("COUNter:MODE", channel) == "ACCUM"
        counting_s = self._clock() - self._counting_since[channel] if accumulates else cycle_s
        return round(self._input_rate(channel) * counting_s)

    def _reset_counter(self, channel: int) -> str:
        self.counters[channel] = 0
        self._counting_since[channel] = self._clock()
        return "Counter value set to 0 "

    def _hires_error(self, channel: int) -> int:
        return self.hires_errors[channel] if self.input_value("ENABle", channel) == "ON" else 5

    def _clear_hires(self, channel: int) -> str:
        self.hires_errors[channel] = 0
        return "Cleared Highres errors"

    def _clear_raw(self, channel: int) -> str:
        self.raw_errors[channel] = 0
        return "Cleared errors"

    # Histograms

    def _histogram(self, block: int) -> str:
        bins = int(float(self.value("HISTogram#:BCOUnt", block)))
        counts = (self.histograms[block] + [0] * bins)[:bins]
        return f"[{','.join(map(str, counts))}]"

    def _flush(self, block: int) -> str:
        self.histograms[block] = []
        return "Flushed Histogram!"

    # State dumps

    def _shown(self, header: str, channel: int = 0) -> str:
        setting = next(each for each in SETTINGS if each.header == header)
        return setting.show(self._values[header, channel])

    def _input_state(self, channel: int) -> str:
        block, short = ("INPUt#", f"INPU{channel}") if channel else ("STARt", "STAR")
        last = (
            f"RESY {self._shown('INPUt#:RESYncpolicy', channel)}"
            if channel
            else f"DELA {self._shown('STARt:DELAy')}"
        )
        fields = [
            f"{short}:ENAB {self._shown(f'{block}:ENABle', channel)}",
            f"COUP {self._shown(f'{block}:COUPling', channel)}",
            f"EDGE {self._shown(f'{block}:EDGE', channel)}",
            f"THRE {self._shown(f'{block}:THREshold', channel)}",
            f"SELE {self._shown(f'{block}:SELEct', channel)}",
            last,
            f":{short}:COUNter:INTEgrationtime {self._shown(f'{block}:COUNter:INTEgrationtime', channel)}",
            f"MODE {self._shown(f'{block}:COUNter:MODE', channel)}",
        ]
        return ";".join(fields)

    def _delay_state(self, block: int) -> str:
        value, link = self._shown("DELAy#:VALUe", block), self._shown("DELAy#:[INPOrt:]LINK", block)
        return f":DELA{block}:VALU {value};INPO:LINK {link};"

    def _device_state(self) -> str:
        return f"DEVIce:SYNC {self._shown('DEVIce:SYNC')};RES {self._shown('DEVIce:RESolution')}"

    def _histogram_state(self, block: int) -> str:
        link = {
            port: self._shown(f"HISTogram#:[INPOrt:]{port}:LINK", block) for port in ("STOP", "REF", "ENABle")
        }
        return (
            f"HIST{block}:INPOrt:STOP:LINK {link['STOP']};:HIST{block}:INPOrt:REF:LINK {link['REF']};"
            f":HIST{block}:INPOrt:ENAB:LINK {link['ENABle']};:HIST{block}:MIN {self._shown('HISTogram#:MINimum', block)};"
            f"BWID {self._shown('HISTogram#:BWIDth', block)};BCOUnt {self._shown('HISTogram#:BCOUnt', block)};"
        )


def _channel(found: re.Match[str], channels: tuple[int, ...]) -> int:
    channel = int(found[1] or 0) if found.re.groups else 0
    if channel not in channels:
        raise Refusal("SCPI_ERR_INVALID_CMD")
    return channel
