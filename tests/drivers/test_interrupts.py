"""Whatever breaks into an exchange, at whatever moment: the next reading is true, and the safe state is reached.

Five kinds of breaks: a stop button (SIGALRM whose handler raises KeyboardInterrupt), SIGTERM (SystemExit), a reply that
comes after the time-out, garbage in its place, and a connection that the instrument closes.  They come at a seeded
byte of a seeded reply, and the two signals also at a seeded call inside the driver, where Python looks for signals.
Meanwhile the instrument changes, so that a stale reply is told from a true one.
"""

from __future__ import annotations

import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from every_driver import KNOWN, MODELS, Known, Rig, rigged
from wires import Piece

import drivers
from drivers.links.errors import InstrumentError

pytestmark = pytest.mark.early

SIGNALS = {"stop button": signal.SIGALRM, "terminated": signal.SIGTERM}
KINDS = ("stop button", "terminated", "late", "garbage", "closed")
LATE_S = 0.2
GARBAGE = (b"\x00\xff\x7f?#!\n", b"garbage\r\n", b"\xfe" * 40, b"\n\r\n\r", b"}{]\x17", b"9e99,\n")
DRIVERS = str(Path(drivers.__file__).parent)
BREAKS = (KeyboardInterrupt, SystemExit, InstrumentError)


class Signalled:
    """Raises in the main thread when a wire says so; ``handled`` once it did."""

    def __init__(self) -> None:
        self.handled = threading.Event()
        self._main = threading.get_ident()

    def alarm(self, number: int, frame: FrameType | None) -> None:
        self.handled.set()
        raise KeyboardInterrupt if number == signal.SIGALRM else SystemExit(143)

    def send(self, number: int) -> None:
        signal.pthread_kill(self._main, number)
        self.handled.wait(5)


@contextmanager
def signalled() -> Iterator[Signalled]:
    signals = Signalled()
    before = {number: signal.signal(number, signals.alarm) for number in SIGNALS.values()}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def some_use(rig: Rig, rng: random.Random) -> Callable[[], None]:
    """Two readings and a setting that changes nothing, as a user makes them."""
    readings = rng.choices(list(rig.parameters().values()), k=2)
    setting = rng.choice([*rig.settings().values(), None])

    def use() -> None:
        for reading in readings:
            with suppress(InstrumentError):  # no value, as before the first calibration
                reading.get()
        if setting is not None:
            setting.set(setting.get())

    return use


def on_the_wire(rig: Rig, kind: str, rng: random.Random, use: Callable[[], object], count: int) -> bool:
    """Use the driver while one of its ``count`` replies is broken into; whether it came to that one."""
    chosen = rng.randrange(count)
    reached = threading.Event()
    with signalled() as signals:

        def judge(number: int, reply: bytes) -> list[Piece]:
            if number != chosen:
                return [Piece(reply)]
            cut = (
                rng.choice((0, len(reply))) if rig.known.zmq else rng.randint(0, len(reply))
            )  # messages come whole
            first, rest = reply[:cut], reply[cut:]
            if kind == "late":
                reached.set()
                return [Piece(first), Piece(rest, after_s=LATE_S)]
            if kind == "garbage":
                reached.set()
                return [Piece(rng.choice(GARBAGE))]
            if kind == "closed":
                return [Piece(first, then=reached.set, hang_up=True)]
            send = lambda: (signals.send(SIGNALS[kind]), reached.set())  # noqa: E731
            return [Piece(first, then=send), Piece(rest)]

        if kind in ("late", "garbage"):
            rig.hurry(LATE_S * 0.6 if kind == "late" else 2 * LATE_S)
        rig.desk.listen(judge)
        with suppress(*BREAKS):
            try:
                use()
            finally:
                if (
                    reached.wait(0.1) or len(rig.desk.replies) > chosen
                ):  # else that reply does not come any more
                    reached.wait(1)  # a signal comes at the latest here
        rig.desk.listen()
        rig.hurry(2.0)
    if kind == "closed" and rig.known.zmq:  # ZeroMQ learns of the end in a thread of its own, maybe only now
        with suppress(InstrumentError):
            rig.driver.identify()
    return reached.is_set()


