"""Simulated Thorlabs power meter: reads the power that the bench supplies, with range, unit and averaging.

Written from the command list in QMI ``instruments/thorlabs/pm100d.py``, pymeasure ``thorlabspm100usb.py`` and
ThorlabsPM100 ``ThorlabsPM100.py`` (loss correction, delta mode, zeroing, beam diameter).
In a manual range a higher power reads 9.9E37 (SCPI infinity); a power that is not a number reads 9.91E37.
A measurement takes 0.3 ms for each sample averaged (manual), is the mean of the light in that time and has the noise that
is left: of a sample half the least power that the head tells from none (chosen).
A wavelength that the sensor head does not reach leaves the old one: with an error (SCPI), or without (users' reports).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from sim_backends.faults import FaultInjector
from sim_backends.powermeters.averaging import Averaging
from sim_backends.schedule import Schedule, later
from sim_backends.servers import DATA_OUT_OF_RANGE, Call, ScpiDevice, ScpiError, ScpiTwin
from sim_backends.site import Simulated, Site

IDENTITY = "Thorlabs,{model},SIM{serial:05d},2.4.0"
SENSOR = "S155C,SIM00001,01-Jan-2024,1,18,289"
_INFINITY, _NOT_A_NUMBER = "9.90000000E+37", "9.91000000E+37"
_WAVELENGTH_NM = (800.0, 1700.0)
_RANGES_W = tuple(10.0**exponent for exponent in range(-8, 0))
_MAX_AVERAGING = 10_000
_ZERO_S = 1.0
_RESPONSIVITY_A_PER_W = 1.0  # of the InGaAs diode, near 1550 nm; a real sensor stores a curve
SAMPLE_S = 3e-4
SAMPLE_NOISE_W = 5e-10
"""S155C."""
_WATTS = {"NW": 1e-9, "UW": 1e-6, "MW": 1e-3, "W": 1.0}


class _Device(ScpiDevice):
    def __init__(
        self,
        identity: str,
        faults: FaultInjector,
        read_power_w: Callable[[], float],
        wavelength_limits_nm: tuple[float, float],
        quiet: bool,
        schedule: Schedule,
        make: tuple[float, float, np.random.Generator],
    ) -> None:
        super().__init__(identity, faults, no_error='+0,"No error"')
        self._read_power_w = read_power_w
        self._wavelength_limits_nm = wavelength_limits_nm
        self._quiet = quiet
        self._schedule = schedule
        noise_w, speed, rng = make
        self._averaging = Averaging(noise_w * math.sqrt(SAMPLE_S), rng, self.rest, speed)
        self._default()
        add = self.add
        add("*RST", lambda c: self._default())
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
        add("[SENSe:]POWer[:DC]:RANGe:AUTO", lambda c: setattr(self, "auto_range", c.boolean(0)))
        add("[SENSe:]POWer[:DC]:RANGe:AUTO?", lambda c: str(int(self.auto_range)))
        add("[SENSe:]POWer[:DC]:UNIT", lambda c: setattr(self, "unit", c.choice(0, "W", "DBM")))
        add("[SENSe:]POWer[:DC]:UNIT?", lambda c: self.unit)
        add("[SENSe:]AVERage[:COUNt]", self._set_averaging)
        add("[SENSe:]AVERage[:COUNt]?", lambda c: str(self.averaging))
        self._add_corrections()

    def _add_corrections(self) -> None:
        add = self.add
        loss = "[SENSe:]CORRection[:LOSS[:INPut[:MAGNitude]]]"
        add(loss, lambda c: self._put("loss_db", c, -60.0, 60.0))
        add(loss + "?", lambda c: f"{self.loss_db:.8E}")
        add("[SENSe:]CORRection:BEAMdiameter", lambda c: self._put("beam_mm", c, 0.1, 1000.0))
        add("[SENSe:]CORRection:BEAMdiameter?", lambda c: f"{self.beam_mm:.8E}")
        add("[SENSe:]POWer[:DC]:REFerence", lambda c: self._put("reference_w", c, -1.0, 1.0))
        add("[SENSe:]POWer[:DC]:REFerence?", lambda c: f"{self.reference_w:.8E}")
        add("[SENSe:]POWer[:DC]:REFerence:STATe", lambda c: setattr(self, "delta", c.boolean(0)))
        add("[SENSe:]POWer[:DC]:REFerence:STATe?", lambda c: str(int(self.delta)))
        add("[SENSe:]CORRection:COLLect:ZERO[:INITiate]", self._zero)
        add("[SENSe:]CORRection:COLLect:ZERO:ABORt", lambda c: setattr(self, "zeroing", False))
        add("[SENSe:]CORRection:COLLect:ZERO:STATe?", lambda c: str(int(self.zeroing)))
        add("[SENSe:]CORRection:COLLect:ZERO:MAGNitude?", lambda c: f"{self.zero_w:.8E}")

    def _put(self, attribute: str, call: Call, low: float, high: float) -> None:
        value = call.number(0, _WATTS)
        if not low <= value <= high:
            raise ScpiError(*DATA_OUT_OF_RANGE)
        setattr(self, attribute, value)

    def _measure(self) -> str:
        averaged_s = self.averaging * SAMPLE_S
        power_w = self._averaging.mean_w(self._read_power_w, averaged_s) - self.zero_w
        power_w += self._averaging.noise(averaged_s)
        if abs(power_w) > (_RANGES_W[-1] if self.auto_range else self.range_w):
            return _INFINITY
        power_w = power_w * 10 ** (self.loss_db / 10) - (self.reference_w if self.delta else 0.0)
        if self.unit == "W":
            return _number(power_w)
        return _number(10 * math.log10(power_w / 1e-3) if power_w > 0 else math.nan)

    def _zero(self, call: Call) -> None:
        self.zeroing = True
        self._schedule(_ZERO_S, self._end_zero)

    def _end_zero(self) -> None:
        with self.lock:
            if self.zeroing:
                self.zeroing, self.zero_w = False, self._read_power_w()

    def _set_wavelength(self, call: Call) -> None:
        value = call.number(0, {"NM": 1.0})
        low, high = self._wavelength_limits_nm
        if low <= value <= high:
            self.wavelength_nm = value
        elif not self._quiet:
            raise ScpiError(*DATA_OUT_OF_RANGE)

    def _ask_wavelength(self, call: Call) -> str:
        limits = dict(zip(("MIN", "MAX"), self._wavelength_limits_nm, strict=True))
        value = limits[call.choice(0, "MINimum", "MAXimum")] if call.arguments else self.wavelength_nm
        return f"{value:.8E}"

    def _set_range(self, call: Call) -> None:
        wanted = call.number(0, _WATTS)
        fitting = [top for top in _RANGES_W if top >= wanted]
        if wanted < 0 or not fitting:
            raise ScpiError(*DATA_OUT_OF_RANGE)
        self.range_w, self.auto_range = fitting[0], False

    def _set_averaging(self, call: Call) -> None:
        value = call.integer(0)
        if not 1 <= value <= _MAX_AVERAGING:
            raise ScpiError(*DATA_OUT_OF_RANGE)
        self.averaging = value

    def _default(self) -> None:
        self.wavelength_nm = min(max(1550.0, self._wavelength_limits_nm[0]), self._wavelength_limits_nm[1])
        self.averaging = 1
        self.auto_range, self.range_w = True, _RANGES_W[-1]
        self.unit = "W"
        self.loss_db = self.reference_w = self.zero_w = 0.0
        self.beam_mm = 9.5
        self.delta = self.zeroing = False

    def leave(self) -> None:
        """The state in which an earlier user left it."""
        self.unit, self.loss_db, self.reference_w, self.delta = "DBM", 10.0, 3e-3, True
        self.wavelength_nm, self.averaging = self._wavelength_limits_nm[0], 300
        self.auto_range, self.range_w, self.beam_mm = False, _RANGES_W[0], 3.0
        self.errors.push(ScpiError(-113, "Undefined header"))
        self.errors.push(ScpiError(-410, "Query INTERRUPTED"))


def _number(value: float) -> str:
    return _NOT_A_NUMBER if math.isnan(value) else f"{value:.8E}"


def build(site: Site) -> Simulated:
    """The power meter in the light of its owner."""
    twin = PM100DTwin(
        read_power_w=lambda: site.power_w(""),
        serial=site.number,
        noise_w=SAMPLE_NOISE_W,
        speed=site.sensor_speed,
        rng=site.made,
    )
    return Simulated(twin, lambda: twin.serve(site.host, *site.ports))


class PM100DTwin(ScpiTwin):
    """The simulated power meter; ``read_power_w()`` is asked at each measurement.

    ``wavelength_limits_nm`` is what its sensor head reaches; ``quiet``: without an error for other wavelengths;
    ``schedule(delay_s, action)`` runs the end of a zero adjustment; ``left_by_someone`` starts it with another user's
    unit, corrections, range, averaging and errors.  ``noise_w``: standard deviation of one sample, drawn from ``rng``; samples
    take their time divided by ``speed``.
    """

    def __init__(
        self,
        *,
        read_power_w: Callable[[], float] = lambda: 0.0,
        serial: int = 1,
        model: str = "PM100D",
        wavelength_limits_nm: tuple[float, float] = _WAVELENGTH_NM,
        quiet: bool = False,
        schedule: Schedule = later,
        left_by_someone: bool = False,
        noise_w: float = 0.0,
        speed: float = math.inf,
        rng: np.random.Generator | None = None,
    ) -> None:
        faults = FaultInjector()
        make = noise_w, speed, rng or np.random.default_rng(serial)
        identity = IDENTITY.format(model=model, serial=serial)
        self._device = _Device(identity, faults, read_power_w, wavelength_limits_nm, quiet, schedule, make)
        super().__init__(self._device, faults)
        if left_by_someone:
            self._device.leave()

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
                "loss_db": device.loss_db,
                "delta": device.delta,
                "errors": len(device.errors),
            }
