"""The FL client: trains on its own data and uploads nothing but protected updates.

Two threads: the main one owns the link to the server and sends heartbeats with what is going on; a
worker trains and masks (:mod:`fl.rounds.trainer`).  The server is not trusted: the client itself checks what it
offers (:mod:`fl.rounds.client_rules`) and what it asks (:mod:`fl.rounds.answering`).  What it gives to a round is kept
until the round ends and sent again, unchanged, after a broken connection; a second, different version of it
does not exist.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from fl.carriers.zeromq.link import ServerLink, ServerRefusedError
from fl.carriers.zeromq.round_client import RoundClient
from fl.keys.node import NodeKeys
from fl.modes.base import Aggregation, model_digest
from fl.modes.table import MODES
from fl.rounds.aggregation import aggregation_for
from fl.rounds.choices import OWN_CHOICES, LocalChoices
from fl.rounds.client_rules import DEFAULT_RULES, ClientRefusesError, ClientRules
from fl.rounds.config import SMALLEST_QUORUM, FLConfig
from fl.rounds.feedback import Feedback
from fl.rounds.following import FollowedModel, SumRefusedError
from fl.rounds.messages import (
    PROTOCOL_VERSION,
    WAITING,
    Confirmed,
    Decline,
    FromServer,
    Join,
    JoinAgain,
    Leave,
    PeerShares,
    Phase,
    Progress,
    Receipt,
    Rejected,
    RoundEnd,
    RoundStart,
    RoundSum,
    RunEnd,
    Survivors,
    Welcome,
)
from fl.rounds.trainer import Trainer
from fl.workloads import load_task
from fl.workloads.base import Task
from orchestrator import runtime
from orchestrator.delivery.consent_book import ConsentBook
from orchestrator.delivery.errors import ConsentError
from orchestrator.events.learning import ClientState
from orchestrator.log_context import about
from orchestrator.records.keeping import Records
from orchestrator.records.kinds import RoleStopped
from orchestrator.wire.codec import WireError
from orchestrator.wire.curve import CurveKeys
from orchestrator.wire.links import LinkState, Transport
from orchestrator.wire.zeromq import ZeroMQ

IDLE_POLL_S = 0.1
BUSY_POLL_S = 0.02

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClientOutcome:
    """How a client's run ended: rounds it uploaded in, and why it stopped ("" at the end of the run)."""

    rounds_uploaded: int
    reason: str


