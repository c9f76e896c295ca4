"""The FL server: announces rounds, adds up masked updates, and never sees a single one.

One thread, one CURVE ROUTER socket.  Clients are known by their CURVE keys (role ``fl-<user>``), whatever
they say.  All of them are welcomed with the settings of the run; when everyone (or, after a grace time, a
quorum) is ready, the server spends a round number durably, announces model and participants, and collects
uploads (:mod:`fl.rounds`).  If all arrive it adds them modulo 2^b, moves the model and evaluates it;
otherwise the round is aborted, its cost recorded, and the next one begins.  A server that was killed
resumes from its folder (:mod:`fl.run_state`) with the next number.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import zmq

from fl.aggregation import Aggregation, aggregation_for
from fl.config import FLConfig, check_config, client_weights
from fl.events import (
    AbortRecord,
    Listening,
    RoundAborted,
    RoundCompleted,
    RoundRecord,
    RoundStarted,
    RunFinished,
    RunStarted,
    ServerEvent,
    UploadRefused,
    WaitingForClients,
    WaitingForKeys,
)
from fl.messages import (
    MESSAGE_LIMIT,
    PROTOCOL_VERSION,
    Decline,
    FromClient,
    FromServer,
    Join,
    JoinAgain,
    Leave,
    Progress,
    Ready,
    Rejected,
    RoundEnd,
    RoundStart,
    RunEnd,
    Upload,
    UploadReply,
    Welcome,
    frame_of,
    header_of,
    read_uint8,
    split_message,
)
from fl.rounds import CollectingRound, DuplicateUploadError, RoundLimits, UploadRefusedError
from fl.run_state import RunFolder
from fl.tasks import load_task
from fl.tasks.base import Parameters, Task
from orchestrator.delivery.messages import RoundContext
from orchestrator.wire.codec import WireError, encode
from orchestrator.wire.curve import CurveKeys, UnknownKeyError, ZapGate, server_socket

ROLE_PREFIX = "fl-"
POLL_S = 0.1
LONG_TURN_S = 0.5
"""A turn of the loop that takes longer means that the server was not listening."""
FAREWELL_S = 3.0
"""How long the end of a run waits for clients to confirm that they heard of it."""
KEY_WAIT_REPORT_S = 1.0
"""A waiting client is reported at most this often."""

_log = logging.getLogger(__name__)


class RunFailedError(Exception):
    """The run cannot reach its last round."""


@dataclass
class _Client:
    """What the server knows of one client's present connection."""

    route: bytes
    ready: bool = False
    last_heard_s: float = 0.0
    last_wait_report_s: float = field(default=-1e9)


def run_server(
    endpoint: str,
    keys: CurveKeys,
    allowed: Mapping[str, str],
    config: FLConfig,
    out_dir: Path,
    stop: threading.Event,
    report: Callable[[ServerEvent], None] = lambda event: None,
    *,
    data_folder: Path | None = None,
    task: Task | None = None,
    clock: Callable[[], float] = time.monotonic,
    context: zmq.Context[zmq.Socket[bytes]] | None = None,
) -> tuple[RoundRecord, ...]:
    """Serve one run at ``endpoint`` until its last round, or until ``stop`` is set; returns its records.

    ``allowed`` maps CURVE public keys (Z85) to role names ``fl-<user>``.  ``out_dir`` holds the run's
    state; an unfinished run of the same settings found there is resumed.  Raises QuantisationError or
    ConfigError before anything is opened if the settings cannot work, OSError if the endpoint is taken,
    RunStateError for a folder of another run and RunFailedError after too many aborted rounds in a row.
    """
    check_config(config)
    folder = RunFolder(out_dir, config)
    own_context = zmq.Context() if context is None else None
    zmq_context = context or own_context
    assert zmq_context is not None
    try:
        with ZapGate(zmq_context, allowed) as gate:
            socket, bound = server_socket(zmq_context, zmq.ROUTER, keys, endpoint, max_message=MESSAGE_LIMIT)
            try:
                report(Listening(bound, keys.public))
                server = _Server(
                    socket, gate, config, folder, task or load_task(config.task, data_folder), report, clock
                )
                return server.run(stop)
            finally:
                socket.close()
    finally:
        if own_context is not None:
            own_context.term()


