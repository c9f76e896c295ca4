"""Real processes killed, stopped and started again while keys are made.

One run on simulated instruments with fixed addresses, so that everything can come back where it was.  Each
case interrupts a lease, brings the process back and waits for the next block of the same pair.
"""

from __future__ import annotations

import json
import re
import signal
import socket
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from command_line import run_qunetlab
from fewer_users import ring_of_users
from msgspec.structs import replace

from lab.runs.following.observer import verdict_on
from lab.runs.following.verdict import Verdict
from lab.runs.interlocks import acknowledge, states, stop
from lab.runs.supervising.supervisor import Supervisor
from lab.runs.testbeds.folder import create_folder, template_path
from lab.runs.testbeds.machine import Machine
from lab.testbed import load_testbed, write_testbed
from orchestrator.events.common import Serving
from orchestrator.events.process import Ended, LightProgress, PeerLedger, ProcessEvent, SimulatorStopped
from orchestrator.events.status import BlockReport

pytestmark = [pytest.mark.early, pytest.mark.timeout(300)]
SMALL = {"slots_per_frame": 1 << 20, "pulses_per_block": 1 << 25}
PAIR = ("alice", "dave")
RECOVERY_S = 10.0
NOTICED_S = 6.0
TOLD = {
    "relay": "RING STOPPED",
    "dave": "relay not ready: interlock of relay: station-lost: dave went without a word",
    "orchestrator": "NO ANSWER",
    "simulate": "relay not ready",
}
"""What the verdict says once a process was killed."""


def free_endpoints(count: int) -> list[str]:
    """Endpoints that were free a moment ago, all different."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    endpoints = [f"tcp://127.0.0.1:{probe.getsockname()[1]}" for probe in probes]
    for probe in probes:
        probe.close()
    return endpoints


class Ring:
    """Simulator, orchestrator, relay, and alice and dave alone on their ring."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        source = folder / "two.toml"
        bundled = tomllib.loads(template_path("simulated-four-node").read_text(encoding="utf-8"))
        write_testbed(ring_of_users(bundled, PAIR), source)
        self.path = create_folder(folder / "bench", source)
        data = tomllib.loads(self.path.read_text(encoding="utf-8"))
        data["protocol"] |= SMALL
        endpoints = free_endpoints(2 + len(data["users"]))
        data["hub"] = {"control": endpoints[0], "bulk": endpoints[1]}
        for user, endpoint in zip(data["users"], endpoints[2:], strict=True):
            user["delivery"] = endpoint
        write_testbed(data, self.path)
        self.supervisor = Supervisor(folder)
        self.ledgers: dict[tuple[str, str], PeerLedger] = {}
        self.unsafe: list[str] | None = None

    def start(self, role: str) -> None:
        path = str(self.path)
        arguments = {
            "simulate": ["simulate", path, "--json", "--resolved", path],
            "orchestrator": ["orchestrator", path],
            "relay": ["relay", path],
        }.get(role, ["node", role, path])
        self.supervisor.start(role, *arguments)

    def start_all(self) -> None:
        self.start("simulate")
        self.supervisor.ready(["simulate"], 60)
        for role in ("orchestrator", "relay", *PAIR):
            self.start(role)
        self.supervisor.ready(["orchestrator", "relay", *PAIR], 60)

    def ask_for_key(self) -> None:
        from orchestrator.delivery.client import DeliveryClient
        from orchestrator.wire.curve import load_keys

        testbed = load_testbed(self.path)
        keys = load_keys(self.path.parent / "secrets" / f"fl-{PAIR[0]}")
        with DeliveryClient(testbed.user(PAIR[0]).delivery, keys, testbed.public_key(PAIR[0])) as client:
            client.demand({PAIR[1]: 10**9})

    def wait_for(
        self, wanted: Callable[[str, ProcessEvent], bool], what: str, timeout_s: float = 60.0
    ) -> None:
        self.supervisor.wait_for(wanted, timeout_s, what, self.note)

    def wait_for_light(self) -> None:
        """A lease that is not beyond its middle."""
        self.wait_for(
            lambda name, event: isinstance(event, LightProgress) and 2 * event.pulses <= event.planned_pulses,
            "light",
        )

    def wait_for_block(self) -> float:
        """A block whose light began from here on; how long it took."""
        started = time.monotonic()
        self.wait_for(
            lambda name, event: isinstance(event, BlockReport) and event.stored and event.started_s > started,
            "a block",
        )
        return time.monotonic() - started

    def note(self, name: str, event: ProcessEvent) -> None:
        if isinstance(event, PeerLedger):
            self.ledgers[name, event.peer] = event
        elif isinstance(event, SimulatorStopped):
            self.unsafe = event.unsafe

    def kill(self, role: str) -> None:
        process = self.supervisor.children[role].process
        self.supervisor.children.pop(role)
        process.kill()
        process.wait()
        self.wait_for(lambda name, event: name == role and isinstance(event, Ended), f"the end of {role}")

    def come_back(self, role: str) -> float:
        """Start a killed role again and wait for a block; seconds from its ready line to the stored key.

        The relay lost a user's station with its launch open: it stays dark until an operator acknowledges.
        """
        self.start(role)
        self.wait_for(lambda name, event: name == role and isinstance(event, Serving), f"{role} is back")
        if role in PAIR:
            self.release("station-lost", role)
        return self.wait_for_block()

    def release(self, *words: str) -> None:
        """The relay's interlock is latched for this, and nothing lights before it is acknowledged."""
        machine = Machine(self.path, None)
        (told,) = states(machine, ["relay"])
        assert all(word in told.text for word in words), told.text
        assert acknowledge(machine, ["relay"], "the test")[0].ok

    def status(self) -> Verdict:
        """What ``status --check`` says, from a connection of its own."""
        return verdict_on(load_testbed(self.path), self.path.parent / "secrets", 2.0)

    def wait_for_verdict(self, words: str) -> float:
        """Seconds until the verdict has ``words``."""
        started = time.monotonic()
        while words not in (said := self.status()).line:
            assert time.monotonic() - started < 20.0, said.line
        assert said.exit_code == 3
        return time.monotonic() - started

    def stop(self) -> dict[str, int]:
        codes = self.supervisor.stop_all([[*PAIR], ["relay"], ["orchestrator"], ["simulate"]])
        self.supervisor.join_readers()
        for name, event in self.supervisor.drain():
            self.note(name, event)
        return codes

    def log(self, role: str) -> str:
        return (self.folder / f"{role}.log").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ring]:
    ring = Ring(tmp_path_factory.mktemp("ring"))
    try:
        ring.start_all()
        ring.ask_for_key()
        ring.wait_for_block()
        yield ring
    finally:
        ring.stop()


