"""Several instruments made safe at once: in order among those that answer, whoever is dead."""

from __future__ import annotations

import threading
import time

from drivers import safely
from drivers.links.errors import NotReadyError
from drivers.safely import SafeJob, make_safe


def test_orders_follow_each_other_and_those_of_one_order_go_together() -> None:
    log: list[str] = []
    together = threading.Barrier(2, timeout=5)

    def say(name: str, wait: bool = False) -> None:
        if wait:
            together.wait()
        log.append(name)

    jobs = [
        SafeJob(3, "bias", lambda: say("bias")),
        SafeJob(1, "laser", lambda: (time.sleep(0.02), say("laser"))),
        SafeJob(2, "left", lambda: say("left", wait=True)),
        SafeJob(2, "right", lambda: say("right", wait=True)),
    ]
    assert make_safe(jobs) == {}
    assert (log[0], set(log[1:3]), log[3]) == ("laser", {"left", "right"}, "bias")


def test_dead_ones_delay_the_others_by_a_moment_and_are_told() -> None:
    ever = threading.Event()
    dark: list[float] = []
    begun = time.monotonic()

    def gone() -> None:
        ever.wait(5)
        raise ConnectionError("gone")

    jobs = [SafeJob(order, f"dead{order}", gone) for order in (1, 2, 3)]
    jobs += [
        SafeJob(order, f"well{order}", lambda: dark.append(time.monotonic() - begun)) for order in (1, 3, 7)
    ]
    threading.Timer(1.2, ever.set).start()
    failures = make_safe(jobs)
    assert list(failures) == ["dead1", "dead2", "dead3"]
    assert all(isinstance(error, ConnectionError) for error in failures.values())
    assert len(dark) == 3
    assert max(dark) < 1.0


def test_one_that_never_ends_is_told_and_not_waited_for() -> None:
    ever = threading.Event()
    failures = make_safe([SafeJob(1, "hung", ever.wait)], limit_s=safely.PATIENCE_S)
    ever.set()
    assert isinstance(failures["hung"], NotReadyError)