class _Server:
    def __init__(
        self,
        socket: zmq.Socket[bytes],
        gate: ZapGate,
        config: FLConfig,
        folder: RunFolder,
        task: Task,
        report: Callable[[ServerEvent], None],
        clock: Callable[[], float],
    ) -> None:
        self._socket = socket
        self._gate = gate
        self._config = config
        self._folder = folder
        self._task = task
        self._report = report
        self._clock = clock
        self._aggregation: Aggregation = aggregation_for(config.mode)
        self._clients: dict[str, _Client] = {}
        self._round: CollectingRound | None = None
        self._declined_with_keys: set[str] = set()
        self._waiting_since_s = self._last_turn_s = clock()
        self._reported_missing: tuple[str, ...] | None = None
        self._aborts_in_a_row = 0
        self._ending: RunEnd | None = None
        model = folder.latest_model()
        self._model: Parameters = task.initial_parameters(config.seed) if model is None else model

    # -- the loop ---------------------------------------------------------------------------------------

    def run(self, stop: threading.Event) -> tuple[RoundRecord, ...]:
        """Serve until the run is over or ``stop`` is set."""
        state = self._folder.state
        self._report(
            RunStarted(
                self._config.run_id,
                self._task.name,
                self._task.n_parameters,
                self._aggregation.label,
                state.last_announced + 1,
                len(state.rounds),
            )
        )
        reason = ""
        try:
            while len(self._folder.state.rounds) < self._config.rounds:
                if stop.is_set():
                    reason = "the server was stopped"
                    break
                waiting = self._socket.poll(int(POLL_S * 1000), zmq.POLLIN)
                self._excuse_own_absence()
                if waiting:
                    self._receive()
                self._advance()
        except RunFailedError as error:
            reason = str(error)
            raise
        finally:
            self._finish(reason)
        return self._folder.state.rounds

    def _finish(self, reason: str) -> None:
        if self._round is not None:
            self._abort(reason or "the server failed")
        self._ending = RunEnd(self._config.run_id, reason[:1000])
        for name in tuple(self._clients):
            self._send(name, self._ending)
        # Closing a socket at once can lose what the other end has not read; clients answer with Leave.
        deadline_s = self._clock() + FAREWELL_S
        while not reason and self._present() and self._clock() < deadline_s:
            if self._socket.poll(int(POLL_S * 1000), zmq.POLLIN):
                self._receive()
        self._report(RunFinished(self._config.run_id, len(self._folder.state.rounds), reason))

    def _present(self) -> list[str]:
        """Clients heard of within the time-out."""
        oldest_s = self._clock() - self._config.client_timeout_s
        return [name for name, client in self._clients.items() if client.last_heard_s >= oldest_s]

    def _excuse_own_absence(self) -> None:
        """A server that was suspended, or evaluated for long, blames nobody for the silence."""
        now_s = self._clock()
        gap_s, self._last_turn_s = now_s - self._last_turn_s, now_s
        if gap_s > LONG_TURN_S:
            for client in self._clients.values():
                client.last_heard_s += gap_s
            if self._round is not None:
                self._round.excuse(gap_s)

    def _advance(self) -> None:
        now_s = self._clock()
        if self._round is None:
            self._maybe_start(now_s)
        elif (failure := self._round.failure(now_s)) is not None:
            self._abort(failure)
        elif self._round.complete:
            self._complete(now_s)

    # -- rounds -----------------------------------------------------------------------------------------

    def _maybe_start(self, now_s: float) -> None:
        config = self._config
        present = self._present()
        ready = tuple(name for name in config.clients if name in present and self._clients[name].ready)
        missing = tuple(name for name in config.clients if name not in ready)
        grace_over = self._folder.state.last_announced > 0 and (
            now_s - self._waiting_since_s >= config.rejoin_grace_s
        )
        if missing and not (grace_over and len(ready) >= config.quorum):
            if missing != self._reported_missing:
                self._reported_missing = missing
                self._report(WaitingForClients(missing))
            return
        self._reported_missing = None
        self._start(ready, now_s)

    def _start(self, participants: tuple[str, ...], now_s: float) -> None:
        config = self._config
        number = self._folder.announce()
        weights = client_weights(len(participants))
        context = RoundContext(
            run_id=config.run_id,
            round=number,
            participants=participants,
            n_values=self._task.n_parameters,
            ring_bits=config.ring_bits,
        )
        self._declined_with_keys.clear()
        self._round = CollectingRound(
            config.run_id,
            number,
            participants,
            weights,
            self._task.n_parameters,
            config.ring_bits,
            context.digest(),
            RoundLimits(config.client_timeout_s, config.round_timeout_s, config.wait_timeout_s),
            now_s,
        )
        self._report(RoundStarted(number, participants))
        for name in participants:
            self._send_round(name, self._round)

    def _send_round(self, name: str, current: CollectingRound) -> None:
        message = RoundStart(
            current.run_id,
            current.number,
            current.participants,
            current.weights,
            self._config.rounds - len(self._folder.state.rounds),
            header_of(self._model),
        )
        self._send(name, message, frame_of(self._model))

    def _complete(self, now_s: float) -> None:
        current = self._round
        assert current is not None
        total = self._aggregation.total(current.uploads, current.n_values, current.ring_bits)
        self._model = self._model + self._config.quantiser.mean(total, sum(current.weights))
        evaluation = self._task.evaluate(self._model)
        record = RoundRecord(
            round=current.number,
            accuracy=evaluation.accuracy,
            loss=evaluation.loss,
            upload_bytes=current.upload_bytes,
            key_bits_used=current.key_bits,
            participants=current.participants,
            masking=self._aggregation.label,
            duration_s=round(now_s - current.started_s, 3),
            key_wait_s=round(current.key_wait_s(now_s), 3),
        )
        self._folder.complete(record, self._model, total)
        self._round = None
        self._aborts_in_a_row = 0
        self._waiting_since_s = self._clock()
        self._report(RoundCompleted(record))
        end = RoundEnd(current.run_id, current.number, accuracy=evaluation.accuracy)
        for name in current.participants:
            self._send(name, end)

    def _abort(self, reason: str) -> None:
        current = self._round
        assert current is not None
        burnt = current.burnt_key_bits(tuple(self._declined_with_keys))
        record = AbortRecord(
            current.number, reason, burnt if self._aggregation.uses_keys else 0, current.participants
        )
        self._folder.abort(record)
        self._round = None
        self._aborts_in_a_row += 1
        self._waiting_since_s = self._clock()
        self._report(RoundAborted(record))
        for name in current.participants:
            self._send(name, RoundEnd(current.run_id, current.number, reason[:1000]))
        if self._aborts_in_a_row >= self._config.max_aborts_in_a_row:
            raise RunFailedError(
                f"{self._aborts_in_a_row} rounds in a row were aborted, the last one because {reason}; "
                "see the clients' logs, then start the server again to resume"
            )

    # -- messages ---------------------------------------------------------------------------------------

    def _receive(self) -> None:
        """Take in everything that waits, without blocking."""
        while True:
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            try:
                name, client, message, buffer = self._identify(frames)
            except (WireError, UnknownKeyError) as error:
                _log.warning("message dropped: %s", error)
                continue
            self._handle(name, client, message, buffer)

    def _identify(self, frames: list[zmq.Frame]) -> tuple[str, _Client, FromClient, bytes | None]:
        role = self._gate.role_of(frames[-1])
        name = role.removeprefix(ROLE_PREFIX)
        if name == role or name not in self._config.clients:
            raise UnknownKeyError(f"{role} is not a client of this run")
        message, buffer = split_message([frame.bytes for frame in frames[1:]], FromClient)
        assert isinstance(message, FromClient)
        route = frames[0].bytes
        client = self._clients.get(name)
        if isinstance(message, Join):
            client = self._clients[name] = _Client(route)
        elif client is None or client.route != route:
            self._transmit(route, JoinAgain())
            raise WireError(f"{type(message).__name__} from {name} before Join")
        client.last_heard_s = self._clock()
        if self._round is not None:
            self._round.heard(name, client.last_heard_s)
        return name, client, message, buffer

    def _handle(self, name: str, client: _Client, message: FromClient, buffer: bytes | None) -> None:
        if self._ending is not None:
            if isinstance(message, Leave):
                del self._clients[name]
            else:
                self._send(name, self._ending)
            return
        match message:
            case Join(version=version):
                if version != PROTOCOL_VERSION:
                    text = f"the server speaks protocol version {PROTOCOL_VERSION}, the client {version}"
                    self._send(name, Rejected(f"{text}: install the same qunetlab on both"))
                    return
                self._send(name, Welcome(PROTOCOL_VERSION, self._config))
            case Ready():
                self._on_ready(name, client, message)
            case Progress():
                self._on_progress(name, client, message)
            case Upload():
                self._on_upload(name, message, buffer or b"")
            case Decline(run_id=run_id, round=number, reason=reason, key_bits=key_bits):
                current = self._round
                if current is not None and (run_id, number) == (current.run_id, current.number):
                    if key_bits:
                        self._declined_with_keys.add(name)
                    current.fail(f"{name} declined: {reason}")
            case Leave(reason=reason):
                del self._clients[name]
                if self._round is not None and name in self._round.missing:
                    self._round.fail(f"{name} left: {reason or 'stopped'}")

    def _on_ready(self, name: str, client: _Client, message: Ready) -> None:
        if message.run_id != self._config.run_id or message.n_parameters != self._task.n_parameters:
            self._send(
                name,
                Rejected(
                    f"the model of task {self._task.name} has {self._task.n_parameters} parameters here and "
                    f"{message.n_parameters} at {name}: install the same qunetlab on both"
                ),
            )
            return
        client.ready = True
        if self._round is not None and name in self._round.missing:
            self._send_round(name, self._round)

    def _on_progress(self, name: str, client: _Client, message: Progress) -> None:
        current = self._round
        if current is None:
            return
        now_s = self._clock()
        current.progress(name, message, now_s)
        waiting = message.phase == "waiting for keys" and message.round == current.number
        if waiting and now_s - client.last_wait_report_s >= KEY_WAIT_REPORT_S:
            client.last_wait_report_s = now_s
            self._report(WaitingForKeys(current.number, name, message.detail, message.eta_s))

    def _on_upload(self, name: str, message: Upload, buffer: bytes) -> None:
        try:
            packed = read_uint8(message.header, buffer)
            if self._round is None:
                raise UploadRefusedError(f"round {message.round} is over")
            self._round.upload(name, message, packed, self._clock())
        except DuplicateUploadError as error:
            self._send(name, UploadReply(message.run_id, message.round, "duplicate", str(error)))
        except (UploadRefusedError, WireError) as error:
            self._report(UploadRefused(message.round, name, str(error)))
            self._send(name, UploadReply(message.run_id, message.round, "refused", str(error)))
        else:
            self._send(name, UploadReply(message.run_id, message.round, "accepted"))

    def _send(self, name: str, message: FromServer, buffer: bytes | None = None) -> None:
        client = self._clients.get(name)
        if client is not None and not self._transmit(client.route, message, buffer):
            client.ready = False

    def _transmit(self, route: bytes, message: FromServer, buffer: bytes | None = None) -> bool:
        """Queue a message for one connection; False if it is gone or does not read."""
        frames = [route, encode(message)] if buffer is None else [route, encode(message), buffer]
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.ZMQError as error:
            _log.info("%s not delivered: %s", type(message).__name__, error)
            return False
        return True
