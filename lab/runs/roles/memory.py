"""Memory of a role that works block by block: what a block took is used again by the next one.

A block passes through a dozen threads, each with arrays of megabytes.  glibc gives every thread that finds the others busy
a heap of its own, up to eight for each core (mallopt(3), ``M_ARENA_MAX``), and what one has freed no other uses: a node of
320 MB wandered between 450 and 560 MB.  Two heaps serve as well, since Python's threads rarely allocate at the same moment.
"""

from __future__ import annotations

import ctypes
import sys

M_ARENA_MAX = -8
HEAPS = 2


def share_heaps() -> None:
    """From now on the threads of this process share two heaps; to be called before any of them starts.

    Nothing happens where the C library is not glibc, which has other heaps and other habits.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(M_ARENA_MAX, HEAPS)
