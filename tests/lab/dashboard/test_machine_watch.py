"""What the machine's sockets and files tell comes onto the board, and who looks disturbs nobody."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from msgspec import structs

from lab.calibration.book import Value, read_book, write_book
from lab.calibration.finding import Finding, Measured
from lab.calibration.keeping import keep
from lab.calibration.steps import STEPS, Step
from lab.dashboard import machine_watch
from lab.dashboard.board import Board
from lab.dashboard.calibrated import OWN
from lab.dashboard.machine_watch import ENTRIES_SHOWN, MachineWatch
from lab.interlock.latch import Cause, keep_causes
from lab.key_delivery import Application
from lab.light_of import pair_light
from lab.runs.testbeds.machine import Machine
from lab.testbed import load_testbed, read_testbed
from orchestrator.protocols.block_planning import plan_for
from orchestrator.wire.attack_control import AttackShown
from orchestrator.wire.control_socket import ControlSocket, Keys, PairKeys, Reply, Request, ShowKeys
from orchestrator.wire.key_control import SaeUse, Use
from orchestrator.wire.queue_control import QueueRow, QueueShown

PAIR = ("alice", "bob")


def watched(machine: Machine, *, alone: bool = True) -> tuple[MachineWatch, Board]:
    board = Board(lambda: 1.0)
    return MachineWatch(board, machine, alone=alone), board


def read(watch: MachineWatch, name: str) -> None:
    watch.read(next(each for each in watch.sources if each.name == name))


def test_the_operating_point_lies_on_the_curve_of_the_planner(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_watch, "SHARE", 1e9)
    watch, board = watched(machine)
    read(watch, "plan")
    testbed = load_testbed(machine.path)
    assert set(board.keys("plan/")) == {f"plan/{first}/{second}" for first, second in testbed.pairs()}
    told = board.get("plan/alice/bob")
    plan, light = plan_for(testbed, *PAIR), pair_light(testbed, *PAIR)
    assert told["rate_bps"] == pytest.approx(plan.key_rate_per_pulse * testbed.protocol.clock_hz)
    assert [sum(light.arms_db), told["rate_bps"], told["qber"]] in told["curve"]
    losses, rates, _ = zip(*told["curve"], strict=True)
    assert list(losses) == sorted(losses)
    assert list(rates) == sorted(rates, reverse=True)
    assert rates[-1] == 0 < rates[-2]
    number = board.number
    read(watch, "plan")
    assert board.number == number


def test_a_calibration_is_planned_and_shown_with_unit_and_date(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_watch, "SHARE", 1e9)
    watch, board = watched(machine)
    read(watch, "plan")
    read(watch, "calibration")
    before = board.get("plan/alice/bob")["rate_bps"]
    assert any(each["step"] == "arm-loss" for each in board.get("calibration-missing"))
    at = datetime.now(UTC).replace(microsecond=0)
    finding = Finding(
        Step.ARM_LOSS,
        "relay",
        {"relay_loss_db": Measured(3.0, 0.05, "dB")},
        {},
        {},
        {},
        {"clicks": [1]},
        [],
        1.0,
    )
    keep(machine.path, finding, at)
    read(watch, "plan")
    read(watch, "calibration")
    assert board.get("plan/alice/bob")["rate_bps"] != before
    told = board.get("calibration/relay/relay_loss_db")
    assert (told["value"], told["uncertainty"], told["unit"], told["step"]) == (3.0, 0.05, "dB", "arm-loss")
    assert told["stale"] == told["withheld"] == ""
    assert not any(each["step"] == "arm-loss" for each in board.get("calibration-missing"))


def test_a_users_own_values_are_shown_to_this_machine_alone_and_a_stale_one_says_so(machine: Machine) -> None:
    book = read_book(machine.path, read_testbed(machine.path))
    long_ago = datetime.now(UTC) - timedelta(hours=STEPS[Step.PHASE].valid_h + 1)
    value = Value(value=4.625, uncertainty=0.01, step=Step.PHASE, measured=long_ago)
    write_book(machine.path, book.with_values("alice", {"v_pi_v": value}))
    here, own = watched(machine)
    read(here, "calibration")
    told = own.get("calibration/alice/v_pi_v")
    assert told["value"] == 4.625
    assert "h old" in told["stale"]
    elsewhere, open_to_all = watched(machine, alone=False)
    read(elsewhere, "calibration")
    told = open_to_all.get("calibration/alice/v_pi_v")
    assert (told["value"], told["uncertainty"], told["withheld"]) == (None, None, OWN)
    assert "4.625" not in open_to_all.since(0)[1]


def test_books_and_use_are_of_nodes_that_run_and_use_is_for_this_machine_alone(machine: Machine) -> None:
    def answer(request: Request) -> Reply:
        if isinstance(request, ShowKeys):
            pair = PairKeys("bob", 0, 0, {"mask": 800}, 1000, 100, 60, 40, {"sec": 1e-10, "total": 2e-10})
            return Keys("alice", [pair])
        return Use("alice", [SaeUse("app1", "bob", "master", 2, 512, 512)])

    served = {"app1": Application(user="alice", bits_per_day=9000)}
    machine.testbed = machine.testbed.model_copy(update={"sae": served})
    folder = machine.folder("alice")
    folder.mkdir(parents=True)
    here, own = watched(machine)
    elsewhere, open_to_all = watched(machine, alone=False)
    with ControlSocket(folder, answer):
        read(here, "keys")
        read(elsewhere, "keys")
    for board in (own, open_to_all):
        ((_, value),) = [(key, board.get(key)) for key in board.keys("books/")]
        assert (value[0]["peer"], value[0]["burnt"], value[0]["epsilons"]["sec"]) == ("bob", 40, 1e-10)
    assert own.get("use/alice")[0]["bits"] == 512
    assert own.get("use/alice")[0]["quota_bits"] == 9000
    assert not open_to_all.keys("use/")
    read(here, "keys")
    assert not own.keys("books/")
    assert not own.keys("use/")


def test_interlocks_of_roles_that_have_their_folder_here(machine: Machine) -> None:
    folder = machine.folder("relay")
    folder.mkdir(parents=True)
    watch, board = watched(machine)
    read(watch, "interlock")
    assert board.keys("interlock/") == ["interlock/relay"]
    assert board.get("interlock/relay")["state"]["causes"] == []
    keep_causes(folder, (Cause("operator", "tea", "2026-01-01T00:00:00+00:00"),))
    read(watch, "interlock")
    assert board.get("interlock/relay")["state"]["causes"][0]["text"] == "tea"
    shutil.rmtree(folder)
    read(watch, "interlock")
    assert board.keys("interlock/") == []


def test_what_cannot_be_read_is_said_and_what_was_read_stays_with_its_age(machine: Machine) -> None:
    watch, board = watched(machine)
    board.put("queue", {"held_by": "", "held_at": None, "entries": []}, at_s=0.5)
    read(watch, "queue")
    assert "no process listens" in board.get("problem/queue")
    assert json.loads(board.since(0)[1])["set"]["queue"][0] == 0.5
    (machine.path.parent / "calibration.toml").write_text("not = [toml")
    read(watch, "calibration")
    assert "calibration.toml" in board.get("problem/calibration")
    (machine.path.parent / "calibration.toml").unlink()
    read(watch, "calibration")
    assert board.get("problem/calibration") is None


def test_a_queue_of_a_thousand_is_shown_from_its_front(machine: Machine) -> None:
    row = QueueRow(
        *(
            1,
            "key",
            "10 bits for alice-bob",
            "olga",
            "",
            "waiting",
            "",
            0,
            None,
            0,
            10,
            None,
            None,
            1.8e9,
            None,
            None,
        )
    )
    rows = [structs.replace(row, number=number) for number in range(1, 1001)]
    folder = machine.folder("orchestrator")
    folder.mkdir(parents=True)
    watch, board = watched(machine)
    with ControlSocket(folder, lambda _: QueueShown("", None, rows)):
        read(watch, "queue")
    told = board.get("queue")
    assert [each["number"] for each in told["entries"]] == list(range(1, ENTRIES_SHOWN + 1))
    assert told["left_off"] == 1000 - ENTRIES_SHOWN


@contextmanager
def standing_still(path: Path) -> Iterator[None]:
    """A process that listens there and answers nothing."""
    with socket.socket(socket.AF_UNIX) as silent:
        folder = os.open(path.parent, os.O_PATH)  # a path may be longer than an address of a socket
        silent.bind(f"/proc/self/fd/{folder}/{path.name}")
        os.close(folder)
        silent.listen(8)
        yield


def test_processes_that_stand_still_are_not_waited_for_and_said_to(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_watch, "PATIENCE_S", 0.05)
    for role in ("orchestrator", "relay"):
        machine.folder(role).mkdir(parents=True)
    watch, board = watched(machine)
    with (
        standing_still(machine.folder("orchestrator") / "control"),
        standing_still(machine.folder("relay") / "interlock"),
    ):
        read(watch, "queue")
        read(watch, "interlock")
    assert "no answer from the process" in board.get("problem/queue")
    told = board.get("interlock/relay")
    assert (told["ok"], told["state"]) == (False, None)
    assert "relay does not say how its interlock stands" in told["text"]


def test_a_source_that_fails_in_a_way_nobody_thought_of_says_so_and_goes_on(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    watch, board = watched(machine)

    def broken(*_: object) -> None:
        raise KeyError("disk")

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", broken)
        read(watch, "machine")
        read(watch, "machine")
    assert "the dashboard itself failed: 'disk'" in board.get("problem/machine")
    assert len(caplog.records) == 1, "once, not every five seconds for days"
    read(watch, "machine")
    assert board.get("problem/machine") is None


def test_a_clock_that_jumps_changes_no_age(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board(time.monotonic)
    watch = MachineWatch(board, machine, alone=True)
    read(watch, "machine")
    ahead = time.time() + 1e9
    monkeypatch.setattr(time, "time", lambda: ahead)
    read(watch, "machine")
    told = json.loads(board.since(0)[1])
    assert 0 <= told["now"] - told["set"]["machine"][0] < 60


def test_the_state_of_the_machine_where_the_roles_have_no_folder_yet(machine: Machine) -> None:
    watch, board = watched(machine)
    read(watch, "machine")
    assert board.get("machine")["free_bytes"] > 0
    assert board.get("machine")["writable"] is True


def test_the_page_of_an_audit_is_linked_once_it_is_there_although_no_record_is_new(machine: Machine) -> None:
    watch, board = watched(machine)
    read(watch, "runs")
    assert board.get("audit-page") == ""
    page = machine.folder("dashboard") / "audit.html"
    page.parent.mkdir(parents=True)
    page.write_text("checked", encoding="utf-8")
    read(watch, "runs")
    assert board.get("audit-page") == "/pages/audit"


def test_an_attack_is_as_old_as_its_simulator_says_and_told_once(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(
        [AttackShown("tap", 10.0, "eve", 60.0), AttackShown("tap", 10.0, "eve", 61.2), AttackShown("")]
    )
    monkeypatch.setattr(machine_watch, "attack_on", lambda machine, patience_s: next(answers))
    watch, board = watched(machine)
    read(watch, "attack")
    began_s = json.loads(board.since(0)[1])["set"]["attack"][0]
    assert began_s == pytest.approx(time.monotonic() - 60.0, abs=5.0)
    number = board.number
    read(watch, "attack")
    assert board.number == number, "nothing changed"
    read(watch, "attack")
    assert board.get("attack")["name"] == ""
