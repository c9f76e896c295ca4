"""Signals of the process handled for a while, and as before afterwards."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

STOPPING = b"\nstopping; what is finished is kept (Ctrl-C again: at once)\n"


@contextmanager
def handled(numbers: Sequence[signal.Signals], handler: Callable[[int, object], None]) -> Iterator[None]:
    """``handler`` gets these signals until the end of the block; in other threads than the main one, nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = [signal.signal(number, handler) for number in numbers]
    try:
        yield
    finally:
        for number, earlier in zip(numbers, before, strict=True):
            signal.signal(number, earlier)


@contextmanager
def stopping_on_signals(stop: threading.Event) -> Iterator[None]:
    """Ctrl-C and SIGTERM set ``stop``; a second one ends the program on the spot."""

    def on_signal(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        os.write(2, STOPPING)  # buffered streams must not be used in here

    with handled((signal.SIGINT, signal.SIGTERM), on_signal):
        yield


@contextmanager
def held_back() -> Iterator[None]:
    """Ctrl-C and SIGTERM in the block count at its end: for what must not be left half done, and takes no time."""
    came: list[int] = []
    with handled((signal.SIGINT, signal.SIGTERM), lambda number, frame: came.append(number)):
        yield
    if came:
        signal.raise_signal(came[0])
