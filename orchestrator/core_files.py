"""No core file of a process that holds key.

A core file would put the keys of a process's memory on the disk, where nothing wipes them.  The size limit of
core files keeps the kernel from writing one beside the process; a handler that the kernel pipes cores to
(``/proc/sys/kernel/core_pattern``, as systemd-coredump is) does not ask that limit (core(5)), so the process
also marks itself not dumpable (prctl(2)), which ends both and keeps debuggers of other processes out.
The limit is inherited by children; the mark is lost at exec, so each process sets it for itself.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys

PR_SET_DUMPABLE = 4


def no_core_files() -> None:
    """Make sure that a crash of this process leaves no image of its memory; raises OSError if it cannot."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
            error = ctypes.get_errno()
            raise OSError(error, f"cannot keep this process from being dumped: {os.strerror(error)}")
