"""Thorlabs power meters of the PM100 family: optical power in watts.

A reading that is no measurement (over range 9.9E37, not a number 9.91E37) is an error, never a value.

Known state, because the meter keeps what an earlier user set: watts, no loss correction, no delta mode, automatic
range, no zero adjustment under way, ``averaging`` samples.  A beam diameter changes power densities only, which nobody
reads here.  A wavelength is one that the sensor head says it reaches, and is read back: some meters keep the old one
without a word.

Commands: QMI ``instruments/thorlabs/pm100d.py``, pymeasure ``thorlabspm100usb.py``; loss correction, delta mode and
zeroing: ThorlabsPM100 ``ThorlabsPM100.py`` (``SENSe:CORRection:LOSS:INPut:MAGNitude``,
``SENSe:POWer:DC:REFerence:STATe``, ``SENSe:CORRection:COLLect:ZERO``), which not every model of the family need have.
The PM100D has USB (``USB0::0x1313::0x8078::<serial>::INSTR``); the Ethernet model PM103E speaks the same commands at
``TCPIP0::<host>::2000::SOCKET`` (NQCP photonicdrivers).
"""

from __future__ import annotations

import contextlib
import logging
from typing import Any

from qcodes.parameters import Parameter
from qcodes.validators import Bool, Strings

from drivers.links.errors import InstrumentRefusedError, LimitError, NoReadingError
from drivers.links.ieee488 import split_outside_quotes, unquote
from drivers.links.limits import Whole, Within
from drivers.powermeters.floors import THORLABS_W
from drivers.scpi import ScpiInstrument
from drivers.scpi_state import KnownState, Required

log = logging.getLogger(__name__)

SAMPLE_S = 3e-4
"""Time of one sample of the averaging filter (manual: about 0.3 ms)."""
MAX_AVERAGING = 10_000
HEAD_LIMITS_NM = (185.0, 25_000.0)
"""What any head of the family reaches: ultraviolet photodiodes to thermal heads (Thorlabs' catalogue)."""
ZERO_S = 60.0
"""What a zero adjustment may take, thermal heads included."""
_STEP_NM = 1e-3
_ZERO = "SENSe:CORRection:COLLect:ZERO"
_WAVELENGTH = "SENSe:CORRection:WAVelength"
_POWER_FLAG = 1
"""Bit of the sensor flags that says it measures power (QMI ``pm100d.py``)."""


def required(averaging: int) -> list[Required]:
    """What must be so before a reading is a power in watts."""
    return [
        Required("SENSe:POWer:UNIT", "W"),
        Required("SENSe:CORRection:LOSS:INPut:MAGNitude", "0", if_there=True),
        Required("SENSe:POWer:REFerence:STATe", "0", if_there=True),
        Required("SENSe:POWer:RANGe:AUTO", "1"),
        Required("SENSe:AVERage:COUNt", str(averaging)),
    ]


def parse_sensor(reply: str) -> str:
    """Name and serial number of the head from ``name,serial,calibration,type,subtype,flags`` (QMI ``pm100d.py``).

    Raises ValueError for anything else.
    """
    fields = [unquote(field) for field in split_outside_quotes(reply, ",")]
    if len(fields) < 6 or not fields[5].isdecimal():
        raise ValueError("not of the form name,serial,calibration,type,subtype,flags")
    measures_power = bool(int(fields[5]) & _POWER_FLAG)
    return " ".join(filter(None, fields[:2])) + ("" if measures_power else " (measures no power)")


