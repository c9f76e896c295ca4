"""Registers of NKT Photonics Koheras modules on Interbus, and which modules share a register table.

Sources: the vendor's register files 21, 33, 34, 36 and ``Module types.txt`` as kept in NickSchnoor/NKTcontrol
``Register Files/`` (numbers, types, scales, status bits, error codes); QMI
``qmi/instruments/nkt_photonics/adjustik.py`` and ograsdijk's ``bits_handling.py`` (set-up bits);
MSL-Equipment ``resources/nkt/nkt.py`` on the SDK manual 2.1.15 (forms of 0x61 and 0x64).  All numbers are little
endian.  The status word has 16 bits (ograsdijk reads 8 and misses the error flag).
"""

from __future__ import annotations

from dataclasses import dataclass

REG_POWER_READOUT = 0x17  # u16, 0.01 mW
REG_TEMPERATURE = 0x1C  # i16, 0.1 degC
REG_SUPPLY_VOLTAGE = 0x1E  # u16, mV
REG_POWER_SETPOINT = 0x22  # u16, 0.01 mW
REG_OFFSET_SETPOINT = 0x2A  # i16, 0.1 pm
REG_MODULATION_OFFSET = 0x2F  # i16, 0.1 %
REG_EMISSION = 0x30  # u8
REG_SETUP = 0x31  # 16 bits
REG_CENTRE_WAVELENGTH = 0x32  # u32, 0.1 pm
REG_EMISSION_DELAY = 0x3A  # u8, 0.1 s
REG_MODULE_TYPE = 0x61  # u8, or u16 and a description
REG_FIRMWARE = 0x64  # u16, and a text in later firmware
REG_SERIAL_NUMBER = 0x65  # text
REG_STATUS = 0x66  # u16
REG_ERROR_CODE = 0x67  # u8
REG_OFFSET_READOUT = 0x72  # i32, 0.1 pm (ograsdijk reads its lower half)
REG_POWER_SETPOINT_DBM = 0xA0  # i16, 0.01 dBm: the same set point as 0x22
REG_WAVELENGTH_MODULATION = 0xB5  # u8
REG_AMPLITUDE_MODULATION = 0xB6  # u8

SETUP_BITS = {
    2: "external wavelength modulation",
    3: "wavelength modulation DC coupled",
    4: "internal wavelength modulation",
    5: "modulation output",
    8: "pump at constant current",
    9: "external amplitude modulation",
}
"""Bits of 0x31 that are off in the known state: with one of them on, the power and wavelength set points are not what
comes out.  Bit 1 chooses the range of a modulation that is off (QMI: wide, ograsdijk: narrow); the others have no
published meaning, and all of these are left as they are.  For the MIKRO (0x36) the bits are unverified."""
SETUP_MASK = sum(1 << bit for bit in SETUP_BITS)

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


@dataclass(frozen=True)
class Basik:
    """A module with the register table of this file; ``off`` are registers that are zero in the known state, with sizes."""

    model: str
    off: dict[int, int]


BASIKS = {
    0x33: Basik(
        "Koheras BASIK K1x2",
        {REG_WAVELENGTH_MODULATION: 1, REG_AMPLITUDE_MODULATION: 1, REG_MODULATION_OFFSET: 2},
    ),
    0x36: Basik("Koheras BASIK MIKRO K0x2", {}),
}
OFF_NAMES = {
    REG_WAVELENGTH_MODULATION: "wavelength modulation",
    REG_AMPLITUDE_MODULATION: "amplitude modulation",
    REG_MODULATION_OFFSET: "wavelength modulation offset",
}

OTHER_MODULES = {
    0x20: "Koheras AdjustiK/BoostiK (K81-1 to K83-1); its registers are others",
    0x21: "Koheras BASIK K80-1, whose registers are others (power set point 0x23, in mA or 0.01 mW)",
    0x34: "Koheras ADJUSTIK/ACOUSTIK frame (K822/K852); the lasers in it have addresses of their own",
    0x3A: "Koheras BOOSTIK HP amplifier",
    0x3B: "Koheras HARMONIK",
    0x60: "SuperK Extreme or Fianium",
    0x61: "SuperK Extreme front panel",
    0x66: "SuperK RF driver or SELECT",
    0x67: "SuperK SELECT",
    0x68: "SuperK VARIA",
    0x6B: "Extend UV",
    0x70: "BoostiK amplifier (N83)",
    0x74: "SuperK COMPACT",
    0x7D: "SuperK EVO",
    0x88: "SuperK FIANIUM",
}
USUAL_ADDRESSES = (0x01, 0x02, 0x0A, 0x0F, 0x80)
"""Where modules are found that nobody gave another address (SDK manual chapter 6, quoted in QMI ``adjustik.py``)."""


def module_name(module_type: int) -> str:
    """What a module is, for messages."""
    basik = BASIKS.get(module_type)
    known = basik.model if basik else OTHER_MODULES.get(module_type, "unknown to this driver")
    return f"type 0x{module_type:02X}, {known}"


def module_type(data: bytes) -> int:
    """The type in register 0x61: one byte, or two and a description; 0x20 and 0x21 use the first byte only."""
    return data[0] if data[:1] in (b"\x20", b"\x21") else int.from_bytes(data[:2], "little")


def firmware(data: bytes) -> str:
    """The version in register 0x64, ``major.minor`` in hexadecimal; a text that may follow it is left out."""
    return data[:2][::-1].hex(".")


def text(data: bytes) -> str:
    """A string register: Latin-1, ended by zero bytes or spaces."""
    return data.partition(b"\x00")[0].decode("latin-1").strip()


def set_bits(word: int, names: dict[int, str]) -> list[str]:
    """The names of the bits that are set in ``word``."""
    return [name for bit, name in names.items() if word >> bit & 1]
