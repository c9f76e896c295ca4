"""Real processes killed, stopped and started again while keys are made.

One run on simulated instruments with fixed addresses, so that everything can come back where it was.  Each
case interrupts a lease, brings the process back and waits for the next block of the same pair.  On a machine that is busy
with something else a block takes longer, and so may what follows an interruption: twice what a block took right before.
"""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from command_line import run_qunetlab
from msgspec.structs import replace
from two_users_ring import PAIR, Ring

from lab.runs.interlocks import stop
from lab.runs.testbeds.machine import Machine
from lab.testbed import load_testbed
from orchestrator.events.common import Serving

pytestmark = [pytest.mark.early, pytest.mark.timeout(300)]
RECOVERY_S = 10.0
NOTICED_S = 6.0
TOLD = {
    "relay": "RING STOPPED",
    "dave": "relay not ready: interlock of relay: station-lost: dave went without a word",
    "orchestrator": "NO ANSWER",
    "simulate": "relay not ready",
}
"""What the verdict says once a process was killed."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ring]:
    with Ring.making_key(tmp_path_factory.mktemp("ring")) as ring:
        yield ring


def soon_s(usual_s: float) -> float:
    """How long the next block may take after an interruption, where one without took ``usual_s`` right before."""
    return max(RECOVERY_S, 2 * usual_s)


@pytest.mark.parametrize("role", ["relay", "dave", "orchestrator", "simulate"])
def test_a_killed_process_is_back_at_work_in_seconds(running: Ring, role: str) -> None:
    running.wait_for_light()
    usual_s = running.wait_for_block()
    running.wait_for_light()
    running.kill(role)
    told_s = running.wait_for_verdict(TOLD[role])
    print(f"{role}: {told_s:.1f} s until the verdict said so")
    assert told_s < NOTICED_S
    took_s = running.come_back(role)
    print(f"{role}: {took_s:.1f} s from ready to the next stored key, {usual_s:.1f} s without interruption")
    assert took_s < soon_s(usual_s)


@pytest.mark.long
@pytest.mark.parametrize("role", ["relay", "alice", "orchestrator", "simulate"])
def test_a_process_that_stood_still_for_ten_seconds_goes_on(running: Ring, role: str) -> None:
    running.wait_for_light()
    usual_s = running.wait_for_block()
    running.wait_for_light()
    process = running.supervisor.children[role].process
    process.send_signal(signal.SIGSTOP)
    time.sleep(10)
    process.send_signal(signal.SIGCONT)
    if role in PAIR:
        running.release("station-lost", role)
    took_s = running.wait_for_block()
    print(f"{role}: {took_s:.1f} s to the next stored key, {usual_s:.1f} s without interruption")
    assert took_s < soon_s(usual_s)


@pytest.mark.long
def test_a_stop_in_a_lease_with_the_hub_killed_is_dark_at_once_and_goes_on_when_acknowledged(
    running: Ring,
) -> None:
    machine = Machine(running.path, None)
    running.wait_for_light()
    usual_s = running.wait_for_block()
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
    assert running.wait_for_block() < soon_s(usual_s)


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
    running.wait_for_light()
    usual_s = running.wait_for_block()
    keys_command(running, "reseed", "-".join(PAIR), "--new")
    for end in PAIR[::-1]:
        running.wait_for_light()
        keys_command(running, "reseed", "-".join(PAIR), "--secret", f"{'-'.join(PAIR)}.for-{end}.secret")
    assert running.wait_for_block() < soon_s(usual_s)
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
