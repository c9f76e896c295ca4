"""Function-generator commands of the simulated AWG: settings that are kept and read back; nothing is generated.

Commands, words and values after ``*RST``: github tektronix/tm_devices ``commands/gen_*_awg/fgen.py``; ranges:
qcodes ``AWG70000A.py``.  Frequency and period are common to both channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from sim_backends.servers import DATA_OUT_OF_RANGE, Call, ScpiDevice, ScpiError

_NUMBERS = {
    "AMPLitude[:VOLTage]": (0.5, 0.0, 0.5),
    "OFFSet": (0.0, -0.25, 0.25),
    "DCLevel": (0.0, -0.25, 0.25),
    "PHASe": (0.0, -180.0, 180.0),
    "SYMMetry": (100.0, 0.0, 100.0),
}
"""Header, value after ``*RST``, limits."""
_WORDS = {
    "TYPE": (
        ("SINE", "SQUare", "TRIangle", "NOISe", "DC", "GAUSSian", "EXPRise", "EXPDecay", "NONE"),
        "SINE",
    ),
    "PATH": (("DIRect", "DCAMplified", "AC"), "DIR"),
}
_FREQUENCY_HZ = (1.2e6, 1.0, 12.5e9)


@dataclass
class _Channel:
    numbers: dict[str, float] = field(
        default_factory=lambda: {name: each[0] for name, each in _NUMBERS.items()}
    )
    words: dict[str, str] = field(default_factory=lambda: {name: each[1] for name, each in _WORDS.items()})


class FunctionGenerator:
    """Declares the ``FGEN`` commands on ``device``; ``number_of`` says which channel a command names."""

    def __init__(self, device: ScpiDevice, number_of: Callable[[Call], int]) -> None:
        self._number_of = number_of
        self.reset()
        for name in _NUMBERS:
            self._add_number(device, name)
        for name in _WORDS:
            self._add_word(device, name)
        device.add("FGEN:CHANnel#:FREQuency", self._set_frequency)
        device.add("FGEN:CHANnel#:FREQuency?", lambda c: f"{self._frequency_hz:.10E}")
        device.add("FGEN:CHANnel#:PERiod?", lambda c: f"{1 / self._frequency_hz:.10E}")

    def reset(self) -> None:
        """As after ``*RST``."""
        self._channels = {1: _Channel(), 2: _Channel()}
        self._frequency_hz = _FREQUENCY_HZ[0]

    def _add_number(self, device: ScpiDevice, name: str) -> None:
        device.add(f"FGEN:CHANnel#:{name}", lambda c: self._set_number(c, name))
        device.add(f"FGEN:CHANnel#:{name}?", lambda c: f"{self._of(c).numbers[name]:.10E}")

    def _add_word(self, device: ScpiDevice, name: str) -> None:
        device.add(f"FGEN:CHANnel#:{name}", lambda c: self._set_word(c, name))
        device.add(f"FGEN:CHANnel#:{name}?", lambda c: self._of(c).words[name])

    def _of(self, call: Call) -> _Channel:
        return self._channels[self._number_of(call)]

    def _set_number(self, call: Call, name: str) -> None:
        self._of(call).numbers[name] = _within(call, *_NUMBERS[name][1:])

    def _set_word(self, call: Call, name: str) -> None:
        self._of(call).words[name] = call.choice(0, *_WORDS[name][0])

    def _set_frequency(self, call: Call) -> None:
        self._of(call)
        self._frequency_hz = _within(call, *_FREQUENCY_HZ[1:])


def _within(call: Call, low: float, high: float) -> float:
    value = call.number(0)
    if not low <= value <= high:
        raise ScpiError(*DATA_OUT_OF_RANGE)
    return value
