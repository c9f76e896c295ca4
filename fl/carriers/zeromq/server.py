"""The FL server: announces rounds and adds up protected updates; it can read a single one in mode ``plain`` only.

One thread, one listener (:mod:`fl.carriers.zeromq.client_connections`).  All clients are welcomed with the settings of the run; when
everyone is ready, a round begins (:mod:`fl.carriers.zeromq.round_server`).  If it comes to a sum, the model moves and is
evaluated; otherwise the round is aborted, its cost recorded, and the next one begins.  With one-time pads and
expanded keys a run whose client is away pauses until it is back; in the other modes a quorum goes on after a
grace time.  A server that was killed resumes from its folder (:mod:`fl.rounds.run_state`) with the next number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import msgspec

from fl.carriers.zeromq.client_connections import ClientConnections
from fl.carriers.zeromq.round_server import RoundServer, RunFailedError, ServedRun
from fl.rounds.aggregation import aggregation_for, described
from fl.rounds.config import (
    ConfigError,
    FLConfig,
    check_config,
    check_weights,
    described_sources,
    listed,
    other_task,
)
from fl.rounds.messages import (
    MESSAGE_LIMIT,
    PROTOCOL_VERSION,
    Answer,
    Confirm,
    Decline,
    FromClient,
    Join,
    Leave,
    Progress,
    Ready,
    Rejected,
    RunEnd,
    Shares,
    Upload,
    Welcome,
)
from fl.rounds.run_state import RunFolder
from fl.workloads import open_task
from fl.workloads.base import Task
from orchestrator import runtime
from orchestrator.delivery.consent import LEAK
from orchestrator.delivery.consent_book import write_run_file
from orchestrator.events.learning import (
    Listening,
    RoundRecord,
    RunDescribed,
    RunFinished,
    RunStarted,
    ServerEvent,
    WaitingForClients,
    WaitingForKeys,
)
from orchestrator.records.keeping import Records
from orchestrator.records.kinds import RoleStopped
from orchestrator.wire.budget import messages_within
from orchestrator.wire.control_socket import ControlSocket
from orchestrator.wire.curve import CurveKeys
from orchestrator.wire.gate_control import CONTROL_ERRORS, answer_about_gate
from orchestrator.wire.links import CONTROL_LIMIT, QueueLimits, Transport
from orchestrator.wire.revoked import RevokedKeys
from orchestrator.wire.zeromq import ZeroMQ

RUN_FILE = "run-description.json"
"""In the run's folder: what the clients' operators consent to."""
POLL_S = 0.1
UNREAD_BYTES = 64 << 20
"""Models and receipts that wait for one client that does not read, as far as four of them fit."""
UNHEARD_BYTES = 16 << 20
"""What one client has sent and the server, evaluating perhaps, has not read, as far as two messages fit."""
LONG_TURN_S = 0.5
"""A turn of the loop that takes longer means that the server was not listening."""
FAREWELL_S = 3.0
"""How long the end of a run waits for clients to confirm that they heard of it."""
KEY_WAIT_REPORT_S = 1.0
"""A waiting client is reported at most this often."""


def run_server(
    endpoint: str,
    keys: CurveKeys,
    allowed: Mapping[str, str],
    config: FLConfig,
    out_dir: Path,
    stop: runtime.Event,
    report: Callable[[ServerEvent], None] = lambda event: None,
    *,
    data_folder: Path | None = None,
    task: Task | None = None,
    clock: Callable[[], float] = runtime.now,
    transport: Transport | None = None,
    role_dir: Path | None = None,
    records: Records | None = None,
) -> tuple[RoundRecord, ...]:
    """Serve one run at ``endpoint`` until its last round, or until ``stop`` is set; returns its records.

    ``allowed`` maps CURVE public keys (Z85) to role names ``fl-<user>``.  ``out_dir`` holds the run's
    state; an unfinished run of the same settings found there is resumed.  ``config`` is completed with the
    fingerprint of the server's task.  In ``role_dir``, the state folder of the role, lie its control socket and
    its list of revoked keys; ``records`` get every round.  Raises QuantisationError, ShareCodeError or ConfigError before
    anything is opened if the settings cannot work, OSError if the endpoint is taken, RunStateError for a
    folder of another run and RunFailedError after too many aborted rounds in a row, or if it is stopped when every
    round was aborted.  The description of the run that clients' operators consent to is written to ``out_dir``
    first (:data:`RUN_FILE`).
    """
    check_config(config)
    if config.protection.cipher:
        check_weights(config.levels, config.client_weights)
    task = task or open_task(config.task, data_folder)
    config = with_task(config, task)
    folder = RunFolder(out_dir, config)
    report(write_description(config, task, out_dir))
    revoked = None if role_dir is None else RevokedKeys(role_dir)
    with ExitStack() as stack:
        transport = transport or stack.enter_context(ZeroMQ())
        waiter = transport.waiter()
        stack.callback(waiter.close)
        gate = stack.enter_context(transport.gate(allowed, revoked))
        largest = largest_frame(config, task.n_parameters)
        limits = QueueLimits(
            largest,
            unsent=messages_within(UNREAD_BYTES, largest, least=4, most=256),
            unread=messages_within(UNHEARD_BYTES, largest, least=2, most=16),
            message_frames=2,
        )
        listener = gate.listen(waiter, keys, endpoint, limits)
        stack.callback(listener.close)
        if role_dir is not None:
            stack.enter_context(ControlSocket(role_dir, partial(answer_about_gate, gate), CONTROL_ERRORS))
        report(Listening(listener.endpoint, keys.public))
        connections = ClientConnections(listener, waiter, config.clients, clock)
        kept = records or Records(None)
        stack.callback(lambda: kept.keep(RoleStopped()))
        return _Server(ServedRun(connections, folder, task, report, clock, kept)).serve(stop)


def write_description(config: FLConfig, task: Task, folder: Path) -> RunDescribed:
    """Write the run file of a run with its fingerprint; says where it is, and the digest in it."""
    description = described(config, task)
    write_run_file(folder / RUN_FILE, description)
    path = folder / RUN_FILE
    return RunDescribed(config.run_id, str(path), description.name, f"qunetlab fl consent {path} --user NAME")


def largest_frame(config: FLConfig, n_parameters: int) -> int:
    """Bytes that no frame of this run exceeds: a model, or all that one client gives to a round."""
    rules = aggregation_for(config, n_parameters).rules(config.clients)
    array = max(4 * n_parameters, rules.upload_bytes(len(config.clients)))
    return min(MESSAGE_LIMIT, array + CONTROL_LIMIT)


def with_task(config: FLConfig, task: Task) -> FLConfig:
    """``config`` with fingerprint and data of ``task``; raises ConfigError if it names others."""
    if config.task_fingerprint not in ("", task.fingerprint):
        raise ConfigError(
            f"run {config.run_id} was set up for a {task.name} task with fingerprint "
            f"{config.task_fingerprint[:12]}, this server has {task.fingerprint[:12]}: another model, vocabulary "
            "or data format; start a run under another id"
        )
    sources = described_sources(task)
    if config.sources not in ((), sources):
        raise ConfigError(
            f"run {config.run_id} was set up with other data than this server has: there {listed(config.sources)}, here "
            f"{listed(sources)}; give the same files, or start a run under another id"
        )
    return msgspec.structs.replace(config, task_fingerprint=task.fingerprint, sources=sources)


class _Server:
    def __init__(self, run: ServedRun) -> None:
        self._run = run
        self._rounds = RoundServer(run)
        self._last_turn_s = run.clock()
        self._reported_missing: tuple[str, ...] | None = None
        self._ending: RunEnd | None = None

    # -- the loop ---------------------------------------------------------------------------------------

    def serve(self, stop: runtime.Event) -> tuple[RoundRecord, ...]:
        """Serve until the run is over or ``stop`` is set."""
        state = self._run.folder.state
        self._run.report(
            RunStarted(
                self._run.config.run_id,
                self._run.task.name,
                self._run.task.n_parameters,
                self._rounds.aggregation.mode.label,
                state.last_announced + 1,
                len(state.rounds),
                self._rounds.aggregation.mode.security,
                self._rounds.aggregation.key_bits_per_pair,
            )
        )
        reason = ""
        try:
            while len(self._run.folder.state.rounds) < self._run.config.rounds:
                if stop.is_set():
                    reason = "the server was stopped"
                    if told := self._rounds.fruitless:
                        aborted = self._run.folder.state.aborted
                        raise RunFailedError(
                            f"{reason} after {len(aborted)} aborted rounds, the last one because {aborted[-1].reason}; {told}"
                        )
                    break
                self._run.connections.wait(POLL_S)
                self._excuse_own_absence()
                self._receive()
                if self._rounds.current is None:
                    self._maybe_start()
                self._rounds.advance(self._last_turn_s)  # a suspension since then is excused first
        except RunFailedError as error:
            reason = str(error)
            raise
        finally:
            self._finish(reason)
        return self._run.folder.state.rounds

    def _finish(self, reason: str) -> None:
        if self._rounds.current is not None:
            self._rounds.abort(reason or "the server failed")
        self._ending = RunEnd(self._run.config.run_id, reason[:1000])
        for name in self._run.connections.names:
            self._run.connections.send(name, self._ending)
        # Closing a socket at once can lose what the other end has not read; clients answer with Leave.
        deadline_s = self._run.clock() + FAREWELL_S
        while not reason and self._present() and self._run.clock() < deadline_s:
            self._run.connections.wait(POLL_S)
            self._receive()
        self._run.report(RunFinished(self._run.config.run_id, len(self._run.folder.state.rounds), reason))

    def _present(self) -> list[str]:
        return self._run.connections.present(self._run.config.client_timeout_s)

    def _excuse_own_absence(self) -> None:
        """The time during which the server was suspended or evaluating does not count as silence of any client."""
        now_s = self._run.clock()
        gap_s, self._last_turn_s = now_s - self._last_turn_s, now_s
        if gap_s > LONG_TURN_S:
            self._run.connections.excuse(gap_s)
            if self._rounds.current is not None:
                self._rounds.current.excuse(gap_s)

    def _maybe_start(self) -> None:
        """Begin a round if everybody is ready; where clients may be missing, with a quorum after the grace time."""
        config, present = self._run.config, self._present()
        ready = tuple(
            name for name in config.clients if name in present and self._run.connections[name].ready
        )
        missing = tuple(name for name in config.clients if name not in ready)
        grace_over = self._run.folder.state.last_announced > 0 and (
            self._run.clock() - self._rounds.idle_since_s >= config.rejoin_grace_s
        )
        may_go_on = config.protection.drop_outs and grace_over and len(ready) >= config.quorum
        if missing and not may_go_on:
            if missing != self._reported_missing:
                self._reported_missing = missing
                self._run.report(WaitingForClients(missing, self._why_paused(missing)))
            return
        self._reported_missing = None
        self._rounds.start(ready)

    def _why_paused(self, missing: tuple[str, ...]) -> str:
        """Why a run that has begun does not go on without these clients; nothing where it may."""
        if self._run.folder.state.last_announced == 0 or self._run.config.protection.drop_outs:
            return ""
        return (
            f"paused until {', '.join(missing)} is back: from a sum without one client {LEAK}; going on without is"
            " another run, to which every operator consents"
        )

    # -- messages ---------------------------------------------------------------------------------------

    def _receive(self) -> None:
        """Take in everything that waits, without blocking."""
        while (received := self._run.connections.receive()) is not None:
            name, message, buffer = received
            if self._rounds.current is not None:
                self._rounds.current.heard(name, self._run.connections[name].last_heard_s)
            self._handle(name, message, buffer)

    def _handle(self, name: str, message: FromClient, buffer: bytes | None) -> None:
        if self._ending is not None:
            if isinstance(message, Leave):
                self._run.connections.forget(name)
            elif isinstance(message, Join):  # whoever joined before was told already and may be gone
                self._run.connections.send(name, self._ending)
            return
        match message:
            case Join(version=version):
                self._on_join(name, version)
            case Ready():
                self._on_ready(name, message)
            case Progress():
                self._on_progress(name, message)
            case Shares() | Upload() | Confirm() | Answer():
                self._rounds.contribute(name, message, buffer or b"")
            case Decline():
                self._rounds.declined(name, message)
            case Leave(reason=reason):
                self._run.connections.forget(name)
                if self._rounds.current is not None:
                    self._rounds.current.left(name, reason or "stopped", self._run.clock())

    def _on_join(self, name: str, version: int) -> None:
        if version == PROTOCOL_VERSION:
            self._run.connections.send(name, Welcome(PROTOCOL_VERSION, self._run.config))
            return
        text = f"the server speaks protocol version {PROTOCOL_VERSION}, the client {version}"
        self._run.connections.send(name, Rejected(f"{text}: install the same qunetlab on both"))

    def _on_ready(self, name: str, message: Ready) -> None:
        config, task = self._run.config, self._run.task
        if message.run_id != config.run_id or message.n_parameters != task.n_parameters:
            self._run.connections.send(
                name,
                Rejected(
                    f"the model of task {task.name} has {task.n_parameters} parameters here and "
                    f"{message.n_parameters} at {name}: install the same qunetlab on both"
                ),
            )
        elif message.task_fingerprint != config.task_fingerprint:
            self._run.connections.send(name, Rejected(f"{name} has {other_task(config.task, 'the server')}"))
        elif not self._rounds.send_missed_sum(name, message.followed):
            self._run.connections[name].ready = True
            self._rounds.catch_up(name)

    def _on_progress(self, name: str, message: Progress) -> None:
        current = self._rounds.current
        if current is None:
            return
        now_s, connection = self._run.clock(), self._run.connections[name]
        current.progress(name, message, now_s)
        waiting = message.phase == "waiting for keys" and message.round == current.number
        if waiting and now_s - connection.last_wait_report_s >= KEY_WAIT_REPORT_S:
            connection.last_wait_report_s = now_s
            self._run.report(
                WaitingForKeys(current.number, name, message.missing_bits, message.detail, message.eta_s)
            )
