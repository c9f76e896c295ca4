"""The FL client: trains on its own data and uploads nothing but protected updates.

Two threads: the main one owns the socket to the server and sends heartbeats with what is going on; a
worker trains and masks (:mod:`fl.trainer`).  The server is not trusted: the client itself checks that the
settings cannot wrap the ring, that the mode is the one its operator asked for, that a round has enough
participants, and that round numbers grow.  What it uploads for a round is kept until the round ends and
sent again, unchanged, after a broken connection; a second, different upload for a round does not exist.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zmq

from fl.aggregation import aggregation_for
from fl.config import SMALLEST_QUORUM, ConfigError, FLConfig, Mode, check_config
from fl.events import ClientState
from fl.keys import CancelledError, KeyServiceError, NodeKeys, ProtectedUpdate
from fl.link import ServerLink, ServerRefusedError
from fl.messages import (
    PROTOCOL_VERSION,
    Decline,
    FromServer,
    Join,
    JoinAgain,
    Leave,
    Phase,
    Progress,
    Ready,
    Rejected,
    RoundEnd,
    RoundStart,
    RunEnd,
    Upload,
    UploadReply,
    Welcome,
    header_of,
    read_float32,
)
from fl.quantise import QuantisationError, check_ring
from fl.tasks import load_task
from fl.tasks.base import Task
from fl.trainer import EXPECTED_FAILURES, RoundJob, Trainer
from orchestrator.delivery.messages import RoundContext
from orchestrator.wire.codec import WireError
from orchestrator.wire.curve import CurveKeys
from orchestrator.wire.links import LinkState

IDLE_POLL_S = 0.1
BUSY_POLL_S = 0.02

_log = logging.getLogger(__name__)


class ClientRefusesError(Exception):
    """The run that the server offers is not one this client takes part in."""


@dataclass(frozen=True)
class ClientOutcome:
    """How a client's run ended: rounds it uploaded in, and why it stopped ("" at the end of the run)."""

    rounds_uploaded: int
    reason: str


@dataclass(frozen=True)
class ClientRules:
    """What the client's own operator demands, whatever the server announces."""

    mode: Mode = "otp"
    min_participants: int = SMALLEST_QUORUM


def run_client(
    name: str,
    endpoint: str,
    server_public: str,
    keys: CurveKeys,
    node_keys: NodeKeys | None,
    stop: threading.Event,
    report: Callable[[ClientState], None] = lambda event: None,
    *,
    rules: ClientRules = ClientRules(),
    data_folder: Path | None = None,
    self_check_dir: Path | None = None,
    open_task: Callable[[str, Path | None], Task] = load_task,
    clock: Callable[[], float] = time.monotonic,
    context: zmq.Context[zmq.Socket[bytes]] | None = None,
    patience_s: float = 10.0,
) -> ClientOutcome:
    """Take part in the run of the server at ``endpoint`` until it ends or ``stop`` is set.

    ``self_check_dir`` makes the client write its unmasked updates there: simulations only (see
    :mod:`fl.selfcheck`).  Raises ServerRefusedError when the server turns the client away for
    ``patience_s``, ClientRefusesError when the run breaks ``rules`` or cannot work, and DataError when the
    task's data is missing.  A server that is away is waited for.
    """
    own_context = zmq.Context() if context is None else None
    zmq_context = context or own_context
    assert zmq_context is not None
    if self_check_dir is not None:
        _log.warning("self-check: %s writes its unmasked updates to %s", name, self_check_dir)
    link = ServerLink(zmq_context, keys, server_public, endpoint, clock, patience_s)
    client = _Client(name, link, node_keys, rules, report, open_task, data_folder, self_check_dir, clock)
    try:
        return client.run(stop)
    finally:
        client.close()
        link.close()
        if own_context is not None:
            own_context.term()


@dataclass
class _Round:
    """The round this client is working on, or has uploaded in."""

    start: RoundStart
    job: RoundJob
    cancelled: threading.Event
    future: Future[ProtectedUpdate]
    upload: Upload | None = None
    packed: ProtectedUpdate | None = None


