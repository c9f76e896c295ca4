"""The attack range: what is refused, and a switch that only a simulator has."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from lit_ring import lit

from lab.runs.attacks.carrying import SIMULATOR, LightAttacks
from lab.runs.attacks.control import begin
from lab.runs.attacks.seen import AttackWatch
from lab.runs.testbeds.folder import DEFAULT_TESTBED, EXAMPLE, create_folder, template_path
from lab.runs.testbeds.machine import Machine
from orchestrator.wire.attack_control import AttackShown, BeginAttack
from orchestrator.wire.control_socket import ControlRefusedError, ControlSocket, Done, Failed, ask
from orchestrator.wire.gate_control import answer_about_gate
from orchestrator.wire.queue_control import AbortEntry, AddEntry, QueueRow, QueueShown, ResumeQueue, ShowQueue
from sim_backends.optics import Ring

if TYPE_CHECKING:
    from tests.lab.conftest import Command


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return create_folder(tmp_path / "bench", template_path(DEFAULT_TESTBED)).parent


@contextmanager
def simulator(home: Path, real: tuple[str, ...] = ()) -> Iterator[Ring]:
    """The switch of a simulator that serves nothing else."""
    ring = lit()
    folder = home / "state" / SIMULATOR
    folder.mkdir(parents=True)
    with ControlSocket(folder, LightAttacks(ring, real).answer):
        yield ring


def test_an_attack_is_begun_shown_and_ended(qunetlab: Command, home: Path) -> None:
    with simulator(home) as ring:
        honest = ring.sensor_power_w("alice", "cw")
        said = qunetlab("attack", str(home), "tap", "--strength", "50")
        assert (said.returncode, said.stdout) == (0, "Tap on the fibre, 50 % of the light: on\n")
        assert ring.sensor_power_w("alice", "cw") == pytest.approx(honest / 2)
        listed = json.loads(qunetlab("attack", str(home), "--json").stdout)
        assert (listed["on"]["name"], listed["on"]["strength"]) == ("tap", 50.0)
        assert "s: tap, strength 50, begun by" in qunetlab("attack", str(home)).stdout.split("ON for ")[1]
        second = qunetlab("attack", str(home), "intercept-resend")
        assert second.returncode == 2
        assert "tap is on already" in second.stderr
        ended = qunetlab("attack", str(home), "--stop")
        assert "Tap on the fibre: ended, the ring is honest again" in ended.stdout
        assert "queue resume --pair PAIR" in ended.stdout, "there is no orchestrator to put right"
        assert ring.sensor_power_w("alice", "cw") == honest
        assert json.loads(qunetlab("attack", str(home), "--json").stdout)["on"] is None


def test_what_the_ring_made_of_an_attack_is_undone_at_its_end(qunetlab: Command, home: Path) -> None:
    """A suspended pair goes on, what was queued to mend it is taken out, what was measured under attack is ordered anew."""
    pairs = (("alice", "bob"),)
    at = time.time() + 5

    def row(number: int, state: Any, owner: str, steps_done: int, ended_at: float | None = None) -> QueueRow:
        steps = ("phase", "visibility")
        what = "calibration of alice-bob"
        return QueueRow(
            number, "calibration", what, owner, "", state, "", 0, None, 0, 0, None, None, at, None, ended_at,
            steps=steps, steps_done=steps_done, pairs=pairs,
        )  # fmt: skip

    rows = [
        row(1, "done", "orchestrator", 2, 1e9),
        row(2, "done", "orchestrator", 1, at),
        row(3, "running", "orchestrator", 0),
        row(4, "waiting", "bob", 0),
    ]
    heard: list[Any] = []

    def orchestrator(request: Any) -> Any:
        heard.append(request)
        match request:
            case ShowQueue():
                return QueueShown("", None, rows)
            case ResumeQueue(pair=pair) if pair != ("alice", "bob"):
                return Failed("it is not suspended")
            case AddEntry():
                return QueueShown("", None, [row(9, "waiting", "root", 0)])
        return Done(f"{type(request).__name__} done")

    folder = home / "state" / "orchestrator"
    folder.mkdir(parents=True)
    with simulator(home), ControlSocket(folder, orchestrator):
        began = time.time()
        qunetlab("attack", str(home), "tap")
        said = qunetlab("attack", str(home), "--stop")
    assert said.returncode == 0, said.stderr
    told = "ResumeQueue done; AbortEntry done; entry 9 measures anew what was calibrated meanwhile: phase\n"
    assert said.stdout.endswith(told)
    assert [each.number for each in heard if isinstance(each, AbortEntry)] == [3]
    resumed = [each for each in heard if isinstance(each, ResumeQueue)]
    assert len(resumed) == 6
    assert all(began - 1 <= (each.since or 0.0) <= began + 30 for each in resumed), (
        "only what the attack suspended"
    )
    (anew,) = [each for each in heard if isinstance(each, AddEntry)]
    assert (anew.pairs, anew.steps) == (pairs, ("phase",))


def test_status_knows_the_attack_of_a_simulator_here_and_of_no_real_ring(home: Path, tmp_path: Path) -> None:
    watch = AttackWatch(Machine(home, home / "state"))
    assert watch.now() is None, "there is no simulator"
    with simulator(home):
        begin(Machine(home, None), "tap", 20.0)
        assert watch.now() is None, "asked a moment ago"
        seen = AttackWatch(Machine(home, None)).now()
        assert seen is not None
        assert (seen.name, seen.told) == ("tap", "Tap on the fibre, 20 % of the light")
        assert 0.0 <= seen.for_s < 10.0
    real = create_folder(tmp_path / "real", template_path(EXAMPLE), host="127.0.0.1").parent

    def nobody(*_: object) -> AttackShown:
        pytest.fail("a real ring is not asked")

    assert AttackWatch(Machine(real, None), nobody).now() is None


def test_a_real_ring_has_no_attacks(qunetlab: Command, tmp_path: Path) -> None:
    home = create_folder(tmp_path / "bench", template_path(EXAMPLE), host="127.0.0.1").parent
    for words in ([], ["tap"], ["--stop"]):
        said = qunetlab("attack", str(home), *words)
        assert said.returncode == 2
        assert "is not simulated: attacks are of simulated rings alone, and nothing was done" in said.stderr


def test_a_ring_with_one_real_instrument_is_not_attacked(qunetlab: Command, home: Path) -> None:
    with simulator(home, real=("laser",)) as ring:
        honest = ring.sensor_power_w("alice", "cw")
        said = qunetlab("attack", str(home), "tap")
        assert said.returncode == 1
        assert "not simulated alone: laser are real instruments" in said.stderr
        assert ring.sensor_power_w("alice", "cw") == honest


def test_no_other_process_answers_an_attack(tmp_path: Path) -> None:
    gate: object = None
    with (
        ControlSocket(tmp_path, lambda request: answer_about_gate(gate, request)),  # type: ignore[arg-type]
        pytest.raises(ControlRefusedError, match="does not answer BeginAttack"),
    ):
        ask(tmp_path, BeginAttack("eve", "tap", 10.0))


def test_what_cannot_be_meant_says_what_can(qunetlab: Command, home: Path) -> None:
    for words, told in {
        ("tape",): "no attack 'tape'; there are tap,",
        ("tap", "--strength", "99"): "lies between 1 and 90 %, not 99",
        ("tap", "--stop"): "takes no NAME",
        ("--strength", "3"): "give its NAME too",
    }.items():
        said = qunetlab("attack", str(home), *words)
        assert (said.returncode, told in said.stderr) == (2, True), said.stderr


def test_a_process_lies_only_where_up_started_it(qunetlab: Command, home: Path) -> None:
    with simulator(home):
        for name in ("lying-relay", "tampering-hub", "two-list-server"):
            said = qunetlab("attack", str(home), name)
            assert said.returncode == 2
            assert "not started here by `qunetlab up`: nothing was done" in said.stderr


def test_without_a_simulator_the_list_says_so_and_nothing_begins(qunetlab: Command, home: Path) -> None:
    listed = qunetlab("attack", str(home))
    assert listed.returncode == 0
    assert "not known which is on: no process listens at" in listed.stdout
    assert qunetlab("attack", str(home), "tap").returncode == 3
