"""A small world for federated rounds: pads in memory, a task without torch, server and clients as threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fl.carriers.zeromq.client import ClientOutcome, run_client
from fl.carriers.zeromq.server import run_server, with_task
from fl.keys.node import NodeKeys
from fl.modes.base import Aggregation, model_digest
from fl.rounds.aggregation import aggregation_for
from fl.rounds.choices import SeededChoices
from fl.rounds.client_rules import ClientRules
from fl.rounds.config import FLConfig
from fl.workloads.base import Evaluation, Examples, Parameters, TaskDefaults
from orchestrator.bits import packed_size
from orchestrator.delivery.client import MaskedUpdate, PeerStocks, Wait, masked_with
from orchestrator.delivery.consent import RunDescription
from orchestrator.delivery.consent_book import ConsentBook
from orchestrator.delivery.errors import (
    DeliveryTimeoutError,
    KeysShortError,
    PadsGoneError,
    RoundConflictError,
)
from orchestrator.delivery.messages import RoundContext
from orchestrator.delivery.sharing import ShareChannel
from orchestrator.events.learning import Listening, RoundCompleted
from orchestrator.wire.codec import Message
from orchestrator.wire.curve import CurveKeys, generate_keys

PLENTY = 10**9
DEADLINE_S = 30.0


class PadNetwork:
    """The nodes of all users: pads for contexts on which every participant agrees, and for no others."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.asked: dict[str, dict[tuple[str, int], bytes]] = {}
        self.stock: dict[frozenset[str], int] = {}
        self.reserved: set[tuple[frozenset[str], bytes]] = set()
        self.released: list[tuple[frozenset[str], bytes]] = []
        self.abandoned: list[tuple[str, int]] = []
        self.demands: dict[str, list[dict[str, int]]] = {}

    def add_stock(self, bits: int) -> None:
        with self.changed:
            for pair in self.stock:
                self.stock[pair] += bits
            self.changed.notify_all()


def pad_of(pair: frozenset[str], digest: bytes, n_bits: int) -> npt.NDArray[np.uint8]:
    """The pad that both ends of a pair share for one context."""
    seed = [*sorted(pair)[0].encode(), 0, *sorted(pair)[1].encode(), *digest]
    pad = np.random.default_rng(seed).integers(0, 256, packed_size(n_bits), np.uint8)
    if n_bits % 8:
        pad[-1] &= (1 << (n_bits % 8)) - 1
    return pad


@dataclass
class MemoryDelivery:
    """What ``DeliveryClient`` is to its node, for the user ``owner`` of a :class:`PadNetwork`."""

    network: PadNetwork
    owner: str
    journal: dict[tuple[str, int], tuple[RoundContext, bytes, MaskedUpdate]] = field(default_factory=dict)
    shared: set[tuple[str, int]] = field(default_factory=set)

    def stock(self, timeout_s: float = 5.0) -> PeerStocks:
        pairs = {pair: bits for pair, bits in self.network.stock.items() if self.owner in pair}
        return PeerStocks({next(iter(pair - {self.owner})): bits for pair, bits in pairs.items()}, ())

    def demand(self, bits: Mapping[str, int], timeout_s: float = 5.0) -> None:
        self.network.demands.setdefault(self.owner, []).append(dict(bits))

    def abandon(self, context: RoundContext, timeout_s: float = 5.0) -> tuple[str, ...]:
        """A pair's pads are reserved at both ends or not at all; either end gives them up."""
        digest = context.digest()
        with self.network.changed:
            self.network.abandoned.append((self.owner, context.round))
            self.network.changed.notify_all()
            pairs = [pair for pair, reserved in self.network.reserved if reserved == digest]
        return tuple(sorted(next(iter(pair - {self.owner})) for pair in pairs if self.owner in pair))

    def stored_update(self, context: RoundContext, journal_dir: Path) -> MaskedUpdate | None:
        kept = self.journal.get((context.run_id, context.round))
        if kept is not None and kept[0] != context:
            raise RoundConflictError(f"round {context.round} was masked for another participant set")
        return None if kept is None else kept[2]

    def masked_update(
        self,
        context: RoundContext,
        q: npt.NDArray[np.int64],
        weight: int,
        journal_dir: Path,
        timeout_s: float,
        on_wait: Callable[[Wait], None] | None = None,
        *,
        sum_bound: int | None = None,
    ) -> MaskedUpdate:
        ConsentBook(journal_dir).check(context, weight)
        kept = self.stored_update(context, journal_dir)
        if kept is not None:
            return kept
        pads = self._release(context, timeout_s, on_wait)
        packed = masked_with(context, q, weight, pads)
        masked = MaskedUpdate(
            packed, context.n_values, context.ring_width, len(pads) * context.pad_bits, context.digest()
        )
        self.journal[context.run_id, context.round] = (context, q.tobytes(), masked)
        return masked

    def share_channel(
        self,
        context: RoundContext,
        journal_dir: Path,
        timeout_s: float,
        on_wait: Callable[[Wait], None] | None = None,
    ) -> ShareChannel:
        ConsentBook(journal_dir).check(context)
        if (context.run_id, context.round) in self.shared:
            raise PadsGoneError("the shares of this round were sealed before")
        pads = self._release(context, timeout_s, on_wait)
        self.shared.add((context.run_id, context.round))
        return ShareChannel(context, pads)

    def _release(
        self, context: RoundContext, timeout_s: float, on_wait: Callable[[Wait], None] | None
    ) -> dict[str, npt.NDArray[np.uint8]]:
        peers = [name for name in context.participants if name != self.owner]
        self._agree(context, peers, timeout_s, on_wait or (lambda _: None))
        digest, pads = context.digest(), {}
        for peer in peers:
            pair = frozenset((self.owner, peer))
            pads[peer] = pad_of(pair, digest, context.pad_bits)
            self.network.released.append((pair, digest))
        return pads

    def _agree(
        self, context: RoundContext, peers: list[str], timeout_s: float, on_wait: Callable[[Wait], None]
    ) -> None:
        network, key = self.network, (context.run_id, context.round)
        digest = context.digest()
        with network.changed:
            network.asked.setdefault(self.owner, {})[key] = digest
            network.changed.notify_all()

            def agreed() -> bool:
                return all(network.asked.get(peer, {}).get(key) == digest for peer in peers)

            def missing() -> dict[str, int]:
                """Reserve what can be reserved; what is short with whom."""
                short = {}
                for peer in peers:
                    pair = frozenset((self.owner, peer))
                    if (pair, digest) in network.reserved:
                        continue
                    if network.stock[pair] < context.pad_bits:
                        short[peer] = context.pad_bits - network.stock[pair]
                    else:
                        network.stock[pair] -= context.pad_bits
                        network.reserved.add((pair, digest))
                return short

            if short := missing():
                on_wait(Wait(short, (), None, "too little key"))
                if not network.changed.wait_for(lambda: not missing(), timeout_s):
                    raise KeysShortError(missing(), None)
            if not network.changed.wait_for(agreed, timeout_s):
                on_wait(Wait({}, tuple(peers), None, "waiting for the peers' clients"))
                raise DeliveryTimeoutError("the peers did not agree")


