"""Whether this machine can run the stack, and what to mend: one row for each thing that goes wrong at people's machines.

Nothing is changed, no instrument is opened, and nothing is left behind.  A check that cannot be made says so and is a warning:
what is not known is not good.  Each takes its surroundings as arguments, so that tests can give it bad ones.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.util
import locale
import os
import re
import resource
import shutil
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Literal

import msgspec

from lab.runs.extras import EXTRAS, how_to_install

Verdict = Literal["good", "warning", "fault"]
LEAST_PYTHON = (3, 11)
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
"""Of a distribution, as a requirement begins with it (PEP 508)."""
SYNCS = 8
SLOW_SYNC_S = 0.05
"""A block is written down in a few of them."""
LEAST_FREE_BYTES = 2 << 30
LEAST_FILES = 256
STA_UNSYNC, TIME_ERROR = 0x40, 5
"""Of adjtimex(2): the clock follows no other, and the state that says so."""


class Row(msgspec.Struct, frozen=True):
    """One thing that was looked at; ``what_to_do`` is empty where nothing is."""

    name: str
    verdict: Verdict
    text: str
    what_to_do: str = ""


Check = Callable[[], Iterator[Row]]


def checks(state: Path, ports: Sequence[tuple[str, int]]) -> list[tuple[str, Check]]:
    """Every check by name; ``state`` is where roles would keep what they have, ``ports`` what they would listen at."""
    return [
        ("Python", python),
        ("packages", packages),
        ("extras", extras),
        ("text", text_of_terminal),
        ("loopback", loopback),
        ("ports", lambda: ports_free(ports)),
        ("serial ports", lambda: serial_ports(Path("/dev"))),
        ("VISA", visa),
        ("USB", usb),
        ("disk", lambda: disk(state)),
        ("durable writes", lambda: durable_writes(state)),
        ("clock", clock),
        ("open files", open_files),
    ]


def examined(
    state: Path, ports: Sequence[tuple[str, int]], expiring: Sequence[str] | None = None
) -> Iterator[Row]:
    """The rows of all checks; one that fails itself is a warning with its error.

    ``expiring`` is what is wrong with the certificates of a testbed; None without one.
    """
    told = [] if expiring is None else [("certificates", lambda: certificates(expiring))]
    for name, check in [*checks(state, ports), *told]:
        try:
            yield from check()
        except Exception as error:  # noqa: BLE001 - a machine that is odd in yet another way is what is asked about
            yield Row(name, "warning", f"could not be looked at: {type(error).__name__}: {error}")


def python(version: tuple[int, ...] = sys.version_info[:3]) -> Iterator[Row]:
    """Of which we need a recent one."""
    told = ".".join(map(str, version))
    if version < LEAST_PYTHON:
        yield Row(
            "Python", "fault", f"{told} is too old", "install Python 3.11 or later, and qunetlab for it"
        )
    else:
        yield Row("Python", "good", f"{told} at {sys.executable}")


def packages(strange: Callable[[], list[str]] | None = None) -> Iterator[Row]:
    """Ours are ours, and those that we need are there."""
    from qunetlab import strangers

    for told in (strange or strangers)():
        yield Row("packages", "fault", told, "rename what bears this name, or take its folder off PYTHONPATH")
    for name in ("drivers", "fl", "lab", "orchestrator", "sim_backends"):
        if (Path.cwd() / name / "__init__.py").exists() and Path.cwd() != Path(__file__).parents[2]:
            yield Row(
                "packages",
                "warning",
                f"a package {name!r} lies in the current folder",
                "start scripts of your own from another folder, or with python -P; qunetlab itself does not mind",
            )
    missing = [need for need in _needed("qunetlab") if not _is_there(need)]
    if missing:
        yield Row("packages", "fault", f"{', '.join(missing)} missing", "install qunetlab again")
    else:
        yield Row("packages", "good", f"qunetlab {metadata.version('qunetlab')} with all that it needs")


def _needed(distribution: str) -> Iterator[str]:
    """Names of the distributions that one needs without extras."""
    for line in metadata.requires(distribution) or ():
        requirement, _, marker = line.partition(";")
        if not re.search(r"\bextra\s*==", marker) and (name := NAME.match(requirement)):
            yield name[0]


def _is_there(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def extras(found: Callable[[str], object | None] = importlib.util.find_spec) -> Iterator[Row]:
    """Which are installed; none is needed by everybody."""
    for extra, modules in EXTRAS.items():
        missing = [name for name in modules if found(name) is None]
        if missing:
            text = f"not installed ({', '.join(missing)} missing)"
            yield Row(f"extra {extra}", "good", text, f"where it is wanted: {how_to_install(extra)}")
        else:
            yield Row(f"extra {extra}", "good", "installed")


def text_of_terminal(encoding: str | None = None) -> Iterator[Row]:
    """Names and reasons may hold any letter."""
    encoding = encoding or sys.stdout.encoding or locale.getpreferredencoding()
    if encoding.lower().replace("-", "") == "utf8":
        yield Row("text", "good", "UTF-8")
    else:
        yield Row("text", "warning", f"{encoding} cannot show every letter", "set LANG to a UTF-8 locale")


def loopback(bind: Callable[[str], None] | None = None) -> Iterator[Row]:
    """Simulated instruments have addresses of their own there."""
    try:
        (bind or _bind_at)("127.83.71.2")
    except OSError as error:
        yield Row(
            "loopback",
            "warning",
            f"only 127.0.0.1 can be listened at ({error.strerror or error})",
            "several simulated benches at a time share ports then; on macOS: ifconfig lo0 alias",
        )
    else:
        yield Row("loopback", "good", "all of 127.0.0.0/8 can be listened at")


def _bind_at(host: str, port: int = 0) -> None:
    with socket.socket() as probe:
        probe.bind((host, port))


def ports_free(ports: Sequence[tuple[str, int]]) -> Iterator[Row]:
    """Of our own roles."""
    taken = []
    for host, port in ports:
        try:
            _bind_at(host, port)
        except OSError:
            taken.append(f"{host}:{port}")
    if taken:
        yield Row(
            "ports",
            "warning",
            f"{', '.join(taken)} cannot be listened at",
            "where our own roles run there, all is well; else end what does, or init with another --port",
        )
    elif ports:
        yield Row("ports", "good", f"{len(ports)} are free")


def certificates(told: Sequence[str]) -> Iterator[Row]:
    """With which applications and nodes prove who they are; ``told`` are those that fail, or soon will."""
    for each in told:
        what, _, mend = each.partition(": `")
        yield Row("certificates", "warning", what, f"`{mend}" if mend else "")
    if not told:
        yield Row("certificates", "good", "none expires within thirty days")


def serial_ports(dev: Path) -> Iterator[Row]:
    """Of lasers, attenuators and switches, which only some users may open."""
    found = sorted(each for kind in ("ttyUSB*", "ttyACM*", "ttyS[0-9]") for each in dev.glob(kind))
    shut = [each for each in found if not os.access(each, os.R_OK | os.W_OK)]
    if shut:
        yield Row(
            "serial ports",
            "fault",
            f"{', '.join(map(str, shut))} may not be opened",
            f"sudo usermod -aG dialout {os.environ.get('USER', 'YOU')}, then log in again",
        )
    elif found:
        yield Row("serial ports", "good", f"{', '.join(each.name for each in found)} may be opened")
    else:
        yield Row("serial ports", "good", "none is here; simulated instruments need none")


def visa() -> Iterator[Row]:
    """By which generators, attenuators and power meters are reached."""
    if importlib.util.find_spec("pyvisa_py") is None:
        yield Row("VISA", "fault", "pyvisa-py is missing", "pip install pyvisa-py")
    else:
        yield Row(
            "VISA",
            "good",
            f"pyvisa {metadata.version('pyvisa')} with pyvisa-py {metadata.version('pyvisa-py')}",
        )


def usb(library: Callable[[], str | None] | None = None) -> Iterator[Row]:
    """For instruments at USB addresses alone."""
    if importlib.util.find_spec("usb") is None:
        yield Row(
            "USB",
            "good",
            "PyUSB is not installed",
            f"for VISA addresses USB::...: {how_to_install('usb')}",
        )
        return
    name = library() if library else ctypes.util.find_library("usb-1.0")
    if name is None and importlib.util.find_spec("libusb_package") is None:
        yield Row("USB", "warning", "there is no libusb", f"install libusb-1.0, or {how_to_install('usb')}")
    else:
        yield Row("USB", "good", f"PyUSB with {name or 'libusb-package'}")


def disk(state: Path, free_bytes: int | None = None) -> Iterator[Row]:
    """Where keys are kept."""
    place = _existing(state)
    free = shutil.disk_usage(place).free if free_bytes is None else free_bytes
    if not os.access(place, os.W_OK):
        yield Row("disk", "fault", f"{place} cannot be written", "choose another folder, or ask its owner")
    elif free < LEAST_FREE_BYTES:
        yield Row(
            "disk",
            "warning",
            f"{free / 1e9:.1f} GB are free at {place}",
            "make room: a day of records takes some",
        )
    else:
        yield Row("disk", "good", f"{free / 1e9:.0f} GB are free at {place}")


def durable_writes(state: Path, sync: Callable[[int], None] = os.fsync) -> Iterator[Row]:
    """How long the disk takes until something stands: a key is given away only then."""
    took = []
    with tempfile.TemporaryFile(dir=_existing(state)) as file:
        for _ in range(SYNCS):
            file.write(b"x")
            file.flush()
            since = time.perf_counter()
            sync(file.fileno())
            took.append(time.perf_counter() - since)
    median_s = statistics.median(took)
    told = f"fsync takes {1e3 * median_s:.2f} ms (median of {SYNCS})"
    if median_s > SLOW_SYNC_S:
        yield Row("durable writes", "warning", told, "keep state on a local disk, not on a network or a card")
    else:
        yield Row("durable writes", "good", told)


def clock(unsynchronised: Callable[[], bool] | None = None) -> Iterator[Row]:
    """Records and calibrations are dated by it; no time-out is."""
    asked = unsynchronised or _unsynchronised
    if asked():
        yield Row("clock", "warning", "it follows no other clock", "turn on NTP: timedatectl set-ntp true")
    else:
        yield Row("clock", "good", "it is synchronised")


def _unsynchronised() -> bool:
    """What adjtimex(2) says; raises OSError where there is none."""

    class Timex(ctypes.Structure):
        _fields_ = (
            ("modes", ctypes.c_uint),
            *((name, ctypes.c_long) for name in ("offset", "freq", "maxerror", "esterror")),
            ("status", ctypes.c_int),
            ("rest", ctypes.c_byte * 256),
        )

    told = Timex()
    state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(told))
    if state < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return state == TIME_ERROR or bool(told.status & STA_UNSYNC)


def open_files(limit: int | None = None) -> Iterator[Row]:
    """A hub has two links for each role."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if limit is None else limit
    if 0 <= limit < LEAST_FILES:
        yield Row("open files", "warning", f"a process may have {limit}", f"ulimit -n {4 * LEAST_FILES}")
    else:
        yield Row("open files", "good", f"a process may have {'any number' if limit < 0 else limit}")


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next(each for each in (folder, *folder.parents) if each.is_dir())


def worst(rows: Collection[Row]) -> Verdict:
    """Of all."""
    order: tuple[Verdict, ...] = ("fault", "warning")
    return next((each for each in order if any(row.verdict == each for row in rows)), "good")
