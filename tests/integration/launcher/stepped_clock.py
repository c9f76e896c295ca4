"""A wall clock that a test steps in the middle of a run, in every process at once.

``time.time`` and ``time.time_ns`` read the number of seconds in the file ``step`` beside this module and are off
by it, as after somebody has set the machine's clock.  Monotonic clocks are the system's own.  (``datetime.now``
cannot be replaced; a static test shows that only texts for people use it.)  A process that has read the
stepped clock leaves a file ``stepped/PID`` behind.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
_time, _time_ns = time.time, time.time_ns


def offset_s():
    """By how much the wall clock is wrong at the moment."""
    try:
        text = (HERE / "step").read_text()
    except FileNotFoundError:
        return 0
    (HERE / "stepped").mkdir(exist_ok=True)
    (HERE / "stepped" / str(os.getpid())).write_text(" ".join(sys.argv[1:3]))
    return int(text or 0)


def install():
    """From here on this process has the stepped clock."""
    time.time = lambda: _time() + offset_s()
    time.time_ns = lambda: _time_ns() + offset_s() * 10**9
