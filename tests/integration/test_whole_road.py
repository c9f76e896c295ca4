"""The whole road with real processes on simulated instruments, at a size that fits a test.

Each test starts the dozen processes of a run; blocks are short, so that a pair is keyed in a second or two.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import QUNETLAB

from lab.runs.interlocks import acknowledge
from lab.runs.supervising.supervised import Run, supervised_run
from lab.runs.testbeds.folder import template_path
from lab.runs.testbeds.machine import Machine
from lab.testbed import write_testbed
from orchestrator.durable import replace_file
from orchestrator.events.process import ProcessEvent
from orchestrator.events.status import BlockReport, PeerStatus

SMALL = {"pulses_per_block": 1 << 26}
pytestmark = [pytest.mark.early, pytest.mark.timeout(300)]


def until(condition: Callable[[], bool], what: str, timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.05)


def processes_of(marker: str) -> list[int]:
    """Processes whose command line mentions ``marker`` (the run's private folder)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if marker in command:
                found.append(int(entry.name))
    return found


@pytest.fixture
def small_testbed(tmp_path: Path) -> Path:
    data = tomllib.loads(template_path("simulated-four-node").read_text(encoding="utf-8"))
    data["protocol"] |= SMALL
    path = tmp_path / "small.toml"
    write_testbed(data, path)
    return path


def demo_process(
    small_testbed: Path, tmp_path: Path, *more: str, path: tuple[Path, ...] = ()
) -> subprocess.Popen[str]:
    temporary = tmp_path / "private"
    temporary.mkdir()
    python_path = os.pathsep.join([*map(str, path), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    arguments = ["demo", "--testbed", str(small_testbed), "--out", str(tmp_path / "out"), *more]
    return subprocess.Popen(
        [*QUNETLAB, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary), **({"PYTHONPATH": python_path} if python_path else {})},
        preexec_fn=hear_interrupts,
    )


def hear_interrupts() -> None:
    """Tests started in the background of a shell inherit an ignored SIGINT; the demo must not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_demo_keys_all_pairs_sums_exactly_and_leaves_everything_safe(
    small_testbed: Path, tmp_path: Path
) -> None:
    """Its secrets are drawn through the door, and a wall clock stepped by hours in its middle has no effect."""
    watched = Watched(tmp_path / "watched")
    demo = demo_process(small_testbed, tmp_path, "--rounds", "2", "--json", path=(watched.folder,))
    until(lambda: watched.noted("amplification") or demo.poll() is not None, "a first block", 200)
    watched.step_clock(3600)
    until(lambda: watched.noted("in a round") or demo.poll() is not None, "a masked round", 200)
    watched.step_clock(-3600)
    out, errors = demo.communicate(timeout=280)
    assert demo.returncode == 0, errors
    assert watched.secrets() == dict.fromkeys(SECRETS, "from the door")
    stepped = {" ".join(words.split()[:2]) for words in watched.stepped()}
    assert not watched.noted("link lost")
    assert {f"node {user}" for user in ("alice", "bob", "carol", "dave")} <= stepped
    report: dict[str, Any] = json.loads(out)
    assert report == json.loads((tmp_path / "out" / "report.json").read_text())
    assert [tuple(row["pair"]) for row in report["pairs"]] == [
        ("alice", "bob"),
        ("alice", "carol"),
        ("alice", "dave"),
        ("bob", "carol"),
        ("bob", "dave"),
        ("carol", "dave"),
    ]
    for row in report["pairs"]:
        assert row["secret_bits"] > 0
        assert row["aborted_blocks"] == 0
        assert row["pulses"] % SMALL["pulses_per_block"] == 0
        assert row["qber"] == pytest.approx(row["planned_qber"], rel=0.2)
        assert 1.0 < row["f_ec"] < 1.2
        assert row["epsilon"]["sec"] > 0
        assert 0 < row["epsilon"]["auth"] < 1e-20, "bounded by what was tagged"
        assert row["epsilon"]["total"] >= row["epsilon"]["sec"] + row["epsilon"]["cor"]
        assert row["consumed_bits"] == 2 * report["key_demand_bits_per_pair"] // 2
    assert report["aborted_rounds"] == []
    aggregation = report["aggregation"]
    assert aggregation["mode"] == "otp"
    assert aggregation["exact"] is True
    bits_per_round = aggregation["parameters"] * aggregation["ring_width"]
    for number, row in enumerate(report["rounds"], start=1):
        assert row["round"] == number
        assert row["upload_bytes"] == 4 * -(-bits_per_round // 8)
        assert row["key_bits_used"] == 6 * bits_per_round
    assert report["rounds"][-1]["accuracy"] == pytest.approx(report["reference"][-1]["accuracy"], abs=0.03)
    assert report["instruments"]["unsafe"] == []
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<svg") == 7
    assert "simulated" in page
    until(lambda: not processes_of(str(tmp_path / "private")), "all processes gone")
    assert not list((tmp_path / "private").iterdir())


SECRETS = {
    *("symbols", "coin labels", "shuffles", "amplification", "data keys", "store keys", "initial secrets"),
    *("instances", "topics", "nonces", "run ids"),
}


class Watched:
    """What the processes of a run note of the secrets they draw and use, and their wall clock."""

    def __init__(self, folder: Path, planted: tuple[str, ...] = ()) -> None:
        self.folder = folder
        (folder / "notes").mkdir(parents=True)
        for source in (Path(__file__).parent / "launcher").glob("*.py"):
            (folder / source.name).write_text(source.read_text())
        (folder / "planted").write_text("\n".join(planted))

    def step_clock(self, seconds: int) -> None:
        """From here on the wall clock of every process is wrong by so much."""
        replace_file(self.folder / "step", str(seconds).encode())

    def stepped(self) -> list[str]:
        """The commands that have read the stepped clock."""
        return [path.read_text() for path in (self.folder / "stepped").iterdir()]

    def noted(self, kind: str) -> bool:
        """Has any process noted this already?"""
        wanted = json.dumps(kind).encode()
        return any(wanted in file.read_bytes() for file in (self.folder / "notes").iterdir())

    def secrets(self) -> dict[str, str]:
        """For every kind of secret used anywhere whether all of that kind, or which, came through the door.

        A secret is compared by its first 16 bytes: drawn at the beginning of a draw, or, for the second half
        of a long one, in its middle.
        """
        drawn: set[str] = set()
        used: dict[str, set[str]] = {}
        for file in (self.folder / "notes").iterdir():
            for line in file.read_text().splitlines():
                entry = json.loads(line)
                if entry["kind"] == "drawn":
                    drawn.add(entry["hex"][:32])
                elif entry["kind"] in SECRETS:
                    used.setdefault(entry["kind"], set()).add(entry["hex"][:32])
        return {
            kind: "from the door" if values <= drawn else f"{len(values - drawn)} of {len(values)} are not"
            for kind, values in used.items()
        }


@pytest.mark.long
def test_a_generator_planted_anywhere_is_found(small_testbed: Path, tmp_path: Path) -> None:
    """Seeded generators in the place of the door: each is noticed for what it makes."""
    watched = Watched(
        tmp_path / "watched",
        (
            "orchestrator.light.user",
            "orchestrator.postprocessing.block",
            "orchestrator.keystore.store",
            "orchestrator.keystore.pair_secret",
            "orchestrator.keystore.reconcile",
            "orchestrator.hub.agent",
            "orchestrator.processes.pair_worker",
            "lab.runs.testbeds.folder",
            "lab.runs.demo",
        ),
    )
    demo = demo_process(small_testbed, tmp_path, "--rounds", "1", "--json", path=(watched.folder,))
    _, errors = demo.communicate(timeout=280)
    assert demo.returncode == 0, errors
    found = watched.secrets()
    assert set(found) == SECRETS
    assert [kind for kind, verdict in found.items() if verdict == "from the door"] == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_demo_leaves_no_process(
    how: signal.Signals, small_testbed: Path, tmp_path: Path
) -> None:
    demo = demo_process(small_testbed, tmp_path)
    marker = str(tmp_path / "private")
    try:
        until(lambda: len(processes_of(f"{marker}/")) >= 9, "nodes started")
        demo.send_signal(how)
        demo.wait(timeout=60)
        assert demo.returncode == (130 if how is signal.SIGINT else -signal.SIGKILL)
        until(lambda: not processes_of(f"{marker}/"), "all processes gone")
        assert not list(Path(marker).iterdir())
    finally:
        demo.kill()
        demo.communicate()


@pytest.fixture
def ring() -> Iterator[Run]:
    with supervised_run("simulated-four-node", {"protocol": SMALL}) as run:
        run.start_ring()
        yield run


def test_a_killed_node_leaves_its_instruments_safe_and_others_go_on(ring: Run) -> None:
    from orchestrator.delivery.client import DeliveryClient
    from orchestrator.wire.curve import load_keys

    def ask(user: str, peer: str) -> None:
        folder = ring.testbed_path.parent / "secrets" / f"fl-{user}"
        node = ring.testbed.user(user)
        with DeliveryClient(node.delivery, load_keys(folder), ring.testbed.public_key(user)) as client:
            client.demand({peer: 10**9})

    def block_of(*pair: str) -> Callable[[str, ProcessEvent], bool]:
        return lambda name, event: isinstance(event, BlockReport) and event.pair == pair and event.stored

    (tagger,) = (entry for entry in ring.testbed.instruments if entry.model == "id-quantique-id900")
    assert tagger.options["sole_user"], "a relay that comes back takes over what a killed one left"
    ask("alice", "dave")
    ring.supervisor.wait_for(block_of("alice", "dave"), 60, "a first block")
    dave = ring.supervisor.children["dave"].process
    ring.supervisor.children.pop("dave")
    dave.kill()
    dave.wait()
    ask("alice", "bob")

    def released() -> bool:
        (told,) = acknowledge(Machine(ring.testbed_path, ring.state), ["relay"], "the test")
        return told.ok

    def after_a_look(name: str, event: ProcessEvent) -> bool:
        """A relay that lost dave's station in the light stays dark until somebody has looked at it."""
        if isinstance(event, PeerStatus) and event.peer == "relay" and "station-lost" in event.reason:
            until(released, "the relay released, once it was made safe twice")
        return block_of("alice", "bob")(name, event)

    ring.supervisor.wait_for(after_a_look, 60, "a block without dave", ring.note)
    ring.stop()
    assert ring.unsafe == []
