"""Training with keys of a ring instead of simulated ones.

The ring makes keys while training runs: clients ask for the key of coming rounds ahead, the scheduler serves
the pairs needed first, and a round that lacks key waits and says why.  The server keeps models and records
of its rounds in the run's folder, so that an interrupted run goes on with the next round; keys that were in a
private testbed are gone with it and made anew.  What ``--testbed`` may name is told in
:mod:`lab.runs.training.place`.
"""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from fl.experiments.base import (
    Plan,
    chosen_seeds,
    federated_cell,
    float32_beside,
    quick_notes,
    read_plan,
    write_plan,
)
from fl.experiments.options import OptionsError, TrainOptions
from fl.experiments.results import Results, SeedRun, all_exact
from fl.keys.budget import KeyForecast, forecast
from fl.modes.table import MODES
from fl.workloads.record import Experiment
from lab.runs.following.live import Follower
from lab.runs.following.observer import Observer, supply_of
from lab.runs.following.progress import Display, PairProgress, RunProgress
from lab.runs.following.stalls import StallWatch, merged
from lab.runs.light_notes import light_notes
from lab.runs.records.ending import on_record
from lab.runs.records.ring_run import homes_of_run, ring_run
from lab.runs.shown import echo
from lab.runs.software import versions
from lab.runs.supervising.beside import Tell, dashboard_beside
from lab.runs.supervising.signals import stopping_on_signals
from lab.runs.supervising.supervised import Run, tell_end
from lab.runs.testbeds.ring_size import check_every_pair_makes_key
from lab.runs.training.folder import held
from lab.runs.training.outcome import INTERRUPTED, PACKAGES, RunOutcome, ending_of, keep_results
from lab.runs.training.place import Place, check_place, find_place, opened
from lab.runs.training.record import (
    SERVER_STATE,
    LiveRecord,
    ledgers_of,
    read_record,
    server_rounds,
    sums_checked,
    write_record,
)
from lab.testbed import Testbed
from orchestrator.randomness import random_hex

if TYPE_CHECKING:
    from fl.experiments.assemble import Surroundings
    from fl.experiments.ring_run import RingRun
    from fl.rounds.config import FLConfig
    from fl.workloads.base import Task

STOCK_PATIENCE_S = 10.0
FOREVER_S = 7 * 86_400.0


class RunShortOfKeyError(Exception):
    """There is not enough key for the run, and the user asked to stop rather than to wait."""


def train_on_testbed(
    options: TrainOptions,
    folder: Path,
    *,
    resuming: bool,
    data: Path | None,
    dashboard: Tell | None = None,
) -> RunOutcome:
    """Train on the keys of the testbed that the options name; ``dashboard`` is told of one, if it is given."""
    from fl.workloads import open_task
    from fl.workloads.provenance import check_data

    assert options.testbed is not None
    place = find_place(options.testbed)
    check_place(place, options)
    task = open_task(options.task, data)
    plan = read_plan(folder) if resuming else live_plan(options, task, place.testbed)
    check_data(options.task, task, data, plan.primary.config.n_clients, plan.seeds[0])
    about = f"{options.task} on {place.testbed.name}"
    with held(folder, new=not resuming), on_record(folder, "train", about) as ending:
        attempt = Attempt(place, options, plan, task, folder, data, dashboard)
        reason = attempt.run()
        results = attempt.results()
        ending_of(ending, reason)
    if results is None and attempt.aborted:
        echo(f"every round was aborted ({attempt.aborted}): the model is the initial one", err=True)
    return RunOutcome(results, reason, results is not None and attempt.healthy(results))


def live_plan(options: TrainOptions, task: Task, testbed: Testbed) -> Plan:
    """The run and its float32 baseline, for clients of this testbed; raises what check_config raises."""
    users = testbed.user_names()
    if options.live:
        check_every_pair_makes_key(testbed)
    if options.clients is not None and options.clients > len(users):
        raise OptionsError(
            f"{options.clients} clients, but the testbed has {len(users)} users: {', '.join(users)}"
        )
    experiment = Experiment(len(users), seeds=1, quick_rounds=3, quick_seeds=1)
    named = {"users": users, "run_id": f"train-{random_hex(6)}", "wait_timeout_s": FOREVER_S}
    primary = federated_cell(options, task, experiment, **named)
    beside = float32_beside(options, primary)
    return Plan(
        f"{options.task} on {testbed.name}",
        options,
        (primary, *beside.cells),
        chosen_seeds(options, experiment),
        beside.comparisons,
        quick_notes(options, experiment, task),
    )


