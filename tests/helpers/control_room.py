"""A dashboard without a ring: its real server and pages over a board that is filled with items as roles say them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from lab.dashboard.application import Application
from lab.dashboard.board import Board
from lab.dashboard.door import Tokens
from lab.dashboard.series import Series
from lab.dashboard.serving import listen_at, web_server
from lab.dashboard.watching import Watch
from lab.runs.attacks import control as attack_range
from lab.runs.following.observer import Heard, Observer, ObserverError
from lab.runs.testbeds.folder import create_folder, source_path
from lab.runs.testbeds.machine import Machine
from orchestrator.events.status import (
    Alarm,
    BlockReport,
    Epsilons,
    LaneStock,
    Learning,
    LeaseStatus,
    LightNow,
    PairStatus,
    PeerStatus,
    QueueStatus,
    Readings,
    RingStatus,
    StatusItem,
    Stock,
)
from orchestrator.wire.control_socket import PairKeys
from orchestrator.wire.key_control import SaeUse
from orchestrator.wire.queue_control import QueueRow, QueueShown

TOKEN = "token-of-the-test"


def nobody(*_: object) -> Observer:
    """No hub."""
    raise ObserverError("the orchestrator did not answer")


def made_machine(folder: Path) -> Machine:
    """A ring of four users whose roles do not run."""
    create_folder(folder, source_path("simulated-four-node"))
    machine = Machine(folder, None)
    for role in ("orchestrator", "relay", *machine.testbed.user_names()):
        machine.folder(role).mkdir(parents=True, mode=0o700)
    return machine


def words(machine: Machine) -> Iterator[tuple[str, StatusItem]]:
    """What the roles of a ring at work say: one of every kind that a page shows."""
    users = machine.testbed.user_names()
    for role in ("relay", *users, "fl-server"):
        yield "orchestrator", PeerStatus(role, present=role != "dave", ready=role != "carol", reason="")
    yield "orchestrator", RingStatus("granted", 3.0, "alice", "bob", 12)
    yield "orchestrator", QueueStatus(2, 0, 1)
    yield "relay", LightNow("alice", "bob", 50_331_648, 100_663_296, 1, 290_000.0, 280_000.0, 410.0)
    yield "relay", Readings("laser", "temperature_c", 31.5, "degC", 10.0, 45.0, 0.4)
    yield "relay", Readings("laser", "power_mw", 9.98, "mW", 0.0, 20.0, 3.0)
    yield "relay", Readings("D1", "detector-rate", 12_400.0, "1/s", None, 3e6, 0.1)
    yield "alice", Readings("awg_alice", "temperature_c", 47.2, "degC", 10.0, 45.0, 2.0)
    for number, (first, second) in enumerate(machine.testbed.pairs()):
        stored = number != 2
        yield "orchestrator", PairStatus(first, second, 90_000 * number, 400_000, 0, 9000.0, number > 1, True)
        yield (
            "orchestrator",
            LeaseStatus(1, number, first, second, stored, reason="" if stored else "no light"),
        )
        yield (
            first,
            BlockReport(
                1,
                number,
                first,
                second,
                stored,
                "" if stored else "too few bits passed the test <script>alert(1)</script>",
                pulses=100_663_296,
                announced=550_000,
                sifted_bits=310_000,
                test_rounds=32_000,
                test_errors=230,
                secret_bits=42_000 if stored else 0,
                predicted_bits=41_000,
                qber=0.0072,
                f_ec=1.04,
                phase_error_upper=0.24,
                light_s=1.0,
                light_wall_s=11.0,
            ),
        )
        yield first, Epsilons(second, 1e-9, 1e-15, 1e-20, 4, 12)
    for user in users:
        lanes = [
            LaneStock(peer, lane, 80_000, 16_384)
            for peer in users
            if peer != user
            for lane in ("mask", "auth_ab", "auth_ba")
        ]
        yield user, Stock(lanes)
    yield (
        "alice",
        Alarm("low-water", "few authentication bits", "bob", severity="major", what_to_do="order key"),
    )
    yield (
        "fl-server",
        Learning("run-1", "pairwise", "waiting", 10, 4, 1, 0.83, "alice waits", (("alice", "bob"),)),
    )


def readings_of_machine(machine: Machine) -> Iterator[tuple[str, object]]:
    """What this machine's sockets and files would tell."""
    yield "queue", {**msgspec.to_builtins(queue_shown()), "left_off": 7}
    yield "attacks", attack_range.rows()
    yield "calibration-page", "/pages/calibration"
    yield (
        "calibration-missing",
        [{"step": "carver", "owner": "relay", "finds": "the bias at which it is dark"}],
    )
    for owner, value, uncertainty, withheld in (
        ("relay", [3.25, 4.5], [0.01, 0.02], ""),
        ("alice", None, None, "a user's own value"),
    ):
        yield (
            f"calibration/{owner}/delays",
            {
                "value": value,
                "uncertainty": uncertainty,
                "unit": "ns",
                "step": "delays",
                "finds": "when pulses pass",
                "measured": "2026-11-01T10:00:00+00:00",
                "valid_h": 24,
                "stale": "older than 24 h",
                "withheld": withheld,
            },
        )
    for role in ("relay", *machine.testbed.user_names()):
        causes = [{"cause": "operator", "text": "stopped at a page", "at": 1e9}] if role == "relay" else []
        state = {"causes": causes, "unsafe": {"laser": "does not answer"} if causes else {}, "under_way": []}
        yield f"interlock/{role}", {"ok": not causes, "text": f"{role} is latched", "state": state}
    at = "2026-11-29T10:00:00Z"
    users = machine.testbed.user_names()
    summed = {
        "accuracy": 0.81,
        "loss": 0.6,
        "key_bits": 90_000,
        "upload_bytes": 120_000,
        "participants": users,
    }
    rounds = [
        {"round": 1, "at": at, **summed, "survivors": users},
        {
            "round": 2,
            "at": at,
            "reason": "bob went <script>alert(1)</script>",
            "key_bits": 10,
            "participants": users,
        },
        {"round": 3, "at": at, **summed, "survivors": users[1:]},
    ]
    yield "training", {"run_id": "run-1", "ok": True, "rounds": rounds}
    about = {"kind": "block", "when": at, "pair": "alice-bob", "qber": 0.007, "code": "0.1.0"}
    rows = [
        {"id": f"block/1/{number}", "ok": ok, "result": result, "bits": 9, **about}
        for number, ok, result in ((9, True, "42 bits"), (8, False, "no key: <script>alert(1)</script>"))
    ]
    yield "runs", {"rows": rows, "total": 70, "unread": ["records/x: damaged"]}
    for user in users:
        pairs = [
            PairKeys(
                peer,
                0,
                0,
                {"auth_ab": 65_280, "mask": 180_000},
                400_000,
                120_000,
                9_000,
                25_720,
                {"sec": 3e-10, "cor": 3e-15, "auth": 4.2e-12, "total": 3.04e-10, "blocks": 3, "tags": 40},
            )
            for peer in users
            if peer != user
        ]
        yield f"books/{user}", msgspec.to_builtins(pairs)
    uses = [
        SaeUse("app<script>alert(1)</script>", "bob", "master", 30, 7_680, 2_560),
        SaeUse("app3", "bob", "slave", 0, 0, 0),
    ]
    quotas = (10_000_000, None)
    rows = [
        {**msgspec.to_builtins(use), "quota_bits": quota} for use, quota in zip(uses, quotas, strict=True)
    ]
    yield f"use/{users[0]}", rows
    for number, (first, second) in enumerate(machine.testbed.pairs()):
        yield (
            f"plan/{first}/{second}",
            {
                "loss_db": 10.0 + number,
                "rate_bps": 45_000.0,
                "bench_rate_bps": 6_000.0,
                "qber": 0.0072,
                "qber_limit": 0.06,
                "refusals": [],
                "curve": [[8.0 + number + step, 90_000.0 / 1.6**step, 0.0072] for step in range(8)],
            },
        )


