"""Thorlabs PM100D family: optical power in watts.

A reading that is no measurement (over range 9.9E37, not a number 9.91E37) is an error, never a value.  The
unit is set to watts at connect, because the instrument keeps dBm from an earlier user.

Commands: QMI ``instruments/thorlabs/pm100d.py``, pymeasure ``thorlabspm100usb.py``, and the PM100x SCPI
command list of the manual (``MEASure:POWer?``, ``SENSe:CORRection:WAVelength``, ``SENSe:POWer:RANGe``,
``SENSe:POWer:UNIT``, ``SENSe:AVERage:COUNt``).  The PM100D has USB (``USB0::0x1313::0x8078::<serial>::INSTR``);
the Ethernet model PM103E speaks the same commands at ``TCPIP0::<host>::2000::SOCKET`` (NQCP photonicdrivers).
"""

from __future__ import annotations

import math
from typing import Any

from qcodes.parameters import Parameter
from qcodes.validators import Bool, Ints

from drivers.base import Identity
from drivers.links.errors import InstrumentRefusedError
from drivers.links.limits import Within
from drivers.scpi import ScpiInstrument

OVERFLOW = 9.9e37
"""SCPI-1999 7.2.1.4: infinity is +-9.9E37 and not-a-number 9.91E37."""
SAMPLE_S = 3e-4
"""Time of one sample of the averaging filter (manual: about 0.3 ms)."""
MAX_AVERAGING = 10_000


class ThorlabsPM100D(ScpiInstrument):
    """Driver of one power meter.  Option ``wavelength_limits_nm``: the range of the sensor head."""

    MODELS = frozenset({"PM100D", "PM100USB", "PM103E"})

    def __init__(
        self,
        name: str,
        address: str,
        *,
        wavelength_limits_nm: tuple[float, float] = (800.0, 1700.0),
        **kwargs: Any,
    ) -> None:
        super().__init__(name, address, **kwargs)
        link = self.link
        self._averaging = 1
        self.power_w: Parameter[float, ThorlabsPM100D] = self.add_parameter(
            "power_w", label="Optical power", unit="W", get_cmd=self._measure
        )
        self.wavelength_nm: Parameter[float, ThorlabsPM100D] = self.add_parameter(
            "wavelength_nm",
            label="Wavelength",
            unit="nm",
            get_cmd=lambda: link.query_float("SENSe:CORRection:WAVelength?"),
            set_cmd=lambda value: link.command(f"SENSe:CORRection:WAVelength {value:.6g}"),
            vals=Within(*wavelength_limits_nm, "nm"),
        )
        self.averaging: Parameter[int, ThorlabsPM100D] = self.add_parameter(
            "averaging",
            label="Samples averaged",
            get_cmd=self._get_averaging,
            set_cmd=self._set_averaging,
            vals=Ints(1, MAX_AVERAGING),
        )
        self.auto_range: Parameter[bool, ThorlabsPM100D] = self.add_parameter(
            "auto_range",
            label="Automatic range",
            get_cmd=lambda: bool(link.query_int("SENSe:POWer:RANGe:AUTO?")),
            set_cmd=lambda value: link.command(f"SENSe:POWer:RANGe:AUTO {int(value)}"),
            vals=Bool(),
        )

    def connect(self) -> Identity:
        """Open, identify, and set the unit to watts."""
        identity = super().connect()
        self.link.command("SENSe:POWer:UNIT W")
        self._get_averaging()
        return identity

    def safe_state(self) -> None:
        """Nothing to do: a power meter emits nothing and holds nothing secret."""

    def restore_passive(self) -> None:
        """After a reopened link: unit, wavelength, averaging and range mode as they were."""
        self.link.command("SENSe:POWer:UNIT W")
        for parameter in (self.wavelength_nm, self.averaging, self.auto_range):
            value = parameter.cache.get(get_if_invalid=False)
            if value is not None:
                parameter.set(value)

    def _measure(self) -> float:
        timeout_s = self.link.timeout_s + 2 * SAMPLE_S * self._averaging
        command = "MEASure:POWer?"
        value = self.link.number(command, self.link.query(command, timeout_s=timeout_s), float)
        if not math.isfinite(value) or abs(value) >= OVERFLOW:
            raise InstrumentRefusedError(
                f"no measurement ({value:g}): over range or no sensor; lower the power or raise the range",
                instrument=self.name,
                address=self.address,
            )
        return value

    def _get_averaging(self) -> int:
        self._averaging = int(self.link.query_float("SENSe:AVERage:COUNt?"))
        return self._averaging

    def _set_averaging(self, value: int) -> None:
        self.link.command(f"SENSe:AVERage:COUNt {value}")
        self._averaging = value
