"""Claims on instruments: on one machine an instrument has one user at a time, whatever testbed file or folder each has.

A claim is a lock on a file that stands for the *address* of an instrument, so a role, a notebook, a listing and the
recording of a transcript meet at one place even where they know nothing of each other: other testbed files, other state
folders, other spellings of the address.  The files lie in one folder of the machine, open to all its users; a file holds
the number of the process that has the instrument and what it runs as, and goes when it is given back.

The guard of an owner shares the locks, so that a successor waits until a killed owner's instruments are safe; it
empties the files when it takes over.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from drivers.catalogue import row
from drivers.guard import GUARD_LIMIT_S
from lab.consistency import meant
from lab.testbed import InstrumentEntry

LOCKS = Path("/tmp/qunetlab-instruments")
"""One place for all users of a machine, so neither TMPDIR nor a user's own folder."""
TAKEOVER_S = 2.0
"""A guard that takes over empties the lock files well within this time."""
PSEUDO_TERMINALS = "/dev/pts/"
"""Their numbers are given anew as soon as one is closed: the line of a simulator that has ended, whose role still runs, is not
the next one's.  When a terminal was made tells them apart."""
_OPEN_TO_ALL, _FILE = 0o1777, 0o666


class OwnedError(Exception):
    """Another process has an instrument."""


@contextmanager
def claiming(
    entries: Iterable[InstrumentEntry], user: str, *, patience_s: float = GUARD_LIMIT_S
) -> Iterator[list[int]]:
    """Have the instruments of ``entries`` as ``user``; yields the descriptors of their locks.

    Waits for the guard of a killed owner.  Raises OwnedError when another process has one of them, or its guard hangs;
    with no patience, at once in either case.
    """
    claimed = {_place(entry): entry for entry in entries if entry.has_address}
    give_up, held = time.monotonic() + patience_s, dict[Path, int]()
    try:
        for place in sorted(claimed):  # in one order, so that no two wait for each other
            held[place] = _claim(place, claimed[place], patience_s, give_up)
            os.ftruncate(held[place], os.pwrite(held[place], f"{os.getpid()} {user}\n".encode(), 0))
        yield list(held.values())
    finally:
        for place, descriptor in held.items():
            with suppress(OSError):  # a file that another user of the machine made stays
                place.unlink()
            os.close(descriptor)


def _claim(place: Path, entry: InstrumentEntry, patience_s: float, give_up: float) -> int:
    begun = time.monotonic()
    while True:
        if (descriptor := _locked(place)) is not None:
            return descriptor
        number, _, user = _holder(place).partition(" ")
        now = time.monotonic()
        if number and now - begun >= min(TAKEOVER_S, patience_s):
            raise OwnedError(
                f"process {number} on this machine runs as {user} and has {entry.name} at {entry.address}; "
                "stop it first, an instrument has one user at a time"
            )
        if now >= give_up:
            raise OwnedError(
                f"the guard of a process that was killed has been making {entry.name} at {entry.address} safe for "
                f"{now - begun:.0f} s; look at it, then end the guard"
            )
        time.sleep(0.05)


def _locked(place: Path) -> int | None:
    """The descriptor of the file at ``place``, locked; None where somebody else has it."""
    while True:
        descriptor = _opened(place)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(descriptor, place):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # whoever had it took the file away


def _opened(place: Path) -> int:
    """A descriptor of the file; created only where it is missing, as systems forbid to create over another user's."""
    while True:
        with suppress(FileNotFoundError):
            return os.open(place, os.O_RDWR | os.O_NOFOLLOW)
        if not place.parent.is_dir():
            place.parent.mkdir(exist_ok=True)
            place.parent.chmod(_OPEN_TO_ALL)
        with suppress(FileExistsError):
            descriptor = os.open(place, os.O_RDWR | os.O_NOFOLLOW | os.O_CREAT | os.O_EXCL, _FILE)
            os.fchmod(descriptor, _FILE)
            return descriptor


def _is_at(descriptor: int, place: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), os.stat(place))
    return False


def _holder(place: Path) -> str:
    """Number and user, as the holder wrote them; empty once its guard has taken over."""
    with suppress(FileNotFoundError):
        return place.read_bytes().partition(b"\n")[0].decode("utf-8", "replace")
    return ""


def _place(entry: InstrumentEntry) -> Path:
    """The file that stands for an instrument, by what its address means.

    A host is known by its number, a pseudo-terminal by its number and when it was made.
    """
    meaning = meant(row(entry.model), entry.address)
    interface, _, rest = meaning.partition(" ")
    if interface == "lan":
        host, _, port = rest.partition(" ")
        with suppress(OSError):
            meaning = f"lan {socket.gethostbyname(host)} {port}"
    elif (device := os.path.realpath(entry.address)).startswith(PSEUDO_TERMINALS):
        with suppress(OSError):
            meaning = f"{meaning} made {os.stat(device).st_ctime_ns}"
    return LOCKS / hashlib.sha256(meaning.encode()).hexdigest()[:32]
