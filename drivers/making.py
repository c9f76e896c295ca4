"""How a driver is made: by a notebook that runs its cell again, by a QCoDeS ``Station``, by a role.

Making a driver does no input or output, with one exception: ``qcodes.Station.load_instrument`` sets initial values and
takes a snapshot at once, and its users expect a connected instrument.  A driver made there is connected, and closed
and forgotten when it does not answer, lacks a parameter that the station's file names, or refuses an initial value.
The keyword ``connect`` says otherwise: ``connect: false`` under ``init`` in the station's file, ``connect=True``
elsewhere.

A second driver of the same class, name and address takes the place of the first, which is closed: that is a cell that
was run again.  Any other driver of the same name stays an error of QCoDeS' kind.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any

from qcodes.instrument import Instrument
from qcodes.instrument.instrument_meta import InstrumentMeta

from drivers.ending import ENDING
from drivers.options import taken

if TYPE_CHECKING:
    from qcodes.parameters import Parameter
    from qcodes.station import Station

    from drivers.base import LabInstrument

STATION_MODULE = "qcodes.station"


class MadeForHands(InstrumentMeta):
    """The metaclass of :class:`drivers.base.LabInstrument`."""

    def __call__(self, *args: Any, connect: bool | None = None, **kwargs: Any) -> Any:
        """Make a driver; see the module."""
        caller = sys._getframe(1)
        loading = caller if caller.f_globals.get("__name__") == STATION_MODULE else None
        name, address = (
            *args,
            *(kwargs[key] for key in ("name", "address")[len(args) :] if key in kwargs),
            "",
            "",
        )[:2]
        kwargs |= taken(
            self, name, address, {k: v for k, v in kwargs.items() if k not in ("name", "address")}
        )
        _make_way(self, name, address)
        if loading is not None:
            leave_station(loading.f_locals.get("self"), name)
        made: LabInstrument = super().__call__(*args, **kwargs)
        made.made_with = {key: value for key, value in kwargs.items() if key not in ("name", "address")}
        ENDING.renew(made)
        try:
            if connect or (connect is None and loading is not None):
                made.connect()
            if loading is not None:
                _expect_file(made, loading)
        except BaseException:
            made.close()
            raise
        return made


def _make_way(driver: type, name: str, address: str) -> None:
    """Close the driver whose place a new one takes; KeyError, as QCoDeS has it, for any other of that name."""
    if not Instrument.exist(name):
        return
    first = Instrument.find_instrument(name)
    there = getattr(first, "address", None)
    if type(first) is driver and there == address:
        first.close()
        return
    raise KeyError(
        f"Another instrument has the name: {name} ({type(first).__name__} at {there}); "
        f"close it with Instrument.find_instrument({name!r}).close(), or take another name"
    )


def leave_station(station: Station | None, name: str) -> None:
    """Take a closed instrument out of a station, so that one of its name can come; QCoDeS does so on a snapshot only."""
    component = station.components.get(name) if station is not None else None
    if station is not None and isinstance(component, Instrument) and not Instrument.is_valid(component):
        station.remove_component(name)


def _expect_file(made: LabInstrument, loading: FrameType) -> None:
    """Look at what the station's file says of a driver's parameters, while the driver can still be forgotten.

    Raises AttributeError for parameters that the driver does not have.
    """
    config = loading.f_locals.get("instr_cfg")
    named = config.get("parameters") if isinstance(config, Mapping) else None
    for path, options in (named or {}).items():
        parameter: Any = made
        for part in path.split("."):
            holder, parameter = parameter, getattr(parameter, part, None)
            if parameter is None:
                there = [*holder.parameters, *getattr(holder, "submodules", ())]
                raise AttributeError(
                    f"{made.name}: the station's file names {path!r}, but {holder.name} has no {part!r}; "
                    f"it has {', '.join(sorted(there))}"
                )
        if isinstance(options, Mapping) and "initial_value" in options:
            _close_if_refused(made, parameter)


def _close_if_refused(made: LabInstrument, parameter: Parameter) -> None:
    """Have a failure to set ``parameter`` for the first time close the driver, which nobody holds yet."""
    as_ever = parameter.set

    def first(value: Any, **kwargs: Any) -> None:
        parameter.set = as_ever
        try:
            as_ever(value, **kwargs)
        except BaseException:
            made.close()
            raise

    parameter.set = first