@dataclass
class Attempt:
    """One attempt at a run on a testbed, from the first process to the record it leaves."""

    place: Place
    options: TrainOptions
    plan: Plan
    task: Task
    folder: Path
    data: Path | None
    dashboard: Tell | None = None
    record: LiveRecord = field(default_factory=LiveRecord)
    forecast: KeyForecast | None = None
    unsafe: list[str] | None = None
    consented: tuple[str, ...] = ()

    @property
    def config(self) -> FLConfig:
        return self.plan.primary.config

    @property
    def server_state(self) -> Path:
        """Where the server keeps models, sums and records of the rounds."""
        return (self.folder / SERVER_STATE).resolve()

    def run(self) -> str:
        """Train; returns "" or why the run ended early.  Raises RunShortOfKeyError before anything was spent."""
        from lab.runs.supervising.kernels import compile_all

        self.record = read_record(self.folder)
        started_at = self.record.started_at or datetime.now(UTC).isoformat(timespec="seconds")
        self.record = msgspec.structs.replace(self.record, started_at=started_at)
        started = time.monotonic()
        stop = threading.Event()
        progress = RunProgress(rounds=self.config.rounds, phase="starting instruments, relay and nodes")
        with opened(self.place, self.config.seed, self.folder) as run:
            progress.pairs = {pair: PairProgress() for pair in run.testbed.pairs()}
            with Display(progress) as display:
                display.update(force=True)
                if run.has_ring:
                    progress.phase = "compiling numerical kernels, once on this machine"
                    display.update(force=True)
                    compile_all()
                    progress.phase = "starting instruments, relay and nodes"
                    display.update(force=True)
                run.start_ring(light=self.options.live)
                with ExitStack() as stack:
                    stack.enter_context(dashboard_beside(run, self.dashboard))
                    observer = self._observer(run, stack)
                    self._budget(run, observer)
                    for pair, row in progress.pairs.items():
                        row.demand_bits = self._demand(pair)
                    write_plan(self.plan, self.folder)
                    progress.phase = "keys and training" if self.options.live else "training on keys in stock"
                    display.update(force=True)
                    run.start_learning(self.config, self.data, server_state=self.server_state)
                    follower = self._follower(run, progress, display, observer)
                    stack.enter_context(stopping_on_signals(stop))
                    reason = follower.follow(stop)
                progress.phase = "stopping"
                display.update(force=True)
                run.stop()
            if reason == INTERRUPTED:
                tell_end(run)
            self._keep(run, follower, time.monotonic() - started)
        return reason

    def _observer(self, run: Run, stack: ExitStack) -> Observer | None:
        if not (run.secrets / "observer").is_dir():
            echo(
                f"no secrets of the observer in {run.secrets}: stock and rates of the ring are not known here",
                err=True,
            )
            return None
        return stack.enter_context(Observer.connect(run.testbed, run.secrets))

    def _follower(
        self, run: Run, progress: RunProgress, display: Display, observer: Observer | None
    ) -> Follower:
        watch = StallWatch(self.config.clients, time.monotonic())
        return Follower(
            run, watch, progress, display, observer, self.options.if_short, self.options.max_wait_s
        )

    # -- key budget -------------------------------------------------------------------------------------

    def _pairs(self, testbed: Testbed) -> list[tuple[str, str]]:
        return [pair for pair in testbed.pairs() if set(pair) <= set(self.config.clients)]

    def _demand(self, pair: tuple[str, str]) -> int:
        needed = {each.pair: each.needed_bits for each in self.forecast.pairs} if self.forecast else {}
        return needed.get(pair, 0)

    def _budget(self, run: Run, observer: Observer | None) -> None:
        """Forecast the key of the rounds left, and do what ``--if-short`` says when it is short."""
        pairs = self._pairs(run.testbed)
        if observer is not None:
            observer.wait_for_stock(pairs, STOCK_PATIENCE_S)
            supply = observer.supply(pairs, light=self.options.live)
        else:
            supply = [supply_of(run.testbed, pair, None, light=self.options.live) for pair in pairs]

        def ahead() -> KeyForecast:
            return forecast(
                self.config.mode,
                self.config.rounds - len(server_rounds(self.server_state, self.config)[0]),
                key_bits_per_pair(self.config, self.task.n_parameters),
                supply,
                if_short=self.options.if_short,
                longest_s=self.options.max_wait_s,
            )

        self.forecast = ahead()
        simulated = self.options.live and self.forecast.ring_s and self.place.testbed.simulation is not None
        slower = "; simulating a second of light takes longer than a second" if simulated else ""
        echo(f"key: {self.forecast.text}{slower}", err=True)
        if self.forecast.verdict != "short":
            return
        if self.options.if_short == self.config.protection.thriftier:
            self._take_thriftier(self.forecast.text)
            self.forecast = ahead()
            echo(f"key: {self.forecast.text}", err=True)
        if self.forecast.verdict == "short" and (self.options.if_short != "wait" or not self.options.live):
            raise RunShortOfKeyError(
                f"{self.forecast.text}; nothing was spent.  Make more key (--live), train fewer rounds or a smaller "
                "model, or allow expanded keys with their computational security (--if-short expanded)"
            )

    def _take_thriftier(self, why: str) -> None:
        """The mode that the user allowed for this case; written into plan, configuration and notes."""
        if server_rounds(self.server_state, self.config)[0]:
            raise RunShortOfKeyError(
                f"{why}; a run keeps its mode, so its later rounds cannot change to {self.options.if_short} keys"
            )
        taken = MODES[self.options.if_short]
        note = (
            f"mode {taken.name} was taken instead of {self.config.mode}, as --if-short {taken.name} allows ({why}): "
            f"security is {taken.security}"
        )
        echo(note, err=True)
        config = msgspec.structs.replace(self.config, mode=taken.name)
        cells = (
            msgspec.structs.replace(self.plan.primary, config=config, title=config.title),
            *self.plan.cells[1:],
        )
        self.plan = msgspec.structs.replace(self.plan, cells=cells, notes=(*self.plan.notes, note))

    # -- what stays -------------------------------------------------------------------------------------

    def _keep(self, run: Run, follower: Follower, seconds: float) -> None:
        """File what this attempt adds to the run; models and records are with the server's state already."""
        self.unsafe, self.consented = run.unsafe, run.consented
        exact = dict(self.record.exact)
        if run.checks_sums(self.config):
            exact |= {
                number: passed
                for number, passed in sums_checked(run, self.server_state, self.config).items()
                if number not in exact
            }
        restarts = dict(self.record.restarts)
        for name, count in follower.restarts.items():
            restarts[name] = restarts.get(name, 0) + count
        self.record = LiveRecord(
            exact,
            merged(self.record.stalls, follower.watch.stalls()),
            self.record.seconds + seconds,
            ledgers_of(run),
            restarts,
            self.record.started_at,
        )
        write_record(self.record, self.folder)

    def results(self) -> Results | None:
        """Results and report of the rounds there are, written; None before the first."""
        from fl.experiments.assemble import results_of
        from fl.experiments.runner import Runner

        live = self.seed_run()
        if not live.rounds:
            return None
        complete = len(live.rounds) >= self.config.rounds
        outcome: dict[str, dict[int, SeedRun]] = {cell.name: {} for cell in self.plan.cells}
        if complete and len(self.plan.cells) > 1:
            echo("reference training without protection", err=True)
            reference = msgspec.structs.replace(self.plan, cells=self.plan.cells[1:], comparisons=())
            outcome |= Runner(self.folder, self.data, 0, threading.Event()).run(reference)
        outcome[self.plan.primary.name] = {self.config.seed: live}
        results = results_of(self.plan, outcome, self._about())
        if not complete:
            note = f"unfinished: {len(live.rounds)} of {self.config.rounds} rounds"
            results = msgspec.structs.replace(results, complete=False, notes=(*results.notes, note))
        keep_results(results, self.folder)
        return results

    @property
    def aborted(self) -> int:
        """How many rounds gave no sum."""
        return len(server_rounds(self.server_state, self.config)[1])

    def seed_run(self) -> SeedRun:
        """The rounds so far, from the server's own records."""
        rounds, aborted = server_rounds(self.server_state, self.config)
        exact = self.record.exact
        rows = tuple(msgspec.structs.replace(row, exact=exact.get(row.round)) for row, _ in rounds)
        return SeedRun(
            self.config.seed, rows, tuple(times for _, times in rounds), aborted, self.record.seconds
        )

    def _about(self) -> Surroundings:
        from fl.experiments.assemble import Surroundings
        from fl.experiments.notes import consent_notes, notes_for
        from fl.rounds.aggregation import aggregation_for
        from fl.workloads.provenance import learnt_from

        aggregation = aggregation_for(self.config, self.task.n_parameters)
        notes = [*notes_for(self.config), *consent_notes(self.consented), *light_notes(self.place.testbed)]
        if self.place.testbed.simulation is not None:
            notes.append(
                "every instrument of this testbed is simulated; protocols, keys and training are real"
            )
        if any(row.exact is None for row in self.seed_run().rounds):
            notes.append("sums were not compared with plain ones: that would need unmasked updates")
        notes += [f"{name} was started again {n}x" for name, n in self.record.restarts.items()]
        if self.unsafe:
            notes.append(f"NOT in their safe state at the end: {', '.join(self.unsafe)}")
        return Surroundings(
            n_parameters=self.task.n_parameters,
            values_per_round=aggregation.n_values,
            wire_bits=aggregation.value_bits,
            key_supply="live" if self.options.live else "store",
            forecast=self.forecast,
            data=learnt_from(self.task),
            versions=versions(PACKAGES),
            started_at=self.record.started_at,
            wall_s=self.record.seconds,
            notes=tuple(notes),
            stalls=self.record.stalls,
            testbed=self.place.testbed.name,
            ledgers=self.record.ledgers,
            ring=self._ring(),
        )

    def _ring(self) -> RingRun | None:
        """What the ring did in all attempts at the run, as far as it is on record here."""
        if not self.options.live:
            return None
        since = datetime.fromisoformat(self.record.started_at) if self.record.started_at else None
        testbed = self.place.testbed
        return ring_run(homes_of_run(self.folder), testbed, pairs=self._pairs(testbed), since=since)

    def healthy(self, results: Results) -> bool:
        """No sum was wrong, and simulated instruments that were ours ended safe."""
        safe = self.unsafe == [] if self.place.kind != "attached" else True
        return safe and all_exact(results.rounds) is not False


def key_bits_per_pair(config: FLConfig, n_parameters: int) -> int:
    """Key that a pair spends in a round, as the distributed protocol has it."""
    from fl.rounds.aggregation import aggregation_for

    return aggregation_for(config, n_parameters).key_bits_per_pair
