"""Addresses of instruments as text: whether one has its form, and what it means whatever its spelling.

Three forms, as the catalogue declares them: a VISA resource, ``host`` or ``host:port``, and a serial port.  Every
function gives the *meaning* of an address, equal for two spellings of one place, or raises AddressError with what
to write instead.  No network name is looked up and no port is opened; symbolic links to serial ports are followed.

Grammar of VISA resources: VPP-4.3 section 4.3.1 (board numbers and the class at the end may be left out there;
here the class must be said, because ``TCPIP::host::4000`` is read as a device of that name, not as a port).
"""

from __future__ import annotations

import ipaddress
import os
import re

_VISA = re.compile(r"(TCPIP|USB|GPIB|ASRL)([^:]*)::(.+)", re.IGNORECASE)
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_COM = re.compile(r"(?:\\\\\.\\)?(COM\d+)", re.IGNORECASE)
_PORT_URLS = ("socket://", "rfc2217://", "hwgrep://", "alt://", "spy://")
"""What pyserial opens by URL."""
_WHOLE_DEVICES = ("", "inst0", "hislip0")
"""Names of the instrument itself at a LAN interface; others stand for what is behind a gateway."""

VXI11_PORT, HISLIP_PORT = 111, 4880
"""Where TCPIP::host::inst0::INSTR and TCPIP::host::hislip0::INSTR are answered."""


class AddressError(ValueError):
    """An address that has not the form of its instrument; says what to write."""


def visa_meaning(address: str, port: int | None = None) -> str:
    """What a VISA resource means; ``port`` is the instrument's usual one, which ``INSTR`` at its host shares."""
    try:
        _require_no_space(address)
        found = _VISA.fullmatch(address)
        if found is None:
            raise AddressError(_visa_instead(address, port))
        interface, board, rest = found[1].upper(), found[2], found[3].split("::")
        if interface == "ASRL":
            _require_end(f"ASRL{board}", rest, ("INSTR",))
            return serial_meaning(f"COM{board}" if board.isdecimal() else board)
        if board and not board.isdecimal():
            raise AddressError(f"{interface}{board} is no interface; write {interface}0 or {interface}")
        if interface == "TCPIP":
            return _lan(rest, port)
        return _usb(rest) if interface == "USB" else _gpib(board, rest)
    except AddressError as error:
        raise AddressError(f"address {address!r} is no VISA resource: {error}") from None


def host_meaning(address: str, port: int) -> str:
    """What ``host`` or ``host:port`` means; ``port`` is the one that is not written."""
    host, given = split_address(address, port)
    return f"lan {_canonical_host(host)} {given}"


def split_address(address: str, port: int) -> tuple[str, int]:
    """``"host"`` or ``"host:port"`` -> (host, port); AddressError for anything else."""
    try:
        _require_no_space(address)
        if bare := _host_in(address):
            raise AddressError(f"write {bare}, or HOST:PORT where it is not port {port}")
        host, colon, text = address.partition(":")
        _require_host(host)
        return host, _port(text) if colon else port
    except AddressError as error:
        raise AddressError(f"address {address!r} is not 'host' or 'host:port': {error}") from None


def serial_meaning(address: str) -> str:
    """What a path, a ``COM`` port or a URL of pyserial means."""
    try:
        _require_no_space(address)
        if com := _COM.fullmatch(address):
            return f"serial {com[1].upper()}"
        if address.lower().startswith(_PORT_URLS):
            return f"serial {address}"
        if address.upper().startswith("ASRL"):
            raise AddressError(f"it is a VISA resource; write the port alone: {address.split('::')[0][4:]}")
        if not os.path.isabs(address):
            raise AddressError("write the path of the port, such as /dev/ttyUSB0, or COM3")
        return f"serial {os.path.realpath(address)}"
    except AddressError as error:
        raise AddressError(f"address {address!r} is no serial port: {error}") from None


