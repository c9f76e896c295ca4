"""The interlock of one role: everything it owns dark at once, and dark until an operator says otherwise.

*Trip.*  The latch comes first, in memory: from there on no driver enables anything (:meth:`Interlock.check`, which a
driver asks in :meth:`drivers.base.LabInstrument.must_end_dark`).  Then a thread of its own applies the safe states,
which wait for no other thread and go before whatever holds a link; then the file is written and the others are told.
So nothing on this way needs the hub, the role's main loop, a lock of theirs or a disk.  Whoever was past the driver's
question a moment earlier holds the link and is cut off, or has sent by the time of a second pass.

*Release.*  Every cause must be gone, as far as instruments can tell, and an operator acknowledges; then the role sets
up its instruments anew.

Why in the role's process and not in its guard: a serial line or a single-connection instrument belongs to one process
at a time.  A thread that stands still changes nothing for the thread that makes dark; a *process* that stands still does,
and then the guard is the way: whoever stops ends the process, and its guard makes dark (:mod:`lab.runs.interlocks`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from drivers.catalogue import SafeOrder
from drivers.links.errors import InstrumentError, InterlockedError
from drivers.safely import SafeJob, make_safe
from lab.interlock.latch import (
    WHAT_TO_DO,
    Cause,
    CauseName,
    clock_for_people,
    keep_causes,
    kept_causes,
    with_cause,
)
from lab.station import Station
from orchestrator.wire.control_socket import (
    Acknowledge,
    ControlSocket,
    Done,
    Failed,
    InterlockState,
    LatchedCause,
    Reply,
    Request,
    ShowInterlock,
    Trip,
)

logger = logging.getLogger(__name__)

INTERLOCK_SOCKET = "interlock"
LISTEN_PATIENCE_S = 0.3
"""A connection that says nothing keeps the next one for no longer than this."""
SECOND_PASS_S = 0.3
ACKNOWLEDGE_PATIENCE_S = 3.0
"""Whoever acknowledges at once waits for the second pass."""


class NotReleasedError(Exception):
    """The interlock stays latched; the text says why and what to do."""


class Interlock:
    """``station`` is made dark; ``folder`` keeps the latch.  May be used from any thread."""

    def __init__(self, station: Station, folder: Path) -> None:
        self._station = station
        self._folder = folder
        self._causes = kept_causes(folder)
        self._kept = True
        self._lock = threading.Lock()
        self._gone: dict[CauseName, Callable[[], str]] = {}
        self._listeners: list[Callable[[InterlockedError], object]] = []
        self._pass: _Pass | None = None
        """The latest making dark since this process began."""
        station.permit = self.check
        if self._causes:
            logger.warning("%s", self._error())

    @property
    def causes(self) -> tuple[Cause, ...]:
        """Why it is latched; nothing where it is not."""
        return self._causes

    def has(self, cause: CauseName) -> bool:
        """Whether it is latched for this cause."""
        return any(each.cause == cause for each in self._causes)

    def check(self) -> None:
        """Raise InterlockedError while it is latched."""
        if self._causes:
            raise self._error()

    def _error(self) -> InterlockedError:
        told = "; ".join(f"{each}; {WHAT_TO_DO[each.cause]}" for each in self._causes)
        return InterlockedError(f"interlock of {self._station.owner}: {told}; then `qunetlab acknowledge`")

    def unless_latched(self, set_up: Callable[[], object]) -> InterlockedError | None:
        """``set_up`` the instruments; or why that has to wait for an operator."""
        try:
            self.check()
            set_up()
        except InstrumentError:  # preempted, when it trips in the middle
            if not self._causes:
                raise
            return self._error()
        return None

    def when_tripped(self, tell: Callable[[InterlockedError], object]) -> None:
        """``tell`` is called at every trip, once making dark has begun."""
        self._listeners.append(tell)

    def goes_by(self, cause: CauseName, why_not: Callable[[], str]) -> None:
        """``why_not`` says why ``cause`` is still there, "" when it is gone; it asks the instruments."""
        self._gone[cause] = why_not

    def trip(self, cause: CauseName, text: str) -> None:
        """Latch, and begin to make dark, to tell others and to write the file: at once, whatever those have to wait for."""
        with self._lock:
            self._causes = with_cause(self._causes, Cause(cause, text, clock_for_people()))
            self._kept = False
        self._make_dark()
        logger.error("%s", self._error())
        for each in (self._tell, self._keep):
            threading.Thread(target=each, name="interlock", daemon=True).start()

    def _tell(self) -> None:
        for tell in self._listeners:
            try:
                tell(self._error())
            except Exception:
                logger.exception("not everybody could be told that the interlock tripped")

    def _keep(self) -> None:
        try:
            with self._lock:
                keep_causes(self._folder, self._causes)
                self._kept = True
        except OSError as error:
            logger.error("the interlock is latched, but a restart would not know: %s", error)

    def _make_dark(self) -> None:
        self._pass = _Pass(self._station.safe_jobs())
        self._pass.begin()

    def acknowledge(self, operator: str) -> str:
        """Release; says what was released.  Raises NotReleasedError for a cause that is still there, or an OSError."""
        causes = self._causes
        if not causes:
            return f"the interlock of {self._station.owner} is not latched"
        passed = self._pass
        if passed is not None and not passed.over.wait(ACKNOWLEDGE_PATIENCE_S):
            told = passed.words() or "it is being made safe a second time"
            raise NotReleasedError(
                f"{self._station.owner} is not safe yet ({told}); acknowledge again in a moment"
            )
        if passed is not None and passed.failures():
            raise NotReleasedError(
                f"{self._station.owner} is not safe yet ({passed.words()}); put that right, stop again, then acknowledge"
            )
        still = [(each.cause, why) for each in causes if (why := self._why_not(each.cause))]
        if still:
            told = "; ".join(f"{cause}: {why}; {WHAT_TO_DO[cause]}" for cause, why in still)
            raise NotReleasedError(f"{self._station.owner} stays latched, the cause is not gone: {told}")
        with self._lock:
            if self._causes != causes:
                raise NotReleasedError(f"{self._station.owner} tripped again meanwhile; look again")
            keep_causes(self._folder, ())
            self._causes = ()
        told = "; ".join(str(each) for each in causes)
        logger.warning("interlock of %s acknowledged by %s: %s", self._station.owner, operator, told)
        return f"{self._station.owner}: released, dark until its instruments are set up anew (was: {told})"

    def _why_not(self, cause: CauseName) -> str:
        try:
            return self._gone.get(cause, str)()
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody knows that the cause is gone
            return f"it cannot be looked at: {error}"

    def state(self) -> InterlockState:
        """For the socket."""
        passed = self._pass
        return InterlockState(
            self._station.owner,
            [LatchedCause(each.cause, each.text, each.at, WHAT_TO_DO[each.cause]) for each in self._causes],
            passed.took_s if passed else None,
            passed.under_way() if passed else [],
            passed.failures() if passed else {},
            self._kept,
        )

    def answer(self, request: Request) -> Reply:
        """What the interlock's own socket answers; raises NotReleasedError or OSError for what is not done."""
        match request:
            case Trip(text):
                self.trip("operator", text)
                return self.state()
            case Acknowledge(operator):
                return Done(self.acknowledge(operator))
            case ShowInterlock():
                return self.state()
        return Failed(f"the interlock answers no {type(request).__name__}")


