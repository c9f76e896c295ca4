"""Federated training of a whole cohort on one machine: many simulated clients in a few processes.

Nothing about a round is simplified but the wires: every client trains on its own data, compresses, quantises
and protects its update with the arithmetic of the distributed run; the server part sees protected uploads
only, and its sum is compared with the plain one every round, outside the server.  Keys come from
:mod:`fl.keys.simulated` and are labelled "simulated".
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fl.carriers.in_process.checkpoint import CohortFolder
from fl.carriers.in_process.crew import (
    Answer,
    Crew,
    InProcess,
    MaskOrder,
    Order,
    Restore,
    Settle,
    Share,
    StoppedError,
    Train,
    Upload,
    Workers,
)
from fl.carriers.in_process.plan import CohortPlan, Vanished, make_plan
from fl.carriers.in_process.results import (
    CohortEvent,
    CohortPhase,
    CohortResult,
    CohortRound,
    InexactSumError,
    Phase,
)
from fl.carriers.in_process.room import Room
from fl.keys.simulated import SimulatedKeySupply
from fl.modes.base import AggregationError
from fl.rounds.clipping import LossBands, clip_warnings, clipping_of
from fl.rounds.config import FLConfig
from fl.workloads import open_task
from fl.workloads.base import Parameters, Task
from orchestrator.bits import packed_size
from orchestrator.events.learning import Clipping

_log = logging.getLogger(__name__)

Report = Callable[[CohortEvent], None]


def run_cohort(
    config: FLConfig,
    *,
    data_folder: Path | None = None,
    workers: int = 2,
    drop_outs: int = 0,
    folder: Path | None = None,
    stop: threading.Event | None = None,
    report: Report = lambda event: None,
    float32: bool = False,
    task: Task | None = None,
) -> CohortResult:
    """Train ``config.task`` with all its clients simulated by ``workers`` processes (0: in this one).

    ``drop_outs`` random clients vanish in every round (``lightsecagg`` and ``plain``).  ``folder`` keeps the
    state: a run started again with it goes on after its last completed round and ends as it would have.
    ``stop`` ends the run early; the result then holds the completed rounds.  ``float32`` averages the
    updates as they are.  ``task`` replaces the one named in ``config`` (only with ``workers = 0``).

    Raises, before any work, ConfigError, QuantisationError, ShareCodeError or CohortError; later
    UpdateNotFiniteError, InexactSumError, or CohortError where a process failed.
    """
    if task is not None and workers:
        raise ValueError("a task that is handed over runs in this process: workers = 0")
    learning = open_task(config.task, data_folder) if task is None else task
    plan = make_plan(config, learning.n_parameters, float32=float32, drop_outs=drop_outs)
    state = CohortFolder(folder, plan)
    never = threading.Event()
    crew: InProcess | Workers
    crew = Workers(plan, data_folder, workers) if workers else InProcess(plan, learning)
    try:
        return _Run(plan, learning, state, crew, crew.room, stop or never, report).finish()
    finally:
        crew.close()


@dataclass
class _Run:
    plan: CohortPlan
    task: Task
    state: CohortFolder
    crew: Crew
    room: Room
    stop: threading.Event
    report: Report
    warned: bool = False

    def finish(self) -> CohortResult:
        """All rounds that are left."""
        config = self.plan.config
        model = self.task.initial_parameters(config.seed)
        stopped = False
        try:
            if (kept := self.state.latest()) is not None:
                model, residuals = kept
                if residuals is not None:
                    self._carry_out(Restore(str(residuals)), self.state.completed, "starting")
            if self.state.completed < config.rounds:
                # Test data that are missing or damaged are told before any key is spent.
                self.task.evaluate(model)
            for number in range(self.state.completed + 1, config.rounds + 1):
                if self.stop.is_set():
                    raise StoppedError
                model = self._round(number, model)
        except StoppedError:
            stopped = True
        state = self.state.state
        return CohortResult(
            state.rounds,
            model,
            stopped,
            state.key_bits_spent,
            SimulatedKeySupply.label,
            self.plan.security,
            state.interrupted,
        )

    def _round(self, number: int, model: Parameters) -> Parameters:
        plan, vanished, clock = self.plan, self.plan.vanished(number), _Clock()
        self.room.model[:] = model
        self._carry_out(Train(number), number, "training")
        train_s = clock.lap()
        if plan.float32:
            protect_s = 0.0
            mean, exact = self._float_mean(vanished), True
        else:
            self._protect(number)
            protect_s = clock.lap()
            mean, exact = self._aggregate(number, vanished)
        model = model + mean
        aggregate_s = clock.lap()
        self._tell(number, "evaluating", 0)
        evaluation = self.task.evaluate(model)
        evaluate_s = clock.lap()
        self._settle(number)
        record = CohortRound(
            number,
            evaluation.accuracy,
            evaluation.loss,
            plan.upload_bytes_per_client,
            plan.n_pairs * plan.key_bits_per_pair,
            len(vanished),
            exact,
            train_s,
            protect_s,
            aggregate_s,
            evaluate_s,
            self._clipping(vanished),
        )
        self.state.complete(record, model)
        self._warn(record)
        self.report(record)
        return model

    def _clipping(self, vanished: Vanished) -> Clipping | None:
        """What the clients in the sum told of their losses."""
        told = enumerate(self.room.losses.tolist())
        return clipping_of(LossBands(*bands) for i, bands in told if i not in vanished.before_upload)

    def _warn(self, record: CohortRound) -> None:
        """Say in the log that clip or levels do not fit, the first time it shows."""
        config = self.plan.config
        clip = config.clip * config.clip_decay ** (record.round - 1)
        for warning in () if self.warned else clip_warnings([record.clipping], clip, config.levels):
            self.warned = True
            _log.warning("round %d of %s: %s", record.round, config.run_id, warning)

    def _protect(self, number: int) -> None:
        """From quantised values to protected uploads.  The attempt's keys are spent before they are drawn."""
        attempt = self.state.begin_attempt(self.plan.n_pairs * self.plan.key_bits_per_pair)
        if self.plan.masks_pairwise:
            self._carry_out(MaskOrder(attempt), number, "protecting")
        elif self.plan.code:
            self._carry_out(Share(attempt), number, "protecting")
        self._carry_out(Upload(number), number, "protecting")

    def _aggregate(self, number: int, vanished: Vanished) -> tuple[Parameters, bool]:
        """The mean update behind the uploads, and whether their sum is the plain one."""
        plan, room = self.plan, self.room
        included = [i for i in range(plan.n_clients) if i not in vanished.before_upload]
        answering: tuple[int, ...] = ()
        if plan.code:
            answering = tuple(i for i in included if i not in vanished.before_answer)
            self._carry_out(Answer(tuple(included), answering), number, "aggregating")
        else:
            self._tell(number, "aggregating", 0)
        total = self._total(number, included, answering)
        exact = np.array_equal(total, room.plain_sums.sum(axis=0))
        if not exact:
            raise InexactSumError(
                f"round {number}: the sum of the protected uploads is not the sum of the clients' values; "
                "a mask did not cancel, and the model was not changed"
            )
        weight_sum = sum(plan.weights[i] for i in included)
        coordinates = plan.compression.coordinates(plan.config.seed, number, plan.n_parameters)
        return plan.compression.mean(total, weight_sum, coordinates, number, plan.n_parameters), exact

    def _total(self, number: int, included: Sequence[int], answering: Sequence[int]) -> npt.NDArray[np.int64]:
        """The sum, int64 of shape (n_values,), as the server of a distributed run reads it: off uploads and answers."""
        plan, names = self.plan, self.plan.config.clients
        size = packed_size(plan.n_values * plan.value_bits)
        uploads = {names[i]: self.room.uploads[i].view(np.uint8)[:size] for i in included}
        answers = {names[i]: self.room.answers[i] for i in answering}
        try:
            return plan.aggregation.total(names if plan.code else tuple(uploads), uploads, answers)
        except AggregationError as error:
            raise InexactSumError(f"round {number}: {error}; the model was not changed") from error

    def _float_mean(self, vanished: Vanished) -> Parameters:
        weights = [w for i, w in enumerate(self.plan.weights) if i not in vanished.before_upload]
        mean: Parameters = (self.room.float_sums.sum(axis=0) / sum(weights)).astype(np.float32)
        return mean

    def _settle(self, number: int) -> None:
        residuals = None
        if self.plan.config.error_feedback and not self.plan.float32:
            shape = (self.plan.n_clients, self.plan.n_parameters)
            residuals = self.state.residuals_file(number, shape)
        self.crew.carry_out(Settle(number, str(residuals or "")), threading.Event(), lambda served: None)

    def _carry_out(self, order: Order, number: int, phase: Phase) -> None:
        self._tell(number, phase, 0)
        self.crew.carry_out(order, self.stop, lambda served: self._tell(number, phase, served))

    def _tell(self, number: int, phase: Phase, served: int) -> None:
        self.report(CohortPhase(number, phase, served, self.plan.n_clients))


class _Clock:
    """Wall seconds from lap to lap."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap(self) -> float:
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        return seconds