@pytest.mark.parametrize("role", ["relay", "dave", "orchestrator", "simulate"])
def test_a_killed_process_is_back_at_work_in_seconds(running: Ring, role: str) -> None:
    running.wait_for_light()
    running.kill(role)
    told_s = running.wait_for_verdict(TOLD[role])
    print(f"{role}: {told_s:.1f} s until the verdict said so")
    assert told_s < NOTICED_S
    took_s = running.come_back(role)
    print(f"{role}: {took_s:.1f} s from ready to the next stored key")
    assert took_s < RECOVERY_S


@pytest.mark.long
@pytest.mark.parametrize("role", ["relay", "alice", "orchestrator", "simulate"])
def test_a_process_that_stood_still_for_ten_seconds_goes_on(running: Ring, role: str) -> None:
    running.wait_for_light()
    process = running.supervisor.children[role].process
    process.send_signal(signal.SIGSTOP)
    time.sleep(10)
    process.send_signal(signal.SIGCONT)
    if role in PAIR:
        running.release("station-lost", role)
    took_s = running.wait_for_block()
    print(f"{role}: {took_s:.1f} s to the next stored key")
    assert took_s < RECOVERY_S


@pytest.mark.long
def test_a_stop_in_a_lease_with_the_hub_killed_is_dark_at_once_and_goes_on_when_acknowledged(
    running: Ring,
) -> None:
    machine = Machine(running.path, None)
    running.wait_for_light()
    running.kill("orchestrator")
    for told in stop(machine, ["relay", *PAIR], "drill"):
        assert told.ok, told.text
        assert told.state is not None
        assert [each.cause for each in told.state.causes] == ["operator"]
        if told.role == "relay":
            assert told.state.dark_s is not None
            print(
                f"hub killed, stopped in a lease: the relay's instruments are dark after {told.state.dark_s:.3f} s"
            )
            assert told.state.dark_s < 1.0
    running.start("orchestrator")
    running.wait_for(lambda name, event: name == "orchestrator" and isinstance(event, Serving), "the hub")
    running.wait_for_verdict("relay not ready: interlock of relay: operator: drill")
    listed = run_qunetlab("alarms", str(running.path), "--json")
    assert {f"{role}/interlock" for role in ("relay", *PAIR)} <= {
        row["id"] for row in json.loads(listed.stdout)
    }
    done = run_qunetlab("acknowledge", str(running.path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert running.wait_for_block() < RECOVERY_S


def test_a_second_process_of_a_role_is_refused_and_the_first_goes_on(running: Ring) -> None:
    second = run_qunetlab("node", "dave", str(running.path))
    assert second.returncode == 1
    assert re.search(rf"runs as dave of {re.escape(str(running.path))} and has \w+_dave at", second.stderr)
    assert "Traceback" not in second.stderr
    running.wait_for_block()


def keys_command(running: Ring, *arguments: str) -> str:
    done = run_qunetlab("keys", *arguments, cwd=running.path.parent)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.long
def test_a_pair_is_renewed_on_running_nodes_under_load_and_goes_on(running: Ring) -> None:
    def rows() -> list[dict[str, Any]]:
        found = json.loads(keys_command(running, ".", "--json"))["stores"]
        return [row for row in found if {row["node"], row["peer"]} == set(PAIR)]

    assert [(row["generation"], row["running"]) for row in rows()] == [(0, True)] * 2
    keys_command(running, "reseed", "-".join(PAIR), "--new")
    for end in PAIR[::-1]:
        running.wait_for_light()
        keys_command(running, "reseed", "-".join(PAIR), "--secret", f"{'-'.join(PAIR)}.for-{end}.secret")
    assert running.wait_for_block() < RECOVERY_S
    first, second = rows()
    assert (first["generation"], first["kept"]) == (second["generation"], second["kept"]) == (1, 0)
    assert min(row["lanes"][lane] for row in (first, second) for lane in ("auth_ab", "auth_ba")) > 40_000
    assert not list(running.path.parent.glob("*.secret*"))


@pytest.mark.long
def test_a_revoked_role_is_out_at_once_and_after_a_restart(running: Ring) -> None:
    from lab.runs.following.observer import Observer
    from orchestrator.wire.links import LinkState

    testbed = load_testbed(running.path)
    secrets = running.path.parent / "secrets"
    with Observer.connect(testbed, secrets) as observer:
        said = keys_command(running, "revoke", "observer")
        assert "orchestrator: the key of observer is refused" in said
        assert observer.agent.wait_for(LinkState.REFUSED, 2.0)
    running.kill("orchestrator")
    running.come_back("orchestrator")
    assert "orchestrator: observer" in keys_command(running, "revoke", "--list")
    with pytest.raises(ConnectionError, match="does not accept our key"):
        Observer.connect(testbed, secrets)


def test_ctrl_c_in_a_lease_ends_every_role_soon_safe_and_with_equal_books(running: Ring) -> None:
    running.wait_for_light()
    started = time.monotonic()
    children = dict(running.supervisor.children)
    for role in ("relay", *PAIR):
        children[role].process.send_signal(signal.SIGINT)
    codes = {role: children[role].process.wait(30) for role in ("relay", *PAIR)}
    assert codes == dict.fromkeys(codes, 0), running.log("relay")
    assert time.monotonic() - started < RECOVERY_S
    assert running.stop() == {"orchestrator": 0, "simulate": 0} | codes
    assert running.unsafe == []
    at_alice, at_dave = running.ledgers["alice", "dave"], running.ledgers["dave", "alice"]
    assert replace(at_alice, peer="alice") == at_dave
    assert at_alice.stored_bits > 0
    assert not guards_of(running.path)
    for role in ("orchestrator", "relay", *PAIR):
        assert "Traceback" not in running.log(role)
        assert '"trace"' not in running.log(role)


def guards_of(testbed: Path) -> list[str]:
    """Guard processes that are still there."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            command = (
                (entry / "cmdline").read_bytes().decode(errors="replace") if entry.name.isdigit() else ""
            )
            if "drivers.guard_process" in command and str(testbed) in command:
                found.append(entry.name)
    return found
