"""The process of the orchestrator: its keys, its hub and its control socket, joined and parted in order."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path

from lab.testbed import Testbed
from orchestrator import runtime
from orchestrator.events.process import Emit, HubServing
from orchestrator.events.status import ORCHESTRATOR as ROLE
from orchestrator.keystore.errors import StoreError
from orchestrator.metrics.book import Metrics
from orchestrator.processes.asked import of_hub
from orchestrator.processes.orchestrator import Orchestrator
from orchestrator.processes.orchestrator_config import config_of
from orchestrator.records.keeping import Records
from orchestrator.wire.control_socket import ControlSocket
from orchestrator.wire.curve import load_keys
from orchestrator.wire.gate_control import CONTROL_ERRORS, answer_about_gate
from orchestrator.wire.queue_control import QueueRequest
from orchestrator.wire.zeromq import ZeroMQ


def run_orchestrator(
    testbed: Testbed,
    secrets_dir: Path,
    state_dir: Path,
    stop: runtime.Event,
    emit: Emit,
    records: Records | None = None,
    metrics: Metrics | None = None,
) -> None:
    """Serve until ``stop``; ``emit`` gets the epoch and the endpoints that were really bound.

    Raises KeyFileError, EpochError, RevokedError, ControlError or OSError when it cannot start.
    """
    keys, book = load_keys(secrets_dir), metrics or Metrics(ROLE)
    if testbed.keys.get(ROLE, keys.public) != keys.public:
        raise ValueError(f"the key in {secrets_dir} is not the orchestrator's key of the testbed file")
    allowed = {public: role for role, public in testbed.keys.items() if role != ROLE}
    with ExitStack() as stack:
        transport = stack.enter_context(ZeroMQ())
        made = partial(Orchestrator, transport=transport, emit=emit, records=records, watch=book.tell)
        orchestrator = made(config_of(testbed), keys, allowed, state_dir)
        hub = stack.enter_context(orchestrator.hub)
        stack.enter_context(
            ControlSocket(
                state_dir,
                lambda request: (
                    orchestrator.desk.ask(request)
                    if isinstance(request, QueueRequest)
                    else answer_about_gate(hub.gate, request)
                ),
                (*CONTROL_ERRORS, StoreError),
            )
        )
        book.ask(of_hub(hub))
        emit(HubServing(control=hub.control_endpoint, bulk=hub.bulk_endpoint, epoch=orchestrator.epoch))
        orchestrator.serve(stop)
