"""NKT Photonics Koheras BASIK fibre laser on an Interbus serial line (115200 baud, RTS/CTS).

The registers are in :mod:`drivers.lasers.koheras_registers` (one source there is github.com/ograsdijk/NKT-Basik); a module
with another register table is refused.  Power is set in steps of 0.01 mW, the wavelength offset in steps of 0.1 pm.

A module keeps everything over a power cycle, so it is found as somebody left it.  Connecting brings it to a known
state: modulation off and the pump at constant power, as otherwise the set points are not what comes out.  A laser that
is found emitting goes on only if that and the limits held already.  Emission is never switched on by anything but
``emission(True)``, which first holds the stored set points against the limits; after a lost link it is switched off,
the passive settings are applied again, and it stays off until somebody asks for light.
"""

from __future__ import annotations

import logging
import math
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from qcodes.validators import Bool

from drivers.base import Identity, LabInstrument
from drivers.lasers.interbus_master import InterbusMaster
from drivers.lasers.koheras_registers import (
    BASIKS,
    ERROR_CODES,
    OFF_NAMES,
    REG_CENTRE_WAVELENGTH,
    REG_EMISSION,
    REG_EMISSION_DELAY,
    REG_ERROR_CODE,
    REG_FIRMWARE,
    REG_MODULE_TYPE,
    REG_OFFSET_READOUT,
    REG_OFFSET_SETPOINT,
    REG_POWER_READOUT,
    REG_POWER_SETPOINT,
    REG_POWER_SETPOINT_DBM,
    REG_SERIAL_NUMBER,
    REG_SETUP,
    REG_STATUS,
    REG_SUPPLY_VOLTAGE,
    REG_TEMPERATURE,
    SETUP_BITS,
    SETUP_MASK,
    STATUS_BITS,
    USUAL_ADDRESSES,
    Basik,
    firmware,
    module_name,
    module_type,
    set_bits,
    text,
)
from drivers.links.errors import (
    InstrumentError,
    InstrumentRefusedError,
    LimitError,
    LinkTimeoutError,
    MalformedReplyError,
    NotReadyError,
    WrongInstrumentError,
)
from drivers.links.interbus import MAX_DATA_BYTES
from drivers.links.limits import Within
from drivers.links.serial_link import SerialLink
from drivers.settings import Quantity

logger = logging.getLogger(__name__)

BAUDRATE = 115200
DEFAULT_MODULE = 1
MAX_MODULE = 160  # hosts are above (SDK manual, quoted in QMI's protocol module)
MAX_OFFSET_PM = 3276.7  # what 16 bits of 0.1 pm can say; the module's own range is narrower and answers NACK
POWER_STEP_MW, OFFSET_STEP_PM, DBM_STEP = 0.01, 0.1, 0.01
BEHIND = {
    REG_POWER_SETPOINT: "set power_mw",
    REG_POWER_SETPOINT_DBM: "set power_mw",
    REG_OFFSET_SETPOINT: "set wavelength_offset_pm",
    REG_EMISSION: "set emission",
    REG_SETUP: "connect() sets it, so that the power set point holds",
}
"""Registers that limits stand before, with what to use instead."""


