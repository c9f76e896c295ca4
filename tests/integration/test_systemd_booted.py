"""The units of `qunetlab systemd` under a systemd that is process 1: a ring of two users as docs/several-machines.md says it."""

from __future__ import annotations

import json
import subprocess
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import booted
import pytest
import tomli_w
from booted import Booted
from command_line import QUNETLAB
from fewer_users import ring_of_users
from two_users_ring import PAIR, SMALL

from lab.runs.roles.service_manager import LOOP_S
from lab.runs.services.units import TARGET, file_name
from lab.runs.testbeds.folder import template_path

WHY_NOT = booted.missing()
pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "there is a systemd"),
]
BENCH, USER, UNITS = "/srv/bench", "qunetlab", "/etc/systemd/system"
NODE, OTHER = PAIR
DARK = ("simulate", "orchestrator", NODE)
"""Enough for what a unit does; light needs them all."""
ROLES = (*DARK, "relay", OTHER)


class Services:
    """A ring of two users as services of a machine."""

    def __init__(self, machine: Booted) -> None:
        self.machine = machine
        bundled = tomllib.loads(template_path("simulated-four-node").read_text(encoding="utf-8"))
        two = ring_of_users(bundled, PAIR)
        two["protocol"] |= SMALL
        machine.run("tee", "/srv/two.toml", input=tomli_w.dumps(two))
        machine.run(*QUNETLAB, "init", BENCH, "--template", "/srv/two.toml", "--host", "127.0.0.1")
        machine.run(*QUNETLAB, "compile")
        machine.run("useradd", "--system", USER)
        machine.run("chown", "-R", USER, BENCH)
        self.install()

    def install(self, *more: str) -> None:
        words = ["--all", "--testbed", BENCH, "--out", UNITS, "--user", USER, *more]
        self.machine.run(*QUNETLAB, "systemd", *words)
        self.systemctl("daemon-reload")

    def systemctl(self, *words: str, check: bool = True) -> str:
        return self.machine.run("systemctl", *words, check=check).stdout.strip()

    def of(self, role: str, name: str) -> str:
        """A property of a role's unit."""
        return self.systemctl("show", "--value", f"--property={name}", file_name(role))

    def states(self) -> dict[str, str]:
        return {role: self.of(role, "ActiveState") for role in ROLES}

    def start(self, *roles: str) -> None:
        """Start roles; returns when they have said that they are ready, or one has failed."""
        self.systemctl("start", *map(file_name, roles))

    def as_user(self, *words: str, check: bool = True) -> str:
        """``qunetlab WORDS`` of the user who runs the roles."""
        inside = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--"]
        return self.machine.run(*inside, *QUNETLAB, *words, check=check).stdout

    def now(self) -> str:
        """A moment in the journal."""
        return f"@{time.time():.6f}"

    def inside(self, role: str, command: str) -> subprocess.CompletedProcess[str]:
        """A command in the place of a role's main process: what it sees and may write of the file system."""
        user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--"]
        return self.machine.run(
            "nsenter",
            "--target",
            self.of(role, "MainPID"),
            "--mount",
            *user,
            "sh",
            "-c",
            command,
            check=False,
        )

    def restarted(self, role: str, before: int, timeout_s: float = 120.0) -> float:
        """Seconds until a unit that was started ``before`` times again was once more, and serves."""

        def back() -> bool:
            return int(self.of(role, "NRestarts")) > before and self.of(role, "ActiveState") == "active"

        return self.wait(back, f"restart of {role}", timeout_s)

    def stop(self) -> float:
        """Seconds until every role has ended."""
        begun = time.monotonic()
        self.systemctl("stop", TARGET)
        self.wait(lambda: not set(self.states().values()) - {"inactive", "failed"}, "end")
        return time.monotonic() - begun

    def journal(self, role: str, since: str = "") -> list[str]:
        """What the processes of a unit said."""
        after = [f"--since={since}"] if since else []
        self.machine.run("journalctl", "--sync")
        said = self.machine.run("journalctl", "-o", "cat", "-t", f"qunetlab-{role}", *after)
        return said.stdout.splitlines()

    def told_of(self, role: str) -> str:
        """What systemd itself says of a unit."""
        self.machine.run("journalctl", "--sync")
        return self.machine.run("journalctl", "-o", "cat", "_PID=1", f"UNIT={file_name(role)}").stdout

    def events(self, role: str, since: str = "") -> list[dict[str, Any]]:
        """What a role told on standard output."""
        found = [json.loads(line) for line in self.journal(role, since) if line.startswith('{"type"')]
        return [each for each in found if each["type"] != "LightProgress"]

    def wait(self, wanted: Callable[[], object], what: str, timeout_s: float = 90.0) -> float:
        """Seconds until ``wanted``."""
        begun = time.monotonic()
        while not wanted():
            assert time.monotonic() < begun + timeout_s, f"no {what}: {self.states()}"
            time.sleep(0.2)
        return time.monotonic() - begun

    def key_after(self, since: str, timeout_s: float = 90.0) -> float:
        """Seconds until a block is stored."""

        def stored() -> bool:
            # A relay that lost a station in its light stays dark until somebody has looked.
            self.as_user("acknowledge", BENCH, check=False)
            told = self.events(NODE, since)
            return any(each["type"] == "BlockReport" and each["stored"] for each in told)

        return self.wait(stored, "block", timeout_s)


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    with closing(Booted(tmp_path_factory.mktemp("booted"), {"PYTHONPATH": str(booted.ROOT)})) as machine:
        yield Services(machine)


