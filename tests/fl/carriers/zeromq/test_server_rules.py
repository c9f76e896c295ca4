"""The server facing clients that misbehave: nothing they send is counted twice, late, or as another's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import zmq

from fl.carriers.zeromq.round_server import RunFailedError
from fl.carriers.zeromq.server import with_task
from fl.modes.base import model_digest
from fl.rounds.aggregation import aggregation_for
from fl.rounds.client_rules import ClientRules
from fl.rounds.messages import (
    PROTOCOL_VERSION,
    Decline,
    FromServer,
    Join,
    JoinAgain,
    Progress,
    Ready,
    Receipt,
    Rejected,
    RoundEnd,
    RoundStart,
    Upload,
    Welcome,
    frame_of,
    header_of,
    read_float32,
    split_message,
)
from fl.rounds.run_state import RunFolder, RunStateError, load_array, read_state
from orchestrator.delivery.masking import pack_values
from orchestrator.events.learning import RoundAborted, RoundCompleted, RoundStarted, UploadRefused
from orchestrator.wire.codec import encode
from orchestrator.wire.curve import client_socket, write_keys
from orchestrator.wire.links import Target


class ScriptedClient:
    """Speaks the protocol by hand, under the CURVE key of one user."""

    def __init__(self, world: Any, name: str) -> None:
        self.world = world
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        target = Target(world.endpoint, world.server_keys.public)
        self.socket = client_socket(self.context, world.client_keys[name], target)

    def close(self) -> None:
        self.socket.close()
        self.context.term()

    def send(self, message: Any, array: np.ndarray | None = None) -> None:
        frames = [encode(message)] if array is None else [encode(message), frame_of(array)]
        self.socket.send_multipart(frames)

    def expect(self, kind: type[Any]) -> Any:
        deadline_s = time.monotonic() + 10.0
        while time.monotonic() < deadline_s:
            if self.socket.poll(1000):
                message, buffer = split_message(self.socket.recv_multipart(), FromServer)
                if isinstance(message, RoundStart):
                    self.model = read_float32(message.header, buffer or b"")
                if isinstance(message, kind):
                    return message
        raise AssertionError(f"no {kind.__name__}")

    def join(self) -> None:
        self.send(Join(PROTOCOL_VERSION))
        self.expect(Welcome)
        self.send(Ready("test", 37, "ec70"))

    def upload(self, start: RoundStart, values: np.ndarray, **changes: Any) -> None:
        context = self.world.aggregation().context(start.round, start.participants, model_digest(self.model))
        packed = pack_values(values.astype(np.int64), 10)
        fields = {
            "run_id": "test",
            "round": start.round,
            "context": context.digest(),
            "weight": 1,
            "n_values": 37,
            "ring_width": 10,
            "key_bits": 1110,
            "header": header_of(packed),
        }
        self.send(Upload(**{**fields, **changes}), packed)


@pytest.fixture
def offset_s() -> list[float]:
    """By how much the server's clock is ahead; a step is what a suspension looks like."""
    return [0.0]


def test_a_killed_server_s_round_is_on_record_and_clients_say_what_it_cost(world: Any) -> None:
    """Each pair counts once, whichever side reports it."""
    RunFolder(world.out_dir, with_task(world.config, world.server_task)).announce(world.names)
    world.start_server()
    made = {name: ScriptedClient(world, name) for name in world.names}
    try:
        for name, client in made.items():
            client.send(Join(PROTOCOL_VERSION))
            client.expect(Welcome)
            if name in ("alice", "bob"):
                client.send(Decline("test", 1, "the round came to no sum", 1110))
            if name == "charlie":
                client.send(Decline("test", 1, "the round came to no sum", 740, ("bob", "dora", "eve")))
                client.send(Decline("other", 1, "the round came to no sum", 1110))
                client.send(Decline("test", 7, "the round came to no sum", 1110))
            client.send(Ready("test", 37, "ec70"))
        assert made["dora"].expect(RoundStart).round == 2
        (aborted,) = read_state(world.out_dir).aborted
        assert (aborted.round, aborted.participants) == (1, world.names)
        assert "ended before the round did" in aborted.reason
        assert aborted.key_bits_burnt == 6 * 370
    finally:
        for client in made.values():
            client.close()