class _Pass:
    """Safe states under way: twice, as somebody may have been about to enable something."""

    def __init__(self, jobs: Iterable[SafeJob]) -> None:
        self._jobs = {job.name: job for job in jobs}
        self._begun_s = time.monotonic()
        self._outcomes: dict[str, str] = {}
        self.took_s: float | None = None
        """Until nothing emitted or let light through any more, as the instruments read back; None before."""
        self.over = threading.Event()

    def begin(self) -> None:
        threading.Thread(target=self._run, name="interlock", daemon=True).start()

    def _run(self) -> None:
        try:
            self._all_safe()
            time.sleep(SECOND_PASS_S)
            self._all_safe()
        finally:
            self.over.set()

    def _all_safe(self) -> None:
        jobs = self._jobs.values()
        failures = make_safe(SafeJob(each.order, each.name, partial(self._do, each)) for each in jobs)
        self._outcomes |= {name: str(error) for name, error in failures.items()}

    def _do(self, job: SafeJob) -> None:
        try:
            job.safe_state()
        except Exception as error:
            self._outcomes[job.name] = str(error)
            logger.error("interlock: %s could not be made safe: %s", job.name, error)
            raise
        self._outcomes[job.name] = ""
        light = [each.name for each in self._jobs.values() if each.order <= SafeOrder.ATTENUATION]
        if self.took_s is None and all(self._outcomes.get(name) == "" for name in light):
            self.took_s = time.monotonic() - self._begun_s

    def failures(self) -> dict[str, str]:
        return {name: why for name, why in self._outcomes.items() if why}

    def under_way(self) -> list[str]:
        return [name for name in self._jobs if name not in self._outcomes]

    def words(self) -> str:
        told = [f"{name}: {why}" for name, why in self.failures().items()]
        told += [f"{name} is under way" for name in self.under_way()]
        return "; ".join(told)


@contextmanager
def interlocked(station: Station, folder: Path) -> Iterator[Interlock]:
    """The interlock of ``station``, listening at its own socket in ``folder``; the station need not be open yet."""
    interlock = Interlock(station, folder)
    with ControlSocket(
        folder,
        interlock.answer,
        (OSError, NotReleasedError),
        name=INTERLOCK_SOCKET,
        patience_s=LISTEN_PATIENCE_S,
        together=True,  # whoever acknowledges waits for instruments; a stop must not wait for that
    ):
        yield interlock