def calls_inside(use: Callable[[], object], strike: int, error: BaseException | None) -> int:
    """Run ``use`` and raise ``error`` at call number ``strike`` inside the drivers; how many calls there were."""
    count = 0

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        if event not in ("call", "c_return") or not frame.f_code.co_filename.startswith(DRIVERS):
            return
        count += 1
        if error is not None and count == strike:
            sys.setprofile(None)
            raise error

    sys.setprofile(profile)
    try:
        use()
    finally:
        sys.setprofile(None)
    return count


def check_aftermath(rig: Rig, rng: random.Random, seed: int, connect: bool) -> None:
    """Truth first or safety first; in the end both.  A driver that was not connected is connected for the truth."""
    rig.change(seed)
    if rng.random() < 0.5:
        if connect:
            rig.driver.connect()
            rig.change(seed)
        rig.check_truth()
    begun = time.monotonic()
    rig.driver.safe_state()
    assert rig.twin.is_safe()
    assert time.monotonic() - begun < 1.0
    if connect:
        rig.driver.connect()
    rig.change(seed + 1)
    rig.check_truth()


def interrupt(rig: Rig, kind: str, seed: int) -> bool:
    """One break; False where the exchange took another way than before, as waits for a state do."""
    rng = random.Random(f"{rig.model} {kind} {seed}")
    if rng.random() < 0.5:
        rig.unsafe()
    use = rng.choice((some_use(rig, rng), some_use(rig, rng), rig.driver.connect, rig.driver.safe_state))
    connect = use == rig.driver.connect
    rig.desk.listen()
    use()
    count = len(rig.desk.replies)
    struck = not count or on_the_wire(rig, kind, rng, use, count)
    check_aftermath(rig, rng, 100 * seed, connect)
    if kind in SIGNALS:
        error = KeyboardInterrupt() if kind == "stop button" else SystemExit(143)
        strike = rng.randint(1, calls_inside(use, 0, None))
        with suppress(*BREAKS):
            calls_inside(use, strike, error)
        check_aftermath(rig, rng, 100 * seed + 50, connect)
    return struck


def interrupts(model: str, seeds: range) -> None:
    with rigged(model) as rig:
        struck = 0
        for kind in KINDS:
            for seed in seeds:
                try:
                    struck += interrupt(rig, kind, seed)
                except BaseException as error:
                    error.add_note(f"{model}, {kind}, seed {seed}")
                    raise
        assert struck >= 0.8 * len(KINDS) * len(seeds)


@pytest.mark.parametrize("model", MODELS)
def test_one_break_of_each_kind(model: str) -> None:
    interrupts(model, range(1))


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("model", MODELS)
def test_twenty_breaks_of_each_kind(model: str) -> None:
    interrupts(model, range(1, 21))


@pytest.mark.parametrize("model", [model for model in MODELS if KNOWN.get(model, Known()).unsafe])
def test_dark_within_a_second_while_another_thread_waits(model: str) -> None:
    """Another thread waits for a reply that takes 20 s; the twin itself is looked at."""
    with rigged(model) as rig:
        rig.unsafe()
        rig.hurry(30.0)
        asked = threading.Event()
        rig.desk.listen(
            lambda number, reply: (asked.set(), [Piece(reply, after_s=20.0 if not number else 0.0)])[1]
        )
        ended: list[BaseException] = []

        def wait() -> None:
            try:
                next(iter(rig.parameters().values())).get()
            except BaseException as error:  # noqa: BLE001 - looked at below
                ended.append(error)

        waiter = threading.Thread(target=wait, daemon=True)
        waiter.start()
        assert asked.wait(5)
        begun = time.monotonic()
        maker = threading.Thread(target=rig.driver.safe_state, daemon=True)
        maker.start()
        while not rig.twin.is_safe() and time.monotonic() < begun + 5:
            time.sleep(0.005)
        dark_s = time.monotonic() - begun
        maker.join(5)
        waiter.join(5)
        assert rig.twin.is_safe()
        assert dark_s < 1.0
        assert not maker.is_alive()
        assert [type(error).__name__ for error in ended] == ["PreemptedError"]
