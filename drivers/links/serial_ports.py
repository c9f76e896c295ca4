"""What the system knows about its serial ports, for people who look for the right one.

A USB adapter gets the next free name (``/dev/ttyUSB1``) when it comes back before the old one is given up, or when the
machine starts with another plugged in.  Its USB serial number stays: ``/dev/serial/by-id/...`` and pyserial's
``hwgrep://SERIAL`` are names that last.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from serial.tools import list_ports

BY_ID = Path("/dev/serial/by-id")
PROCESSES = Path("/proc")


@dataclass(frozen=True)
class Port:
    """A serial port that is there; empty where the system does not say."""

    device: str
    product: str
    usb_serial_number: str
    lasting_name: str

    def __str__(self) -> str:
        said = [self.product, f"USB serial number {self.usb_serial_number}" if self.usb_serial_number else ""]
        about = ", ".join(part for part in said if part)
        return " = ".join(part for part in (self.device, self.lasting_name) if part) + (
            f" ({about})" if about else ""
        )


def present(by_id: Path = BY_ID) -> list[Port]:
    """The ports of this machine."""
    lasting = {os.path.realpath(link): str(link) for link in by_id.iterdir()} if by_id.is_dir() else {}
    return [
        Port(
            port.device,
            port.product or "",
            port.serial_number or "",
            lasting.get(os.path.realpath(port.device))
            or (f"hwgrep://{port.serial_number}" if port.serial_number else ""),
        )
        for port in sorted(list_ports.comports())
    ]


def usb_serial_number(address: str) -> str:
    """The USB serial number of the adapter at ``address``, or of an instrument that is one; empty where none is known."""
    scheme, _, named = address.partition("hwgrep://")
    if named and not scheme:
        return next((port.usb_serial_number for port in present() if port.usb_serial_number == named), "")
    device = os.path.realpath(address)
    return next((port.usb_serial_number for port in present() if os.path.realpath(port.device) == device), "")


def told(ports: list[Port]) -> str:
    """Which ports there are, and which names last, for messages."""
    if not ports:
        return "this machine has no serial port at present"
    lasts = any(port.lasting_name for port in ports)
    advice = (
        "; /dev/serial/by-id/... and hwgrep://SERIAL are names that stay with the adapter" if lasts else ""
    )
    return f"present are {', '.join(map(str, ports))}{advice}"


def holders(path: str, processes: Path = PROCESSES) -> list[str]:
    """Who keeps the port from being opened, as far as the system shows it to this user.

    The process that locked it (``/proc/locks``), or else every other one that has it open.
    """
    with suppress(OSError):
        if locking := list(_locking(os.stat(path), processes)):
            return locking
    device = os.path.realpath(path)
    return [
        _named(process)
        for process in sorted(processes.glob("[0-9]*"))
        if process.name != str(os.getpid()) and device in _open_files(process)
    ]


def _locking(port: os.stat_result, processes: Path) -> Iterator[str]:
    place = f"{os.major(port.st_dev):02x}:{os.minor(port.st_dev):02x}:{port.st_ino}"
    for line in (processes / "locks").read_text("ascii").splitlines():
        words = line.split()
        if "FLOCK" in words and place in words:
            number = words[words.index(place) - 1]
            yield "this process itself" if number == str(os.getpid()) else _named(processes / number)


def _open_files(process: Path) -> Iterator[str]:
    with suppress(OSError):  # ended meanwhile, or another user's
        for link in (process / "fd").iterdir():
            with suppress(OSError):
                yield os.readlink(link)


def _named(process: Path) -> str:
    words = []
    with suppress(OSError):
        words = (process / "cmdline").read_bytes().rstrip(b"\x00").split(b"\x00")
    command = " ".join(b" ".join(words).decode("utf-8", "replace").split())[:80]
    return f"process {process.name}" + (f" ({command})" if command else "")
