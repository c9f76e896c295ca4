"""The queue on disk and in memory: whatever happens in whatever order, blocks count once and nothing is forgotten."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

import numpy as np
import pytest
from failing_queue import FailingDatabase, FailingStore
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from orchestrator.events.status import BlockReport
from orchestrator.keystore.errors import StoreBusyError, StoreError
from orchestrator.scheduling import entries as rules
from orchestrator.scheduling import queue_store
from orchestrator.scheduling.entries import Entry, QueueError, Work
from orchestrator.scheduling.leases import Lease, Outcome
from orchestrator.scheduling.queue_store import HISTORY_DAYS, QUEUE_FILE, QueueStore
from orchestrator.scheduling.ring_queue import FORGET_EVERY_S, REPORT_PATIENCE_S, WRITE_AGAIN_S, RingQueue
from orchestrator.scheduling.ring_schedule import RingSchedule
from orchestrator.scheduling.turns import NextLease, Turns
from orchestrator.wire.messages import KEY

AB, AC, BC = PAIRS = (("alice", "bob"), ("alice", "carol"), ("bob", "carol"))
STEPS = ("phase", "visibility")
BLOCK_BITS = 100


class World:
    """A queue that can be closed and opened again, on clocks of its own."""

    def __init__(self, folder: Path) -> None:
        FailingDatabase.full = False
        self.path = folder / QUEUE_FILE
        self.now_s = 1000.0
        self.at = 1.7e9
        self.epoch, self.number = 0, 0
        self.open()

    def open(self) -> None:
        self.epoch += 1
        self.number = 0
        self.store = FailingStore(self.path)
        self.queue = RingQueue(self.store, PAIRS, STEPS, clock=lambda: self.now_s, wall=lambda: self.at)

    def restart(self) -> None:
        self.store.close()
        self.open()

    def kill(self) -> None:
        """Go on with what the disk has at this moment, as after ``kill -9``: nothing is closed or written out first."""
        there = Path(mkdtemp(dir=self.path.parent))
        for file in self.path.parent.glob(f"{QUEUE_FILE}*"):
            shutil.copyfile(file, there / file.name)
        self.store.close()
        self.path = there / QUEUE_FILE
        self.open()

    def add(self, pair: tuple[str, str] = AB, bits: int = BLOCK_BITS, **more: Any) -> Entry:
        return self.queue.add(Work("key", "olga", (pair,), bits), **more)

    def lease(self, entry: Entry, pair: tuple[str, str] = AB) -> Lease:
        """A lease of the entry, lit."""
        self.number += 1
        lease = Lease(self.epoch, self.number, *pair, 4, 10.0, KEY, entry.number)
        self.queue.lit(lease)
        return lease

    def report(self, lease: Lease, bits: int = BLOCK_BITS, stored: bool = True) -> None:
        self.queue.block_reported(
            BlockReport(
                lease.epoch, lease.number, *lease.pair, stored, "no key", secret_bits=bits if stored else 0
            )
        )

    def entry(self, number: int) -> Entry:
        found = self.store.entry(number)
        assert found is not None
        return found


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def over(lease: Lease, ok: bool = True, reason: str = "", refused: bool = False) -> Outcome:
    return Outcome(lease, ok, refused, reason, 5.0)


def test_a_block_counts_once_however_often_it_is_told(world: World) -> None:
    entry = world.add(bits=2 * BLOCK_BITS)
    lease = world.lease(entry)
    world.queue.lease_over(over(lease))
    for _ in range(3):
        world.report(lease)
    world.restart()
    world.report(lease)
    assert world.entry(entry.number).made == (BLOCK_BITS,)
    assert world.queue.in_work(entry.number, AB) == 0
    second = world.lease(entry)
    world.report(second)
    assert world.entry(entry.number).state == "done"
    world.queue.lease_over(over(second))
    assert world.entry(entry.number).state == "done"


def test_a_block_that_an_earlier_process_lit_is_in_work_until_both_nodes_know_nothing_of_it(
    world: World,
) -> None:
    entry = world.add()
    lease = world.lease(entry)
    world.restart()
    assert world.queue.in_work(entry.number, AB) == 1
    token = lease.epoch, lease.number
    world.queue.has_no_others("alice", [token])
    world.queue.has_no_others("bob", [])
    world.queue.has_no_others("carol", [])
    assert world.queue.in_work(entry.number, AB) == 1, "alice may still tell"
    world.queue.has_no_others("alice", [])
    assert world.queue.in_work(entry.number, AB) == 0
    assert world.entry(entry.number).failures == 0
    world.report(lease)
    assert world.entry(entry.number).state == "done", "word came after all"


def test_a_block_of_which_nobody_tells_is_lost_in_time(world: World) -> None:
    entry = world.add()
    world.lease(entry)
    world.now_s += REPORT_PATIENCE_S - 1
    world.queue.time(world.now_s)
    assert world.queue.in_work(entry.number, AB) == 1
    world.now_s += 1
    world.queue.time(world.now_s)
    assert world.queue.in_work(entry.number, AB) == 0
    assert "nobody told" in world.queue.entries[0].reason


def test_a_disk_that_is_full_changes_nothing_and_what_the_ring_did_is_written_later(world: World) -> None:
    entry = world.add()
    lease = world.lease(entry)
    world.queue.lease_over(over(lease))
    before = list(world.queue.entries)
    FailingDatabase.full = True
    actions: list[Callable[[], object]] = [
        lambda: world.add(),
        lambda: world.queue.hold("olga"),
        lambda: world.queue.hold("olga", entry.number),
        lambda: world.queue.abort("olga", entry.number),
        lambda: world.queue.move("olga", entry.number, priority=3),
        lambda: world.lease(entry),
    ]
    for action in actions:
        with pytest.raises(StoreError, match=r"the disk is full: free space\. Nothing was changed"):
            action()
        assert world.queue.entries == before
        assert world.queue.resting == ""
    world.report(lease)
    world.now_s += REPORT_PATIENCE_S + WRITE_AGAIN_S
    world.queue.time(world.now_s)
    assert world.queue.in_work(entry.number, AB) == 1, "not forgotten, and not made again"
    FailingDatabase.full = False
    world.now_s += WRITE_AGAIN_S
    world.queue.time(world.now_s)
    assert world.entry(entry.number).state == "done"
    assert world.entry(entry.number).made == (BLOCK_BITS,)


def test_hold_lock_and_due_times_survive_a_restart(world: World) -> None:
    entry = world.add(due_in_s=600.0, priority=4)
    world.queue.hold("olga")
    world.restart()
    assert world.queue.resting.startswith("olga holds the queue since 2023-11-14 22:13:20 UTC")
    assert world.queue.due_s(entry.number) == pytest.approx(world.now_s + 600.0)
    world.queue.resume("pete")
    lock = world.queue.add(Work("maintenance", "pete", note="fibre"))
    world.queue.ring_is_free()
    world.restart()
    assert (
        world.queue.resting
        == f"pete has the bench since 2023-11-14 22:13:20 UTC (entry {lock.number}: fibre)"
    )
    world.at += 3600.0
    world.now_s += 60.0
    world.restart()
    assert world.queue.due_s(entry.number) == pytest.approx(world.now_s + 600.0 - 3600.0)


def test_numbers_are_never_used_again(world: World) -> None:
    first = world.add()
    world.queue.abort("olga", first.number)
    world.restart()
    assert world.add().number == first.number + 1


def test_one_process_owns_the_queue(world: World) -> None:
    with pytest.raises(StoreBusyError, match="owned by another process"):
        QueueStore(world.path)


def test_a_file_that_is_no_queue_is_refused_and_stays(tmp_path: Path) -> None:
    path = tmp_path / QUEUE_FILE
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE theirs (x)")
    db.close()
    with pytest.raises(StoreError, match=r"page_size is 4096|is not a qunetlab queue"):
        QueueStore(path)
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT name FROM sqlite_master").fetchall() == [("theirs",)]


def test_a_process_that_was_killed_at_its_first_start_leaves_a_file_that_can_be_used(tmp_path: Path) -> None:
    path = tmp_path / QUEUE_FILE
    path.touch(0o600)
    with_header = sqlite3.connect(path)
    with_header.execute("PRAGMA page_size=16384")
    with_header.execute("PRAGMA journal_mode=WAL")
    with_header.close()
    store = QueueStore(path)
    assert store.open_entries() == []
    store.close()
    QueueStore(path).close()


def test_a_calibration_that_fails_three_times_in_a_row_is_given_up_with_the_reason(world: World) -> None:
    entry = world.queue.add(Work("calibration", "olga", (AB,), steps=("phase",)))
    for failures in range(1, 4):
        lease = world.lease(entry)
        world.queue.lease_over(over(lease, False, "alice: the fit is of noise"))
        found = world.entry(entry.number)
        assert (found.failures, found.reason) == (failures, "alice: the fit is of noise")
    assert found.state == "failed"
    assert world.queue.entries == []
    with pytest.raises(QueueError, match="is failed and no longer in the queue"):
        world.queue.resume("olga", entry.number)


def test_steps_of_one_entry_are_done_in_the_order_of_their_dependency_and_go_on_after_a_restart(
    world: World,
) -> None:
    entry = world.queue.add(Work("calibration", "olga", (AB,), steps=("visibility", "phase", "phase")))
    assert entry.work.steps == entry.steps_left == ("phase", "visibility")
    world.queue.lease_over(over(world.lease(entry)))
    after = world.entry(entry.number)
    assert (after.state, after.steps_left) == ("waiting", ("visibility",))
    world.lease(after)
    world.restart()
    for role in AB:
        world.queue.has_no_others(role, [])
    assert world.entry(entry.number).steps_left == ("visibility",), "cut short, and done again"
    world.queue.lease_over(over(world.lease(after)))
    assert world.entry(entry.number).state == "done"
    told = [line.what for line in world.queue.history(entry.number, 10)]
    assert (told[0], told[2], told[-1]) == (
        "added: calibration phase, visibility of alice-bob",
        "phase done",
        "visibility done; done",
    )


def test_what_the_orchestrator_wants_calibrated_stands_in_the_queue_once(world: World) -> None:
    first = world.queue.want_calibration(AB, ["phase"], "its phase left the range that can be followed")
    assert first is not None
    assert (first.work.owner, first.priority) == ("orchestrator", 2)
    assert world.queue.want_calibration(AB, ["phase"], "again") is None
    world.restart()
    assert world.queue.want_calibration(AB, ["phase"], "again") is None
    assert world.queue.want_calibration(AC, ["phase"], "another pair") is not None
    more = world.queue.want_calibration(AB, ["phase", "visibility"], "more")
    assert more is not None
    assert more.work.steps == ("visibility",)
    world.queue.lease_over(over(world.lease(first)))
    assert world.queue.want_calibration(AB, ["phase"], "again after it was done") is not None


def test_a_queue_of_the_format_before_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / QUEUE_FILE
    store = QueueStore(path)
    for number, work in (
        (1, Work("calibration", "olga", (AB,), steps=("phase",))),
        (2, Work("key", "o", (AC,), 7)),
    ):
        store.put(rules.new_entry(number, work, 1.7e9))
    store.close()
    with sqlite3.connect(path) as db:
        db.execute("""UPDATE entries SET entry = CAST(json_remove(json_set(CAST(entry AS TEXT), '$.work.step',
            IFNULL(json_extract(CAST(entry AS TEXT), '$.work.steps[0]'), '')),
            '$.work.steps', '$.steps_done') AS BLOB)""")
        assert b'"step":"phase"' in db.execute("SELECT entry FROM entries").fetchone()[0]
        for table in ("suspensions", "durations", "forgotten"):
            db.execute(f"DROP TABLE {table}")
        db.execute("PRAGMA user_version = 1")
    db.close()
    store = QueueStore(path)
    step, key = store.open_entries()
    store.close()
    assert (step.work.steps, step.steps_left, step.added_at) == (("phase",), ("phase",), 1.7e9)
    assert (key.work.steps, key.work.bits, key.place) == ((), 7, 2.0)


def test_how_long_steps_take_is_learned_from_those_done_and_known_to_the_next_process(world: World) -> None:
    assert world.queue.duration("phase") is None
    for ring_s in (10.0, 20.0, 30.0):
        entry = world.queue.add(Work("calibration", "olga", (AB,), steps=("phase",)))
        lease = world.lease(entry)
        world.queue.lease_over(Outcome(lease, True, False, "", ring_s))
    failed = world.queue.add(Work("calibration", "olga", (AB,), steps=("phase",)))
    world.queue.lease_over(Outcome(world.lease(failed), False, False, "a fit of noise", 900.0))
    world.at += 60.0
    world.restart()
    known = world.queue.duration("phase")
    assert known is not None
    assert (known.ring_s, known.times, known.at) == (20.0, 3, world.at - 60.0)
    assert world.queue.duration("visibility") is None


def test_nobody_lights_the_ring_under_who_has_the_bench(world: World) -> None:
    lock = world.queue.add(Work("maintenance", "olga"))
    world.queue.ring_is_free()
    with pytest.raises(
        QueueError, match=r"olga has the bench since .*: the ring rests until it is given back"
    ):
        world.queue.hold("pete", lock.number)
    assert world.queue.resting.startswith("olga has the bench")
    world.queue.abort("olga", lock.number)
    assert world.queue.resting == ""


def test_old_history_goes_with_its_closed_entries_and_open_ones_keep_theirs(world: World) -> None:
    opened, closed = world.add(), world.add()
    lease = world.lease(closed)
    world.report(lease)
    world.queue.time(world.now_s)
    assert len(world.queue.history(None, 100)) == 4
    world.at += (HISTORY_DAYS + 1) * 86400.0
    fresh = world.add()
    world.now_s += FORGET_EVERY_S
    world.queue.time(world.now_s)
    assert [line.entry for line in world.queue.history(None, 100)] == [opened.number, fresh.number]
    gone = world.queue.forgotten()
    assert (gone.lines, gone.entries, gone.until) == (3, 1, 1.7e9)
    with pytest.raises(QueueError, match=r"entry 2 is not in the history any more; kept: 90 days"):
        world.queue.history(closed.number, 10)
    world.report(lease)
    assert world.queue.closed(10) == []
    world.restart()
    assert world.queue.forgotten() == gone
    assert world.add().number == fresh.number + 1


def test_of_much_history_the_latest_lines_are_kept(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_store, "HISTORY_LINES", 6)
    for _ in range(5):
        world.queue.abort("olga", world.add().number)
    opened = world.add()
    world.queue.time(world.now_s)
    lines = world.queue.history(None, 100)
    assert [line.entry for line in lines] == [3, 4, 4, 5, 5, opened.number]
    assert [entry.number for entry in world.queue.closed(10)] == [5, 4, 3]


@pytest.mark.parametrize("state", ["waiting", "running", "held", "done", "failed", "aborted"])
def test_in_every_state_what_can_be_is_done_and_what_cannot_be_says_why(world: World, state: str) -> None:
    entry = world.queue.add(Work("calibration", "olga", (AB,), steps=("phase",)))
    if state in ("running", "done", "failed"):
        lease = world.lease(entry)
    if state == "done":
        world.queue.lease_over(over(lease))
    if state == "failed":
        for each in (lease, *(world.lease(entry) for _ in range(2))):
            world.queue.lease_over(over(each, False, "the fit is of noise"))
    if state == "held":
        world.queue.hold("olga", entry.number)
    if state == "aborted":
        world.queue.abort("olga", entry.number)
    assert world.entry(entry.number).state == state
    is_open = state in ("waiting", "running", "held")
    asked: dict[str, Callable[[], object]] = {
        "hold": lambda: world.queue.hold("pete", entry.number),
        "resume": lambda: world.queue.resume("pete", entry.number),
        "move": lambda: world.queue.move("pete", entry.number, priority=1),
        "abort": lambda: world.queue.abort("pete", entry.number),
    }
    can = {"hold": state in ("waiting", "running"), "resume": state in ("waiting", "running", "held")}
    for what, ask in asked.items():
        if can.get(what, is_open):
            ask()
            continue
        with pytest.raises(QueueError, match=f"^entry 1 is {state}") as refused:
            ask()
        if not is_open:
            assert "no longer in the queue since 2023-11-14 22:13:20 UTC" in str(refused.value)
        if state == "failed":
            assert "(the fit is of noise)" in str(refused.value)


def test_key_is_tried_again_and_says_what_went_wrong(world: World) -> None:
    entry = world.add()
    for _ in range(10):
        world.queue.lease_over(over(world.lease(entry), False, "bob: the AWG did not arm"))
    assert world.queue.entries[0].state == "waiting"
    assert world.queue.entries[0].reason == "bob: the AWG did not arm"


def test_turns_count_what_is_in_work(world: World) -> None:
    """No block is offered for bits that a block in work is expected to give."""
    schedule = RingSchedule(
        dict.fromkeys(PAIRS, 10.0),
        ("alice", "bob", "carol"),
        0.0,
        block_bits=dict.fromkeys(PAIRS, BLOCK_BITS),
    )
    for role in ("relay", "alice", "bob", "carol"):
        schedule.party_able(role, True, 0.0)
    turns = Turns(world.queue, schedule)
    entry = world.add(bits=2 * BLOCK_BITS)
    assert turns.next(1.0) == NextLease(AB, KEY, entry.number)
    first = world.lease(entry)
    assert turns.next(2.0) == NextLease(AB, KEY, entry.number)
    world.lease(entry)
    assert turns.next(3.0) is None
    world.report(first, stored=False)
    assert turns.next(4.0) == NextLease(AB, KEY, entry.number)
    needed_s, ready_s = turns.times_s(4.0)[entry.number]
    assert needed_s is not None
    assert needed_s == ready_s
    assert needed_s > 0.0


operations = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from(PAIRS), st.integers(1, 4)),
        st.tuples(st.just("lit"), st.integers(0, 5), st.none()),
        st.tuples(st.just("over"), st.integers(0, 9), st.booleans()),
        st.tuples(st.just("report"), st.integers(0, 9), st.booleans()),
        st.tuples(st.just("hold"), st.integers(0, 5), st.none()),
        st.tuples(st.just("resume"), st.integers(0, 5), st.none()),
        st.tuples(st.just("abort"), st.integers(0, 5), st.none()),
        st.tuples(st.just("move"), st.integers(0, 5), st.integers(0, 5)),
        st.tuples(st.sampled_from(["restart", "kill"]), st.none(), st.none()),
        st.tuples(st.just("calibrate"), st.sampled_from(PAIRS), st.sets(st.sampled_from(STEPS), min_size=1)),
        st.tuples(st.just("step"), st.integers(0, 2), st.booleans()),
        st.tuples(
            st.sampled_from(["hold all", "resume all", "lock", "unlock"]),
            st.sampled_from(["o", "p"]),
            st.none(),
        ),
        st.tuples(st.just("free"), st.none(), st.none()),
        st.tuples(st.just("lose"), st.none(), st.none()),
    ),
    max_size=50,
)


@settings(max_examples=50, deadline=None)
@given(operations)
def test_whatever_happens_blocks_count_once_and_entries_end_once(history: list[tuple[Any, Any, Any]]) -> None:
    _play(history)


COMMANDS = [
    *("add", "lit", "lit", "over", "report", "lose", "hold", "resume", "abort", "move", "calibrate", "step"),
    *("step", "kill", "hold all", "resume all", "lock", "unlock", "free"),
]


@pytest.mark.parametrize("seed", range(4))
def test_a_long_day_of_commands_and_kills_leaves_the_queue_right(seed: int) -> None:
    rng = np.random.default_rng(seed)
    numbers = range(6)

    def drawn() -> tuple[Any, Any, Any]:
        what = str(rng.choice(COMMANDS))
        number, pair = int(rng.choice(numbers)), PAIRS[rng.integers(3)]
        match what:
            case "add":
                return what, pair, number % 4 + 1
            case "calibrate":
                return what, pair, STEPS[: number % 2 + 1]
            case "move":
                return what, number, int(rng.choice(numbers))
            case "hold all" | "resume all" | "lock" | "unlock":
                return what, "op"[number % 2], None
            case _:
                return what, number, bool(rng.random() < 0.7)

    _play([drawn() for _ in range(150)])


def _play(history: list[tuple[Any, Any, Any]]) -> None:
    """Do it all, and look at everything after each."""
    with TemporaryDirectory() as folder:
        world = World(Path(folder))
        numbers: list[int] = []
        leases: list[Lease] = []
        told: dict[tuple[int, int], int] = {}
        ended: dict[int, str] = {}
        for what, which, more in history:
            world.at += 1.0
            chosen = numbers[which] if isinstance(which, int) and which < len(numbers) else None
            lit = leases[which] if isinstance(which, int) and which < len(leases) else None
            with suppress(QueueError):  # what cannot be is refused, and the checks hold all the same
                _act(world, what, which, more, numbers, leases, told, chosen, lit)
            _check(world, numbers, leases, told, ended)
        world.store.close()


def _act(
    world: World,
    what: str,
    which: Any,
    more: Any,
    numbers: list[int],
    leases: list[Lease],
    told: dict[tuple[int, int], int],
    chosen: int | None,
    lit: Lease | None,
) -> None:
    match what:
        case "add":
            numbers.append(world.add(which, more * BLOCK_BITS).number)
        case "lit" if chosen is not None and chosen in [each.number for each in world.queue.entries]:
            entry = world.entry(chosen)
            leases.append(world.lease(entry, entry.work.pairs[0]))
        case "over" if lit is not None and lit.epoch == world.epoch:
            world.queue.lease_over(over(lit, more, "" if more else "went wrong"))
        case "report" if lit is not None:
            token = lit.epoch, lit.number
            told.setdefault(token, BLOCK_BITS if more else 0)
            world.report(lit, stored=bool(told[token]))
        case "hold" if chosen is not None:
            world.queue.hold("olga", chosen)
        case "resume" if chosen is not None:
            world.queue.resume("olga", chosen)
        case "abort" if chosen is not None:
            world.queue.abort("olga", chosen)
        case "move" if chosen is not None and more < len(numbers):
            world.queue.move("olga", chosen, before=numbers[more])
        case "restart" | "kill":
            before = [_after_restart(entry) for entry in world.queue.entries]
            hold, rests = world.queue.held_by, world.queue.resting
            world.restart() if what == "restart" else world.kill()
            assert list(map(_without_reason, world.queue.entries)) == list(map(_without_reason, before))
            assert (world.queue.held_by, world.queue.resting) == (hold, rests)
        case "calibrate":
            world.queue.want_calibration(which, more, "drifted")
        case "step":
            waiting = [
                e for e in world.queue.entries if e.work.kind == "calibration" and e.state == "waiting"
            ]
            if which < len(waiting):
                entry, (pair,) = waiting[which], waiting[which].work.pairs
                world.queue.lease_over(over(world.lease(entry, pair), more, "" if more else "noise"))
                after = world.entry(entry.number)
                assert after.steps_done == entry.steps_done + more
                assert (after.state == "done") == (not after.steps_left)
                assert (after.state == "failed") == (not more and entry.failures == rules.STEP_FAILURES - 1)
        case "hold all":
            world.queue.hold(which)
        case "resume all":
            world.queue.resume(which)
        case "lock":
            world.queue.add(Work("maintenance", which))
        case "unlock":
            for entry in world.queue.entries:
                if entry.work.kind == "maintenance":
                    world.queue.abort(which, entry.number)
        case "free":
            world.queue.ring_is_free()
        case "lose":
            world.now_s += REPORT_PATIENCE_S
            world.queue.time(world.now_s)


def _without_reason(entry: Entry) -> Entry:
    """Why it waited last may be of an earlier block: that a good one was lit since is not written down."""
    return replace(entry, reason="") if entry.state == "waiting" else entry


def _after_restart(entry: Entry) -> Entry:
    """What ran has no lease any more; who had the bench has it."""
    return entry if entry.work.kind == "maintenance" else rules.paused(entry)


def _check(
    world: World,
    numbers: list[int],
    leases: list[Lease],
    told: dict[tuple[int, int], int],
    ended: dict[int, str],
) -> None:
    is_open = {entry.number for entry in world.queue.entries}
    locks = [entry for entry in world.queue.entries if entry.work.kind == "maintenance"]
    assert len(locks) <= 1, "two have the bench"
    has_bench = any(lock.state == "running" for lock in locks)
    assert bool(world.queue.resting) == (has_bench or world.queue.held_by is not None)
    wanted = [(step, e.work.pairs) for e in world.queue.entries for step in e.steps_left]
    assert len(set(wanted)) == len(wanted), "a step stands twice"
    for number in numbers:
        entry = world.entry(number)
        mine = [lease for lease in leases if lease.entry == number]
        assert sum(entry.made) == sum(told.get((lease.epoch, lease.number), 0) for lease in mine)
        assert entry.is_open == (number in is_open)
        if entry.state == "done":
            assert sum(entry.made) >= entry.work.bits
        elif entry.is_open:
            assert sum(entry.made) < entry.work.bits
        else:
            assert entry.state == "aborted"
        assert ended.get(number, entry.state) == entry.state or number not in ended
        if not entry.is_open:
            assert ended.setdefault(number, entry.state) == entry.state
