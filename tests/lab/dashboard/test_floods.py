"""Days of events, thousands a second, and browsers that sleep: the board and what is sent stay as large as the ring."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from http.client import HTTPConnection

import pytest
from msgspec.structs import replace
from served_dashboard import LIMIT_S, Served

from lab.dashboard.board import GONE_KEPT, Board
from lab.dashboard.watching import LOG_KEPT, MEASURED_KEPT, Watch
from lab.runs.following.observer import Heard
from lab.runs.testbeds.machine import Machine
from orchestrator.events.status import Alarm, BlockReport, Learning, LeaseStatus, PairStatus

A_DAY = 30_000
"""Events: one every three seconds."""
LARGEST_MESSAGE = 128 << 10


def size(board: Board) -> int:
    """Of everything that a browser is told."""
    return len(board.since(0)[1])


def events_of_a_day(watch: Watch, machine: Machine, count: int) -> None:
    """Leases, stocks that go up and down, alarms that come and go: seeded."""
    chance, pairs = random.Random(7), machine.testbed.pairs()
    for number in range(count):
        first, second = chance.choice(pairs)
        kind = chance.randrange(8)
        if kind == 0:
            text = f"{chance.random():.9f} " * 8
            on = chance.random() < 0.5
            watch.note(Heard(first, Alarm("store", text, on=on), float(number)))
        elif kind < 4:
            status = LeaseStatus(1, number, first, second, ok=chance.random() < 0.9, refused=False, reason="")
            watch.note(Heard("orchestrator", status, float(number)))
        else:
            held = PairStatus(first, second, chance.randrange(10**6), number, 0, 4e3, True, True)
            watch.note(Heard("orchestrator", held, float(number)))


@pytest.fixture
def board() -> Board:
    return Board(time.monotonic)


def test_a_day_of_events_leaves_no_more_than_a_quarter_of_it(board: Board, machine: Machine) -> None:
    watch = Watch(board, machine.testbed, machine.path.parent / "secrets")
    events_of_a_day(watch, machine, A_DAY // 4)
    after_a_quarter, keys = size(board), len(board.keys())
    number = board.number
    events_of_a_day(watch, machine, A_DAY - A_DAY // 4)
    assert size(board) < 1.2 * after_a_quarter
    assert len(board.keys()) <= keys + 20
    assert len(board.keys("log/")) == LOG_KEPT
    assert len(board._gone) <= GONE_KEPT
    told = board.since(number, board.instance)[1]
    assert json.loads(told)["whole"] is True, "who slept so long is told everything, and no more"
    assert len(told) < LARGEST_MESSAGE


def test_in_a_flood_a_browser_s_messages_stay_bounded_and_a_sleeping_one_holds_up_nobody(
    machine: Machine, serve: Callable[..., Served]
) -> None:
    served = serve(machine)
    asleep = HTTPConnection(served.host, timeout=LIMIT_S)
    asleep.request("GET", "/events")
    asleep.getresponse()  # and never reads on
    awake = HTTPConnection(served.host, timeout=LIMIT_S)
    awake.request("GET", "/events")
    stream = awake.getresponse()
    lengths, last, number = [], 0, 0
    while last < 20_000:
        for _ in range(2000):
            number += 1
            served.board.put(f"item/{number % 300}", {"number": number, "text": "x" * 200})
        for name in ("id", "data", ""):
            line = stream.readline()
            if name == "data":
                lengths.append(len(line))
                told = json.loads(line.removeprefix(b"data: "))
                last = max(
                    [
                        last,
                        *(each[1]["number"] for key, each in told["set"].items() if key.startswith("item/")),
                    ]
                )
    assert max(lengths) < LARGEST_MESSAGE
    assert len(served.board.keys("item/")) == 300
    asleep.close()
    awake.close()


def test_clients_that_wait_in_turns_are_one_line_of_the_log(board: Board, machine: Machine) -> None:
    watch = Watch(board, machine.testbed, machine.path.parent / "secrets")
    waiting = Learning("run-1", "otp", "waiting", 10, 4, 0, 0.8)
    for number in range(100):
        who, peer = ("alice", "bob") if number % 2 else ("bob", "alice")
        item = replace(waiting, reason=f"{who} waits for keys", waits=((who, peer),))
        watch.note(Heard("fl-server", item, float(number)))
    watch.note(Heard("fl-server", replace(waiting, state="running", done=5), 101.0))
    assert [board.get(key)["text"] for key in board.keys("log/")] == [
        "training run-1 waiting, 4 of 10 rounds, accuracy 80.0 %",
        "training run-1 running, 5 of 10 rounds, accuracy 80.0 %",
    ]


def test_stored_blocks_stand_beside_the_plan_and_the_newest_are_kept(board: Board, machine: Machine) -> None:
    watch = Watch(board, machine.testbed, machine.path.parent / "secrets")
    first, second = machine.testbed.pairs()[0]
    for number in range(MEASURED_KEPT + 5):
        block = BlockReport(
            1, number, first, second, number != 7, qber=0.01, secret_bits=1000 * number, light_s=2.0
        )
        for _ in range(2):  # a hub that is subscribed to anew tells what it told before
            watch.note(Heard(first, block, float(number)))
        watch.note(Heard(second, block, float(number)))
    kept = board.get(f"measured/{first}/{second}")
    assert len(kept) == MEASURED_KEPT
    assert kept[-1] == [500.0 * (MEASURED_KEPT + 4), 0.01]
    assert [3500.0, 0.01] not in kept, "a block without key"
