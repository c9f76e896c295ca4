"""Properties of the simulated runtime: one order of events for each seed, time-outs in order, nobody hangs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import runtime
from orchestrator.runtime.simulated import DeadlockError, Simulation, SimulationError

SEEDS = st.integers(0, 2**32 - 1)


def crowd(threads: int, rounds: int) -> list[str]:
    """Threads that meet in a lock, a queue, an event and a clock; what happened, in order."""
    story: list[str] = []
    lock, inbox, go = runtime.lock(), runtime.queue(), runtime.event()

    def member(number: int) -> None:
        go.wait()
        for turn in range(rounds):
            with lock:
                story.append(f"{number} in")
                runtime.sleep(0.01 * (number % 3))
                story.append(f"{number} out at {runtime.now():.6f}")
            inbox.put(number)
            assert turn < rounds

    members = [runtime.spawn(member, number, name="member") for number in range(threads)]
    go.set()
    taken = [inbox.get(timeout=60.0) for _ in range(threads * rounds)]
    for each in members:
        each.join()
    assert sorted(taken) == sorted(list(range(threads)) * rounds)
    return [*story, *map(str, taken)]


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS)
def test_the_same_seed_gives_the_same_order(seed: int) -> None:
    first, second = Simulation(seed), Simulation(seed)
    assert first.run(lambda: crowd(4, 3)) == second.run(lambda: crowd(4, 3))
    assert first.turns == second.turns


def test_other_seeds_give_other_orders() -> None:
    orders = {tuple(Simulation(seed).run(lambda: crowd(4, 3))) for seed in range(10)}
    assert len(orders) == 10


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS)
def test_a_lock_keeps_all_others_out(seed: int) -> None:
    story = [line.split() for line in Simulation(seed).run(lambda: crowd(3, 3)) if " " in line]
    for entered, left in zip(story[::2], story[1::2], strict=True):
        assert (entered[0], entered[1], left[1]) == (left[0], "in", "out")


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, waits=st.lists(st.integers(0, 50).map(lambda n: n / 10), min_size=1, max_size=8))
def test_time_outs_come_in_the_order_of_their_time(seed: int, waits: list[float]) -> None:
    ended: list[tuple[float, float]] = []

    def sleeper(seconds: float) -> None:
        began = runtime.now()
        assert not runtime.event().wait(seconds)
        ended.append((began + seconds, runtime.now()))

    def main() -> None:
        for each in [runtime.spawn(sleeper, seconds, name="sleeper") for seconds in waits]:
            each.join()

    Simulation(seed).run(main)
    assert [due for due, _ in ended] == sorted(due for due, _ in ended)
    assert all(due <= at < due + 0.01 for due, at in ended)


def test_computing_takes_no_time_and_looking_at_the_clock_comes_to_an_end() -> None:
    def main() -> float:
        nothing = runtime.queue()
        while runtime.now() < 0.01:
            with pytest.raises(runtime.Empty):
                nothing.get(timeout=0.0)
        return runtime.now()

    assert 0.01 <= Simulation(1).run(main) < 0.011


def both_ways() -> None:
    one, other = runtime.lock(), runtime.lock()
    met = runtime.event()

    def take(first: runtime.Lock, second: runtime.Lock, then: Callable[[], object]) -> None:
        with first:
            then()
            with second:
                pass

    with other:
        thread = runtime.spawn(take, one, other, met.set, name="crossing")
        met.wait()
        with one:
            pass
    thread.join()


def test_a_deadlock_is_told_with_who_waits_for_what() -> None:
    with pytest.raises(DeadlockError, match=r"main for a lock; crossing#1 for a lock"):
        Simulation(1).run(both_ways)


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS)
def test_an_exception_in_a_thread_is_reported(seed: int) -> None:
    def main() -> None:
        runtime.spawn(lambda: [][1], name="careless").join()

    with pytest.raises(SimulationError, match=r"'careless#1' failed: IndexError"):
        Simulation(seed).run(main)


def test_the_end_of_the_first_thread_ends_all_others() -> None:
    ended = []

    def stubborn() -> None:
        condition = runtime.condition()
        try:
            with condition:
                condition.wait()
        finally:
            ended.append("stubborn")

    def main() -> None:
        runtime.spawn(stubborn, name="stubborn")
        runtime.sleep(1.0)
        runtime.spawn(stubborn, name="never begun")

    Simulation(1).run(main)
    assert ended == ["stubborn"]


def test_what_belongs_to_a_simulation_is_not_waited_for_outside() -> None:
    made = Simulation(1).run(runtime.event)
    with pytest.raises(SimulationError, match="outside the simulation"):
        made.wait(1.0)


def waiting(condition: runtime.Condition, timeout_s: float, seen: list[object]) -> None:
    with condition:
        seen.append(condition.wait(timeout_s))


def exercise() -> list[object]:
    """What a user of the seam can see, whichever runtime stands behind it."""
    seen: list[object] = []
    condition, numbers = runtime.condition(), [0]

    def count() -> None:
        with condition:
            numbers[0] += 1
            condition.notify_all()

    counting = [runtime.spawn(count, name="counting") for _ in range(5)]
    with condition:
        seen.append(condition.wait_for(lambda: numbers[0] == 5, 5.0))
        seen.append(condition.wait_for(lambda: numbers[0] == 6, 0.01))
        seen.append(condition.wait(0.01))
    for each in counting:
        each.join(5.0)
        seen.append(each.is_alive())
    with condition:
        short = runtime.spawn(waiting, condition, 0.01, seen, name="short")
        long = runtime.spawn(waiting, condition, 5.0, seen, name="long")
    short.join(5.0)
    with condition:
        condition.notify()
    long.join(5.0)
    lock, again = runtime.lock(), runtime.rlock()
    with lock, again, again:
        seen.append(lock.acquire(blocking=False))
        seen.append(lock.acquire(timeout=0.01))
    items = runtime.queue()
    items.put(1)
    seen += [items.qsize(), items.get(), items.empty()]
    waits: list[Callable[[], object]] = [lambda: items.get(timeout=0.01), items.get_nowait]
    for wait in waits:
        with pytest.raises(runtime.Empty):
            wait()
    answer = runtime.call(divmod, 7, 2, name="dividing")
    told: list[object] = []
    answer.add_done_callback(lambda done: told.append(done.result()))
    seen += [answer.result(5.0), told]
    with pytest.raises(ZeroDivisionError):
        runtime.call(divmod, 7, 0, name="dividing").result(5.0)
    with pytest.raises(TimeoutError):
        runtime.future().result(0.01)
    worker, gate = runtime.worker("one"), runtime.event()
    first, second = worker.submit(gate.wait, 5.0), worker.submit(divmod, 1, 1)
    while not first.running():
        runtime.sleep(0.001)
    closing = runtime.spawn(worker.close, name="closing")
    while not second.cancelled():
        runtime.sleep(0.001)
    gate.set()
    closing.join()
    seen += [first.result(), second.cancelled(), gate.is_set()]
    gate.clear()
    seen += [gate.wait(0.01), runtime.now() > 0]
    return seen


def test_both_runtimes_mean_the_same() -> None:
    real = exercise()
    assert all(Simulation(seed).run(exercise) == real for seed in range(20))


@pytest.mark.parametrize("wrong", ["wait", "notify"])
def test_a_condition_is_used_under_its_lock(wrong: str) -> None:
    def main() -> None:
        with pytest.raises(RuntimeError, match="lock"):
            getattr(runtime.condition(), wrong)()

    Simulation(1).run(main)
    main()
