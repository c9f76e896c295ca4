"""Why an instrument cannot be reached, in words that say what to do.

What the libraries raise names a function of theirs, a number of VISA or of the operating system, or nothing; the reason
is found from the address and from what this machine knows: whether the host has an address, which USB instruments and
serial ports are there, whether a library is installed.
"""

from __future__ import annotations

import errno
import os
import socket

import pyvisa

from drivers.links import serial_ports
from drivers.links.addresses import HISLIP_PORT, VXI11_PORT, AddressError, host_of, visa_meaning

_NO_WAY = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN)


def why_unreachable(host: str, port: int, error: OSError) -> str:
    """Why no connection to ``host:port`` came about."""
    if isinstance(error, socket.gaierror):
        return f"no host is known as {host} ({error.strerror}); check its spelling, or write its IP address"
    if isinstance(error, ConnectionRefusedError) or error.errno == errno.ECONNREFUSED:
        return f"nothing listens at port {port} of {host}; check address, port and power, and that the service is switched on"
    if isinstance(error, TimeoutError):
        return f"{host} gives no answer in time; check power, network cable and address"
    if error.errno in _NO_WAY:
        return (
            f"there is no way to {host} from this machine ({error.strerror}); check network cable and address"
        )
    return f"{error.strerror or error}; check power, cable and address"


def why_no_visa(address: str, error: Exception) -> str:
    """Why a VISA resource could not be opened, given what PyVISA raised."""
    try:
        visa_meaning(address)
    except AddressError as mistake:
        return str(mistake)
    if host := host_of(address):
        return _why_no_lan(address, host, error)
    if address.upper().startswith("USB"):
        return _why_no_usb(error)
    if address.upper().startswith("GPIB"):
        return _why_no_gpib(error)
    return _why_no_port(address.partition("::")[0][len("ASRL") :], error)


def _why_no_lan(address: str, host: str, error: Exception) -> str:
    parts = address.upper().split("::")
    service = f"; without {'HiSLIP' if 'HISLIP0' in parts else 'VXI-11'} an instrument has TCPIP::{host}::PORT::SOCKET"
    port = HISLIP_PORT if "HISLIP0" in parts else VXI11_PORT
    if parts[-1] == "SOCKET":
        port, service = int(parts[2]), ""
    told = isinstance(error, socket.gaierror | ConnectionRefusedError | TimeoutError)
    if isinstance(error, OSError) and not told and (unknown := _unknown(host)):
        return why_unreachable(
            host, port, unknown
        )  # of VXI-11, pyvisa-py tells only what went wrong afterwards
    if isinstance(error, OSError):
        return why_unreachable(host, port, error) + (
            service if told and not isinstance(error, socket.gaierror) else ""
        )
    if isinstance(error, pyvisa.errors.VisaIOError):
        return (
            f"{host} does not answer at port {port} ({error.abbreviation}); check power and address{service}"
        )
    return f"{host}: {_one_line(error)}"


def _unknown(host: str) -> OSError | None:
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:
        return error
    return None


def _why_no_usb(error: Exception) -> str:
    if "PyUSB" in str(error):
        return (
            "USB instruments need PyUSB and libusb, which qunetlab's extra 'usb' brings: "
            f"pip install pyusb libusb-package ({_one_line(error)})"
        )
    return (
        f"{_one_line(error).rstrip('.')}; check cable, power and serial number, and that this user may use the device "
        "(`qunetlab instruments scan` lists what is there)"
    )


def _why_no_gpib(error: Exception) -> str:
    if "gpib" not in str(error):
        return f"{_one_line(error)}; check the adapter, the cable and the instrument's GPIB address"
    return (
        "GPIB needs the driver of its adapter and a Python package for it, linux-gpib's or gpib-ctypes "
        f"({str(error).splitlines()[-1]}); most instruments have a LAN or USB address too"
    )


def _why_no_port(path: str, error: Exception) -> str:
    if os.path.isabs(path) and not os.path.exists(path):
        return f"{path} is not there; {serial_ports.told(serial_ports.present())}"
    if who := " and ".join(serial_ports.holders(path)):
        return f"{who} has {path}; one program at a time talks to an instrument, end the other first"
    return f"{_one_line(error)}; check the port and who may use it"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
