"""NKT Photonics Koheras BASIK fibre laser on an Interbus serial line (115200 baud, RTS/CTS).

Register numbers, types and scales from QMI ``qmi/instruments/nkt_photonics/adjustik.py`` and nkt_basik
``nkt_basik/dll/register_enums.py``; the status word is read as 16 bits (nkt_basik reads 8 and misses the
error flag).  Power is set in steps of 0.01 mW, the wavelength offset in steps of 0.1 pm.  Emission is never
switched on by anything but ``emission(True)``: after a lost link ``connect`` switches it off and re-applies
the passive settings, and it stays off until somebody asks for light.
"""

from __future__ import annotations

import struct
from typing import Any

from qcodes.parameters import Parameter
from qcodes.validators import Bool

from drivers.base import Identity, LabInstrument
from drivers.lasers.interbus_master import InterbusMaster
from drivers.links.errors import (
    InstrumentRefusedError,
    MalformedReplyError,
    NotReadyError,
    WrongInstrumentError,
)
from drivers.links.limits import Within
from drivers.links.serial_link import SerialLink

BAUDRATE = 115200
DEFAULT_MODULE = 1
BASIK_TYPES = {0x33: "Koheras BASIK K1x2", 0x36: "Koheras BASIK MIKRO K0x2", 0x21: "Koheras BASIK K80-1"}

REG_POWER_READOUT = 0x17  # u16, 0.01 mW
REG_TEMPERATURE = 0x1C  # i16, 0.1 degC
REG_SUPPLY_VOLTAGE = 0x1E  # u16, mV
REG_POWER_SETPOINT = 0x22  # u16, 0.01 mW
REG_OFFSET_SETPOINT = 0x2A  # i16, 0.1 pm
REG_EMISSION = 0x30  # u8
REG_CENTRE_WAVELENGTH = 0x32  # u32, 0.1 pm
REG_MODULE_TYPE = 0x61  # u8
REG_FIRMWARE = 0x64
REG_SERIAL_NUMBER = 0x65  # ascii
REG_STATUS = 0x66  # u16
REG_ERROR_CODE = 0x67  # u8
# i32 as QMI reads it; nkt_basik reads 16 bits.  A reply of 2 bytes is taken as i16, one of 4 as i32.
REG_OFFSET_READOUT = 0x72  # 0.1 pm

STATUS_BITS = {
    0: "emission",
    1: "interlock off",
    4: "disabled",
    5: "supply voltage low",
    6: "module temperature out of range",
    11: "waiting for temperature",
    14: "wavelength stabilized",
    15: "error code present",
}
ERROR_CODES = {0: "none", 2: "interlock", 3: "low voltage", 7: "module temperature", 8: "module disabled"}
MAX_OFFSET_PM = 3276.7  # what 16 bits of 0.1 pm can say; the module's own range is narrower and answers NACK


