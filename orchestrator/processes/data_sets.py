"""The data sets of a role, written by one thread: calibrations when they are kept, slow values every minute.

Nothing else waits for that thread, and nothing that goes wrong with a data set stops a role: what cannot be written waits in
memory, an alarm says why and what to do, and each minute it is tried again.  A calibration that waits is in the book and
beside it as a finding already.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lab.alarms.book import Observed
from lab.calibration.book import now
from lab.calibration.finding import Finding
from lab.datasets.calibrations import Origin, database_of, write_calibration
from lab.datasets.database import DatabaseError
from lab.datasets.slow_log import SlowLog
from lab.datasets.snapshots import snapshot_of
from lab.station import Station
from orchestrator import runtime
from orchestrator.events.process import Emit, ProcessEvent, Tracked

logger = logging.getLogger(__name__)

EVERY_S = 60.0
PATIENCE_S = 10.0
"""For the last data set, when a role ends."""
CALIBRATIONS = 100
"""That may wait."""


@dataclass(frozen=True)
class RoleFiles:
    """What a role's data sets say of where they come from."""

    testbed: str
    testbed_path: Path
    commit: str


class DataSets:
    """The data sets of one role; used as a context, which is left when the instruments are safe.

    It is a source of alarms too.  Methods may be called from any thread.
    """

    def __init__(self, files: RoleFiles | None = None, slow: SlowLog | None = None) -> None:
        """Without ``files`` no calibration is written, and without ``slow`` no slow value."""
        self._files, self._slow = files, slow
        self._calibrations: deque[Callable[[], object]] = deque(maxlen=CALIBRATIONS)
        self._why = ""
        self._wake, self._stopping = runtime.event(), runtime.event()

    def begin(self, station: Station) -> Callable[[Finding], None]:
        """A calibration begins with these instruments; whoever keeps its finding calls what is returned."""
        files = self._files
        if files is None:
            return lambda finding: None
        origin, began = Origin.of(files.testbed, files.testbed_path, files.commit), now()

        def found(finding: Finding) -> None:
            path, snapshot = database_of(files.testbed_path, finding.owner), snapshot_of(station)
            self._calibrations.append(
                partial(write_calibration, path, finding, origin, snapshot, began, now())
            )
            self._wake.set()

        return found

    def look(self, observed: Sequence[Observed], now_s: float) -> None:
        """What alarms look at."""
        if self._slow is not None:
            self._slow.look(observed, now_s)

    def noting(self, emit: Emit) -> Emit:
        """``emit`` that notes corrections."""

        def note(event: ProcessEvent) -> None:
            if isinstance(event, Tracked) and self._slow is not None:
                self._slow.correction(event)
            emit(event)

        return note

    def __call__(self) -> Iterator[Observed]:
        """Why data sets wait."""
        if why := self._why:
            yield Observed("data-sets", at_s=runtime.now(), text=why)

    def __enter__(self) -> DataSets:
        self._thread = runtime.spawn(self._write_on, name="data sets")
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._wake.set()
        self._thread.join(PATIENCE_S)  # a disk that hangs does not keep a role from its end

    def _write_on(self) -> None:
        while not self._stopping.is_set():
            self._wake.wait(EVERY_S)
            self._wake.clear()
            self.write()

    def write(self) -> None:
        """Write everything that waits."""
        try:
            while self._calibrations:
                self._calibrations[0]()
                self._calibrations.popleft()
            if self._slow is not None:
                self._slow.flush()
        except DatabaseError as error:
            if not self._why:
                logger.warning("data sets wait in memory: %s", error)
            self._why = str(error)
        except Exception as error:
            logger.exception("data sets cannot be written")
            self._why = f"{type(error).__name__}: {error}"
        else:
            self._why = ""
