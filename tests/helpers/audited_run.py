"""A small good run in a folder as an audit finds it: a ring of two users, blocks, rounds of a training, results.

Everything but the light is the code of production, in one process with a clock of its own (tests/property/one_process.py):
orchestrator, nodes, key stores, delivery, learning server and clients write their records as they do between machines.
"""

from __future__ import annotations

import importlib.util
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from fl.carriers.zeromq.client import run_client
from fl.carriers.zeromq.server import run_server, with_task
from fl.experiments.base import Plan, federated_cell
from fl.experiments.options import TrainOptions
from fl.keys.node import NodeKeys
from fl.rounds.aggregation import described
from fl.rounds.choices import SeededChoices
from fl.rounds.client_rules import ClientRules
from fl.rounds.config import FLConfig
from fl.workloads import open_task
from fl.workloads.base import Task
from fl.workloads.record import Experiment
from lab.runs.records.ending import on_record
from lab.runs.records.gathering import gather
from lab.runs.training.on_testbed import Attempt
from lab.runs.training.place import Place
from orchestrator import randomness, runtime
from orchestrator.delivery.consent_book import ConsentBook
from orchestrator.durable import make_folder
from orchestrator.events.learning import Listening, ServerEvent
from orchestrator.keystore.lanes import Range
from orchestrator.keystore.sealing import Kek
from orchestrator.keystore.store import KeyStore
from orchestrator.processes.role_records import lane_books
from orchestrator.records.keeping import Records
from orchestrator.records.kinds import RoleStopped
from orchestrator.runtime.simulated import Simulation

RUN_ID = "train-small"


def _one_process() -> Any:
    path = Path(__file__).parents[1] / "property" / "one_process.py"
    spec = importlib.util.spec_from_file_location("one_process", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault("one_process", module)
    spec.loader.exec_module(module)
    return module


world = _one_process()


class RecordedWorld(world.World):  # type: ignore[misc]
    """The world whose roles put on record what they do."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.kept: dict[str, Records] = {}
        self.folder, self._stack = folder, stack
        super().__init__(folder, stack, light_seed=3)

    def _records(self, role: str) -> Records:
        if role not in self.kept:
            make_folder(self.folder / "state" / role)
            self.kept[role] = Records.of_role(self.folder / "state" / role, role, "1.0", "c0ffee")
            if role == "relay":
                self._stack.callback(lambda: self.kept[role].keep(RoleStopped()))
        return self.kept[role]

    def _store_path(self, user: str) -> Path:
        self._records(user)
        return Path(self.folder) / "state" / user / "keys.sqlite"

    def _store(self, user: str) -> KeyStore:
        store: KeyStore = super()._store(user)
        self._stack.callback(lambda: self.kept[user].keep(RoleStopped(lanes=lane_books(store))))
        return store

    def learn(self, config: FLConfig, task: Task) -> None:
        """All rounds of a training over the ring's keys."""
        events: runtime.Queue[ServerEvent] = runtime.queue()
        stop = runtime.event()
        run = self.folder / "state" / "fl-server" / config.run_id
        users = config.clients
        server = runtime.call(
            lambda: run_server(
                "auto",
                world.keys_of("fl-server"),
                {world.keys_of(f"fl-{user}").public: f"fl-{user}" for user in users},
                config,
                run,
                stop,
                events.put,
                task=task,
                transport=self._network,
                records=self._records("fl-server"),
            ),
            name="fl-server",
        )
        while not isinstance(event := events.get(), Listening):
            pass
        description = described(with_task(config, task), task)
        clients = [
            runtime.call(self._client, user, event.endpoint, description, config.seed, task, stop, name=user)
            for user in users
        ]
        server.result()
        for client in clients:
            assert client.result().reason == ""

    def _client(
        self, user: str, endpoint: str, description: Any, seed: int, task: Task, stop: runtime.Event
    ) -> Any:
        journal = self.folder / f"fl-{user}"
        ConsentBook(journal).give(user, description)
        return run_client(
            user,
            endpoint,
            world.keys_of("fl-server").public,
            world.keys_of(f"fl-{user}"),
            NodeKeys(self.clients[user], user, journal),
            stop,
            rules=ClientRules(mode="expanded", min_participants=2),
            choices=SeededChoices(seed),
            open_task=lambda name, folder: task,
            transport=self._network,
            records=self._records(f"fl-{user}"),
        )


def good_run(folder: Path) -> Path:
    """Make the run; its folder."""
    task, options = open_task("digits", None), TrainOptions(task="digits", mode="expanded", baselines=False)
    named = {"users": world.USERS, "run_id": RUN_ID, "rounds": 2, "heartbeat_s": 0.5}
    cell = federated_cell(
        msgspec.structs.replace(options, rounds=2),
        task,
        Experiment(len(world.USERS), seeds=1, quick_rounds=2, quick_seeds=1),
        **{name: value for name, value in named.items() if name != "rounds"},
    )
    plan = Plan("a small run", options, (cell,), (cell.config.seed,), (), ())
    stream = np.random.default_rng(1)
    made = folder / "made"
    made.mkdir(parents=True)

    def main() -> Any:
        with ExitStack() as stack:
            recorded = RecordedWorld(made, stack)
            recorded.learn(cell.config, task)
            return recorded.testbed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(randomness, "_system", lambda count: stream.bytes(count))
        testbed = Simulation(1).run(main)
    out = folder / "run"
    out.mkdir()
    gather(made, made / "state", out)
    place = Place("fresh", "a test", testbed)
    with on_record(out, "train", "digits"):
        assert Attempt(place, options, plan, task, out, None).results() is not None
    return out


def stored_key(made: Path, user: str) -> list[bytes]:
    """What is left of the key in a user's store, opened with its own key."""
    kek = Kek(np.random.default_rng(world.USERS.index(user)).bytes(32))
    (peer,) = set(world.USERS) - {user}
    found = []
    with KeyStore.open(made / "state" / user / "keys.sqlite", user, kek) as store:
        for lane, bits in store.stock(peer).items():
            if bits:
                start = store.lane_states(peer)[lane].head
                found.append(store._core.pieces.peek(peer, lane, Range(start, bits)).reveal_bytes())
    return found
