"""Simulated Thorlabs power meter: reads the power that the bench supplies, with range, unit and averaging.

Written from the command list in QMI ``instruments/thorlabs/pm100d.py`` and pymeasure ``thorlabspm100usb.py``.
In a manual range a higher power reads 9.9E37 (SCPI infinity); a power that is not a number reads 9.91E37.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from sim_backends.faults import FaultInjector
from sim_backends.servers import DATA_OUT_OF_RANGE, Call, ScpiDevice, ScpiError, ScpiServer
from sim_backends.site import Simulated, Site

IDENTITY = "Thorlabs,{model},SIM{serial:05d},2.4.0"
SENSOR = "S155C,SIM00001,01-Jan-2024,1,18,289"
_INFINITY, _NOT_A_NUMBER = "9.90000000E+37", "9.91000000E+37"
_WAVELENGTH_NM = (800.0, 1700.0)
_RANGES_W = tuple(10.0**exponent for exponent in range(-8, 0))
_MAX_AVERAGING = 10_000
_RESPONSIVITY_A_PER_W = 1.0  # of the InGaAs diode, near 1550 nm; a real sensor stores a curve
_WATTS = {"NW": 1e-9, "UW": 1e-6, "MW": 1e-3, "W": 1.0}


class _Device(ScpiDevice):
    def __init__(self, identity: str, faults: FaultInjector, read_power_w: Callable[[], float]) -> None:
        super().__init__(identity, faults, no_error='+0,"No error"')
        self._read_power_w = read_power_w
        self.wavelength_nm = 1550.0
        self.averaging = 1
        self.auto_range = True
        self.range_w = _RANGES_W[-1]
        self.unit = "W"
        add = self.add
        add("*RST", self._reset)
        add("SYSTem:SENSor:IDN?", lambda c: SENSOR)
        add("SYSTem:SENS:IDN?", lambda c: SENSOR)
        for notation in ("MEASure[:SCALar]:POWer?", "MEASure[:SCALar]?", "READ?", "FETCh?"):
            add(notation, lambda c: self._measure())
        add("MEASure[:SCALar]:CURRent[:DC]?", lambda c: _number(_RESPONSIVITY_A_PER_W * read_power_w()))
        add("CONFigure[:SCALar]:POWer", lambda c: None)
        add("[SENSe:]CORRection:WAVelength", self._set_wavelength)
        add("[SENSe:]CORRection:WAVelength?", self._ask_wavelength)
        add("[SENSe:]POWer[:DC]:RANGe[:UPPer]", self._set_range)
        add("[SENSe:]POWer[:DC]:RANGe[:UPPer]?", lambda c: f"{self.range_w:.8E}")
        add("[SENSe:]POWer[:DC]:RANGe:AUTO", self._set_auto)
        add("[SENSe:]POWer[:DC]:RANGe:AUTO?", lambda c: str(int(self.auto_range)))
        add("[SENSe:]POWer[:DC]:UNIT", self._set_unit)
        add("[SENSe:]POWer[:DC]:UNIT?", lambda c: self.unit)
        add("[SENSe:]AVERage[:COUNt]", self._set_averaging)
        add("[SENSe:]AVERage[:COUNt]?", lambda c: str(self.averaging))

    def _measure(self) -> str:
        power_w = self._read_power_w()
        if abs(power_w) > (_RANGES_W[-1] if self.auto_range else self.range_w):
            return _INFINITY
        if self.unit == "W":
            return _number(power_w)
        return _number(10 * math.log10(power_w / 1e-3) if power_w > 0 else math.nan)

    def _set_wavelength(self, call: Call) -> None:
        value = call.number(0, {"NM": 1.0})
        if not _WAVELENGTH_NM[0] <= value <= _WAVELENGTH_NM[1]:
            raise ScpiError(*DATA_OUT_OF_RANGE)
        self.wavelength_nm = value

    def _ask_wavelength(self, call: Call) -> str:
        limits = {"MIN": _WAVELENGTH_NM[0], "MAX": _WAVELENGTH_NM[1]}
        value = limits[call.choice(0, "MINimum", "MAXimum")] if call.arguments else self.wavelength_nm
        return f"{value:.8E}"

    def _set_range(self, call: Call) -> None:
        wanted = call.number(0, _WATTS)
        fitting = [top for top in _RANGES_W if top >= wanted]
        if wanted < 0 or not fitting:
            raise ScpiError(*DATA_OUT_OF_RANGE)
        self.range_w, self.auto_range = fitting[0], False

    def _set_auto(self, call: Call) -> None:
        self.auto_range = call.boolean(0)

    def _set_unit(self, call: Call) -> None:
        self.unit = call.choice(0, "W", "DBM")

    def _set_averaging(self, call: Call) -> None:
        value = call.integer(0)
        if not 1 <= value <= _MAX_AVERAGING:
            raise ScpiError(*DATA_OUT_OF_RANGE)
        self.averaging = value

    def _reset(self, call: Call) -> None:
        self.wavelength_nm, self.averaging, self.auto_range, self.unit = 1550.0, 1, True, "W"


def _number(value: float) -> str:
    return _NOT_A_NUMBER if math.isnan(value) else f"{value:.8E}"


def build(site: Site) -> Simulated:
    """The power meter in the light of its owner."""
    twin = PM100DTwin(read_power_w=lambda: site.power_w(""), serial=site.number)
    return Simulated(twin, lambda: twin.serve(site.host, *site.ports))


class PM100DTwin:
    """The simulated power meter; ``read_power_w()`` is asked at each measurement."""

    def __init__(
        self,
        *,
        read_power_w: Callable[[], float] = lambda: 0.0,
        serial: int = 1,
        model: str = "PM100D",
    ) -> None:
        self.faults = FaultInjector()
        self._device = _Device(IDENTITY.format(model=model, serial=serial), self.faults, read_power_w)
        self._server = ScpiServer(self._device, self.faults)

    def serve(self, host: str, port: int) -> str:
        """Listen on ``host`` and return the VISA address."""
        return self._server.serve(host, port)

    def close(self) -> None:
        """Stop serving."""
        self._server.close()

    def is_safe(self) -> bool:
        """Always: it emits nothing and holds nothing secret."""
        return True

    def state(self) -> dict[str, object]:
        """Settings and the number of queued errors."""
        device = self._device
        with device.lock:
            return {
                "wavelength_nm": device.wavelength_nm,
                "averaging": device.averaging,
                "auto_range": device.auto_range,
                "range_w": device.range_w,
                "unit": device.unit,
                "errors": len(device.errors),
            }