class VectorTask:
    """Parameters that drift at random, the same for the same seeds; needs no torch."""

    name = "vector"
    fingerprint = "ec70"
    defaults = TaskDefaults(clip=1.0, levels=127, rounds=3)

    def __init__(self, n_parameters: int = 37) -> None:
        self._n = n_parameters
        self.poisoned_rounds: set[int] = set()
        self.held_rounds: set[int] = set()
        """Rounds whose training waits for ``go_on``."""
        self.holding, self.go_on = threading.Event(), threading.Event()
        self.trainings = 0

    @property
    def n_parameters(self) -> int:
        return self._n

    def initial_parameters(self, seed: int) -> Parameters:
        return np.random.default_rng(seed).normal(size=self._n).astype(np.float32)

    def client_data(self, client_index: int, n_clients: int, seed: int) -> Examples:
        return Examples(np.zeros((1, 1), np.float32), np.zeros(1, np.int64))

    def local_train(self, parameters: Parameters, data: Examples, seed: Sequence[int]) -> Parameters:
        self.trainings += 1
        if seed[1] in self.held_rounds:
            self.holding.set()
            assert self.go_on.wait(DEADLINE_S)
        update = np.random.default_rng(list(seed)).normal(0, 0.4, self._n).astype(np.float32)
        if seed[1] in self.poisoned_rounds:
            update[5] = np.nan
        return update

    def evaluate(self, parameters: Parameters) -> Evaluation:
        return Evaluation(0.5, float(np.abs(parameters).mean()))