@pytest.fixture
def clients(world: Any, offset_s: list[float]) -> Iterator[dict[str, ScriptedClient]]:
    """A server with four scripted clients that have joined; round 1 is about to start."""
    world.settings(client_timeout_s=2.0)
    world.start_server(clock=lambda: time.monotonic() + offset_s[0])
    made = {name: ScriptedClient(world, name) for name in world.names}
    for client in made.values():
        client.join()
    yield made
    for client in made.values():
        client.close()


def test_duplicates_are_counted_once_and_a_second_version_is_refused(
    world: Any, clients: dict[str, ScriptedClient]
) -> None:
    starts = {name: client.expect(RoundStart) for name, client in clients.items()}
    values = {name: np.full(37, index + 1) for index, name in enumerate(world.names)}
    alice = clients["alice"]
    statuses = []
    for array in (values["alice"], values["alice"], values["alice"] + 1):
        alice.upload(starts["alice"], array)
        statuses.append(alice.expect(Receipt).status)
    assert statuses == ["accepted", "duplicate", "refused"]
    for name in ("bob", "charlie", "dora"):
        clients[name].upload(starts[name], values[name])
    world.wait_for(lambda: world.of(RoundCompleted), "the end of the round")
    assert load_array(world.out_dir, "aggregate", 1).tolist() == [1 + 2 + 3 + 4] * 37
    (refused,) = world.of(UploadRefused)
    assert refused.client == "alice"
    assert "already uploaded something else" in refused.reason


def test_a_late_upload_is_refused(world: Any, clients: dict[str, ScriptedClient]) -> None:
    start = clients["alice"].expect(RoundStart)
    clients["bob"].send(Decline("test", 1, "no keys today", 1110))
    world.wait_for(lambda: world.of(RoundAborted), "the abort")
    clients["alice"].upload(start, np.zeros(37))
    reply = clients["alice"].expect(Receipt)
    assert reply.status == "refused"
    record = world.of(RoundAborted)[0].record
    assert record.reason == "bob declined: no keys today"
    assert record.key_bits_burnt == 3 * 370


def test_an_upload_for_another_context_is_refused(world: Any, clients: dict[str, ScriptedClient]) -> None:
    start = clients["alice"].expect(RoundStart)
    clients["alice"].upload(start, np.zeros(37), context=bytes(32))
    assert "another round context" in clients["alice"].expect(Receipt).reason


def test_a_client_that_falls_silent_aborts_the_round_with_its_cost(
    world: Any, clients: dict[str, ScriptedClient]
) -> None:
    starts = {name: client.expect(RoundStart) for name, client in clients.items()}
    clients["alice"].upload(starts["alice"], np.ones(37))
    while not world.of(RoundAborted):
        for name in ("bob", "charlie"):
            clients[name].send(Progress("test", 1, "training"))
        with world.happened:
            world.happened.wait(0.2)
    record = world.of(RoundAborted)[0].record
    assert "dora vanished" in record.reason
    assert record.key_bits_burnt == 3 * 370
    assert "dora vanished" in clients["bob"].expect(RoundEnd).reason
    assert read_state(world.out_dir).aborted == (record,)


def test_whoever_has_not_joined_is_told_to(world: Any, clients: dict[str, ScriptedClient]) -> None:
    stranger = ScriptedClient(world, "alice")
    stranger.send(Progress("test", 1, "training"))
    stranger.expect(JoinAgain)
    stranger.close()


