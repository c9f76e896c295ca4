"""No core file of a process that holds key.

A core file would put the keys of a process's memory on the disk, where nothing wipes them.  A size limit of one byte keeps the
kernel from writing one beside the process, and is its sign that a handler (``/proc/sys/kernel/core_pattern``, as systemd-coredump
is) gets none either (``do_coredump`` of Linux); a limit of 0 is not asked for handlers (core(5)).  The process also marks
itself not dumpable (prctl(2)), which ends both, whatever the limit of its parents, and keeps debuggers of other processes out.
The limit is inherited by children; the mark is lost at exec, so each process sets it for itself.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys

PR_SET_DUMPABLE = 4
LIMIT_BYTES = 1


def no_core_files() -> None:
    """Make sure that a crash of this process leaves no image of its memory; raises OSError if it cannot."""
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    limit = LIMIT_BYTES if most == resource.RLIM_INFINITY else min(LIMIT_BYTES, most)
    resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))
    _mark(0)


def show_descriptors() -> None:
    """Let other processes of this user follow this one's descriptors in /proc, which a process that is not dumpable refuses.

    The limit stays.  Raises OSError if it cannot.
    """
    _mark(1)


def _mark(dumpable: int) -> None:
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_DUMPABLE, dumpable, 0, 0, 0) != 0:
            error = ctypes.get_errno()
            raise OSError(error, f"cannot say whether this process may be dumped: {os.strerror(error)}")