class ThorlabsPM100D(ScpiInstrument):
    """Driver of one power meter.

    Options: ``wavelength_limits_nm``, a limit of the set-up beside the sensor head's own; ``averaging``, the number of
    samples averaged after connecting; ``floor_w``, the least power that the head tells from none, for a head that is not
    in :data:`~drivers.powermeters.floors.THORLABS_W`.
    """

    MODELS = frozenset(
        {"PM100A", "PM100D", "PM100D2", "PM100D3", "PM100USB"}
        | {f"PM10{n}{kind}" for n in (1, 2, 3) for kind in ("", "A", "E", "R", "U")}
        | {f"PM16-{n}" for n in (120, 121, 122, 130, 140, 401, 405)}
        | {"PM160", "PM160T", "PM160T-HP", "PM200", "PM400"}
    )
    """Thorlabs' driver header ``TLPM.h`` (PM100A/D/USB, PM101..103, PM160, PM160T, PM200, PM400), QMI (PM16-120); the
    letters after PM101..103 stand for the connection, the numbers after PM16 for the head."""

    def __init__(
        self,
        name: str,
        address: str,
        *,
        wavelength_limits_nm: tuple[float, float] = HEAD_LIMITS_NM,
        averaging: int = 1,
        floor_w: float | None = None,
        timeout_s: float = 2.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, address, timeout_s=timeout_s, **kwargs)
        link = self.link
        if not 1 <= averaging <= MAX_AVERAGING:
            raise LimitError(
                f"averaging is {averaging}, which is outside 1..{MAX_AVERAGING} samples",
                instrument=name,
                address=address,
            )
        if floor_w is not None and not 0.0 < floor_w < 1.0:
            raise self.error(LimitError, f"floor_w is {floor_w:g} W, which no head has as its least power")
        self._averaging = averaging
        self._limits_nm = wavelength_limits_nm
        self._wrong_wavelength = ""
        self._floor_w = floor_w
        self.state = KnownState(link, required(averaging))
        self.power_w: Parameter[float, ThorlabsPM100D] = self.add_reading(
            "power_w", label="Optical power", unit="W", get=self._measure
        )
        self.floor_w: Parameter[float, ThorlabsPM100D] = self.add_reading(
            "floor_w", label="Least power told from none", unit="W", get=self._get_floor
        )
        self.sensor: Parameter[str, ThorlabsPM100D] = self.add_reading(
            "sensor",
            label="Sensor head",
            vals=Strings(),
            get=lambda: link.query_parsed("SYSTem:SENSor:IDN?", parse_sensor),
        )
        self.wavelength_nm: Parameter[float, ThorlabsPM100D] = self.add_setting(
            "wavelength_nm",
            label="Wavelength",
            unit="nm",
            get=lambda: link.query_float(f"{_WAVELENGTH}?", possible=HEAD_LIMITS_NM),
            put=self._set_wavelength,
            limits=Within(*wavelength_limits_nm, "nm"),
            resolution=_STEP_NM,
        )
        self.averaging: Parameter[int, ThorlabsPM100D] = self.add_setting(
            "averaging",
            label="Samples averaged",
            get=self._get_averaging,
            put=lambda value: link.command(f"SENSe:AVERage:COUNt {value}"),
            limits=Whole(1, MAX_AVERAGING, "samples"),
        )
        self.auto_range: Parameter[bool, ThorlabsPM100D] = self.add_setting(
            "auto_range",
            label="Automatic range",
            get=lambda: link.query_bool("SENSe:POWer:RANGe:AUTO?"),
            put=lambda value: link.command(f"SENSe:POWer:RANGe:AUTO {int(value)}"),
            limits=Bool(),
        )

    def know_state(self) -> None:
        """Old errors; no zero adjustment under way; watts, corrections, range, averaging; the wavelength it holds."""
        super().know_state()
        with contextlib.suppress(InstrumentRefusedError):  # where there is none to abort
            self.link.command(f"{_ZERO}:ABORt")
        self.state.hold()
        self._look_at_wavelength()
        if self._wrong_wavelength:
            log.warning("%s at %s: %s", self.name, self.address, self._wrong_wavelength)

    def safe_state(self) -> None:
        """Nothing to do: a power meter emits nothing and holds nothing secret."""

    def restore_passive(self) -> None:
        """After a reopened link: wavelength, averaging and range mode as they were."""
        self.restore(self.wavelength_nm, self.averaging, self.auto_range)

    def _measure(self) -> float:
        """NoReadingError where nothing was measured; InstrumentRefusedError outside the known state.

        LimitError with a wavelength that set-up or head do not allow: the power is right for that wavelength only.
        """
        self.state.require()
        if self._wrong_wavelength:
            self._look_at_wavelength()
        if self._wrong_wavelength:
            raise self.error(LimitError, self._wrong_wavelength)
        timeout_s = self.link.timeout_s + 2 * SAMPLE_S * self._averaging
        return self.link.query_float("MEASure:POWer?", timeout_s=timeout_s)

    def glance_w(self) -> float:
        """The power of this moment: a reading takes a second at the most."""
        return self._measure()

    def zero(self) -> None:
        """Take what reaches the head as zero: the caller has made it dark.  NotReadyError after :data:`ZERO_S`."""
        link = self.link
        with link.transaction():
            link.command(f"{_ZERO}:INITiate", timeout_s=ZERO_S)
            since = link.urgencies
        link.wait_until(
            lambda: not link.query_bool(f"{_ZERO}:STATe?"), ZERO_S, "zero adjustment", since=since, poll_s=0.1
        )

    def _get_floor(self) -> float:
        if self._floor_w is not None:
            return self._floor_w
        head = self.sensor.get().partition(" ")[0]
        if head not in THORLABS_W:
            raise self.error(
                NoReadingError,
                f"the least power of sensor head {head} is not known; give it as option floor_w, in watts",
            )
        return THORLABS_W[head]

    def _look_at_wavelength(self) -> None:
        """Whether the stored wavelength is one of the set-up and of the sensor head."""
        self._wrong_wavelength = ""
        with contextlib.suppress(NoReadingError):  # without a sensor no power is read either
            held, (low, high) = self.link.query_float(f"{_WAVELENGTH}?"), self._limits_nm
            if not low <= held <= high:
                why = f"outside {low:g}..{high:g} nm, the limits of the set-up"
            else:
                why = self._out_of_reach(held)
            if why:
                self._wrong_wavelength = (
                    f"holds a wavelength of {held:g} nm, {why}; set wavelength_nm before power is read"
                )

    def _out_of_reach(self, value: float) -> str:
        """Why the sensor head does not reach a wavelength, "" if it does."""
        low, high = (self.link.query_float(f"{_WAVELENGTH}? {end}") for end in ("MIN", "MAX"))
        if low >= high:
            log.warning("%s at %s: says no range of its sensor head", self.name, self.address)
            return ""
        if low - _STEP_NM <= value <= high + _STEP_NM:
            return ""
        return f"outside {low:g}..{high:g} nm, which the sensor head reaches"

    def _set_wavelength(self, value: float) -> None:
        if why := self._out_of_reach(value):
            raise self.error(LimitError, f"{value:g} nm is {why}; nothing was sent")
        self.link.command(f"{_WAVELENGTH} {value:.9g}")
        self._wrong_wavelength = ""

    def _get_averaging(self) -> int:
        self._averaging = self.link.query_int("SENSe:AVERage:COUNt?")
        return self._averaging
