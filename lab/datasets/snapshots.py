"""How the instruments of an owner stand, in the form of a QCoDeS station's snapshot.

It holds what a record holds of them (:mod:`lab.readings`): identities and single values with unit and age, never a
waveform, a free text or an address.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lab.readings import known_readings

if TYPE_CHECKING:
    from lab.station import Station


def snapshot_of(station: Station) -> dict[str, Any]:
    """What is known of the instruments of ``station``; nothing is asked of them."""
    instruments: dict[str, dict[str, Any]] = {
        name: {"name": name, "identity": asdict(identity), "parameters": {}}
        for name, identity in station.identities.items()
    }
    for each in known_readings(station):
        parameters = instruments.setdefault(each.instrument, {"parameters": {}})["parameters"]
        parameters[each.parameter] = {"value": each.value, "unit": each.unit, "age_s": each.age_s}
    return {"station": {"instruments": instruments, "parameters": {}, "components": {}, "config": None}}