class World:
    """One server and its clients as threads; everything a test may want to look at or break."""

    def __init__(self, folder: Path, names: tuple[str, ...]) -> None:
        self.names = names
        self.folder = folder
        self.out_dir = folder / "run"
        self.server_keys = generate_keys()
        self.client_keys: dict[str, CurveKeys] = {name: generate_keys() for name in names}
        self.network = PadNetwork()
        self.network.stock = {frozenset((a, b)): PLENTY for a in names for b in names if a < b}
        self.deliveries = {name: MemoryDelivery(self.network, name) for name in names}
        self.tasks = {name: VectorTask() for name in names}
        self.server_task = VectorTask()
        self.config = FLConfig(
            run_id="test", task="vector", clients=names, rounds=3, heartbeat_s=0.05, client_timeout_s=1.0,
            rejoin_grace_s=0.3,
        )  # fmt: skip
        self.events: list[Message] = []
        self.client_events: list[Message] = []
        self.happened = threading.Condition()
        self.outcomes: dict[str, Any] = {}
        self._threads: list[threading.Thread] = []
        self._stops: dict[str, threading.Event] = {}
        self.endpoint = ""

    def settings(self, **changes: Any) -> None:
        """Change the run's settings (before starting the server)."""
        fields = {name: getattr(self.config, name) for name in self.config.__struct_fields__}
        self.config = FLConfig(**{**fields, **changes})

    def described(self) -> RunDescription:
        """The run as its clients' operators consent to it."""
        return self.aggregation().description

    @property
    def announced(self) -> FLConfig:
        """The settings as the server announces them."""
        return with_task(self.config, self.server_task)

    def aggregation(self) -> Aggregation:
        """How the described run adds up."""
        first = self.server_task.initial_parameters(self.config.seed)
        return aggregation_for(self.announced, self.server_task.n_parameters, model_digest(first))

    def book(self, name: str) -> ConsentBook:
        """What the operator of a client agreed to."""
        return ConsentBook(self.folder / "journal" / name)

    def consent(self, name: str) -> None:
        """The operator of a client agrees to the run as it is set up, whatever was agreed to before."""
        book = self.book(name)
        before = [each.description.run_id for each in book.consents()]
        book.give(name, self.described(), before)

    def note(self, events: list[Message]) -> Callable[[Message], None]:
        def report(event: Message) -> None:
            with self.happened:
                events.append(event)
                self.happened.notify_all()

        return report

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        """Block until an event makes ``condition`` true."""
        with self.happened:
            if not self.happened.wait_for(lambda: bool(condition()), DEADLINE_S):
                raise AssertionError(f"{what} did not happen; events: {self.events} {self.client_events}")

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def start_server(self, endpoint: str = "auto", **options: Any) -> str:
        allowed = {keys.public: f"fl-{name}" for name, keys in self.client_keys.items()}
        seen = len(self.of(Listening))
        self._run(
            "server",
            lambda stop: run_server(
                endpoint,
                self.server_keys,
                allowed,
                self.config,
                self.out_dir,
                stop,
                self.note(self.events),
                task=self.server_task,
                **options,
            ),
        )
        self.wait_for(lambda: len(self.of(Listening)) > seen or "server" in self.outcomes, "listening")
        if "server" in self.outcomes:
            raise self.outcomes["server"]
        self.endpoint = self.of(Listening)[-1].endpoint
        return self.endpoint

    def start_client(
        self, name: str, keys: CurveKeys | None = None, *, consents: bool = True, **options: Any
    ) -> None:
        """A client whose operator ``consents`` to the run, and whose choices are those of the run's seed."""
        if consents and self.config.mode != "plain":
            self.consent(name)
        options.setdefault("rules", ClientRules(min_participants=2))
        options.setdefault("choices", SeededChoices(self.config.seed))
        node = NodeKeys(self.deliveries[name], name, self.folder / "journal" / name)
        self._run(
            name,
            lambda stop: run_client(
                name,
                self.endpoint,
                options.pop("server_public", self.server_keys.public),
                keys or self.client_keys[name],
                options.pop("node_keys", node),
                stop,
                self.note(self.client_events),
                open_task=lambda task_name, folder: self.tasks[name],
                **options,
            ),
        )

    def start_all(self, **options: Any) -> None:
        self.start_server()
        for name in self.names:
            self.start_client(name, **options)

    def _run(self, who: str, body: Callable[[threading.Event], object]) -> None:
        stop = self._stops[who] = threading.Event()
        self.outcomes.pop(who, None)

        def target() -> None:
            try:
                outcome: object = body(stop)
            except Exception as error:  # noqa: BLE001 - handed to the test through outcomes
                outcome = error
            with self.happened:
                self.outcomes[who] = outcome
                self.happened.notify_all()

        thread = threading.Thread(target=target, name=who, daemon=True)
        self._threads.append(thread)
        thread.start()

    def stop(self, who: str) -> Any:
        self._stops[who].set()
        return self.outcome(who)

    def outcome(self, who: str) -> Any:
        """How ``who`` ended (a result or an exception)."""
        self.wait_for(lambda: who in self.outcomes, f"the end of {who}")
        return self.outcomes[who]

    def finish(self) -> Any:
        """Wait for server and clients to reach the end of the run; returns the server's records."""
        records = self.outcome("server")
        if isinstance(records, Exception):
            raise records
        for name in self.names:
            assert isinstance(self.outcome(name), ClientOutcome), self.outcomes[name]
        return records

    def rounds_done(self) -> list[int]:
        return [event.record.round for event in self.of(RoundCompleted)]

    def close(self) -> None:
        for stop in self._stops.values():
            stop.set()
        for task in self.tasks.values():
            if isinstance(task, VectorTask):
                task.go_on.set()
        self.network.add_stock(PLENTY)
        for thread in self._threads:
            thread.join(DEADLINE_S)
            assert not thread.is_alive(), f"{thread.name} does not stop"


@pytest.fixture
def world(tmp_path: Path) -> Any:
    """Four users, nothing started."""
    made = World(tmp_path, ("alice", "bob", "charlie", "dora"))
    yield made
    made.close()
