"""How the instruments of a station stand, from what is known of them: nothing is asked, so light and tags are not disturbed.

QCoDeS keeps the last value of each parameter that was read or set, and when; a record holds these with their age.  Texts
are among them where a parameter has one of a few words: free ones may be addresses, or whatever somebody wrote.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

from drivers.links.limits import Words, limits_of, plain
from orchestrator.events.inside import InstrumentState
from orchestrator.events.status import Readings
from orchestrator.records.kinds import Reading

if TYPE_CHECKING:
    from drivers.base import LabInstrument
    from lab.station import Station


def known_readings(station: Station) -> tuple[Reading, ...]:
    """The last value of every scalar parameter that has one, submodules included."""
    found: list[Reading] = []
    for instrument, name, parameter, value in _all_known(station):
        identity = instrument.identity
        model, serial = ("", "") if identity is None else (identity.model, identity.serial_number)
        found.append(
            Reading(instrument.name, model, serial, name, value, _unit(parameter), _age_s(parameter))
        )
    return tuple(found)


def known_numbers(station: Station) -> Iterator[Readings]:
    """The same of those that are numbers, or on and off, with what their drivers take."""
    for instrument, name, parameter, value in _all_known(station):
        if not isinstance(value, str):
            low, high = limits_of(parameter.vals) or (None, None)
            yield Readings(
                instrument.name,
                name,
                value,
                _unit(parameter),
                _finite(low),
                _finite(high),
                _age_s(parameter),
            )


def known_states(station: Station) -> Iterator[InstrumentState]:
    """Of every instrument whether its links are open, and how long ago any value of it was read or set."""
    for instrument in station.instruments():
        stamps = [
            parameter.cache.timestamp
            for holder in (instrument, *instrument.submodules.values())
            for parameter in holder.parameters.values()
            if parameter.cache.timestamp is not None
        ]
        age_s = max(0.0, (datetime.now() - max(stamps)).total_seconds()) if stamps else None
        yield InstrumentState(instrument.name, all(link.is_open for link in instrument.links), age_s)


def _all_known(station: Station) -> Iterator[tuple[LabInstrument, str, Any, float | bool | str]]:
    """Instrument, name behind it, parameter and value."""
    for instrument in station.instruments():
        holders: list[tuple[str, Any]] = [("", instrument)]
        holders += [(f"{name}.", module) for name, module in instrument.submodules.items()]
        for prefix, holder in holders:
            for name, parameter in holder.parameters.items():
                if (value := _known(parameter)) is not None:
                    yield instrument, prefix + name, parameter, value


def _unit(parameter: Any) -> str:
    return getattr(parameter, "unit", "") or ""


def _finite(limit: float | None) -> float | None:
    return limit if limit is not None and math.isfinite(limit) else None


def _known(parameter: Any) -> float | bool | str | None:
    if parameter.name == "IDN" or not parameter.cache.valid:
        return None
    value = plain(parameter.cache.get(get_if_invalid=False))
    if isinstance(value, str):
        return value if isinstance(parameter.vals, Words) else None
    if isinstance(value, bool):
        return value
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _age_s(parameter: Any) -> float:
    """QCoDeS stamps in local time without a zone."""
    stamp = parameter.cache.timestamp
    return 0.0 if stamp is None else round(max(0.0, (datetime.now() - stamp).total_seconds()), 3)