def run_client(
    name: str,
    endpoint: str,
    server_public: str,
    keys: CurveKeys,
    node_keys: NodeKeys | None,
    stop: runtime.Event,
    report: Callable[[ClientState], None] = lambda event: None,
    *,
    rules: ClientRules = DEFAULT_RULES,
    data_folder: Path | None = None,
    self_check_dir: Path | None = None,
    choices: LocalChoices = OWN_CHOICES,
    open_task: Callable[[str, Path | None], Task] = load_task,
    clock: Callable[[], float] = runtime.now,
    transport: Transport | None = None,
    patience_s: float = 10.0,
    records: Records | None = None,
) -> ClientOutcome:
    """Take part in the run of the server at ``endpoint`` until it ends or ``stop`` is set.

    ``self_check_dir`` makes the client write its unmasked updates there, ``choices`` draws what it decides for itself
    from elsewhere than its own machine: simulations only (see :mod:`fl.rounds.selfcheck` and
    :mod:`fl.rounds.choices`).  ``records`` get what was uploaded.  Raises ServerRefusedError when the server turns the client away for ``patience_s``,
    ClientRefusesError when the run breaks ``rules``, was not consented to or cannot work, and DataError when the
    task's data is missing.  A server that is away is waited for.
    """
    if self_check_dir is not None:
        _log.warning("self-check: %s writes its unmasked updates to %s", name, self_check_dir)
    if MODES[rules.mode].cipher and rules.min_participants < SMALLEST_QUORUM:
        _log.warning("%s takes part in rounds of two: their sum tells each the update of the other", name)
    with ExitStack() as stack:
        transport = transport or stack.enter_context(ZeroMQ())
        link = ServerLink(transport, keys, server_public, endpoint, clock, patience_s)
        stack.callback(link.close)
        kept = records or Records(None)
        client = _Client(
            name, link, node_keys, rules, report, open_task, data_folder, self_check_dir, choices, clock, kept
        )
        stack.callback(lambda: kept.keep(RoleStopped()))
        stack.callback(client.close)
        return client.run(stop)


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
        choices: LocalChoices,
        clock: Callable[[], float],
        records: Records,
    ) -> None:
        self._records = records
        self._name = name
        self._link = link
        self._node_keys = node_keys
        self._rules = rules
        self._report = report
        self._open_task = open_task
        self._data_folder = data_folder
        self._self_check_dir = self_check_dir
        self._choices = choices
        self._clock = clock
        self._worker = runtime.worker(f"fl-{name}")
        self._config: FLConfig | None = None
        self._welcomed = False
        self._loading: runtime.Future[Trainer] | None = None
        self._rounds: RoundClient | None = None
        self._uploaded_before = 0
        self._doing = Progress("", 0, "idle")
        self._sent_phase = ""
        self._next_heartbeat_s = 0.0
        self._outcome: ClientOutcome | None = None

    # -- the loop ---------------------------------------------------------------------------------------

    def run(self, stop: runtime.Event) -> ClientOutcome:
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
        if self._rounds is not None:
            self._rounds.drop()
        self._worker.close()

    @property
    def _busy(self) -> bool:
        return self._loading is not None or (self._rounds is not None and self._rounds.working)

    @property
    def _uploaded(self) -> int:
        return self._uploaded_before + (self._rounds.uploaded if self._rounds is not None else 0)

    def _heartbeat(self) -> None:
        """Join, or tell the phase: when it changed, and at every heartbeat anyway."""
        now_s = self._clock()
        changed = self._welcomed and self._doing.phase != self._sent_phase
        if now_s < self._next_heartbeat_s and not changed:
            return
        config = self._config
        self._next_heartbeat_s = now_s + (config.heartbeat_s if config is not None else 0.5)
        if not self._welcomed or config is None:
            self._link.send(Join(PROTOCOL_VERSION))
            return
        number = self._rounds.number if self._rounds is not None else 0
        doing = replace(self._doing, run_id=config.run_id, round=number)
        if self._link.send(doing):
            self._sent_phase = doing.phase
            if changed or doing.phase in WAITING:
                told = (doing.phase, doing.detail, doing.eta_s, doing.missing_bits)
                self._report(ClientState(self._name, number, *told))

    def _tell(
        self,
        phase: Phase,
        detail: str = "",
        eta_s: float | None = None,
        missing_bits: Mapping[str, int] | None = None,
    ) -> None:
        self._doing = Progress("", 0, phase, detail[:1000], eta_s, dict(missing_bits or {}))

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
                if self._rounds is None or message.run_id != self._rounds.run_id:
                    reason = f"{self._name} is not ready for a round of run {message.run_id}"
                    self._link.send(Decline(message.run_id, message.round, reason))
                else:
                    self._rounds.on_start(message, buffer or b"")
            case PeerShares() | Survivors() | Confirmed() | RoundSum() | RoundEnd():
                if self._rounds is not None and message.run_id == self._rounds.run_id:
                    self._rounds.handle(message, buffer or b"")
            case Receipt(round=number, status=status, reason=reason, what=what):
                if status == "refused":
                    with about(round=number):
                        _log.warning("the %s of round %d was refused: %s", what, number, reason)
                    self._report(ClientState(self._name, number, f"{what} refused", reason))
            case RunEnd(reason=reason):
                if self._rounds is not None:
                    self._rounds.drop()
                if not reason:
                    self._link.send(Leave("the run is over"))
                    self._outcome = ClientOutcome(self._uploaded, "")
                else:
                    self._report(ClientState(self._name, 0, "run interrupted", reason))

    def _on_welcome(self, message: Welcome) -> None:
        config = message.config
        if self._config is None or config.run_id != self._config.run_id:
            self._rules.check_run(self._name, config)
            if self._rounds is not None:
                self._rounds.drop()
                self._uploaded_before, self._rounds = self._uploaded, None
        elif config != self._config:
            raise ClientRefusesError(f"the server changed the settings of run {config.run_id}")
        self._config = config
        self._welcomed = True
        if self._rounds is not None:
            self._rounds.ready()
            self._rounds.tell_costs()
        elif self._loading is None:
            self._tell("loading", config.task)
            self._loading = self._worker.submit(self._load, config)

    def _load(self, config: FLConfig) -> Trainer:
        task = self._open_task(config.task, self._data_folder)
        self._rules.check_task(self._name, config, task)
        model = task.initial_parameters(config.seed)
        aggregation = aggregation_for(config, task.n_parameters, model_digest(model))
        book = self._consented(aggregation)
        data = task.client_data(config.clients.index(self._name), config.n_clients, config.seed)
        try:
            followed = FollowedModel(config, aggregation, model, book)
        except (SumRefusedError, ConsentError) as error:
            raise ClientRefusesError(str(error)) from error
        trainer = Trainer(
            self._name,
            config,
            task,
            data,
            aggregation,
            self._node_keys,
            Feedback(self._name, config, task.n_parameters, self._state_folder),
            followed,
            self._choices,
            self._self_check_dir,
        )
        trainer.demand(tuple(name for name in config.clients if name != self._name), config.rounds)
        return trainer

    def _consented(self, aggregation: Aggregation) -> ConsentBook | None:
        """The user's consents, that to this run among them; None where nothing is protected (mode plain).

        Raises ClientRefusesError; the description that was offered is then kept for the operator to read.
        """
        folder = self._state_folder
        if folder is None or aggregation.mode.cipher is None:
            return None
        book, described = ConsentBook(folder), aggregation.description
        try:
            consent = book.require(aggregation.run, described.run_id)
            if consent.user != self._name:
                raise ConsentError(f"{folder} holds consents of {consent.user}, not of {self._name}")
        except ConsentError as error:
            offered = book.keep_offer(described)
            raise ClientRefusesError(f"{error}.  What the server offers stands in {offered}") from error
        return book

    @property
    def _state_folder(self) -> Path | None:
        return None if self._node_keys is None else self._node_keys.journal_dir

    def _collect_work(self) -> None:
        """Take up what the worker has finished."""
        if self._loading is not None and self._loading.done():
            trainer, self._loading = self._loading.result(), None
            self._tell("idle")
            if trainer.config == self._config:
                self._rounds = RoundClient(
                    trainer,
                    self._rules,
                    self._state_folder,
                    self._worker,
                    self._link.send,
                    self._tell,
                    self._report,
                    self._records,
                )
                self._rounds.ready()
            else:
                self._welcomed = False
        if self._rounds is not None:
            self._rounds.collect()
