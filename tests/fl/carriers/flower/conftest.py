"""A Flower federation without processes: messages go to the client apps as function calls."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr", reason="Flower is not installed: pip install -e '.[flower]' in this folder")

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.supercore.task_identity import TaskIdentity

from fl.carriers.flower.identity import client_bond
from fl.carriers.flower.mod import qkd_secagg_mod
from fl.carriers.flower.participant import Participant, participant_of
from fl.carriers.flower.roster import Roster
from fl.carriers.flower.strategy import QkdFedAvg, SecureRun
from fl.rounds.compression import Compression
from fl.rounds.quantise import quantisation_rng
from orchestrator.wire.curve import generate_keys

RUN = 0xABCDEF
SERVER_NODE = 1
N_PARAMETERS = 37
SHAPES = {"weight": (6, 5), "bias": (7,)}


@pytest.fixture(autouse=True)
def flower_task() -> Any:
    """Messages can be made only inside a Flower task."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN, SERVER_NODE, 1
    yield
    TaskIdentity._run_id = TaskIdentity._node_id = TaskIdentity._task_id = None


@pytest.fixture(autouse=True)
def debuggable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mod forbids core files in its process; here that process is pytest's."""
    monkeypatch.setattr("fl.carriers.flower.participant.no_core_files", lambda: None)


def model_of(flat: np.ndarray) -> ArrayRecord:
    """The test model (37 values in two arrays) with these values."""
    record, start = ArrayRecord(), 0
    for name, shape in SHAPES.items():
        size = int(np.prod(shape))
        record[name] = Array(flat[start : start + size].reshape(shape).astype(np.float32))
        start += size
    return record


def values_of(record: ArrayRecord) -> np.ndarray:
    return np.concatenate([array.numpy().ravel() for array in record.values()])


def update_of(node_id: int, number: int) -> np.ndarray:
    """What the test app of a node adds to the model in a round."""
    return np.random.default_rng([node_id, number]).normal(0, 0.3, N_PARAMETERS).astype(np.float32)


