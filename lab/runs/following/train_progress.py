"""Progress of a training run: a bar with rate and time left on a terminal, plain lines elsewhere; on stderr.

The rate is in client updates per second, the one unit that cells of different sizes share, and the time
left is what remains at that rate.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from fl.experiments.base import Cell, Plan
from fl.experiments.options import option_of
from fl.experiments.runner import CellDone, CellStarted, ExperimentEvent, RoundDone, WithinRound
from fl.keys.budget import duration
from fl.rounds.clipping import clip_warnings
from lab.runs.shown import echo, shown
from orchestrator.events.learning import Clipping

PLAIN_INTERVAL_S = 5.0


class Work:
    """How much of a plan is done, counted in client updates; pure but for the clock given."""

    def __init__(self, plan: Plan, clock: Callable[[], float] = time.monotonic) -> None:
        self.total = len(plan.seeds) * sum(updates(cell) * cell.steps for cell in plan.cells)
        self.done = 0
        self._here = 0
        self._in_cell = 0
        self._clock = clock
        self._started_s = clock()

    def event(self, event: ExperimentEvent) -> None:
        """Count one event.  What an earlier attempt did is done, and not part of the rate."""
        match event:
            case CellStarted():
                self._in_cell = 0
            case RoundDone(cell=cell):
                self._in_cell += updates(cell)
                self.done += updates(cell)
                self._here += updates(cell)
            case CellDone(cell=cell):
                self.done += updates(cell) * cell.steps - self._in_cell
                self._in_cell = 0

    @property
    def rate(self) -> float:
        """Client updates per second in this attempt."""
        return self._here / max(1e-9, self._clock() - self._started_s)

    @property
    def left_s(self) -> float | None:
        """Seconds left at the present rate; None while there is none."""
        return (self.total - self.done) / self.rate if self._here else None


def updates(cell: Cell) -> int:
    """Client updates of one step; training in one place counts as one round of its clients each."""
    return cell.config.n_clients


class TrainDisplay:
    """Shows the progress of a plan; a context manager."""

    def __init__(self, plan: Plan, *, console: Console | None = None) -> None:
        self._work = Work(plan)
        self._console = console or Console(stderr=True)
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._last_s = -1e9
        self._where = "starting"
        self._warned: set[str] = set()

    def __enter__(self) -> TrainDisplay:
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            whole, rest = Column(no_wrap=True), Column(no_wrap=True, ratio=1, overflow="ellipsis")
            self._progress = Progress(
                BarColumn(bar_width=12),
                TextColumn("{task.percentage:3.0f} %", table_column=whole),
                TextColumn("{task.fields[tail]}", table_column=whole),
                TextColumn(
                    "{task.description}", table_column=rest, markup=False
                ),  # what a narrow terminal cuts off
                console=self._console,
                expand=True,
            )
            self._progress.__enter__()
            self._task = self._progress.add_task(self._where, total=self._work.total, tail="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.__exit__(kind, error, trace)

    def event(self, event: ExperimentEvent) -> None:
        """Take in one event of the runner."""
        self._work.event(event)
        match event:
            case CellStarted(cell=cell, seed=seed):
                self._where = f"{cell.title}, seed {seed}"
                self.draw(force=True)
            case RoundDone(cell=cell, seed=seed, round=number, accuracy=accuracy, clipping=clipping):
                self._warn(cell, clipping)
                self._where = (
                    f"{cell.title}, seed {seed}: round {number}/{cell.config.rounds}, "
                    f"accuracy {100 * accuracy:.1f} %"
                )
                self.draw()
            case WithinRound(cell=cell, seed=seed, round=number, phase=phase, done=done, of=of):
                self._where = (
                    f"{cell.title}, seed {seed}: round {number}/{cell.config.rounds}, {phase} {done}/{of}"
                )
                self.draw()
            case CellDone(cell=cell, seed=seed, run=run, resumed=resumed):
                was = " (done before)" if resumed else ""
                self._where = f"{cell.title}, seed {seed}: accuracy {100 * run.accuracy:.2f} %{was}"
                self.draw(force=True)

    def _warn(self, cell: Cell, clipping: Clipping | None) -> None:
        """Say at once that clip or levels do not fit; once per cell, the results count the rounds."""
        for warning in clip_warnings([clipping], cell.config.clip, cell.config.levels, option_of):
            if cell.name not in self._warned:
                self._warned.add(cell.name)
                self._console.print(Text(shown(f"{cell.title}: {warning}"), style="bold red"), soft_wrap=True)

    def draw(self, *, force: bool = False) -> None:
        """Redraw; without a terminal one line every few seconds, or at once with ``force``."""
        tail = self._tail()
        if self._progress is not None and self._task is not None:
            self._progress.update(
                self._task, completed=self._work.done, description=shown(self._where), tail=tail
            )
        elif force or time.monotonic() - self._last_s >= PLAIN_INTERVAL_S:
            self._last_s = time.monotonic()
            share = 100 * self._work.done / max(1, self._work.total)
            echo(f"{share:3.0f} %  {self._where}{', ' if tail else ''}{tail}", err=True)

    def _tail(self) -> str:
        left_s = self._work.left_s
        if left_s is None:
            return ""
        return f"{duration(round(left_s))} left at {self._work.rate:.3g} updates/s"
