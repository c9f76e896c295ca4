"""The slow log: what changes slowly at a role's instruments, from day to day, as data sets of QCoDeS.

Whatever the role's alarms look at anyway is noted every :data:`SAMPLE_S`, where it was read anew, beside each correction of
what drifts.  ``slow-log/2026-03-01.db`` in the role's state folder holds a day (UTC): one data set whose set point is time,
or several, as a start of the role begins another one and so does a quantity that was not there before.

Values wait in memory until :meth:`SlowLog.flush`, a transaction each time: ``kill -9`` costs what waits, and a disk that is
full costs nothing as long as :data:`WAITING` rows are enough.  Days older than :data:`KEEP_DAYS` are removed, and the
oldest ones beyond :data:`KEEP_BYTES`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from typing import TypeAlias

from lab.alarms.book import Observed
from lab.alarms.table import AlarmRow
from lab.datasets.database import SUFFIX, DatabaseError, column_name, whole, writable
from orchestrator import runtime
from orchestrator.events.process import Tracked
from orchestrator.events.status import AlarmName

KIND = "slow log"
"""The experiment's name in a database."""
FOLDER = "slow-log"
SAMPLE_S = 10.0
WAITING = 20_000
"""Rows: two days and more."""
KEEP_DAYS = 30
KEEP_BYTES = 256 << 20
TIME = "time"


@dataclass(frozen=True)
class Quantity:
    """One column, by its name in the data set."""

    name: str
    label: str
    unit: str


Row: TypeAlias = tuple[float, dict[Quantity, float]]
"""Seconds since 1970, and what was read."""


class SlowLog:
    """The slow log of one role.  ``look`` and ``correction`` may be called from any thread, the rest from one."""

    def __init__(self, state: Path, role: str, testbed: str, table: Mapping[AlarmName, AlarmRow]) -> None:
        """``state``: the role's state folder; ``testbed``: its name; ``table``: what alarms mean, and their units."""
        self._folder, self._role, self._testbed, self._table = state / FOLDER, role, testbed, table
        self._waiting: list[Row] = []
        self._lock = runtime.lock()
        self._last_s: dict[Quantity, float] = {}
        self._next_s = 0.0
        self._day, self._run_id = "", 0
        self._quantities: tuple[Quantity, ...] = ()

    def look(self, observed: Iterable[Observed], now_s: float) -> None:
        """What alarms look at, at a moment of their clock; noted where it is time to."""
        if now_s < self._next_s:
            return
        self._next_s = now_s + SAMPLE_S
        row = {}
        for each in observed:
            if each.value is None:
                continue
            quantity = self._quantity(each)
            if self._last_s.get(quantity) != each.at_s:
                self._last_s[quantity] = each.at_s
                row[quantity] = each.value
        if row:
            self._wait([(_wall_s(), row)])

    def correction(self, event: Tracked) -> None:
        """Something that drifts was corrected."""
        label = f"{event.what}, corrected, with {event.first} and {event.second}"
        name = column_name(f"{event.what} {event.first} {event.second}")
        self._wait([(_wall_s(), {Quantity(name, label, event.unit): event.after})])

    def _wait(self, rows: list[Row], *, before: bool = False) -> None:
        with self._lock:
            together = rows + self._waiting if before else self._waiting + rows
            self._waiting = together[-WAITING:]

    def _quantity(self, observed: Observed) -> Quantity:
        row = self._table[observed.name]
        of = [each for each in (observed.peer, observed.part) if each]
        return Quantity(column_name(" ".join((observed.name, *of))), ", ".join((row.what, *of)), row.unit)

    def flush(self) -> None:
        """Write what waits.  Raises DatabaseError, and then what was not written waits on."""
        with self._lock:
            rows, self._waiting = self._waiting, []
        try:
            while rows:
                day = _day(rows[0][0])
                of_day = list(takewhile(lambda row: _day(row[0]) == day, rows))  # noqa: B023 - taken at once
                if day != self._day:
                    self._remove_old(day)
                self._write(day, of_day)
                del rows[: len(of_day)]
        finally:
            self._wait(rows, before=True)

    def _write(self, day: str, rows: list[Row]) -> None:
        """Into the data set that goes on, or into another one where day or quantities are others."""
        found = {quantity for _, values in rows for quantity in values}
        again = day == self._day and found <= set(self._quantities)
        quantities = (
            self._quantities
            if again
            else tuple(sorted(found | set(self._quantities), key=lambda each: each.name))
        )
        with writable(self._folder / f"{day}{SUFFIX}") as connection, whole(connection):
            from qcodes.dataset import ParamSpec, load_by_id, load_or_create_experiment, new_data_set
            from qcodes.dataset.data_set import DataSet

            if again:
                data = load_by_id(self._run_id, connection)
                assert isinstance(data, DataSet)
            else:
                if day == self._day:
                    load_by_id(self._run_id, connection).mark_completed()
                experiment = load_or_create_experiment(KIND, self._testbed, conn=connection)
                time = ParamSpec(TIME, "numeric", "UTC, since 1970", "s")
                specs = [
                    ParamSpec(each.name, "numeric", each.label, each.unit, depends_on=[time])
                    for each in quantities
                ]
                data = new_data_set(
                    f"slow values of {self._role}",
                    exp_id=experiment.exp_id,
                    specs=[time, *specs],
                    metadata={"owner": self._role, "testbed": self._testbed},
                    conn=connection,
                    in_memory_cache=False,
                )
                data.mark_started()
            data.add_results(
                [
                    {TIME: at_s, **{each.name: value for each, value in values.items()}}
                    for at_s, values in rows
                ]
            )
            run_id = data.run_id
        self._day, self._run_id, self._quantities = day, run_id, quantities

    def _remove_old(self, day: str) -> None:
        """Make room for another day."""
        kept_bytes = 0
        oldest = datetime.fromisoformat(day).toordinal() - KEEP_DAYS
        try:
            for path in sorted(self._folder.glob(f"*{SUFFIX}"), reverse=True):
                kept_bytes += path.stat().st_size
                is_day = re.fullmatch(r"\d{4}-\d{2}-\d{2}", path.stem)
                if is_day and (
                    datetime.fromisoformat(path.stem).toordinal() <= oldest or kept_bytes > KEEP_BYTES
                ):
                    path.unlink()
        except OSError as error:
            raise DatabaseError(self._folder, str(error), "look at who may write there") from error


def _wall_s() -> float:
    return datetime.now(UTC).timestamp()


def _day(at_s: float) -> str:
    return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%d}"
