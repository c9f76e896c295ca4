"""Whether simulated instruments stand in their safe states, judged from what the simulator itself saw.

The drivers' own word is not asked: this looks at the far side of the wire.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lab.testbed import Testbed

State = Mapping[str, Any]


def _none_on(values: Mapping[str, bool]) -> bool:
    return not any(values.values())


IS_SAFE: dict[str, Callable[[State], bool]] = {
    "nkt-basik": lambda state: not state["emission"] and not state["emitting"],
    "keysight-n7764a": lambda state: _none_on(state["open"]),
    "tektronix-awg70002a": lambda state: (
        _none_on(state["outputs"]) and state["run_state"] == 0 and not state["waveforms"]
    ),
    "oz-dd100": lambda state: state["attenuation_db"] >= 59.9 and not state["moving"],
    "single-quantum-websq": lambda state: not state["DetectorEnable"],
    "id-quantique-id900": lambda state: state["stage"] != "PLAYING",
    "thorlabs-pm100d": lambda state: True,
}
"""By model: no light, no bias, no output, no secret waveform left in a generator."""


def unsafe_instruments(testbed: Testbed, states: Mapping[str, State]) -> list[str]:
    """Names of instruments that are not safe; an instrument without a state counts as not safe."""
    return [
        entry.name
        for entry in testbed.instruments
        if entry.name not in states or not IS_SAFE[entry.model](states[entry.name])
    ]