class NKTBasik(LabInstrument):
    """The laser with bus address ``module`` on the serial port ``address``.

    ``max_power_mw`` is a hard limit of the set-up.  ``resends`` bounds how often a lost telegram is repeated
    after ``timeout_s``; a laser that is gone is noticed after ``(resends + 1) * timeout_s``, below 2 s.
    """

    def __init__(
        self,
        name: str,
        address: str,
        *,
        module: int = DEFAULT_MODULE,
        max_power_mw: float = 200.0,
        timeout_s: float = 0.2,
        resends: int = 8,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, address, **kwargs)
        self.link = SerialLink(
            address,
            baudrate=BAUDRATE,
            rtscts=True,
            instrument=name,
            timeout_s=timeout_s,
            bring_up=self.bring_up,
        )
        self.links = (self.link,)
        self._bus = InterbusMaster(self.link, module, instrument=name, resends=resends)
        self._passive: dict[int, bytes] = {}
        self._add_settings(max_power_mw)
        self._add_readouts()

    def _add_settings(self, max_power_mw: float) -> None:
        self.emission: Parameter[bool, NKTBasik] = self.add_parameter(
            "emission",
            label="Emission",
            get_cmd=lambda: bool(self._read_int(REG_EMISSION, "<B")),
            set_cmd=self._set_emission,
            vals=Bool(),
        )
        self.power_mw: Parameter[float, NKTBasik] = self.add_parameter(
            "power_mw",
            label="Power setpoint",
            unit="mW",
            get_cmd=lambda: self._read_int(REG_POWER_SETPOINT, "<H") / 100,
            set_cmd=lambda mw: self._write_passive(REG_POWER_SETPOINT, struct.pack("<H", round(mw * 100))),
            vals=Within(0.0, min(max_power_mw, 655.35), "mW"),
        )
        self.add_parameter(
            "wavelength_offset_pm",
            label="Wavelength offset setpoint",
            unit="pm",
            get_cmd=lambda: self._read_int(REG_OFFSET_SETPOINT, "<h") / 10,
            set_cmd=lambda pm: self._write_passive(REG_OFFSET_SETPOINT, struct.pack("<h", round(pm * 10))),
            vals=Within(-MAX_OFFSET_PM, MAX_OFFSET_PM, "pm"),
        )

    def _add_readouts(self) -> None:
        self.add_parameter(
            "power_readout_mw",
            label="Emitted power",
            unit="mW",
            get_cmd=lambda: self._read_int(REG_POWER_READOUT, "<H") / 100,
        )
        self.add_parameter("wavelength_nm", label="Wavelength", unit="nm", get_cmd=self._read_wavelength)
        self.add_parameter(
            "temperature_c",
            label="Module temperature",
            unit="degC",
            get_cmd=lambda: self._read_int(REG_TEMPERATURE, "<h") / 10,
        )
        self.add_parameter(
            "supply_voltage_v",
            label="Supply voltage",
            unit="V",
            get_cmd=lambda: self._read_int(REG_SUPPLY_VOLTAGE, "<H") / 1000,
        )
        self.add_parameter(
            "status",
            label="Status word",
            get_cmd=lambda: self._read_int(REG_STATUS, "<H"),
            docstring="16 bits, named by status_flags().",
        )
        self.add_parameter(
            "error_code", label="Error code", get_cmd=lambda: self._read_int(REG_ERROR_CODE, "<B")
        )
        self.add_parameter(
            "resend_count", label="Telegrams sent again", get_cmd=lambda: self._bus.resend_count
        )

    def restore_passive(self) -> None:
        """Emission off, power and wavelength as they were."""
        self._write_verified(REG_EMISSION, b"\x00")
        for register, data in self._passive.items():
            self._write_verified(register, data)

    def identify(self) -> Identity:
        """Module type, serial number and firmware; WrongInstrumentError for a module that is no BASIK."""
        kind = self._read_int(REG_MODULE_TYPE, "<B")
        if kind not in BASIK_TYPES:
            raise WrongInstrumentError(
                f"bus address {self._bus.module} holds a module of type 0x{kind:02X}, no Koheras BASIK",
                instrument=self.name,
                address=self.address,
            )
        serial = self._bus.read(REG_SERIAL_NUMBER).rstrip(b"\x00 ").decode("ascii", "replace")
        firmware = self._bus.read(REG_FIRMWARE)
        return Identity("NKT Photonics", BASIK_TYPES[kind], serial, firmware[::-1].hex("."))

    def status_flags(self) -> list[str]:
        """The names of the status bits that are set."""
        word = self._read_int(REG_STATUS, "<H")
        return [name for bit, name in STATUS_BITS.items() if word >> bit & 1]

    def check_emitting(self) -> None:
        """NotReadyError with the laser's own reason unless it emits."""
        flags = self.status_flags()
        if "emission" not in flags:
            code = self._read_int(REG_ERROR_CODE, "<B")
            raise NotReadyError(
                f"the laser does not emit; status: {', '.join(flags) or 'none'}; "
                f"error: {ERROR_CODES.get(code, code)}",
                instrument=self.name,
                address=self.address,
            )

    def safe_state(self) -> None:
        """Switch emission off."""
        self.link.urgently(lambda: self._write_verified(REG_EMISSION, b"\x00"))

    def _set_emission(self, on: bool) -> None:
        if on:
            self.must_end_dark()
        self._write_verified(REG_EMISSION, bytes((on,)))

    def _read_wavelength(self) -> float:
        centre = self._read_int(REG_CENTRE_WAVELENGTH, "<I")
        data = self._bus.read(REG_OFFSET_READOUT)
        if len(data) not in (2, 4):
            raise self._malformed(REG_OFFSET_READOUT, data)
        return (centre + int.from_bytes(data, "little", signed=True)) * 1e-4

    def _read_int(self, register: int, layout: str) -> int:
        data = self._bus.read(register)
        if len(data) != struct.calcsize(layout):
            raise self._malformed(register, data)
        value: int = struct.unpack(layout, data)[0]
        return value

    def _write_passive(self, register: int, data: bytes) -> None:
        self._write_verified(register, data)
        self._passive[register] = data

    def _write_verified(self, register: int, data: bytes) -> None:
        """Write a register and read it back: an acknowledged value may still have been clipped."""
        self._bus.write(register, data)
        held = self._bus.read(register)
        if held != data:
            raise InstrumentRefusedError(
                f"register 0x{register:02X}: wrote {data.hex()}, it holds {held.hex()}",
                instrument=self.name,
                address=self.address,
            )

    def _malformed(self, register: int, data: bytes) -> MalformedReplyError:
        return MalformedReplyError(
            f"register 0x{register:02X} holds {len(data)} bytes, another size was expected",
            instrument=self.name,
            address=self.address,
        )