def test_a_client_that_returns_on_another_connection_is_told_of_the_round(
    world: Any, clients: dict[str, ScriptedClient]
) -> None:
    """Its old connection broke without a word."""
    first = clients["alice"].expect(RoundStart)
    clients["alice"].close()
    clients["alice"] = ScriptedClient(world, "alice")
    clients["alice"].join()
    assert clients["alice"].expect(RoundStart) == first
    clients["alice"].upload(first, np.zeros(37))
    assert clients["alice"].expect(Receipt).status == "accepted"


def test_a_server_that_was_suspended_blames_nobody(
    world: Any, clients: dict[str, ScriptedClient], offset_s: list[float]
) -> None:
    starts = {name: client.expect(RoundStart) for name, client in clients.items()}
    offset_s[0] += 100.0
    for name, client in clients.items():
        client.upload(starts[name], np.ones(37))
        assert client.expect(Receipt).status == "accepted"
    world.wait_for(lambda: world.of(RoundCompleted), "the end of the round")


def test_garbage_does_not_disturb_the_run(world: Any, clients: dict[str, ScriptedClient]) -> None:
    starts = {name: client.expect(RoundStart) for name, client in clients.items()}
    rng = np.random.default_rng(0)
    for size in range(200):
        frames = [rng.bytes(size) for _ in range(1 + size % 3)]
        clients["alice"].socket.send_multipart(frames)
    clients["alice"].send(Progress("test", 99, "training"))
    for name, client in clients.items():
        client.upload(starts[name], np.ones(37))
    world.wait_for(lambda: world.of(RoundCompleted), "the end of the round")
    assert load_array(world.out_dir, "aggregate", 1).tolist() == [4] * 37


def test_another_version_or_another_model_is_rejected(world: Any) -> None:
    world.start_server()
    client = ScriptedClient(world, "alice")
    client.send(Join(PROTOCOL_VERSION + 1))
    assert "version" in client.expect(Rejected).reason
    client.send(Join(PROTOCOL_VERSION))
    client.expect(Welcome)
    client.send(Ready("test", 38, "ec70"))
    assert "37 parameters here and 38 at alice" in client.expect(Rejected).reason
    client.close()