def test_roles_say_themselves_that_they_are_ready(ring: Services) -> None:
    begun = time.monotonic()
    ring.start(*DARK)
    print(f"ready after {time.monotonic() - begun:.1f} s")
    for role in DARK:
        assert (ring.of(role, "ActiveState"), ring.of(role, "Type")) == ("active", "notify")
        assert ring.of(role, "NRestarts") == "0"
    assert ring.of(NODE, "StatusText") == f"{NODE} is at work"


def test_a_role_sees_no_secret_of_another_and_writes_nowhere_else(ring: Services) -> None:
    for role in ("orchestrator", NODE):
        assert ring.inside(role, f"ls {BENCH}/secrets {BENCH}/state").stdout.split() == [
            f"{BENCH}/secrets:",
            role,
            f"{BENCH}/state:",
            role,
        ]
        for place in ("/", "/etc", "/srv", "/usr", "/var/lib", "/root", f"{BENCH}/secrets", f"{BENCH}/state"):
            assert ring.inside(role, f"touch {place}/written").returncode != 0, place
        assert ring.inside(role, f"touch {BENCH}/written && rm {BENCH}/written").returncode == 0
        status = ring.machine.run("cat", f"/proc/{ring.of(role, 'MainPID')}/status").stdout
        said = dict(line.split(":", 1) for line in status.splitlines())
        assert {said[name].strip() for name in ("CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
        assert (said["NoNewPrivs"].strip(), said["Seccomp"].strip()) == ("1", "2")
    assert ring.inside("orchestrator", f"touch {BENCH}/secrets/orchestrator/written").returncode != 0
    assert len(ring.machine.run("ls", f"{BENCH}/secrets").stdout.split()) > 5, "outside all are there"


def test_the_whole_ring_makes_key_and_again_after_a_node_was_killed(ring: Services) -> None:
    ring.systemctl("enable", "--now", TARGET)
    assert set(ring.states().values()) == {"active"}
    since = ring.now()
    ring.as_user("queue", "add", "key", "-".join(PAIR), "--bits", "100M", "--testbed", BENCH)
    print(f"key after {ring.key_after(since):.1f} s")
    before = int(ring.of(NODE, "NRestarts"))
    ring.systemctl("kill", "--signal=KILL", "--kill-whom=main", file_name(NODE))
    back_s, since = ring.restarted(NODE, before), ring.now()
    print(f"back after {back_s:.1f} s, key after {ring.key_after(since):.1f} s more")
    ring.systemctl("stop", file_name("relay"), file_name(OTHER))


@pytest.mark.parametrize("whom", ["main", "all"])
def test_a_killed_role_is_started_again(ring: Services, whom: str) -> None:
    """With ``all`` its guard is killed too."""
    before = int(ring.of(NODE, "NRestarts"))
    ring.systemctl("kill", "--signal=KILL", f"--kill-whom={whom}", file_name(NODE))
    print(f"{whom}: back after {ring.restarted(NODE, before):.1f} s")


def test_a_role_that_stands_still_is_ended_and_leaves_where_it_stood(ring: Services) -> None:
    before, since = int(ring.of(NODE, "NRestarts")), ring.now()
    ring.systemctl("kill", "--signal=STOP", "--kill-whom=main", file_name(NODE))
    print(f"back after {ring.restarted(NODE, before, LOOP_S + 100):.1f} s")
    assert "Watchdog timeout" in ring.told_of(NODE)
    said = "\n".join(ring.journal(NODE, since))
    assert "Fatal Python error: Aborted" in said
    assert "(most recent call first)" in said


def test_the_journal_has_a_line_of_json_each(ring: Services) -> None:
    """But for where the threads stood of a role that its watchdog ended."""
    for role in ("simulate", "orchestrator"):
        found = [json.loads(line) for line in ring.journal(role)]
        assert found
        assert all(isinstance(each, dict) for each in found)


def test_roles_end_in_order_with_everything_safe(ring: Services) -> None:
    since = ring.now()
    print(f"ended after {ring.stop():.1f} s")
    assert {ring.of(role, "Result") for role in DARK} == {"success"}
    (safe,) = (each for each in ring.events(NODE, since) if each["type"] == "MadeSafe")
    assert safe["instruments"]
    assert not safe["by_guard"]
    (ended,) = (each for each in ring.events("simulate", since) if each["type"] == "SimulatorStopped")
    assert ended["unsafe"] == []
    at = [int(ring.of(role, "ExecMainExitTimestampMonotonic")) for role in (NODE, "orchestrator", "simulate")]
    assert at == sorted(at)


def test_a_wrong_file_is_not_tried_again(ring: Services) -> None:
    ring.machine.run("cp", "-p", f"{BENCH}/testbed.toml", f"{BENCH}/right.toml")
    ring.machine.run("sed", "-i", "s/^owner = .relay./owner = 'nobody'/", f"{BENCH}/testbed.toml")
    since = ring.now()
    try:
        ring.systemctl("start", "--no-block", file_name("relay"))
        ring.wait(lambda: ring.of("relay", "ActiveState") == "failed", "failure of relay")
        assert (ring.of("relay", "ExecMainStatus"), ring.of("relay", "NRestarts")) == ("2", "0")
        why = "is neither the relay nor a user"
        ring.wait(lambda: why in "".join(ring.journal("relay", since)), "reason")
    finally:
        ring.machine.run("mv", f"{BENCH}/right.toml", f"{BENCH}/testbed.toml")
        ring.systemctl("reset-failed")


def test_a_sealed_store_key_opens_the_store_and_another_does_not(ring: Services) -> None:
    def sealed(user: str, source: str) -> None:
        place = f"{BENCH}/secrets/{user}"
        words = f"systemd-creds encrypt --with-key=host --name=store.key - {place}/store.cred"
        ring.machine.run("sh", "-c", f"cd {place}; rm -f store.cred; {source} | {words}")

    def said(words: str, since: str) -> None:
        ring.wait(lambda: words in "".join(ring.journal(NODE, since)), words)
        ring.systemctl("stop", file_name(NODE))
        ring.systemctl("reset-failed")

    for user in PAIR:
        sealed(user, "cat store.key")
        ring.machine.run("shred", "-u", f"{BENCH}/secrets/{user}/store.key")
    ring.start("simulate", "orchestrator")
    since = ring.now()
    ring.systemctl("start", "--no-block", file_name(NODE))
    said(f"cannot read the key-encryption key {BENCH}/secrets/{NODE}/store.key", since)

    ring.install("--store-key", "credential")
    ring.start(NODE)
    assert ring.of(NODE, "ActiveState") == "active"
    ring.systemctl("stop", file_name(NODE))

    sealed(NODE, "head -c 32 /dev/zero")
    since = ring.now()
    ring.systemctl("start", "--no-block", file_name(NODE))
    said("does not open this store", since)
    ring.stop()
