"""The known state of an ID900: every setting that changes what a tag means, whoever used the instrument last.

Each setting is asked for, set where it differs, and asked for again.  Words are compared in their short and long SCPI
spelling, times and volts with their units: the time base unit ``TB`` is 1 ps whatever the resolution.

Sources: ID Quantique, Time Controller Series User Manual, sections 8.2 (blocks and links) and 9 (commands, units, HIST);
IDQ Python examples ``utils/acquisitions.py`` (record generator) and ``Histogram_acquisition_filtred`` (delays and
combiners: DELA1..4 delay the inputs, TSCO5..8 forward them); MSLNZ/pr-single-photons
``photons/equipment/idq_time_controller.py`` (inputs, counters, defaults, RAW links); a Qudi module for the ID1000
(``REC:TRIG:LINK``, ``STOP:FILTer``).  Which of ``OPIN`` and ``OPOUt`` rules a combiner without window differs between the
examples, so both are set.

Generator 1, combiner TSCO1 and output 1 belong to :mod:`drivers.timetaggers.id900_record`; other generators, combiners and
outputs drive whatever the operator wired to them: nothing is said of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from drivers.links.errors import InstrumentRefusedError
from drivers.links.ieee488 import NUMBER_AND_UNIT, is_word, unquote
from drivers.links.scpi_replies import parse_switch

log = logging.getLogger(__name__)

START = 0
CHANNELS = (1, 2, 3, 4)
CLOCKS = {"internal": "INTErnal", "external": "EXTErnal"}
RESOLUTIONS = {"high": "HIRES", "low": "LOWRES"}
THRESHOLD_RESOLUTION_V = 1e-3  # no source gives the step: what a user would notice
DEFAULT_THRESHOLD_V = 1.0  # of the instrument (MSL driver)
# Reading of the vendor's format, to be checked on hardware: with RAWn:REF:LINK set to this block and
# ``--with-ref-index`` a timestamp counts from the last pulse of that block, and the index counts its pulses.
REFERENCE = "STARt"

_SCALES = {
    "V": {"V": 1.0, "MV": 1e-3, "UV": 1e-6},
    "TB": {"": 1.0, "TB": 1.0, "KTB": 1e3, "MTB": 1e6, "GTB": 1e9, "TTB": 1e12, "PS": 1.0, "NS": 1e3},
}


@dataclass(frozen=True)
class Known:
    """A setting and what it must be: a word in the manual's spelling (short form in capitals), or a number.

    ``licensed`` settings belong to blocks that an instrument may lack, depending on its licence.
    """

    header: str
    value: str | float
    unit: str = ""
    tolerance: float = 0.0
    licensed: bool = False

    @property
    def text(self) -> str:
        """The value as it is sent; times go without unit, which is ps."""
        if isinstance(self.value, str):
            return self.value
        return f"{self.value:.15g}{self.unit if self.unit == 'V' else ''}"

    def is_held(self, reply: str) -> bool:
        """Whether ``reply`` to the query shows this value."""
        word = unquote(reply)
        if self.value in ("ON", "OFF"):
            with suppress(ValueError):
                return parse_switch(word) is (self.value == "ON")
        if isinstance(self.value, str):
            return is_word(self.value, word)
        found = NUMBER_AND_UNIT.fullmatch(word)
        scale = _SCALES[self.unit].get(found[2].upper()) if found and self.unit else 1.0
        return (
            found is not None
            and scale is not None
            and abs(float(found[1]) * scale - self.value) <= self.tolerance
        )


def block(channel: int) -> str:
    """The header of an input; 0 is START."""
    return f"INPUt{channel}" if channel else "STARt"


def known_state(clock: str, resolution: str, counter_units: float) -> Iterator[Known]:
    """What the instrument is brought to when nobody asked for anything else."""
    yield Known("DEVIce:SYNC", CLOCKS[clock])
    yield Known("DEVIce:RESolution", RESOLUTIONS[resolution])
    for channel in (START, *CHANNELS):
        yield from input_settings(channel, enabled=False, threshold_v=DEFAULT_THRESHOLD_V, mode="CYCLe")
        yield Known(f"{block(channel)}:COUNter:INTEgrationtime", counter_units)
    yield _time("STARt:DELAy", 0.0)
    for channel in CHANNELS:
        yield Known(f"INPUt{channel}:RESYncpolicy", "AUTO")
        yield _link(f"DELAy{channel}:LINK", f"INPUt{channel}")
        yield _time(f"DELAy{channel}:VALUe", 0.0)
        combiner = f"TSCOmbiner{channel + 4}"
        yield _link(f"{combiner}:FIRst:LINK", f"DELAy{channel}")
        for name, word in (("OPIN", "ONLYFIR"), ("OPOUt", "ONLYFIR"), ("WINDow:ENABle", "OFF")):
            yield Known(f"{combiner}:{name}", word, licensed=True)
    for number in CHANNELS:
        yield from histogram_links(number, number)
        yield _time(f"HISTogram{number}:MINimum", 0.0)
        yield from tag_links(number)
    yield Known("RECord:TRIGger:ARM:MODE", "MANUal")
    yield _link("RECord:TRIGger:LINK", "NONE")
    yield _time("RECord:TRIGger:DELAy", 0.0)
    yield Known("RECord:NUMber", 1.0)
    yield Known("GENerator1:ENABle", "OFF")


def input_settings(
    channel: int, *, enabled: bool, threshold_v: float, mode: str, edge: str = "RISIng"
) -> Iterator[Known]:
    """An input that hears edges of one kind, DC coupled, as they are; 0 is START."""
    header = block(channel)
    yield Known(f"{header}:ENABle", "ON" if enabled else "OFF")
    yield Known(f"{header}:COUPling", "DC")
    yield Known(f"{header}:EDGE", edge)
    yield threshold(channel, threshold_v)
    yield Known(f"{header}:SELEct", "UNSHaped")
    yield Known(f"{header}:COUNter:MODE", mode)


def threshold(channel: int, threshold_v: float) -> Known:
    """The level at which an input sees an edge."""
    return Known(f"{block(channel)}:THREshold", threshold_v, "V", THRESHOLD_RESOLUTION_V)


def histogram_links(number: int, channel: int) -> Iterator[Known]:
    """Histogram ``number`` shows the rising edges of an input after the last one of START, while a record runs."""
    yield _link(f"HISTogram{number}:REF:LINK", REFERENCE)
    yield _link(f"HISTogram{number}:STOP:LINK", f"TSCO{channel + 4}")
    yield _link(f"HISTogram{number}:ENABle:LINK", "REC")
    for port in ("REF", "STOP"):
        yield Known(f"HISTogram{number}:{port}:FILTer", "RISIng", licensed=True)


def tag_links(channel: int) -> Iterator[Known]:
    """The tags of an input count from the last pulse of START, while a record runs."""
    yield _link(f"RAW{channel}:REF:LINK", REFERENCE)
    yield _link(f"RAW{channel}:STOP:LINK", f"TSCO{channel + 4}")
    yield _link(f"RAW{channel}:ENABle:LINK", "REC")


def _time(header: str, value_ps: float) -> Known:
    return Known(header, value_ps, "TB", licensed=True)


def _link(header: str, address: str) -> Known:
    return Known(header, address, licensed=True)


def bring_to(ask: Callable[[str], str], settings: Iterable[Known], *, instrument: str, address: str) -> None:
    """Have the instrument hold ``settings``; what had to be changed is logged.

    Raises InstrumentRefusedError for what it does not take or does not hold afterwards.
    """
    for setting in settings:
        change = partial(_bring_to, ask, setting, instrument, address)
        if setting.licensed:
            if_offered(change, f"{instrument} at {address}: {setting.header}")
        else:
            change()


def if_offered(action: Callable[[], None], what: str) -> None:
    """Do ``action`` unless the instrument does not know the command: what there is depends on its licence."""
    try:
        action()
    except InstrumentRefusedError as error:
        if "SCPI_ERR_INVALID_CMD" not in str(error):
            raise
        log.info("%s is not offered; the instrument's licence may lack it", what)


def _bring_to(ask: Callable[[str], str], setting: Known, instrument: str, address: str) -> None:
    found = ask(f"{setting.header}?").strip()[:40]
    if setting.is_held(found):
        return
    log.info("%s at %s: found %s at %s, setting %s", instrument, address, setting.header, found, setting.text)
    ask(f"{setting.header} {setting.text}")
    held = ask(f"{setting.header}?").strip()[:40]
    if not setting.is_held(held):
        raise InstrumentRefusedError(
            f"{setting.header} was set to {setting.text} and holds {held}",
            instrument=instrument,
            address=address,
        )