def test_a_round_number_is_durable_before_it_is_announced(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_disk: list[tuple[int, int]] = []

    def report(event: Any) -> None:
        if isinstance(event, RoundStarted):
            on_disk.append((event.round, read_state(world.out_dir).last_announced))

    monkeypatch.setattr(world, "note", lambda events, original=world.note: both(report, original(events)))
    world.start_all()
    world.finish()
    assert on_disk == [(1, 1), (2, 2), (3, 3)]


def both(first: Any, second: Any) -> Any:
    def report(event: Any) -> None:
        first(event)
        second(event)

    return report


def test_a_run_that_only_aborts_ends_with_an_error(world: Any) -> None:
    world.settings(max_aborts_in_a_row=2)
    for task in world.tasks.values():
        task.poisoned_rounds = {1, 2, 3}
    world.start_all()
    error = world.outcome("server")
    assert "2 rounds in a row were aborted" in str(error)
    assert "no round was completed, so the model is the initial one" in str(error)
    initial = world.server_task.initial_parameters(world.config.seed)
    assert np.array_equal(np.load(world.out_dir / "model-00000.npy"), initial)
    assert str(world.out_dir / "model-00000.npy") in str(error)
    assert read_state(world.out_dir).last_announced == 2


@pytest.mark.parametrize("content", [b"", b"{", b'{"format": 1}', b"\xff\xfe"])
def test_a_damaged_state_is_an_error_and_not_a_fresh_start(world: Any, content: bytes) -> None:
    RunFolder(world.out_dir, world.config)
    (world.out_dir / "run.json").write_bytes(content)
    with pytest.raises(RunStateError, match=r"run\.json"):
        world.start_server()


SERVER_PROCESS = """
    import sys, threading
    from pathlib import Path
    import numpy as np
    from fl.rounds.config import FLConfig
    from orchestrator.events.learning import Listening, RoundStarted
    from fl.carriers.zeromq.server import run_server
    from fl.workloads.base import Evaluation
    from orchestrator.wire.codec import decode
    from orchestrator.wire.curve import load_keys

    class Task:
        name, n_parameters, fingerprint = "vector", 37, "ec70"
        def initial_parameters(self, seed): return np.random.default_rng(seed).normal(size=37).astype(np.float32)
        def evaluate(self, parameters): return Evaluation(0.5, 1.0)

    folder, endpoint = Path(sys.argv[1]), sys.argv[2]
    config = decode((folder / "config").read_bytes(), FLConfig)
    allowed = dict(line.split(" ") for line in (folder / "allowed").read_text().splitlines())

    def report(event):
        if isinstance(event, Listening): print("listening", event.endpoint, flush=True)
        if isinstance(event, RoundStarted): print("round", event.round, flush=True)

    run_server(endpoint, load_keys(folder / "server"), allowed, config, folder / "run",
               threading.Event(), report, task=Task())
"""


@pytest.mark.parametrize("mode", ["otp", pytest.param("lightsecagg", marks=pytest.mark.long)])
def test_a_killed_server_comes_back_and_its_clients_with_it(world: Any, mode: str) -> None:
    """SIGKILL in the middle of round 2: the clients reconnect, round 2 is never announced again."""
    world.settings(rounds=3, client_timeout_s=5.0, mode=mode)
    for pair in world.network.stock:
        world.network.stock[pair] = aggregation_for(world.config, 37).key_bits_per_pair
    write_keys(world.folder / "server", world.server_keys)
    (world.folder / "config").write_bytes(encode(world.config))
    lines = [f"{keys.public} fl-{name}" for name, keys in world.client_keys.items()]
    (world.folder / "allowed").write_text("\n".join(lines))

    def start(endpoint: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-P", "-c", textwrap.dedent(SERVER_PROCESS), str(world.folder), endpoint],
            stdout=subprocess.PIPE,
            text=True,
        )

    first = start("tcp://127.0.0.1:*")
    assert first.stdout is not None
    world.endpoint = first.stdout.readline().split()[1]
    for name in world.names:
        world.start_client(name, rules=ClientRules(mode=mode))
    assert [first.stdout.readline().split() for _ in range(2)] == [["round", "1"], ["round", "2"]]
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    first.stdout.close()
    world.network.add_stock(10**6)
    killed_s = time.monotonic()
    second = start(world.endpoint)
    try:
        assert second.stdout is not None
        seen = [second.stdout.readline().split()[:2] for _ in range(3)]
        assert [words[-1] for words in seen[1:]] == ["3", "4"]
        assert time.monotonic() - killed_s < 15
        assert second.wait(20) == 0
    finally:
        second.kill()
        second.wait()
        second.stdout and second.stdout.close()
    state = read_state(world.folder / "run")
    assert [record.round for record in state.rounds] == [1, 3, 4]
    for name in world.names:
        assert world.outcome(name).reason == ""


def test_a_server_that_is_stopped_when_every_round_was_aborted_ends_with_an_error_and_the_initial_model(
    world: Any,
) -> None:
    world.settings(max_aborts_in_a_row=50, rejoin_grace_s=0.0)
    for task in world.tasks.values():
        task.poisoned_rounds = set(range(1, 51))
    world.start_all()
    world.wait_for(lambda: world.of(RoundAborted), "an aborted round")
    error = world.stop("server")
    assert isinstance(error, RunFailedError)
    assert "the server was stopped after" in str(error)
    assert "no round was completed, so the model is the initial one" in str(error)
    initial = world.server_task.initial_parameters(world.config.seed)
    assert np.array_equal(np.load(world.out_dir / "model-00000.npy"), initial)
    assert not list(world.out_dir.glob("model-0000[1-9].npy"))
    assert world.events[-1].reason == str(error)