def _visa_instead(address: str, port: int | None) -> str:
    """What to write for an address that is no VISA resource."""
    host = address.split("://")[-1].partition(":")[0].rstrip("/")
    if os.path.isabs(address):
        return f"write ASRL{address}::INSTR"
    if not _HOST.fullmatch(host) or host.upper().startswith(("TCPIP", "USB", "GPIB", "ASRL")):
        host = "HOST"
    return (
        f"write TCPIP::{host}::{port or 'PORT'}::SOCKET or TCPIP::{host}::INSTR, or USB::VENDOR::MODEL::SERIAL::INSTR, "
        "GPIB::NUMBER::INSTR or ASRL/dev/PORT::INSTR where it is no instrument on the network"
    )


def _host_in(address: str) -> str:
    """The host that a URL or a VISA resource names; empty for anything else."""
    if "://" in address:
        return address.split("://", 1)[1].rstrip("/")
    return host_of(address) if "::" in address else ""


def host_of(address: str) -> str:
    """The host that an address of either network form names; empty for anything else."""
    if found := _VISA.fullmatch(address):
        return found[3].split("::")[0].partition(",")[0] if found[1].upper() == "TCPIP" else ""
    host = address.partition(":")[0]
    return "" if "://" in address or os.path.isabs(address) or not _HOST.fullmatch(host) else host


def _lan(rest: list[str], port: int | None) -> str:
    host, kind, text = (
        rest[0].partition(",")[0],
        rest[-1].upper(),
        "::".join(rest),
    )  # pyvisa-py: HOST,PORT of VXI-11
    _require_host(host)
    if kind == "SOCKET" and len(rest) == 3:
        return f"lan {_canonical_host(host)} {_port(rest[1])}"
    if kind == "INSTR" and len(rest) in (2, 3):
        device = rest[1].lower() if len(rest) == 3 else ""
        if device.isdecimal():
            raise AddressError(f"{device} is a port; write TCPIP::{host}::{device}::SOCKET")
        where = rest[0].partition(",")[2] or (
            port if device in _WHOLE_DEVICES and port else device or "inst0"
        )
        return f"lan {_canonical_host(host)} {where}"
    if len(rest) == 2 and rest[1].isdecimal():
        raise AddressError(f"its end is missing; write TCPIP::{text}::SOCKET")
    raise AddressError(
        f"its end is missing; write TCPIP::{host}::{port or 'PORT'}::SOCKET or TCPIP::{host}::INSTR"
    )


def _usb(rest: list[str]) -> str:
    _require_end("USB", rest, ("INSTR", "RAW"))
    try:
        vendor, model, serial_number = rest[:3]
        return f"usb {int(vendor, 0):04x}:{int(model, 0):04x} {serial_number}"
    except ValueError:
        raise AddressError(
            "write USB::VENDOR::MODEL::SERIAL::INSTR with numbers for the first two, as in "
            "USB::0x1313::0x8078::P0001::INSTR"
        ) from None


def _gpib(board: str, rest: list[str]) -> str:
    _require_end("GPIB", rest, ("INSTR",))
    if not all(each.isdecimal() for each in rest[:-1]):
        raise AddressError("a GPIB address is a number, as in GPIB0::5::INSTR")
    return f"gpib {int(board or 0)} {' '.join(str(int(each)) for each in rest[:-1])}"


def _require_no_space(address: str) -> None:
    if not address or address != "".join(address.split()):
        raise AddressError("it is empty or holds a space; write it without")


def _require_end(interface: str, rest: list[str], ends: tuple[str, ...]) -> None:
    if rest[-1].upper() not in ends:
        raise AddressError(f"its end is missing; write {'::'.join((interface, *rest, ends[0]))}")


def _require_host(host: str) -> None:
    if not _HOST.fullmatch(host):
        raise AddressError(f"{host!r} is no host; write a name or an IPv4 address")
    if re.fullmatch(r"[\d.]+", host):
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise AddressError(
                f"{host} is no IPv4 address, which has four numbers up to 255 without zeros before"
            ) from None


def _canonical_host(host: str) -> str:
    host = host.lower().rstrip(".")
    return "127.0.0.1" if host == "localhost" else host


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 0 < int(text) < 65536):
        raise AddressError(f"{text!r} is no port, which is a number from 1 to 65535")
    return int(text)