def make_app(
    update: Callable[[Context, int], np.ndarray], metrics: dict[str, float] | None = None
) -> ClientApp:
    """An app that knows nothing of secure aggregation; ``update`` is its training."""
    app = ClientApp(mods=[qkd_secagg_mod])

    @app.train()
    def train(message: Message, context: Context) -> Message:
        number = int(message.content.config_records["config"]["server-round"])
        before = values_of(message.content.array_records["arrays"])
        content = RecordDict(
            {
                "arrays": model_of(before + update(context, number)),
                "metrics": MetricRecord({"num-examples": 10, **(metrics or {})}),
            }
        )
        return Message(content, reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return Message(RecordDict({"arrays": message.content.array_records["arrays"]}), reply_to=message)

    return app


@dataclass
class FakeGrid:
    """Enough of Flower's Grid for a strategy; ``deliver`` may tamper with what goes through."""

    apps: dict[int, ClientApp]
    contexts: dict[int, Context]
    connected: list[int]
    deliver: Callable[[Message], Message | None] = lambda message: message
    answer: Callable[[Message], Message | None] = lambda reply: reply
    exchanges: int = 0
    sent: list[Message] = field(default_factory=list)
    replies: dict[str, Message] = field(default_factory=dict)

    @property
    def run(self) -> Any:
        return SimpleNamespace(run_id=RUN)

    def get_node_ids(self) -> list[int]:
        return list(self.connected)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        ids: list[str] = []
        messages = list(messages)
        self.exchanges += bool(messages)
        for message in messages:
            message.metadata.__dict__["_message_id"] = f"m{len(self.sent)}"
            self.sent.append(message)
            ids.append(message.metadata.message_id)
            reply = self._run(message)
            if reply is not None:
                self.replies[message.metadata.message_id] = reply
        return ids

    def _run(self, message: Message) -> Message | None:
        delivered = self.deliver(message)
        if delivered is None:
            return None
        node = delivered.metadata.dst_node_id
        try:
            reply = self.apps[node](delivered, self.contexts[node])
        except Exception as error:  # noqa: BLE001 - Flower answers with what an app raises
            reply = Message(Error(code=2, reason=repr(error)), reply_to=delivered)
        return self.answer(reply)

    def pull_messages(self, ids: Iterable[str]) -> list[Message]:
        return [self.replies.pop(key) for key in list(ids) if key in self.replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        return self.pull_messages(self.push_messages(list(messages)))


def simulated_grid(
    n_clients: int, update: Callable[[Context, int], np.ndarray], folder: Path, **run_config: Any
) -> FakeGrid:
    """``n_clients`` simulated clients; node ids are 100, 101, ..."""
    nodes = [100 + index for index in range(n_clients)]
    settings = {"key-supply": "simulated", "key-seed": 5, "state-folder": str(folder), **run_config}
    contexts = {
        node: Context(
            RUN, node, {"partition-id": index, "num-partitions": n_clients}, RecordDict(), dict(settings)
        )
        for index, node in enumerate(nodes)
    }
    return FakeGrid({node: make_app(update) for node in nodes}, contexts, nodes)


def call_apps(client_app: ClientApp, server_app: ServerApp, config: dict[str, Any]) -> None:
    """One run of an app's two sides with four simulated clients, called as Flower calls them."""
    nodes = [100 + index for index in range(4)]
    contexts = {
        node: Context(RUN, node, {"partition-id": index, "num-partitions": 4}, RecordDict(), dict(config))
        for index, node in enumerate(nodes)
    }
    grid = FakeGrid(dict.fromkeys(nodes, client_app), contexts, nodes)
    server_app(grid, Context(RUN, SERVER_NODE, {}, RecordDict(), config))  # type: ignore[arg-type]


class Federation:
    """A server's strategy and simulated clients ``client-0`` ..., for tests to break."""

    def __init__(self, folder: Path, n_clients: int = 4, **settings: Any) -> None:
        run_config = settings.pop("run_config", {})
        self.folder = folder
        self.users = tuple(f"client-{index}" for index in range(n_clients))
        self.update: Callable[[Context, int], np.ndarray] = lambda context, number: update_of(
            context.node_id, number
        )
        self.grid = simulated_grid(n_clients, lambda c, n: self.update(c, n), folder / "client", **run_config)
        self.run = SecureRun(
            **{"meeting_s": 0.0, "seed": 3, "wait_timeout_s": 0.2, "answer_timeout_s": 0.0, **settings}
        )
        self.strategy = QkdFedAvg(
            self.run, Roster(None), folder / "server", fraction_evaluate=0.0, min_available_nodes=n_clients
        )
        self.initial = np.random.default_rng(8).normal(size=N_PARAMETERS).astype(np.float32)

    def start(self, rounds: int = 1) -> Any:
        return self.strategy.start(self.grid, model_of(self.initial), num_rounds=rounds, timeout=5)

    def arrays(self, flat: np.ndarray) -> ArrayRecord:
        """The test model with these values."""
        return model_of(flat)

    def announce(self, number: int = 1) -> list[Message]:
        """The messages of one round, not sent yet."""
        return list(self.strategy.configure_train(number, model_of(self.initial), ConfigRecord(), self.grid))

    def send(self, messages: list[Message]) -> list[Message]:
        return self.grid.send_and_receive(messages)

    def expected(self, rounds: int, users: tuple[int, ...] | None = None) -> np.ndarray:
        """What the rounds must come to, computed without masks."""
        settings = self.strategy._config
        assert settings is not None
        model = self.initial
        for number in range(1, rounds + 1):
            quantiser = Compression.from_config(settings).quantiser(number)
            total = np.zeros(N_PARAMETERS, np.int64)
            weights = 0
            for index in users or range(len(self.users)):
                trained = values_of(model_of(model + self.update(self.grid.contexts[100 + index], number)))
                rng = quantisation_rng(settings.seed, number, index)
                total += settings.client_weights[index] * quantiser.quantise(
                    trained - model, rng, client="", round_number=number
                ).astype(np.int64)
                weights += settings.client_weights[index]
            model = model + quantiser.mean(total, weights)
        return model


@pytest.fixture
def federation(tmp_path: Path) -> Callable[..., Federation]:
    """Makes federations: ``federation(n_clients=4, mode="otp", ...)``."""
    return lambda **settings: Federation(tmp_path, **settings)


@pytest.fixture
def proved(federation: Callable[..., Federation], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Four clients with key pairs of their own, which prove what they send (pads are simulated)."""
    four = federation()
    server = generate_keys()
    keys = {user: generate_keys() for user in four.users}

    def participant(context: Context) -> Participant:
        plain = participant_of(context)
        bond = client_bond(keys[plain.user], server.public)
        return dataclasses.replace(plain, key_supply="node", bond=bond)

    monkeypatch.setattr("fl.carriers.flower.mod.participant_of", participant)
    four.strategy.roster = Roster.of_testbed({user: keys[user].public for user in four.users}, server)
    return four
