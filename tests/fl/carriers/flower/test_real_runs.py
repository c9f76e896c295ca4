"""The example app in Flower's own processes: simulation, and SuperLink with SuperNodes on loopback."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr", reason="Flower is not installed: pip install -e '.[flower]' in this folder")

import fl.carriers.flower
from fl.carriers.flower.strategy import SecureRun
from fl.rounds.compression import Compression
from fl.rounds.quantise import quantisation_rng
from fl.workloads import load_task
from fl.workloads.base import training_seed
from lab.runs.testbeds.folder import create_folder, template_path
from lab.testbed import write_testbed
from orchestrator.delivery.consent_book import ConsentBook, read_run_file
from orchestrator.delivery.service import DeliveryService
from orchestrator.keystore.agreement import reserve
from orchestrator.keystore.lanes import Range
from orchestrator.keystore.sealing import Kek
from orchestrator.keystore.store import KeyStore
from orchestrator.secret import SecretBits
from orchestrator.wire.curve import load_keys
from orchestrator.wire.memory_channel import MemoryChannel, memory_channel_pair

EXAMPLE = Path(fl.carriers.flower.__file__).parent / "example"
DEADLINE_S = 540
USERS = ("alice", "bob", "carol", "dave")

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Flower:
    """Flower's command line tools with a home of their own, and nothing that would call out."""

    folder: Path
    port: int = field(default_factory=free_port)

    def environment(self, home: str) -> dict[str, str]:
        return {
            **os.environ,
            "FLWR_HOME": str(self.folder / home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "no_proxy": "*",
        }

    @contextmanager
    def process(self, name: str, *command: str) -> Iterator[subprocess.Popen[bytes]]:
        """A long-running process in a session of its own, with its log in the folder."""
        log = open(self.folder / f"{name}.log", "ab")  # noqa: SIM115 - the process writes it
        child = subprocess.Popen(
            command, env=self.environment(name), stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield child
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGTERM)
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
            log.close()

    def supernode(
        self, user: str, testbed: Path, mode: str
    ) -> AbstractContextManager[subprocess.Popen[bytes]]:
        """The SuperNode of a user of the testbed file."""
        place = f"partition-id={USERS.index(user)} num-partitions={len(USERS)}"
        return self.process(
            f"supernode-{user}",
            *("flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{self.port}"),
            *("--host", "127.0.0.1", "--port", str(free_port())),
            *("--node-config", f'user="{user}" testbed="{testbed}" {place} mode="{mode}"'),
        )

    @contextmanager
    def superlink(self, *options: str) -> Iterator[None]:
        command = ("flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(self.port))
        with self.process("superlink", *command, "--disable-runtime-dependency-installation", *options):
            self.wait_until_healthy()
            yield

    def wait_until_healthy(self) -> None:
        deadline = time.monotonic() + 60
        url = f"http://127.0.0.1:{self.port}/health"
        while True:
            try:
                with urllib.request.urlopen(url, timeout=2):
                    return
            except (urllib.error.URLError, OSError):
                assert time.monotonic() < deadline, self.logs()
                time.sleep(0.2)

    def run(self, config: dict[str, Any], *options: str, fails: bool = False) -> dict[str, Any]:
        """``flwr run`` of the example; the results file it leaves, and whether it says that it failed."""
        home = self.folder / "cli"
        home.mkdir(exist_ok=True)
        (home / "config.toml").write_text(
            '[superlink]\ndefault = "test"\n[superlink.test]\n'
            f'address = "127.0.0.1:{self.port}"\ninsecure = true\n'
        )
        app = self.folder / "app"
        shutil.copytree(EXAMPLE, app, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        results = self.folder / "results.json"
        results.unlink(missing_ok=True)
        config = {**config, "results": str(results), "state-folder": str(self.folder / "state")}
        text = " ".join(f"{key}={json.dumps(value)}" for key, value in config.items())
        done = subprocess.run(
            ["flwr", "run", str(app), *options, "--run-config", text, "--stream"],
            env=self.environment("cli"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        told = f"{done.stdout}\n{done.stderr}"
        assert results.exists(), f"{told}\n{self.logs()}"
        assert ("NoRoundCompletedError" in told) == fails, f"{told}\n{self.logs()}"
        assert self.status() == ("finished:failed" if fails else "finished:completed"), told
        found: dict[str, Any] = json.loads(results.read_text())
        return found

    def status(self) -> str:
        """What Flower says of the last run: ``flwr run`` itself ends with 0 whatever becomes of the server app."""
        listed = subprocess.run(
            ["flwr", "list", "--limit", "1", "--format", "json"],
            env=self.environment("cli"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return str(json.loads(listed.stdout)["runs"][0]["status"])

    def consent(self, nodes: Nodes, config: dict[str, Any]) -> None:
        """``flwr run`` of what nobody has consented to, which says so; then everybody does."""
        refused = self.run(config, fails=True)
        assert all("has not consented to run spring" in entry["reason"] for entry in refused["rounds"])
        assert not any(entry["key_bits"] for entry in refused["rounds"])
        description = read_run_file(self.folder / "state" / "run-spring.json")
        for user in USERS:
            folder = nodes.testbed.parent / "state" / f"fl-{user}" / "journal"
            assert read_run_file(folder / "offered-spring.json") == description
            ConsentBook(folder).give(user, description)

    def logs(self) -> str:
        texts = [f"== {path.name}\n{path.read_text()[-3000:]}" for path in sorted(self.folder.glob("*.log"))]
        return "\n".join(texts)


@pytest.mark.parametrize("mode", ["otp"])
def test_the_example_runs_in_flowers_simulation(tmp_path: Path, mode: str) -> None:
    flower = Flower(tmp_path)
    with flower.superlink("--simulation", "--isolation", "subprocess"):
        found = flower.run(
            {"mode": mode, "key-supply": "simulated", "clients": 4, "rounds": 3},
            "--federation-config",
            "num-supernodes=4",
        )
    assert [entry["reason"] for entry in found["rounds"]] == ["", "", ""]
    assert {entry["key_supply"] for entry in found["rounds"]} == {"simulated"}
    assert found["accuracy"][-1] > 0.9


class Nodes:
    """The key deliveries of four users, each with its own store, as their nodes run them."""

    def __init__(self, folder: Path, key_bytes: int) -> None:
        self.testbed = create_folder(folder, template_path("simulated-four-node"))
        rng = np.random.default_rng(7)
        self.stores = {
            name: KeyStore.create(folder / f"{name}.db", name, Kek(rng.bytes(32))) for name in USERS
        }
        self._lock = threading.Lock()
        self._lines: dict[tuple[str, str, bytes], MemoryChannel] = {}
        for i, first in enumerate(USERS):
            for second in USERS[i + 1 :]:
                self._connect(first, second, rng, key_bytes)

    def _connect(self, first: str, second: str, rng: np.random.Generator, key_bytes: int) -> None:
        ab, ba, key = rng.bytes(8192), rng.bytes(8192), rng.bytes(key_bytes)
        for own, peer, pair_end in ((first, second, "first"), (second, first, "second")):
            store = self.stores[own]
            store.install_initial_secret(
                peer, SecretBits.from_bytes(ab), SecretBits.from_bytes(ba), pair_end=pair_end
            )
            store.deposit_pending(peer, f"block-{first}-{second}", SecretBits.from_bytes(key), b"")
            store.confirm_deposit(peer, f"block-{first}-{second}")

    def _reserve(self, owner: str, peer: str, n_bits: int, digest: bytes) -> Range:
        with self._lock:
            line = self._lines.pop((owner, peer, digest), None)
            if line is None:
                line, self._lines[peer, owner, digest] = memory_channel_pair()
        store = self.stores[owner]
        return reserve(store, line, store.pair_end(peer), peer, "mask", n_bits, digest, timeout_s=30)

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Deliveries on free ports, written into the testbed file."""
        data = tomllib.loads(self.testbed.read_text())
        secrets = self.testbed.parent / "secrets"
        with ExitStack() as stack:
            for user in data["users"]:
                name = user["name"]
                service = DeliveryService(
                    self.stores[name],
                    [peer for peer in USERS if peer != name],
                    lambda peer, n_bits, digest, name=name: self._reserve(name, peer, n_bits, digest),
                    keys=load_keys(secrets / name),
                    client_key=load_keys(secrets / f"fl-{name}").public,
                )
                stack.enter_context(service)
                user["delivery"] = service.endpoint
            write_testbed(data, self.testbed)
            try:
                yield
            finally:
                for store in self.stores.values():
                    store.close()

    def delivered(self, first: str, second: str) -> int:
        return int(self.stores[first].ledger(second).delivered)

    def gone(self) -> int:
        """Bits of all pairs that were used as pads, or burnt."""
        pairs = [(first, second) for i, first in enumerate(USERS) for second in USERS[i + 1 :]]
        ends = [
            [
                self.stores[a].ledger(b).delivered + self.stores[a].ledger(b).burnt
                for a, b in (pair, pair[::-1])
            ]
            for pair in pairs
        ]
        return sum(map(max, ends))


def losses(rounds: list[tuple[int, tuple[str, ...]]]) -> list[float]:
    """The example's loss after each round (number, whose updates count), computed without masks."""
    task, seed = load_task("digits"), 1
    settings = SecureRun(levels=task.defaults.levels, clip=task.defaults.clip, seed=seed).config("x", USERS)
    compression = Compression.from_config(settings)
    model, found = task.initial_parameters(seed), []
    for number, users in rounds:
        quantiser, total = compression.quantiser(number), np.zeros(model.size, np.int64)
        for user in users:
            index = USERS.index(user)
            data = task.client_data(index, len(USERS), seed)
            trained = model + task.local_train(model, data, training_seed(seed, number, index))
            rng = quantisation_rng(seed, number, index)
            total += quantiser.quantise(trained - model, rng, client=user, round_number=number)
        if users:
            model = model + compression.mean(total, len(users), np.arange(model.size), number, model.size)
        found.append(task.evaluate(model).loss)
    return found


@pytest.mark.parametrize("mode", ["otp", "lightsecagg"])
def test_supernodes_draw_keys_from_their_own_nodes(tmp_path: Path, mode: str) -> None:
    flower, nodes = Flower(tmp_path), Nodes(tmp_path / "testbed", key_bytes=40_000)
    with nodes.serving(), flower.superlink(), ExitStack() as stack:
        for user in USERS:
            stack.enter_context(flower.supernode(user, nodes.testbed, mode))
        rounds = 2 if mode == "otp" else 1
        config = {"run-id": "spring", "mode": mode, "testbed": str(nodes.testbed), "rounds": rounds}
        flower.consent(nodes, config)
        found = flower.run(config)
        assert [entry["reason"] for entry in found["rounds"]] == [""] * rounds, flower.logs()
        assert {entry["key_supply"] for entry in found["rounds"]} == {"node"}
        assert found["rounds"][0]["participants"] == list(USERS)
        assert found["accuracy"][-1] > 0.8
        assert found["loss"][1:] == pytest.approx(
            losses([(number, USERS) for number in range(1, rounds + 1)]), rel=0.2
        )  # shuffling and rounding are each client's own
        per_round = 1810 * 10 if mode == "otp" else 2 * (905 * 10 + 384)  # d b, or two sealed shares
        assert nodes.delivered("alice", "bob") == rounds * per_round


def kill_in_round(flower: Flower, node: subprocess.Popen[bytes], user: str, what: str, times: int) -> None:
    """Kill a SuperNode, and whatever it started, once its log says ``what`` so many times."""
    log = flower.folder / f"supernode-{user}.log"
    deadline = time.monotonic() + DEADLINE_S / 2
    while log.read_text().count(what) < times and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(node.pid, signal.SIGKILL)
    node.wait()


@pytest.mark.parametrize("mode", ["otp", "lightsecagg"])
def test_a_supernode_is_killed_in_the_middle_of_a_round(tmp_path: Path, mode: str) -> None:
    """Bob's dies in its first round and is started again at once; Flower calls the dead one connected for a minute."""
    flower, nodes = Flower(tmp_path), Nodes(tmp_path / "testbed", key_bytes=40_000)
    with nodes.serving(), flower.superlink(), ExitStack() as stack:
        running = {user: stack.enter_context(flower.supernode(user, nodes.testbed, mode)) for user in USERS}

        timing = {"key-timeout": 45.0, "round-timeout": 120.0}
        config = {"run-id": "spring", "mode": mode, "testbed": str(nodes.testbed), "rounds": 2, **timing}
        flower.consent(nodes, config)

        def mishap() -> None:
            # otp: before bob masks.  lightsecagg: bob has dealt shares, and gets those of the others.
            times = 1 if mode == "otp" else 3
            kill_in_round(flower, running["bob"], "bob", "ROUND 3]", times)  # 1 and 2: nobody had consented
            stack.enter_context(flower.supernode("bob", nodes.testbed, mode))

        killer = threading.Thread(target=mishap)
        killer.start()
        try:
            found = flower.run(config)
        finally:
            killer.join()
        gone = nodes.gone()
    first, second = found["rounds"]
    assert not second["reason"], flower.logs()
    assert second["participants"] == list(USERS)
    if mode == "otp":
        assert "declined" in first["reason"] or "left" in first["reason"]
        in_first: tuple[str, ...] = ()
        assert first["key_bits"] == 3 * 1810 * 10  # what the three others had reserved among themselves
    else:
        assert not first["reason"], flower.logs()
        assert first["dropped"] == ["bob"]
        in_first = ("alice", "carol", "dave")
    assert found["loss"][1:] == pytest.approx(losses([(1, in_first), (2, USERS)]), rel=0.2)
    assert gone == sum(entry["key_bits"] for entry in found["rounds"])