class NKTBasik(LabInstrument):
    """The laser with bus address ``module`` on the serial port ``address``.

    ``max_power_mw`` and ``max_offset_pm`` are hard limits of the set-up: for what is set, and for what is found stored
    before emission.  ``resends`` bounds how often a lost telegram is repeated after ``timeout_s`` (QMI: most answers come
    within 0.1 s, nearly all within 0.8 s); a laser that is gone is noticed after ``(resends + 1) * timeout_s``, below 2 s.
    """

    FRAMING = "interbus"

    def __init__(
        self,
        name: str,
        address: str,
        *,
        module: int = DEFAULT_MODULE,
        max_power_mw: float = 200.0,
        max_offset_pm: float = MAX_OFFSET_PM,
        timeout_s: float = 0.2,
        resends: int = 8,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, address, **kwargs)
        for option, value in (("max_power_mw", max_power_mw), ("max_offset_pm", max_offset_pm)):
            if not value > 0:
                raise self.error(
                    LimitError, f"{option} = {value:g} leaves nothing to set; give a value above 0"
                )
        if not 1 <= module <= MAX_MODULE:
            raise self.error(
                LimitError, f"module = {module} is no bus address; modules have 1 to {MAX_MODULE}"
            )
        self.link = SerialLink(
            address,
            baudrate=BAUDRATE,
            rtscts=True,
            instrument=name,
            timeout_s=timeout_s,
            bring_up=self.bring_up,
        )
        self.links = (self.link,)
        self._bus = InterbusMaster(self.link, module, resends=resends)
        self._max_power_mw = min(max_power_mw, 655.35)  # what 16 bits can say
        self._max_offset_pm = min(max_offset_pm, MAX_OFFSET_PM)
        self._basik: Basik | None = None
        self._passive: dict[int, bytes] = {}
        self._add_settings()
        self._add_readings()

    def _add_settings(self) -> None:
        self.emission: Quantity = self.add_setting(
            "emission",
            label="Emission",
            get=lambda: bool(self._read_int(REG_EMISSION, "<B")),
            put=self._switch,
            limits=Bool(),
            docstring="Whether light is asked for; switching on holds the stored set points against the limits first.",
        )
        self.power_mw: Quantity = self.add_setting(
            "power_mw",
            label="Power setpoint",
            unit="mW",
            get=lambda: self._read_int(REG_POWER_SETPOINT, "<H") / 100,
            put=lambda mw: self._write_passive(REG_POWER_SETPOINT, struct.pack("<H", round(mw * 100))),
            limits=Within(0.0, self._max_power_mw, "mW"),
            resolution=POWER_STEP_MW,
        )
        self.wavelength_offset_pm: Quantity = self.add_setting(
            "wavelength_offset_pm",
            label="Wavelength offset setpoint",
            unit="pm",
            get=lambda: self._read_int(REG_OFFSET_SETPOINT, "<h") / 10,
            put=lambda pm: self._write_passive(REG_OFFSET_SETPOINT, struct.pack("<h", round(pm * 10))),
            limits=Within(-self._max_offset_pm, self._max_offset_pm, "pm"),
            resolution=OFFSET_STEP_PM,
        )

    def _add_readings(self) -> None:
        add, read = self.add_reading, self._read_int
        add(
            "power_readout_mw",
            label="Emitted power",
            unit="mW",
            get=lambda: read(REG_POWER_READOUT, "<H") / 100,
            resolution=POWER_STEP_MW,
        )
        add("wavelength_nm", label="Wavelength", unit="nm", get=self._read_wavelength, resolution=1e-4)
        add(
            "temperature_c",
            label="Module temperature",
            unit="degC",
            get=lambda: read(REG_TEMPERATURE, "<h") / 10,
            resolution=0.1,
        )
        add(
            "supply_voltage_v",
            label="Supply voltage",
            unit="V",
            get=lambda: read(REG_SUPPLY_VOLTAGE, "<H") / 1000,
            resolution=1e-3,
        )
        add(
            "emission_delay_s",
            label="Time from emission on to light",
            unit="s",
            get=lambda: read(REG_EMISSION_DELAY, "<B") / 10,
            resolution=0.1,
        )
        add(
            "status",
            label="Status word",
            get=lambda: read(REG_STATUS, "<H"),
            docstring="16 bits, named by status_flags().",
        )
        add("error_code", label="Error code", get=lambda: read(REG_ERROR_CODE, "<B"))
        add("resend_count", label="Telegrams sent again", get=lambda: self._bus.resend_count)

    def identify(self) -> Identity:
        """Module type, serial number and firmware.

        Raises WrongInstrumentError for a module that has another register table, with what else is on the bus.
        """
        try:
            data = self._bus.read(REG_MODULE_TYPE)
        except LinkTimeoutError as error:
            raise self.error(
                LinkTimeoutError,
                f"module {self._bus.module} does not answer; "
                f"{self.link.why_silent() or 'is it switched on?'}{self._others_on_the_bus()}",
            ) from error
        if not data:
            raise self._malformed(REG_MODULE_TYPE, data, 1)
        kind = module_type(data)
        self._basik = BASIKS.get(kind)
        if self._basik is None:
            raise self.error(
                WrongInstrumentError,
                f"bus address {self._bus.module} holds a module of {module_name(kind)}; this driver knows the registers "
                f"of {' and '.join(basik.model for basik in BASIKS.values())} only{self._others_on_the_bus()}",
            )
        serial = text(self._bus.read(REG_SERIAL_NUMBER))
        return Identity("NKT Photonics", self._basik.model, serial, firmware(self._bus.read(REG_FIRMWARE)))

    def _others_on_the_bus(self) -> str:
        """Who answers at the usual addresses, for messages: a frame and its lasers share one line."""
        found = []
        for module in USUAL_ADDRESSES:
            if module != self._bus.module:
                with suppress(InstrumentError):
                    data = self._bus.read(REG_MODULE_TYPE, module=module, resends=0)
                    found.append(f"module = {module} ({module_name(module_type(data))})")
        return f"; on this bus are {', '.join(found)}" if found else ""

    def know_state(self) -> None:
        """Modulation off and the pump at constant power; no light that was on with anything else or beyond a limit."""
        right, on = self._set_up_to_change()
        beyond = [*self._beyond_limits(), *(f"{name} on" for name in on)]
        if self._read_int(REG_EMISSION, "<B"):
            if beyond:
                self._write_verified(REG_EMISSION, b"\x00")
            logger.warning(
                "%s at %s: found emitting; %s",
                self.name,
                self.address,
                f"emission is switched off, because of {', '.join(beyond)}" if beyond else "left as it is",
            )
        elif beyond:
            logger.warning("%s at %s: found with %s", self.name, self.address, ", ".join(beyond))
        self._write_all(right)

    def restore_passive(self) -> None:
        """Emission off, power and wavelength as they were."""
        self._write_all({REG_EMISSION: b"\x00", **self._passive})

    def _set_up_to_change(self) -> tuple[dict[int, bytes], list[str]]:
        """What registers must hold in the known state that do not, and the names of what is on there."""
        setup = self._read_if_there(REG_SETUP, 2)
        on = set_bits(setup & SETUP_MASK, SETUP_BITS)
        right = {REG_SETUP: struct.pack("<H", setup & ~SETUP_MASK)} if on else {}
        for register, size in self._basik.off.items() if self._basik is not None else ():
            if self._read_if_there(register, size):
                right[register] = bytes(size)
                on.append(OFF_NAMES[register])
        return right, on

    def _beyond_limits(self) -> Iterator[str]:
        """Stored set points that the set-up does not allow; both registers of the power count, one may lag."""
        power_mw = self._read_int(REG_POWER_SETPOINT, "<H") / 100
        dbm = self._read_if_there(REG_POWER_SETPOINT_DBM, 2, signed=True) / 100
        limit_dbm = 10 * math.log10(max(self._max_power_mw, POWER_STEP_MW))
        if power_mw > self._max_power_mw + POWER_STEP_MW / 2:
            yield f"a stored power set point of {power_mw:.2f} mW, above max_power_mw = {self._max_power_mw:g} mW"
        elif power_mw and dbm > limit_dbm + DBM_STEP:
            yield f"a stored power set point of {dbm:.2f} dBm, above max_power_mw = {self._max_power_mw:g} mW"
        offset_pm = self._read_int(REG_OFFSET_SETPOINT, "<h") / 10
        if abs(offset_pm) > self._max_offset_pm + OFFSET_STEP_PM / 2:
            yield f"a stored wavelength offset of {offset_pm:.1f} pm, beyond max_offset_pm = {self._max_offset_pm:g} pm"

    def _switch(self, on: bool) -> None:
        if not on:
            self._bus.write(REG_EMISSION, b"\x00")
            return
        if beyond := list(self._beyond_limits()):
            raise self.error(
                LimitError,
                f"emission stays off: the laser has {' and '.join(beyond)}; set power_mw and "
                "wavelength_offset_pm to allowed values first",
            )
        right, _ = self._set_up_to_change()
        self._write_all(right)
        try:
            with self.link.transaction():
                self.must_end_dark()
                self._bus.write(REG_EMISSION, b"\x01")
        except InstrumentRefusedError as error:
            raise self.error(InstrumentRefusedError, f"emission was refused; {self._condition()}") from error

    def status_flags(self) -> list[str]:
        """The names of the status bits that are set."""
        return set_bits(self._read_int(REG_STATUS, "<H"), STATUS_BITS)

    def check_emitting(self) -> None:
        """NotReadyError with the laser's own reason unless it emits."""
        if "emission" not in self.status_flags():
            raise self.error(NotReadyError, f"the laser does not emit; {self._condition()}")

    def _condition(self) -> str:
        flags, code = self.status_flags(), self._read_int(REG_ERROR_CODE, "<B")
        return f"status: {', '.join(flags) or 'none'}; error: {ERROR_CODES.get(code, code)}"

    def safe_state(self) -> None:
        """Switch emission off; the first thing sent, whatever else is under way, and judged by the register."""
        self.link.urgently(lambda: self._write_verified(REG_EMISSION, b"\x00"))

    def ask_raw(self, cmd: str) -> str:
        """``ask("0x66")``: the data of a register as hexadecimal bytes, in the order on the wire (lowest first)."""
        return self._bus.read(self._register(cmd)).hex()

    def write_raw(self, cmd: str) -> None:
        """``write("0x8D 4c415345")``: set a register to these bytes and read it back.

        Raises LimitError for a register that would get round the limits.
        """
        number, _, written = cmd.strip().partition(" ")
        register = self._register(number)
        if register in BEHIND:
            raise self.error(LimitError, f"register 0x{register:02X} has limits; {BEHIND[register]}")
        with suppress(ValueError):
            if 0 < len(data := bytes.fromhex(written)) <= MAX_DATA_BYTES:
                self._write_verified(register, data)
                return
        raise self.error(
            LimitError,
            f"{written[:40]!r} are not 1 to {MAX_DATA_BYTES} bytes in hexadecimal, as in write('0x8D 4c41'); nothing was sent",
        )

    def _register(self, number: str) -> int:
        with suppress(ValueError):
            if 0 <= (register := int(number, 0)) <= 0xFF:
                return register
        raise self.error(
            LimitError,
            f"{number[:40]!r} is no register, which has a number from 0x00 to 0xFF; nothing was sent",
        )

    def _read_wavelength(self) -> float:
        centre = self._read_int(REG_CENTRE_WAVELENGTH, "<I")
        return (centre + self._read_int(REG_OFFSET_READOUT, "<i")) * 1e-4

    def _read_int(self, register: int, layout: str) -> int:
        """A number; MalformedReplyError for another size, after a sound telegram, so the line is in step."""
        data = self._bus.read(register)
        if len(data) != struct.calcsize(layout):
            raise self._malformed(register, data, struct.calcsize(layout))
        value: int = struct.unpack(layout, data)[0]
        return value

    def _read_if_there(self, register: int, size: int, *, signed: bool = False) -> int:
        """A number, or 0 where the module has no such register (NACK): what is not there cannot be on."""
        try:
            data = self._bus.read(register)
        except InstrumentRefusedError:
            return 0
        if len(data) != size:
            raise self._malformed(register, data, size)
        return int.from_bytes(data, "little", signed=signed)

    def _write_passive(self, register: int, data: bytes) -> None:
        self._write_verified(register, data)
        self._passive[register] = data

    def _write_all(self, registers: dict[int, bytes]) -> None:
        for register, data in registers.items():
            self._write_verified(register, data)

    def _write_verified(self, register: int, data: bytes) -> None:
        """Write a register and read it back: an acknowledged value may still have been clipped."""
        self._bus.write(register, data)
        held = self._bus.read(register)
        if held != data:
            raise self.error(
                InstrumentRefusedError,
                f"register 0x{register:02X}: wrote {data.hex()}, it holds {held.hex()}",
            )

    def _malformed(self, register: int, data: bytes, size: int) -> InstrumentError:
        return self.error(
            MalformedReplyError,
            f"register 0x{register:02X} holds {len(data)} bytes ({data.hex()}), {size} were expected; "
            f"this firmware differs, and no value is guessed",
        )
