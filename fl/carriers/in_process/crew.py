"""The processes that simulate the clients, and the orders they get.

A crew carries out one order at a time, in all its processes at once, and is done when the last of them is.
Orders are small messages over pipes (:mod:`orchestrator.wire.codec`); arrays lie in the shared room.  The
processes are started fresh, never forked, with one numerical thread each.  They leave interrupts from the
keyboard to the first process, and end when its end of the pipe closes, however it ended.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from fl.carriers.in_process.clients import ClientGroup, Progress, members_of
from fl.carriers.in_process.plan import CohortPlan, make_plan
from fl.carriers.in_process.results import CohortError
from fl.carriers.in_process.room import SharedRoom, open_room, private_room
from fl.keys.simulated import SimulatedKeySupply, new_run_key
from fl.rounds.config import FLConfig
from fl.rounds.quantise import UpdateNotFiniteError
from fl.workloads import open_task
from fl.workloads.base import Task
from orchestrator.wire.codec import Message, decode, encode

POLL_S = 0.2
PROGRESS_EVERY_S = 0.5
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

CrewProgress: TypeAlias = Callable[[int], None]
"""Told how many clients of the whole cohort a step has served."""


class StoppedError(Exception):
    """The run was told to stop while an order was being carried out."""


class Setup(Message, frozen=True):
    """What a process needs to simulate group ``index`` of ``n_groups``."""

    config: FLConfig
    data_folder: str
    n_parameters: int
    float32: bool
    drop_outs: int
    index: int
    n_groups: int
    room: str


class Train(Message, frozen=True):
    round: int


class MaskOrder(Message, frozen=True):
    attempt: int


class Share(Message, frozen=True):
    attempt: int


class Upload(Message, frozen=True):
    round: int


class Answer(Message, frozen=True):
    survivors: tuple[int, ...]
    answering: tuple[int, ...]


class Settle(Message, frozen=True):
    round: int
    residuals: str = ""


class Restore(Message, frozen=True):
    residuals: str


Order: TypeAlias = Train | MaskOrder | Share | Upload | Answer | Settle | Restore


class Done(Message, frozen=True):
    """The order is carried out."""


class Served(Message, frozen=True):
    """So many clients of the group are served."""

    clients: int


class Failed(Message, frozen=True):
    """The order failed; ``text`` says why and names the client."""

    kind: Literal["not-finite", "other"]
    text: str


Reply: TypeAlias = Done | Served | Failed


class Crew(Protocol):
    """Carries out orders on the simulated clients."""

    def carry_out(self, order: Order, stop: threading.Event, progress: CrewProgress) -> None:
        """Raises UpdateNotFiniteError, CohortError, or StoppedError once ``stop`` is set."""

    def close(self) -> None: ...


def carry_out(group: ClientGroup, order: Order, progress: Progress) -> None:
    """One order on one group."""
    match order:
        case Train():
            group.train(order.round, progress)
        case MaskOrder():
            group.mask(order.attempt, progress)
        case Share():
            group.share(order.attempt, progress)
        case Upload():
            group.upload(group.plan.vanished(order.round), progress)
        case Answer():
            group.answer(order.survivors, frozenset(order.answering), progress)
        case Settle():
            group.settle(group.plan.vanished(order.round), Path(order.residuals) if order.residuals else None)
        case Restore():
            group.restore(Path(order.residuals))


class InProcess:
    """A crew without processes, for small cohorts and for tests."""

    def __init__(self, plan: CohortPlan, task: Task) -> None:
        self.room = private_room(plan)
        self._group = ClientGroup(
            plan, task, self.room, SimulatedKeySupply(new_run_key(), plan.n_clients), 0, 1
        )

    def carry_out(self, order: Order, stop: threading.Event, progress: CrewProgress) -> None:
        def served(clients: int) -> None:
            if stop.is_set():
                raise StoppedError
            progress(clients)

        carry_out(self._group, order, served)

    def close(self) -> None:
        pass


class Workers:
    """A crew of processes."""

    def __init__(self, plan: CohortPlan, data_folder: Path | None, n_workers: int) -> None:
        """Start them; they load their clients' data while this returns.  Raises CohortError."""
        self._plan = plan
        self._shared = SharedRoom(plan, n_workers)
        self.room = self._shared.room
        self._processes: list[BaseProcess] = []
        self._pipes: list[Connection] = []
        context, run_key = multiprocessing.get_context("spawn"), new_run_key()
        try:
            with _one_thread_each():
                for index in range(n_workers):
                    ours, theirs = context.Pipe()
                    process = context.Process(
                        target=_work, args=(theirs,), name=f"cohort-{index}", daemon=True
                    )
                    process.start()
                    theirs.close()
                    self._processes.append(process)
                    self._pipes.append(ours)
                    setup = Setup(
                        plan.config,
                        str(data_folder or ""),
                        plan.n_parameters,
                        plan.float32,
                        plan.drop_outs,
                        index,
                        n_workers,
                        self._shared.path,
                    )
                    ours.send_bytes(encode(setup))
                    ours.send_bytes(run_key)
        except BaseException:
            self.close()
            raise

    def carry_out(self, order: Order, stop: threading.Event, progress: CrewProgress) -> None:
        served = [0] * len(self._pipes)
        data = encode(order)
        for index, pipe in enumerate(self._pipes):
            try:
                pipe.send_bytes(data)
            except OSError:
                raise self._death(index, order) from None
        busy = set(range(len(self._pipes)))
        while busy:
            if stop.is_set():
                raise StoppedError
            for index in list(busy):
                reply = self._hear(index, order)
                if isinstance(reply, Failed):
                    raise (UpdateNotFiniteError if reply.kind == "not-finite" else CohortError)(reply.text)
                if isinstance(reply, Served):
                    served[index] = reply.clients
                    progress(sum(served))
                elif isinstance(reply, Done):
                    busy.discard(index)
            if busy:
                wait([self._pipes[index] for index in busy], POLL_S)

    def _hear(self, index: int, order: Order) -> Reply | None:
        pipe = self._pipes[index]
        try:
            reply: Reply | None = decode(pipe.recv_bytes(), Reply) if pipe.poll() else None
        except (EOFError, OSError):
            raise self._death(index, order) from None
        return reply

    def _death(self, index: int, order: Order) -> CohortError:
        process = self._processes[index]
        process.join(5.0)
        members = members_of(self._plan.n_clients, index, len(self._pipes))
        cause = f"exit code {process.exitcode}"
        if process.exitcode is not None and process.exitcode < 0:
            cause = signal.Signals(-process.exitcode).name
            if process.exitcode == -signal.SIGKILL:
                cause += " (often because memory ran out)"
        return CohortError(
            f"the process of clients {members.start} to {members.stop - 1} ended with {cause} during "
            f"{type(order).__name__.lower()}; completed rounds are kept where the run has a folder"
        )

    def close(self) -> None:
        """End all processes and give the shared memory back."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join(5.0)
            if process.is_alive():
                process.kill()
                process.join()
        self._shared.close()


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes started within have numerical libraries of one thread."""
    kept = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in kept.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _work(pipe: Connection) -> None:
    """The life of one process: set up, then order after order until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        setup, run_key = decode(pipe.recv_bytes(), Setup), pipe.recv_bytes()
        group: ClientGroup | None = None
        while True:
            order = decode(pipe.recv_bytes(), Order)
            try:
                if group is None:
                    group = _set_up(setup, run_key)
                carry_out(group, order, _Teller(pipe))
                pipe.send_bytes(encode(Done()))
            except UpdateNotFiniteError as error:
                pipe.send_bytes(encode(Failed("not-finite", str(error))))
            except Exception as error:  # noqa: BLE001 - whatever a task raises is told to the first process
                pipe.send_bytes(encode(Failed("other", f"{type(error).__name__}: {error}")))
    except (EOFError, OSError, KeyboardInterrupt):
        return


def _set_up(setup: Setup, run_key: bytes) -> ClientGroup:
    plan = make_plan(setup.config, setup.n_parameters, float32=setup.float32, drop_outs=setup.drop_outs)
    task = open_task(setup.config.task, Path(setup.data_folder) if setup.data_folder else None)
    room = open_room(setup.room, plan, setup.n_groups)
    supply = SimulatedKeySupply(run_key, plan.n_clients)
    return ClientGroup(plan, task, room, supply, setup.index, setup.n_groups)


class _Teller:
    """Sends progress up the pipe, not too often."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._next = time.monotonic() + PROGRESS_EVERY_S

    def __call__(self, clients: int) -> None:
        if time.monotonic() >= self._next:
            self._pipe.send_bytes(encode(Served(clients)))
            self._next = time.monotonic() + PROGRESS_EVERY_S
