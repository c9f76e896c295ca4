"""When something ends that a simulated instrument began: ``schedule(delay_s, action)``, for tests to replace."""

from __future__ import annotations

import threading
from collections.abc import Callable

Schedule = Callable[[float, Callable[[], None]], None]


def later(delay_s: float, action: Callable[[], None]) -> None:
    """Do ``action`` in a thread of its own after ``delay_s``."""
    timer = threading.Timer(delay_s, action)
    timer.daemon = True
    timer.start()
