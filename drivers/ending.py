"""What this process enabled goes dark when it ends: light, bias, outputs, shutters, whatever a driver switched on.

A driver says :meth:`LabInstrument.must_end_dark` before it enables anything, which takes a second for the first that
does; a driver that was only read is never touched.  From then on it is remembered here until its safe state was reached, and a guard process
(:mod:`drivers.guard`) knows how to make it.  At the end of the interpreter - the end of a script or an exception in
it, a notebook's kernel that is shut down - the links are closed and the guard makes everything safe, before the
process is gone.  When the process is killed the guard notices by itself.  Should the guard be gone, the drivers do it
one after the other.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from drivers.guard import Guard, Watched

if TYPE_CHECKING:
    from drivers.base import LabInstrument

logger = logging.getLogger(__name__)


@dataclass
class _Lit:
    instrument: LabInstrument
    watched: Watched


class Ending:
    """The drivers of this process that must end dark, one for each class and address."""

    def __init__(self) -> None:
        self._lit: dict[tuple[str, str], _Lit] = {}
        self._guard: Guard | None = None
        self._lock = threading.RLock()

    def watch(self, instrument: LabInstrument) -> None:
        """Make ``instrument`` safe at the end of this process."""
        with self._lock:
            if not self.watches(instrument):
                lit = _Lit(instrument, watched(instrument))
                self._lit[lit.watched.driver, lit.watched.address] = lit
                self._tell(wait=True)

    def watches(self, instrument: LabInstrument) -> bool:
        """Whether ``instrument`` is made safe at the end of this process."""
        return any(lit.instrument is instrument for lit in self._lit.values())

    def forget(self, instrument: LabInstrument) -> None:
        """Leave ``instrument`` as it is: it is safe, or somebody wants it so."""
        with self._lock:
            if self.watches(instrument):
                self._lit = {key: lit for key, lit in self._lit.items() if lit.instrument is not instrument}
                self._tell()

    def renew(self, instrument: LabInstrument) -> None:
        """A driver was made: if one of its class and address is watched, it takes over."""
        with self._lock:
            fresh = watched(instrument)
            if lit := self._lit.get((fresh.driver, fresh.address)):
                lit.instrument, lit.watched = instrument, fresh

    def _tell(self, *, wait: bool = False) -> None:
        """Tell the guard; ``wait`` until it could act."""
        try:
            if self._guard is None:
                atexit.register(self._end)
                self._guard = Guard(f"process {os.getpid()}")
            self._guard.watch([lit.watched for lit in self._lit.values()])
            if wait:
                self._guard.await_ready()
        except OSError as error:
            logger.warning("no guard (%s): should this process be killed, its instruments stay on", error)

    def _end(self) -> None:
        guard, lit = self._guard, list(self._lit.values())
        if guard is not None and not lit:
            guard.dismiss()
            return
        if guard is not None and guard.lives:
            for each in lit:  # two processes cannot share a serial line
                with suppress(Exception):
                    each.instrument.disconnect()
            if guard.call():
                return
        for each in lit:
            try:
                each.instrument.safe_state()
            except Exception as error:  # noqa: BLE001 - the others must still be made safe
                logger.error("%s could not be made safe: %s", each.watched.name, error)

    def forked(self) -> None:
        """A child process did not enable anything."""
        self._lit, self._guard, self._lock = {}, None, threading.RLock()


def watched(instrument: LabInstrument) -> Watched:
    """What the guard must know to make the driver; options that are no plain values keep their defaults."""
    driver = type(instrument)
    options = {key: value for key, value in instrument.made_with.items() if _is_plain(value)}
    return Watched(f"{driver.__module__}:{driver.__qualname__}", instrument.name, instrument.address, options)


def _is_plain(value: object) -> bool:
    with suppress(TypeError):
        return bool(msgspec.json.decode(msgspec.json.encode(value)) == value)
    return False


ENDING = Ending()
"""The one of this process."""
os.register_at_fork(after_in_child=ENDING.forked)
