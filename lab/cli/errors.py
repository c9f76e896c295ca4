"""How errors are told on the command line: expected ones in a few words, unexpected ones with a trace."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import tempfile

from drivers.links.errors import InstrumentError
from lab.runs.extras import EXTRA_OF, how_to_install
from lab.runs.full_disk import full_places
from lab.runs.supervising.supervisor import PARENT_FD
from lab.runs.testbeds.folder import FolderError
from lab.station import StationError
from lab.testbed import TestbedError, UnknownNameError
from orchestrator.durable import is_full
from orchestrator.events.process import Failed, line_of

OURS = ("drivers", "fl", "lab", "orchestrator", "sim_backends", "qunetlab")
ADVICE = {
    errno.EACCES: "name another place, or ask its owner",
    errno.EPERM: "name another place, or ask its owner",
    errno.EROFS: "nothing can be written on its file system: name another place",
    errno.EEXIST: "something else of that name is there: name another place",
    errno.ENOTDIR: "part of the path is a file: name another place",
}
"""What to do about a place that cannot be read or written."""
UNEXPECTED = "unexpected error, please report it:\n"


def explain(error: Exception) -> tuple[int, str]:
    """Exit code and text for ``error``; a full disk is told with its place."""
    expected = _expected(error)
    if not is_full(error):
        return expected or (1, UNEXPECTED + _trace(error))
    _, text = expected or (1, f"error: {error}")
    places = full_places(sys.argv[1:], os.environ)
    return 1, "\n".join([text, *(f"  {place.text()}" for place in places)])


def text_on_terminal(error: Exception, text: str, *, debug: bool) -> str:
    """What a person is shown: with ``debug`` the trace too; of an unexpected error, else, where its trace was written.

    Logs, which are no terminal, get the whole text.
    """
    trace = _trace(error)
    if debug:
        return text if text.startswith(UNEXPECTED) else f"{trace}{text}"
    if not text.startswith(UNEXPECTED) or not sys.stderr.isatty():
        return text
    try:
        with tempfile.NamedTemporaryFile("w", prefix="qunetlab-trace-", suffix=".txt", delete=False) as file:
            file.write(trace)
    except OSError:
        return text
    return (
        f"unexpected error: {type(error).__name__}: {error}\n  this is a fault of qunetlab: please report it, with the "
        f"trace in {file.name} (or repeat the command with --debug)"
    )


def _trace(error: Exception) -> str:
    """As Python writes it; what an exception carries that could be key is not shown."""
    from lab.runs.roles.redaction import trace_of

    return trace_of(type(error), error, error.__traceback__) + "\n"


def tell_supervisor(error: Exception, text: str) -> None:
    """Print the failure as an event where a supervisor reads; it may be gone by then."""
    if PARENT_FD in os.environ:
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.write(line_of(Failed(text, is_full(error))) + "\n")
            sys.stdout.flush()


def _expected(error: Exception) -> tuple[int, str] | None:
    missing = (error.name or "").split(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if extra := EXTRA_OF.get(missing):
        return 2, (
            f"error: {missing} is not installed: this needs the extra {extra!r}; {how_to_install(extra)}"
        )
    if missing and missing not in OURS:
        return 2, (
            f"error: {missing} is not installed, and qunetlab needs it: install qunetlab again; `qunetlab doctor` says "
            "what else is missing"
        )
    if isinstance(error, FileNotFoundError):
        return 2, f"error: {plain(error)}"
    if isinstance(error, TestbedError | UnknownNameError | FolderError | ValueError):
        return 2, f"error: {error}"
    if isinstance(error, StationError | InstrumentError | ConnectionError):
        return 3, f"error: {error}"
    from fl.experiments.results import ResultsError
    from fl.workloads.data import DataError
    from orchestrator.delivery.certificates import CertificateError
    from orchestrator.delivery.errors import ConsentError

    if isinstance(error, DataError | ResultsError | ConsentError | CertificateError):
        return 2, f"error: {error}"
    if isinstance(error, OSError):  # an address in use, a full disk, a file that may not be read
        return 1, f"error: {plain(error)}"
    module = type(error).__module__.split(".")[0]
    if module in OURS:
        return 1, f"error: {error}"
    return None


def plain(error: OSError) -> str:
    """Place and reason, without numbers of the operating system; what to do where somebody may not read or write."""
    if error.filename is None or error.strerror is None:
        return error.strerror or str(error)
    advice = ADVICE.get(error.errno or 0, "")
    return f"{error.filename}: {error.strerror}{f'; {advice}' if advice else ''}"
