"""Which driver runs which model: the one place where a model name of the testbed file becomes a class.

Classes are named as strings and imported on first use, so that a role loads only the drivers that it owns.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # QCoDeS takes a second to import; roles without instruments read only the table below.
    from drivers.base import LabInstrument

DRIVERS: Mapping[str, str] = MappingProxyType(
    {
        "nkt-basik": "drivers.lasers.nkt_basik:NKTBasik",
        "tektronix-awg70002a": "drivers.modulators.tektronix_awg70002a:AWG70002A",
        "keysight-n7764a": "drivers.attenuators.keysight_n7764a:KeysightN7764A",
        "oz-dd100": "drivers.attenuators.oz_dd100:OzDD100",
        "single-quantum-websq": "drivers.detectors.websq:WebSQ",
        "id-quantique-id900": "drivers.timetaggers.id900:ID900",
        "thorlabs-pm100d": "drivers.powermeters.thorlabs_pm100d:ThorlabsPM100D",
    }
)
"""Model name -> ``module:Class``."""


def driver_class(model: str) -> type[LabInstrument]:
    """Import and return the driver class of ``model``.  Raises KeyError naming the known models."""
    try:
        module_name, class_name = DRIVERS[model].split(":")
    except KeyError:
        raise KeyError(f"no driver for model {model!r}; known: {', '.join(sorted(DRIVERS))}") from None
    driver: type[LabInstrument] = getattr(importlib.import_module(module_name), class_name)
    return driver


def open_instrument(model: str, name: str, address: str, **options: Any) -> LabInstrument:
    """Create the driver of ``model`` and connect it.

    Raises LinkError when nothing (sensible) answers and WrongInstrumentError for another model; the
    instrument is closed again in either case.
    """
    instrument = driver_class(model)(name, address, **options)
    try:
        instrument.connect()
    except BaseException:
        instrument.close()
        raise
    return instrument
