"""The queue of a running orchestrator: orders, holds, preemption, maintenance, refusals; parties with the real rules."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from queue_ring import BLOCK_BITS, PAIRS, ROLES, USERS, Light, Party, agent_at, parties

from lab.calibration.steps import Step
from orchestrator.events.status import QueueStatus
from orchestrator.hub.events import HubLimits
from orchestrator.keystore.errors import StoreError
from orchestrator.processes.orchestrator import Orchestrator
from orchestrator.processes.orchestrator_config import OrchestratorConfig
from orchestrator.scheduling.entries import QueueError
from orchestrator.scheduling.leases import Lease
from orchestrator.wire.curve import generate_keys
from orchestrator.wire.messages import KEY, Demand, Subscribe, TelemetryItem, calibration
from orchestrator.wire.queue_control import (
    AbortEntry,
    AddEntry,
    HoldQueue,
    MoveEntry,
    QueueRequest,
    QueueRow,
    QueueShown,
    ResumeQueue,
    ShowHistory,
    ShowQueue,
)
from orchestrator.wire.zeromq import ZeroMQ

pytestmark = pytest.mark.early

AB, AC, BC = PAIRS
CONFIG = OrchestratorConfig(
    users=USERS,
    rates_bps=dict.fromkeys(PAIRS, 1000.0),
    block_bits=dict.fromkeys(PAIRS, BLOCK_BITS),
    n_frames=24,
    light_limit_s=20.0,
    offer_timeout_s=2.0,
    drain_s=2.0,
    step_s=0.01,
    limits=HubLimits(heartbeat_s=0.1, lost_after_s=2.0),
)


class Ring:
    """An orchestrator in a thread, and its parties."""

    def __init__(self, folder: Path, stack: ExitStack, purposes: tuple[str, ...] = (KEY,)) -> None:
        self.keys = {role: generate_keys() for role in ("orchestrator", *ROLES)}
        allowed = {self.keys[role].public: role for role in ROLES}
        transport = stack.enter_context(ZeroMQ())
        self.orchestrator = Orchestrator(
            CONFIG, self.keys["orchestrator"], allowed, folder, transport=transport
        )
        hub = self.orchestrator.hub
        hub.start()
        stack.callback(hub.close)
        stop = threading.Event()
        thread = threading.Thread(target=self.orchestrator.serve, args=(stop,))
        thread.start()
        stack.callback(thread.join)
        stack.callback(stop.set)
        self.light = Light()
        self.agent = lambda role: agent_at(stack, role, self.keys, hub.control_endpoint, hub.bulk_endpoint)
        self.parties: dict[str, Party] = parties(stack, self.agent, self.light, purposes=purposes)
        stack.callback(self.light.shining.set)

    def ask(self, request: QueueRequest) -> Any:
        return self.orchestrator.desk.ask(request)

    def add(self, pair: tuple[str, str], blocks: int, who: str = "olga", **more: Any) -> int:
        """Order ``blocks`` of key; the number of the entry."""
        (row,) = self.ask(AddEntry(who, "key", (pair,), blocks * BLOCK_BITS, **more)).entries
        return int(row.number)

    def rows(self) -> list[QueueRow]:
        shown: QueueShown = self.ask(ShowQueue(1000))
        return shown.entries

    def row(self, number: int) -> QueueRow:
        return next(row for row in self.rows() if row.number == number)

    def until(self, done: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 20.0
        while not done():
            assert time.monotonic() < deadline, what
            threading.Event().wait(0.01)

    def until_state(self, number: int, state: str) -> QueueRow:
        self.until(lambda: self.row(number).state == state, f"entry {number} never was {state}")
        return self.row(number)

    def a_block_is_lit(self) -> None:
        assert self.light.begun.acquire(timeout=20.0), "no block was lit"

    @property
    def at_rest(self) -> bool:
        return all(party.safe for party in self.parties.values())


PHASE = calibration("phase")


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[Ring]:
    with ExitStack() as stack:
        yield Ring(tmp_path, stack)


def test_an_order_is_made_in_whole_blocks_and_no_more(ring: Ring) -> None:
    number = ring.add(AB, 3)
    row = ring.until_state(number, "done")
    assert (row.made_bits, row.wanted_bits, row.owner) == (3 * BLOCK_BITS, 3 * BLOCK_BITS, "olga")
    assert ring.light.blocks == {AB: 3}
    told = [line.what for line in ring.ask(ShowHistory(number)).lines]
    assert told[0] == "added: 3,000 bits for alice-bob"
    assert told[1] == "begun"
    assert told[-1] == "1,000 bits for alice-bob; done"


def test_until_stock_stops_at_the_stock(ring: Ring) -> None:
    ring.until_state(ring.add(AB, 2), "done")
    number = ring.add(AB, 5, until_stock=True)
    row = ring.until_state(number, "done")
    assert ring.light.blocks == {AB: 5}
    assert row.reason == ""
    again = ring.add(AB, 5, until_stock=True)
    ring.until_state(again, "done")
    assert ring.light.blocks == {AB: 5}


def test_a_run_is_for_every_pair(ring: Ring) -> None:
    (row,) = ring.ask(AddEntry("olga", "run", PAIRS, 2 * BLOCK_BITS)).entries
    ring.until_state(row.number, "done")
    assert ring.light.blocks == dict.fromkeys(PAIRS, 2)


def test_a_hold_during_a_block_finishes_it_and_makes_the_bench_safe(ring: Ring) -> None:
    ring.light.shining.clear()
    number = ring.add(AB, 3)
    ring.a_block_is_lit()
    ring.ask(HoldQueue("olga"))
    assert not ring.at_rest, "the block is still lit"
    ring.light.shining.set()
    ring.until(lambda: ring.at_rest, "instruments were not made safe")
    ring.until(lambda: ring.row(number).made_bits == BLOCK_BITS, "the block was not counted")
    shown = ring.ask(ShowQueue())
    assert shown.held_by == "olga"
    (row,) = shown.entries
    assert row.state == "waiting"
    assert row.reason.startswith("the ring rests: olga holds the queue since 20")
    with pytest.raises(QueueError, match="olga holds the queue already, since 20"):
        ring.ask(HoldQueue("pete"))
    assert ring.light.blocks == {AB: 1}
    ring.ask(ResumeQueue("pete"))
    ring.until_state(number, "done")
    assert ring.light.blocks == {AB: 3}
    assert not ring.at_rest
    with pytest.raises(QueueError, match="the queue is not held"):
        ring.ask(ResumeQueue("pete"))


def test_an_entry_that_is_held_lets_others_pass(ring: Ring) -> None:
    ring.ask(HoldQueue("olga"))
    first, second = ring.add(AB, 1), ring.add(AC, 2)
    ring.ask(HoldQueue("olga", first))
    ring.ask(ResumeQueue("olga"))
    ring.until_state(second, "done")
    assert ring.row(first).state == "held"
    assert ring.row(first).reason == "held by olga"
    ring.ask(ResumeQueue("olga", first))
    ring.until_state(first, "done")


def test_a_calibration_preempts_keying_between_blocks(tmp_path: Path) -> None:
    purpose = calibration("phase")
    with ExitStack() as stack:
        ring = Ring(tmp_path, stack, purposes=(KEY, purpose))
        ring.light.shining.clear()
        order = ring.add(AB, 1000)
        ring.a_block_is_lit()
        (step,) = ring.ask(AddEntry("olga", "calibration", (AB,), steps=("phase",))).entries
        assert ring.row(order).state == "running"
        ring.light.shining.set()
        ring.until_state(step.number, "done")
        made = ring.light.blocks[AB]
        assert ring.light.steps == {purpose: 1}
        assert made < 50, "it did not wait for the order"
        ring.until(lambda: ring.light.blocks[AB] > made, "keying did not go on")
        ring.ask(AbortEntry("olga", order))


def test_a_step_that_nobody_takes_part_in_fails_with_the_reason_and_holds_nothing_up(ring: Ring) -> None:
    (step,) = ring.ask(AddEntry("olga", "calibration", (AB,), steps=("visibility",))).entries
    row = ring.until_state(step.number, "failed")
    assert "takes no part in leases for 'calibration:visibility', only for key" in row.reason
    ring.until_state(ring.add(AB, 1), "done")


def test_a_step_whose_frames_a_user_refuses_fails_by_name_and_the_next_entry_goes_on(tmp_path: Path) -> None:
    with ExitStack() as stack:
        ring = Ring(tmp_path, stack, purposes=(KEY, PHASE))
        ring.light.refusing["alice"] = "no frames while I am at the fibre"
        (step,) = ring.ask(AddEntry("olga", "calibration", (AB,), steps=("phase",))).entries
        order = ring.add(AB, 1)
        row = ring.until_state(step.number, "failed")
        assert row.reason == "alice: LightAborted: no frames while I am at the fibre"
        assert ring.light.steps == {}
        ring.until_state(order, "done")


def test_a_user_who_is_gone_in_the_middle_of_a_step_is_named_and_the_step_is_done_once_he_is_back(
    tmp_path: Path,
) -> None:
    with ExitStack() as stack:
        ring = Ring(tmp_path, stack, purposes=(KEY, PHASE))
        ring.light.shining.clear()
        (step,) = ring.ask(AddEntry("olga", "calibration", (AB,), steps=("phase",))).entries
        ring.a_block_is_lit()
        ring.parties["bob"].agent.close()
        ring.until(lambda: "bob" in ring.row(step.number).reason, "nobody says who is gone")
        ring.light.shining.set()
        ring.until_state(ring.add(AC, 1), "done")
        assert ring.light.steps == {}
        row = ring.row(step.number)
        assert (row.state, row.reason) == ("waiting", "alice-bob: bob is gone")
        parties(stack, ring.agent, ring.light, roles=("bob",), purposes=(KEY, PHASE))
        ring.until_state(step.number, "done")


def test_a_user_who_does_not_come_back_to_a_step_is_waited_for_a_while_and_others_have_the_ring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        ring = Ring(tmp_path, stack, purposes=(KEY, PHASE))
        ring.light.shining.clear()
        (step,) = ring.ask(AddEntry("olga", "calibration", (AB,), steps=("phase",))).entries
        ring.a_block_is_lit()
        ring.parties["bob"].agent.close()
        ring.light.shining.set()
        ring.until_state(ring.add(AC, 1), "done")
        ring.until(
            lambda: ring.row(step.number).reason == "alice-bob: bob is gone", "it does not wait for bob"
        )
        monkeypatch.setattr("orchestrator.scheduling.missing.PATIENCE_S", 0.1)
        row = ring.until_state(step.number, "failed")
        assert row.reason.startswith(
            "given up after 0 minutes: bob is gone; once that is over, `qunetlab queue add"
        )
        ring.until_state(ring.add(AC, 1), "done")
        assert ring.light.steps == {}


def test_maintenance_has_the_bench_alone_and_the_second_is_told_who_has_it_since_when(ring: Ring) -> None:
    ring.light.shining.clear()
    order = ring.add(AB, 2)
    ring.a_block_is_lit()
    (lock,) = ring.ask(AddEntry("olga", "maintenance", note="swap the laser")).entries
    assert ring.row(lock.number).state == "waiting", "a block is lit"
    ring.light.shining.set()
    ring.until_state(lock.number, "running")
    ring.until(lambda: ring.at_rest, "instruments were not made safe")
    with pytest.raises(QueueError, match=r"olga has the bench since 20.* UTC \(entry 2: swap the laser\)"):
        ring.ask(AddEntry("pete", "maintenance"))
    with pytest.raises(QueueError, match=r"olga has the bench since .* may be at the bench: ask, or"):
        ring.ask(AbortEntry("pete", lock.number))
    assert ring.row(order).reason.startswith("the ring rests: olga has the bench")
    ring.ask(AbortEntry("olga", lock.number))
    assert ring.row(lock.number).state == "done"
    ring.until_state(order, "done")
    (other,) = ring.ask(AddEntry("pete", "maintenance")).entries
    ring.until_state(other.number, "running")
    ring.ask(AbortEntry("olga", other.number, take_over=True))
    assert ring.row(other.number).reason == "by olga"


def test_abort_ends_a_lit_block_at_once(ring: Ring) -> None:
    ring.light.shining.clear()
    number = ring.add(AB, 3)
    ring.a_block_is_lit()
    ring.ask(AbortEntry("olga", number))
    assert ring.row(number).state == "aborted"
    ring.until(lambda: ring.orchestrator.leases.lease is None, "the lease went on")
    ring.light.shining.set()
    other = ring.add(AC, 1)
    ring.until_state(other, "done")
    assert ring.light.blocks == {AC: 1}
    with pytest.raises(QueueError, match="entry 1 is aborted and no longer in the queue"):
        ring.ask(AbortEntry("olga", number))


def test_order_priority_and_place(ring: Ring) -> None:
    ring.light.shining.clear()
    ring.add(AB, 1)
    ring.a_block_is_lit()
    first, second, third = ring.add(AB, 1), ring.add(AC, 1), ring.add(BC, 1)
    shown = ring.ask(MoveEntry("olga", third, before=first))
    assert [row.number for row in shown.entries][1:] == [third, first, second]
    shown = ring.ask(MoveEntry("olga", second, priority=5, due_in_s=3600.0))
    row = next(row for row in shown.entries if row.number == second)
    assert row.priority == 5
    assert row.due_in_s == pytest.approx(3600.0, abs=5.0)
    assert row.ready_in_s is not None
    assert row.ring_s is not None
    ring.ask(MoveEntry("olga", first, priority=-1))
    ring.light.shining.set()
    for number in (first, second, third):
        ring.until_state(number, "done")
    ended = [ring.row(number).ended_at for number in (second, third, first)]
    assert ended == sorted(ended)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        (
            AddEntry("olga", "key", (("alice", "mallory"),), 10),
            "alice-mallory is no pair of this testbed; pairs",
        ),
        (AddEntry("olga", "key", (("bob", "alice"),), 10), "bob-alice is no pair"),
        (AddEntry("olga", "key", (), 10), "name its two users"),
        (AddEntry("olga", "key", (AB, AC), 10), "for several, add a run"),
        (AddEntry("olga", "key", (AB,), 0), "an order is of 1 to"),
        (
            AddEntry("olga", "calibration", (AB,), steps=("colour",)),
            "no calibration is called 'colour'; there are",
        ),
        (AddEntry("olga", "calibration", (AB, AC), steps=("phase",)), "name one pair, or none"),
        (AddEntry("olga", "key", (AB,), 10, priority=11), "a priority is -10 to 10"),
        (AddEntry(" ", "key", (AB,), 10), "an entry needs an owner"),
        (HoldQueue("olga", 7), "there is no entry 7"),
        (ResumeQueue("olga", 7), "there is no entry 7"),
        (AbortEntry("olga", 7), "there is no entry 7"),
        (MoveEntry("olga", 7, priority=1), "there is no entry 7"),
        (MoveEntry("olga", 7), "say where to"),
        (ShowHistory(7), "there is no entry 7"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(ring: Ring, entry: QueueRequest, told: str) -> None:
    with pytest.raises(QueueError, match=told):
        ring.ask(entry)
    assert ring.ask(ShowQueue(10)).entries == []


def test_queue_and_training_share_the_ring(ring: Ring) -> None:
    """A training that always wants more does not starve an order of low priority, nor is it starved."""
    server = ring.agent("fl-server")
    server.control_send(Demand(*AC, 10**9))
    ring.until(lambda: ring.light.blocks[AC] > 2, "the training got nothing")
    number = ring.add(AB, 2)
    ring.until_state(number, "done")
    assert ring.light.blocks[AB] == 2
    made = ring.light.blocks[AC]
    ring.until(lambda: ring.light.blocks[AC] > made, "the training did not go on")
    server.control_send(Demand(*AC, 0))


def test_nothing_is_lit_that_cannot_be_written_down(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(lease: Lease) -> None:
        tried.release()
        raise StoreError("the disk is full")

    tried = threading.Semaphore(0)
    with monkeypatch.context() as patch:
        patch.setattr(ring.orchestrator.queue, "lit", full)
        number = ring.add(AB, 1)
        assert tried.acquire(timeout=10.0)
        ring.until(lambda: ring.orchestrator.leases.lease is None, "the lease went on")
        assert not ring.light.begun.acquire(blocking=False), "a block was lit"
    ring.until_state(number, "done")
    assert ring.light.blocks == {AB: 1}


def test_observers_are_told_of_the_queue(ring: Ring) -> None:
    observer = ring.agent("observer")
    observer.control_send(Subscribe())

    def told(wanted: Callable[[QueueStatus], bool]) -> None:
        deadline = time.monotonic() + 20.0
        while time.monotonic() < deadline:
            heard = observer.control_recv(0.1)
            if (
                isinstance(heard, TelemetryItem)
                and isinstance(heard.item, QueueStatus)
                and wanted(heard.item)
            ):
                return
        raise AssertionError("not told")

    told(lambda item: item == QueueStatus(0, 0))
    ring.light.shining.clear()
    number = ring.add(AB, 2)
    told(lambda item: item.running_entry == number)
    ring.ask(HoldQueue("olga"))
    ring.light.shining.set()
    told(lambda item: item.waiting_entries == 1 and item.rests.startswith("olga holds the queue since"))


def test_an_entry_says_why_it_waits(ring: Ring) -> None:
    ring.parties["carol"].agent.close()
    number = ring.add(AC, 1)
    ring.until(lambda: "carol is gone" in ring.row(number).reason, "no reason")
    assert ring.row(number).reason == "alice-carol: carol is gone"


def test_a_pair_that_does_not_fit_is_calibrated_once_and_goes_on_while_others_make_key(
    tmp_path: Path,
) -> None:
    with ExitStack() as stack:
        ring = Ring(tmp_path, stack, purposes=(KEY, PHASE))
        ring.light.unfit[AB] = (Step.PHASE,)
        ordered, other = ring.add(AB, 2), ring.add(AC, 2)
        ring.until_state(other, "done")
        ring.until_state(ordered, "done")
        assert ring.light.steps == {PHASE: 1}
        assert ring.light.blocks == {AB: 3, AC: 2}
        (step,) = [row for row in ring.rows() if row.kind == "calibration"]
        assert (step.state, step.owner) == ("done", "orchestrator")
        assert "alice-bob is suspended: error rate 1.20 %" in step.note


def test_a_hold_holds_the_calibration_and_an_operator_can_let_the_pair_go_on(tmp_path: Path) -> None:
    with ExitStack() as stack:
        ring = Ring(tmp_path, stack, purposes=(KEY, PHASE))
        ring.light.unfit[AB] = (Step.PHASE,)
        ring.light.shining.clear()
        ordered = ring.add(AB, 1)
        ring.a_block_is_lit()
        ring.ask(HoldQueue("olga"))
        ring.light.shining.set()
        ring.until(lambda: any(row.kind == "calibration" for row in ring.rows()), "nothing was queued")
        ring.until(lambda: ring.at_rest, "the bench was not made safe")
        assert ring.light.steps == {}
        ring.ask(AbortEntry("olga", max(row.number for row in ring.rows())))
        ring.ask(ResumeQueue("olga"))
        ring.until(lambda: "suspended" in ring.row(ordered).reason, "nobody says why it waits")
        assert "qunetlab queue resume --pair alice-bob" in ring.row(ordered).reason
        ring.light.unfit.clear()
        ring.ask(ResumeQueue("olga", pair=AB))
        ring.until_state(ordered, "done")
        with pytest.raises(QueueError, match="not suspended"):
            ring.ask(ResumeQueue("olga", pair=AB))