def queue_shown() -> QueueShown:
    """An entry of each state."""
    rows = [
        QueueRow(
            number, "key", f"9 kbit for {what} <script>alert(1)</script>", "eve", "a note", state, reason, 0,
            None, 10, 9000, 30.0, ready_in_s, 1e9, began_at, ended_at, pairs=(("alice", "bob"),),
        )
        for number, what, state, reason, ready_in_s, began_at, ended_at in (
            (1, "alice-bob", "failed", "bob is away", None, 1e9, 1e9 + 9),
            (2, "alice-bob", "running", "", 20.0, 1e9 + 10, None),
            (3, "bob-carol", "waiting", "after entry 2", 60.0, None, None),
            (4, "bob-carol", "held", "held by mallory", None, None, None),
        )
    ]  # fmt: skip
    return QueueShown("", None, rows)


def filled(board: Board, machine: Machine, series: Series | None = None) -> Watch:
    """A watch that has heard :func:`words`; its thread is not started."""
    watch = Watch(board, machine.testbed, machine.path.parent / "secrets", nobody, series=series)
    for role, item in words(machine):
        hear(watch, role, item)
    for key, value in readings_of_machine(machine):
        board.put(key, value)
    attack = {"name": "tap", "strength": 30.0, "who": "<script>alert(1)</script>"}
    board.put("attack", attack, at_s=time.monotonic() - 60.0)
    board.put("link", "")
    beat(board)
    return watch


def hear(watch: Watch, role: str, item: StatusItem) -> None:
    """One word more."""
    watch.note(Heard(role, item, time.monotonic()))


def beat(board: Board) -> None:
    """The hub is alive."""
    board.put("heard", True, at_s=time.monotonic())


@contextmanager
def served(board: Board, machine: Machine, series: Series | None = None) -> Iterator[str]:
    """The address under which a browser finds it."""
    ending = threading.Event()
    bound = listen_at("127.0.0.1:0", machine)
    application = Application(board, machine, Tokens(TOKEN), ending.is_set, alone=True, series=series)
    with web_server(application, bound):
        try:
            yield f"http://127.0.0.1:{bound.getsockname()[1]}/"
        finally:
            ending.set()