class _Client:
    def __init__(
        self,
        name: str,
        link: ServerLink,
        node_keys: NodeKeys | None,
        rules: ClientRules,
        report: Callable[[ClientState], None],
        open_task: Callable[[str, Path | None], Task],
        data_folder: Path | None,
        self_check_dir: Path | None,
        clock: Callable[[], float],
    ) -> None:
        self._name = name
        self._link = link
        self._node_keys = node_keys
        self._rules = rules
        self._report = report
        self._open_task = open_task
        self._data_folder = data_folder
        self._self_check_dir = self_check_dir
        self._clock = clock
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"fl-{name}")
        self._config: FLConfig | None = None
        self._welcomed = False
        self._loading: Future[Trainer] | None = None
        self._trainer: Trainer | None = None
        self._round: _Round | None = None
        self._last_round = 0
        self._uploaded = 0
        self._phase: tuple[Phase, str, float | None] = ("idle", "", None)
        self._sent_phase: tuple[Phase, str, float | None] | None = None
        self._next_heartbeat_s = 0.0
        self._outcome: ClientOutcome | None = None

    # -- the loop ---------------------------------------------------------------------------------------

    def run(self, stop: threading.Event) -> ClientOutcome:
        """Serve the link until the run ends or ``stop`` is set."""
        known_state = None
        while self._outcome is None:
            if stop.is_set():
                self._link.send(Leave("stopped"))
                return ClientOutcome(self._uploaded, "stopped")
            state = self._link.poll(BUSY_POLL_S if self._busy else IDLE_POLL_S)
            if state is not known_state:
                known_state = state
                self._welcomed = False
                self._next_heartbeat_s = 0.0
                self._report(ClientState(self._name, 0, "link", state.value))
            self._receive()
            self._collect_work()
            if state is LinkState.UP and self._outcome is None:
                self._heartbeat()
        return self._outcome

    def close(self) -> None:
        """Cancel what is going on and wait for the worker to notice."""
        if self._round is not None:
            self._round.cancelled.set()
        self._worker.shutdown(wait=True, cancel_futures=True)

    @property
    def _busy(self) -> bool:
        return self._loading is not None or (self._round is not None and self._round.upload is None)

    def _heartbeat(self) -> None:
        """Join, or tell the phase: when it changed, and at every heartbeat anyway."""
        now_s = self._clock()
        changed = self._welcomed and self._phase[0] != (self._sent_phase or ("",))[0]
        if now_s < self._next_heartbeat_s and not changed:
            return
        config = self._config
        self._next_heartbeat_s = now_s + (config.heartbeat_s if config is not None else 0.5)
        if not self._welcomed or config is None:
            self._link.send(Join(PROTOCOL_VERSION))
            return
        phase = self._phase
        number = self._round.start.round if self._round is not None else 0
        if self._link.send(Progress(config.run_id, number, phase[0], phase[1][:1000], phase[2])):
            self._sent_phase = phase
            if changed or phase[0].startswith("waiting"):
                self._report(ClientState(self._name, number, *phase))

    def _tell(self, phase: Phase, detail: str = "", eta_s: float | None = None) -> None:
        self._phase = (phase, detail, eta_s)

    # -- messages ---------------------------------------------------------------------------------------

    def _receive(self) -> None:
        while self._outcome is None:
            try:
                received = self._link.receive()
            except WireError as error:
                _log.warning("message from the server dropped: %s", error)
                continue
            if received is None:
                return
            self._handle(*received)

    def _handle(self, message: FromServer, buffer: bytes | None) -> None:
        match message:
            case JoinAgain():
                if self._welcomed:
                    self._welcomed, self._next_heartbeat_s = False, 0.0
            case Welcome():
                self._on_welcome(message)
            case Rejected(reason=reason):
                raise ServerRefusedError(f"the FL server rejects {self._name}: {reason}")
            case RoundStart():
                self._on_round_start(message, buffer or b"")
            case UploadReply(round=number, status=status, reason=reason):
                if status == "refused":
                    _log.warning("the upload of round %d was refused: %s", number, reason)
                    self._report(ClientState(self._name, number, "upload refused", reason))
            case RoundEnd(round=number, reason=reason):
                self._on_round_end(number, reason)
            case RunEnd(reason=reason):
                self._drop_round()
                if not reason:
                    self._link.send(Leave("the run is over"))
                    self._outcome = ClientOutcome(self._uploaded, "")
                else:
                    self._report(ClientState(self._name, 0, "run interrupted", reason))

    def _on_welcome(self, message: Welcome) -> None:
        config = message.config
        if self._config is None or config.run_id != self._config.run_id:
            self._check_run(config)
            self._drop_round()
            self._last_round = 0
            self._trainer = None
        elif config != self._config:
            raise ClientRefusesError(f"the server changed the settings of run {config.run_id}")
        self._config = config
        self._welcomed = True
        if self._trainer is not None:
            self._link.send(Ready(config.run_id, self._trainer.task.n_parameters))
        elif self._loading is None:
            self._tell("loading", config.task)
            self._loading = self._worker.submit(self._load, config)

    def _check_run(self, config: FLConfig) -> None:
        try:
            check_config(config)
        except (ConfigError, QuantisationError) as error:
            raise ClientRefusesError(f"run {config.run_id} cannot work: {error}") from error
        if config.mode != self._rules.mode:
            raise ClientRefusesError(
                f"run {config.run_id} wants mode {config.mode}, {self._name} takes part in "
                f"{self._rules.mode} only"
            )
        if self._name not in config.clients:
            raise ClientRefusesError(f"{self._name} is not among the clients of run {config.run_id}")

    def _load(self, config: FLConfig) -> Trainer:
        task = self._open_task(config.task, self._data_folder)
        data = task.client_data(config.clients.index(self._name), config.n_clients, config.seed)
        trainer = Trainer(
            self._name,
            config,
            task,
            data,
            aggregation_for(config.mode),
            self._node_keys,
            self._self_check_dir,
        )
        trainer.demand(tuple(name for name in config.clients if name != self._name), config.rounds)
        return trainer

    # -- rounds -----------------------------------------------------------------------------------------

    def _on_round_start(self, message: RoundStart, buffer: bytes) -> None:
        current = self._round
        if current is not None and current.start == message:
            self._send_upload(current)
            return
        try:
            job = self._accept(message, buffer)
        except (ClientRefusesError, QuantisationError, WireError) as error:
            self._report(ClientState(self._name, message.round, "declined", str(error)))
            self._link.send(Decline(message.run_id, message.round, str(error)[:1000]))
            return
        assert self._trainer is not None
        self._drop_round()
        self._last_round = message.round
        cancelled = threading.Event()
        self._tell("training")
        future = self._worker.submit(self._trainer.run, job, cancelled, self._tell)
        self._round = _Round(message, job, cancelled, future)

    def _accept(self, message: RoundStart, buffer: bytes) -> RoundJob:
        """The round as a job; raises an error naming what this client does not accept about it."""
        trainer, config = self._trainer, self._config
        if trainer is None or config is None or message.run_id != config.run_id:
            raise ClientRefusesError(f"{self._name} is not ready for a round of run {message.run_id}")
        participants = message.participants
        if message.round <= self._last_round:
            raise ClientRefusesError(
                f"round {message.round} does not come after round {self._last_round}: numbers are used once"
            )
        if participants != tuple(name for name in config.clients if name in participants):
            raise ClientRefusesError("participants must be clients of the run, each once, in the run's order")
        if self._name not in participants:
            raise ClientRefusesError(f"{self._name} is not among the participants")
        if config.mode != "plain" and len(participants) < self._rules.min_participants:
            raise ClientRefusesError(
                f"{len(participants)} participants would let the sum tell too much about each: "
                f"{self._name} asks for at least {self._rules.min_participants}"
            )
        if len(message.weights) != len(participants):
            raise ClientRefusesError(f"{len(message.weights)} weights for {len(participants)} participants")
        check_ring(config.levels, message.weights, config.ring_bits)
        model = read_float32(message.header, buffer)
        if model.shape != (trainer.task.n_parameters,) or not np.isfinite(model).all():
            raise ClientRefusesError(
                f"the model has shape {model.shape} or holds NaN or infinity; expected "
                f"{trainer.task.n_parameters} finite values"
            )
        context = RoundContext(
            message.run_id, message.round, participants, trainer.task.n_parameters, config.ring_bits
        )
        return RoundJob(context, message.weights, message.rounds_left, model)

    def _collect_work(self) -> None:
        """Take up what the worker has finished."""
        if self._loading is not None and self._loading.done():
            trainer, self._loading = self._loading.result(), None
            self._tell("idle")
            if trainer.config == self._config:
                self._trainer = trainer
                self._link.send(Ready(trainer.config.run_id, trainer.task.n_parameters))
            else:
                self._welcomed = False
        current = self._round
        if current is None or current.upload is not None or not current.future.done():
            return
        error = current.future.exception()
        if error is None:
            self._finish_upload(current, current.future.result())
        elif isinstance(error, CancelledError):
            self._round = None
        else:
            key_bits = error.key_bits if isinstance(error, KeyServiceError) else 0
            reason = (
                f"{error}" if isinstance(error, EXPECTED_FAILURES) else f"internal {type(error).__name__}"
            )
            self._report(ClientState(self._name, current.start.round, "declined", reason))
            self._link.send(Decline(current.start.run_id, current.start.round, reason[:1000], key_bits))
            self._round = None
            self._tell("idle")
            if not isinstance(error, EXPECTED_FAILURES):
                raise error

    def _finish_upload(self, current: _Round, protected: ProtectedUpdate) -> None:
        assert self._trainer is not None
        context = current.job.context
        current.packed = protected
        current.upload = Upload(
            context.run_id,
            context.round,
            context.digest(),
            self._trainer.weight(current.job),
            context.n_values,
            context.ring_bits,
            protected.key_bits,
            header_of(protected.packed),
        )
        self._uploaded += 1
        self._tell("uploaded")
        self._send_upload(current)

    def _send_upload(self, current: _Round) -> None:
        if current.upload is not None and current.packed is not None:
            self._link.send(current.upload, current.packed.packed)

    def _on_round_end(self, number: int, reason: str) -> None:
        if self._round is not None and self._round.start.round == number:
            self._drop_round()
        self._report(ClientState(self._name, number, "round aborted" if reason else "round done", reason))

    def _drop_round(self) -> None:
        """Forget the round and its update; work that has not spent key yet stops."""
        if self._round is not None:
            self._round.cancelled.set()
            self._round = None
            self._tell("idle")
