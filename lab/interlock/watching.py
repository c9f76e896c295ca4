"""What trips an interlock by itself: a few questions asked again and again, each in a thread of its own.

So one that waits for its instrument keeps nobody from noticing the others.  An instrument that does not answer is no
cause: whoever needs it finds out, and ends the light.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from drivers.links.errors import InstrumentError
from lab.interlock.interlock import Interlock
from lab.interlock.latch import CauseName

logger = logging.getLogger(__name__)

END_S = 5.0


def always() -> bool:
    """Looked at whatever goes on."""
    return True


@dataclass(frozen=True)
class Watch:
    """``look`` says what is wrong, "" while nothing is; every ``every_s`` while it is ``due``."""

    cause: CauseName
    look: Callable[[], str]
    every_s: float
    due: Callable[[], bool] = always


@contextmanager
def watching(interlock: Interlock, watches: Sequence[Watch]) -> Iterator[None]:
    """Trip ``interlock`` for what any of ``watches`` finds, and let it go by them when it is to be released."""
    stop = threading.Event()
    threads = [
        threading.Thread(target=_watch, args=(interlock, each, stop), name=f"watch {each.cause}", daemon=True)
        for each in watches
    ]
    for each in watches:
        interlock.goes_by(each.cause, each.look)
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(END_S)


def _watch(interlock: Interlock, watch: Watch, stop: threading.Event) -> None:
    while not stop.wait(watch.every_s):
        if interlock.has(watch.cause) or not watch.due():
            continue
        try:
            found = watch.look()
        except InstrumentError as error:
            logger.debug("%s cannot be looked at: %s", watch.cause, error)
            continue
        if found and watch.due():
            interlock.trip(watch.cause, found)
