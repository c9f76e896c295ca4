"""Which dashboard of a testbed serves where: a file in the state folder, locked while its process lives.

The file of a process that was killed is not locked any more, so it says nothing.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import msgspec

from lab.runs.testbeds.machine import Machine
from orchestrator.decoding import from_json
from orchestrator.durable import make_folder

FOLDER = "dashboard"
FILE = "serving.json"
AUDIT_FILE, AUDIT_PAGE = "audit.html", "/pages/audit"
"""The page of the latest audit that somebody asked a dashboard for, and its address."""
PROBE_S = 1.0


class Serving(msgspec.Struct, frozen=True):
    """A dashboard that serves."""

    url: str
    process: int
    testbed: str

    def __str__(self) -> str:
        return f"a dashboard of {self.testbed} serves at {self.url} (process {self.process})"


def serving(machine: Machine) -> Serving | None:
    """The dashboard of this testbed that serves at this moment."""
    try:
        with (machine.folder(FOLDER) / FILE).open("rb") as file:
            if _lock(file.fileno()):
                return None
            return from_json(file.read(), Serving)
    except (OSError, ValueError):
        return None


@contextmanager
def announced(machine: Machine, url: str) -> Iterator[None]:
    """Have the file say that we serve at ``url``, unless another one is named there, or it cannot be written."""
    try:
        make_folder(machine.folder(FOLDER))
        descriptor = os.open(machine.folder(FOLDER) / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        yield  # nobody can be told; what it means for actions is told with the token
        return
    try:
        ours = _lock(descriptor)
        if ours:
            with suppress(OSError):  # a full disk: nobody is told
                _replace(descriptor, msgspec.json.encode(Serving(url, os.getpid(), machine.testbed.name)))
        yield
        if ours:
            with suppress(OSError):
                _replace(descriptor, b"")
    finally:
        os.close(descriptor)


def at(host: str, port: int) -> str:
    """What is known of the process that listens there: the testbed of a dashboard, "" for anything else."""
    connection = http.client.HTTPConnection(host, port, timeout=PROBE_S)
    try:
        connection.request("GET", "/api/who")
        told = json.loads(connection.getresponse().read(4096))
        return f"the dashboard of {told['testbed']}"
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return ""
    finally:
        connection.close()


def _lock(descriptor: int) -> bool:
    """Whether nobody else has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _replace(descriptor: int, content: bytes) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, content, 0)
