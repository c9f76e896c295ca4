"""Aggregation modes with keys made on the (simulated) ring: real nodes, real delivery, learning as users run it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from fl.carriers.zeromq.client import run_client
from fl.carriers.zeromq.server import run_server, with_task
from fl.keys.node import NodeKeys
from fl.rounds.aggregation import aggregation_for, described
from fl.rounds.client_rules import ClientRules
from fl.rounds.config import FLConfig
from fl.rounds.selfcheck import check_run
from fl.workloads.base import Evaluation, Examples, Parameters, TaskDefaults
from lab.runs.supervising.supervised import Run, supervised_run
from orchestrator.delivery.client import DeliveryClient
from orchestrator.delivery.consent_book import ConsentBook
from orchestrator.events.learning import Listening, RunFinished
from orchestrator.wire.curve import load_keys

SMALL = {"slots_per_frame": 1 << 20, "pulses_per_block": 1 << 25}
DEADLINE_S = 120.0
pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]


@pytest.fixture
def ring() -> Iterator[Run]:
    with supervised_run("simulated-four-node", {"protocol": SMALL}) as run:
        run.start_ring()
        yield run


@pytest.mark.parametrize("mode", ["lightsecagg", "expanded"])
def test_training_processes_in_every_mode_that_uses_keys(ring: Run, mode: Any) -> None:
    config = FLConfig(
        run_id=f"ring-{mode}", task="digits", clients=ring.testbed.user_names(), rounds=2, mode=mode
    )
    ring.start_learning(config, None)
    ring.supervisor.wait_for(
        lambda name, event: isinstance(event, RunFinished), DEADLINE_S, "the end of the run", ring.note
    )
    ring.stop()
    assert ring.finished is not None
    assert ring.finished.reason == ""
    assert ring.aborted_rounds == []
    assert [row.round for row in ring.rounds] == [1, 2]
    per_pair = aggregation_for(config, 1810).key_bits_per_pair
    for row in ring.rounds:
        assert (row.masking, row.dropped) == (mode, ())
        assert row.security == ("computational" if mode == "expanded" else "information-theoretic")
        assert row.key_bits_used == 6 * per_pair
    assert {ledger.delivered_bits for ledger in ring.ledgers.values()} == {2 * per_pair}
    checks = check_run(ring.state / "fl-server" / config.run_id, ring.self_check)
    assert [check.exact for check in checks] == [True, True]
    assert ring.rounds[-1].accuracy > 0.5


class HeldTask:
    """Random updates; the training of round 1 waits for ``go_on``."""

    name, n_parameters, fingerprint = "held", 500, "4e1d"
    defaults = TaskDefaults(clip=1.0, levels=127, rounds=2)

    def __init__(self, held: bool) -> None:
        self.held, self.holding, self.go_on = held, threading.Event(), threading.Event()

    def initial_parameters(self, seed: int) -> Parameters:
        return np.zeros(500, np.float32)

    def client_data(self, client_index: int, n_clients: int, seed: int) -> Examples:
        return Examples(np.zeros((1, 1), np.float32), np.zeros(1, np.int64))

    def local_train(self, parameters: Parameters, data: Examples, seed: Sequence[int]) -> Parameters:
        if self.held and seed[1] == 1:
            self.holding.set()
            assert self.go_on.wait(DEADLINE_S)
        return np.random.default_rng(list(seed)).normal(0, 0.3, 500).astype(np.float32)

    def evaluate(self, parameters: Parameters) -> Evaluation:
        return Evaluation(0.5, 1.0)


def test_one_who_leaves_while_training_is_left_out_and_takes_part_again(ring: Run, tmp_path: Path) -> None:
    """dave shares, leaves before his upload, and returns for round 2; every sum is that of who was there."""
    users, testbed = ring.testbed.user_names(), ring.testbed
    config = FLConfig(
        run_id="leaving", task="held", clients=users, rounds=2, mode="lightsecagg", rejoin_grace_s=60.0
    )
    endpoint: list[str] = []
    listening, dropped = threading.Event(), threading.Event()
    tasks = {user: HeldTask(user == "dave") for user in users}
    outcomes: dict[str, Any] = {}

    def on_event(event: Any) -> None:
        if isinstance(event, Listening):
            endpoint.append(event.endpoint)
            listening.set()
        if type(event).__name__ == "ClientDropped":
            dropped.set()

    def keys(role: str) -> Any:
        return load_keys(ring.secrets / role)

    def server(stop: threading.Event) -> Any:
        allowed = {testbed.public_key(f"fl-{user}"): f"fl-{user}" for user in users}
        place = ("auto", keys("fl-server"), allowed, config, tmp_path / "run")
        return run_server(*place, stop, on_event, task=HeldTask(False))

    def client(user: str) -> Callable[[threading.Event], Any]:
        def body(stop: threading.Event) -> Any:
            node = testbed.user(user)
            book = ConsentBook(tmp_path / user)
            if not book.consents():
                book.give(user, described(with_task(config, HeldTask(False)), HeldTask(False)))
            with DeliveryClient(node.delivery, keys(f"fl-{user}"), testbed.public_key(user)) as delivery:
                return run_client(
                    user,
                    endpoint[0],
                    testbed.public_key("fl-server"),
                    keys(f"fl-{user}"),
                    NodeKeys(delivery, user, tmp_path / user),
                    stop,
                    rules=ClientRules(mode="lightsecagg"),
                    self_check_dir=tmp_path / "private",
                    open_task=lambda name, folder: tasks[user],
                )

        return body

    def launch(who: str, body: Callable[[threading.Event], Any]) -> tuple[threading.Thread, threading.Event]:
        stop = threading.Event()
        thread = threading.Thread(target=lambda: outcomes.__setitem__(who, body(stop)), daemon=True)
        thread.start()
        return thread, stop

    serving, _ = launch("server", server)
    assert listening.wait(30)
    running = {user: launch(user, client(user)) for user in users}
    assert tasks["dave"].holding.wait(DEADLINE_S), "shares were exchanged under keys from the ring"
    running["dave"][1].set()
    assert dropped.wait(30)
    tasks["dave"].go_on.set()
    running["dave"][0].join(30)
    running["dave"] = launch("dave", client("dave"))
    serving.join(DEADLINE_S)
    records = cast("tuple[Any, ...]", outcomes["server"])
    assert [record.dropped for record in records] == [("dave",), ()]
    assert [check.exact for check in check_run(tmp_path / "run", tmp_path / "private")] == [True, True]
    for thread, _ in running.values():
        thread.join(30)
