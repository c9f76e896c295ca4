"""The base of all links: suspect until an exchange ends well, brought up after a possible restart, urgent first."""

import linecache
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import FrameType
from typing import Any

import pytest
import zmq

import drivers.links.link
import drivers.links.turns
from drivers.links.errors import (
    InstrumentRefusedError,
    LinkBrokenError,
    LinkClosedError,
    LinkError,
    LinkTimeoutError,
    MalformedReplyError,
    NotReadyError,
    PreemptedError,
)
from drivers.links.tcp_link import TcpLink
from drivers.links.zmq_reqrep import RequestLink


class Talker:
    """Answers each line of any connection by ``reply(line)``, in a thread each; ``held`` lines wait for ``release``."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.held: set[str] = set()
        self.asked, self.release = threading.Event(), threading.Event()
        self.extra: dict[str, str] = {}
        self.slowness_s = 0.0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with (
            suppress(OSError),
            connection,
            connection.makefile("r") as lines,
        ):  # the client may hang up at any time
            for line in lines:
                word = line.strip()
                self.heard.append(word)
                threading.Event().wait(self.slowness_s)
                if word in self.held:
                    self.asked.set()
                    self.release.wait(10.0)
                connection.sendall(f"{word}!\n{self.extra.get(word, '')}".encode())

    def hang_up(self) -> None:
        for connection in self._connections:
            connection.shutdown(socket.SHUT_RDWR)
        self._connections.clear()

    def close(self) -> None:
        self.release.set()
        self._listener.close()
        for connection in self._connections:
            connection.close()


@pytest.fixture
def talker() -> Iterator[Talker]:
    talker = Talker()
    yield talker
    talker.close()


@pytest.fixture
def ups() -> list[str]:
    return []


@pytest.fixture
def link(talker: Talker, ups: list[str]) -> Iterator[TcpLink]:
    link = TcpLink("127.0.0.1", talker.port, instrument="box", timeout_s=5.0)
    link.bring_up = lambda: ups.append(ask(link, "who"))
    yield link
    link.close()


def ask(link: TcpLink, word: str, read: Callable[[str], str] = str) -> str:
    with link.exchange():
        link.write(f"{word}\n".encode())
        return read(link.read_line(link.deadline()).decode())


def say(link: TcpLink, word: str) -> None:
    assert ask(link, word) == f"{word}!"


def break_off(link: TcpLink, error: type[BaseException] | BaseException) -> None:
    with link.exchange():
        link.write(b"old\n")
        raise error


def refuse(text: str) -> str:
    raise InstrumentRefusedError(f"no: {text}")


def test_the_first_use_opens_and_brings_up(link: TcpLink, ups: list[str]) -> None:
    assert ask(link, "a") == "a!"
    assert ask(link, "b") == "b!"
    assert ups == ["who!"]
    link.close()
    with pytest.raises(LinkClosedError, match="connect"):
        ask(link, "c")
    link.open()
    assert ups == ["who!", "who!"]


def test_a_failed_opening_leaves_the_link_closed(talker: Talker) -> None:
    link = TcpLink("127.0.0.1", talker.port, instrument="box")
    link.bring_up = lambda: refuse("another state")
    with pytest.raises(InstrumentRefusedError):
        link.open()
    assert not link.is_open


class Stop(BaseException):
    """What a stop button or a signal handler raises."""


@pytest.mark.parametrize("what", [Stop, KeyboardInterrupt, SystemExit, ValueError, ZeroDivisionError])
def test_whatever_breaks_in_between_question_and_answer_leaves_no_stale_reply(
    link: TcpLink, ups: list[str], what: type[BaseException]
) -> None:
    ask(link, "a")
    with pytest.raises(what):
        break_off(link, what)
    assert ask(link, "b") == "b!"
    assert ups == ["who!"]  # the instrument cannot have restarted


def test_whatever_breaks_in_while_the_line_is_looked_at_leaves_no_piece_of_it(
    link: TcpLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came unasked may be read then, and half of it would be lost."""
    ask(link, "one")
    monkeypatch.setattr(link, "_trouble", lambda: (_ for _ in ()).throw(Stop))
    with pytest.raises(Stop):
        ask(link, "two")
    monkeypatch.undo()
    renewed = link.renewed
    ask(link, "three")
    assert link.renewed == renewed + 1


def test_nonsense_that_nobody_asked_for_is_nobodys_error(
    link: TcpLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(link, "one")
    renewed = link.renewed
    looks = iter([link.error(MalformedReplyError, "bytes that mean nothing")])

    def trouble() -> str:
        if error := next(looks, None):
            raise error
        return ""

    monkeypatch.setattr(link, "_trouble", trouble)
    assert ask(link, "two") == "two!"
    assert link.renewed == renewed + 1


def test_a_parser_inside_the_exchange_makes_it_suspect_and_a_refusal_does_not(link: TcpLink) -> None:
    ask(link, "a")
    lines = link.renewed
    with pytest.raises(InstrumentRefusedError):
        ask(link, "a", refuse)
    assert ask(link, "b") == "b!"
    assert link.renewed == lines
    with pytest.raises(ValueError, match="invalid literal"):
        ask(link, "b", lambda text: str(int(text)))
    assert ask(link, "c") == "c!"
    assert link.renewed == lines + 1


@pytest.mark.parametrize("error", [LinkTimeoutError, MalformedReplyError])
def test_after_silence_or_nonsense_the_instrument_is_brought_up(
    link: TcpLink, ups: list[str], error: type[Exception]
) -> None:
    ask(link, "a")
    with pytest.raises(error):
        break_off(link, error("planned"))
    assert ask(link, "b") == "b!"
    assert ups == ["who!", "who!"]


def test_a_restart_between_two_requests_is_seen_before_anything_is_sent(
    link: TcpLink, talker: Talker, ups: list[str]
) -> None:
    ask(link, "a")
    talker.hang_up()
    wait_for(lambda: bool(link._trouble()))
    assert ask(link, "b") == "b!"
    assert ups == ["who!", "who!"]
    assert talker.heard == ["who", "a", "who", "b"]


def test_an_answer_that_came_twice_is_not_the_next_one(link: TcpLink, talker: Talker) -> None:
    talker.extra["a"] = "a again\n"
    ask(link, "a")
    wait_for(lambda: bool(link._trouble()))
    assert ask(link, "b") == "b!"


def test_somebody_urgent_ends_a_wait_and_its_reply_is_never_read(link: TcpLink, talker: Talker) -> None:
    talker.held.add("slow")
    outcome: list[BaseException] = []

    def patient() -> None:
        try:
            with link.transaction():
                ask(link, "slow")
                ask(link, "light on")
        except PreemptedError as error:
            outcome.append(error)

    ask(link, "a")
    thread = threading.Thread(target=patient)
    thread.start()
    assert talker.asked.wait(5.0)
    begun = time.monotonic()
    with link.urgent():
        assert ask(link, "dark") == "dark!"
    assert time.monotonic() - begun < 1.0
    thread.join(5.0)
    assert "made safe" in str(outcome[0])
    talker.release.set()
    assert ask(link, "b") == "b!"
    assert "light on" not in talker.heard


def test_a_transaction_begun_before_somebody_urgent_sends_nothing_more(link: TcpLink, talker: Talker) -> None:
    inside, go_on = threading.Event(), threading.Event()
    outcome: list[str] = []

    def two_steps() -> None:
        try:
            with link.transaction():
                ask(link, "step 1")
                inside.set()
                go_on.wait(5.0)
                ask(link, "step 2")
        except PreemptedError:
            outcome.append("given up")

    thread = threading.Thread(target=two_steps)
    thread.start()
    inside.wait(5.0)
    link.urgently(lambda: say(link, "dark"))
    go_on.set()
    thread.join(5.0)
    assert outcome == ["given up"]
    assert "dark" in talker.heard
    assert "step 2" not in talker.heard
    assert ask(link, "later") == "later!"


def test_the_thread_that_makes_safe_goes_on_with_its_own_transaction(link: TcpLink) -> None:
    with link.transaction():
        ask(link, "step 1")
        link.urgently(lambda: say(link, "dark"))
        assert ask(link, "step 2") == "step 2!"


def test_urgency_opens_a_link_that_was_never_opened_and_closes_it_again(
    link: TcpLink, talker: Talker, ups: list[str]
) -> None:
    link.urgently(lambda: say(link, "dark"))
    assert talker.heard == ["dark"]
    assert ups == []
    assert not link.is_open
    link.close()
    link.urgently(lambda: say(link, "dark"))
    assert talker.heard == ["dark", "dark"]
    with pytest.raises(LinkClosedError):
        ask(link, "a")


def test_haste_gives_a_silent_line_little_time_and_then_a_fresh_one(link: TcpLink, talker: Talker) -> None:
    ask(link, "a")
    talker.held.add("dark")
    begun = time.monotonic()

    def dark() -> None:
        if talker.heard.count("dark") == 1:
            talker.held.clear()
        ask(link, "dark")

    link.urgently(dark)
    assert time.monotonic() - begun < 2.0 < link.timeout_s
    assert talker.heard.count("dark") == 2


def test_a_holder_that_answers_nobody_is_cut_off(link: TcpLink) -> None:
    ask(link, "a")
    held, let_go = threading.Event(), threading.Event()
    outcome: list[BaseException] = []

    def stubborn() -> None:
        try:
            with link.exchange():
                held.set()
                let_go.wait(10.0)
                link.write(b"light on\n")
        except LinkBrokenError as error:
            outcome.append(error)
        except PreemptedError as error:
            outcome.append(error)

    thread = threading.Thread(target=stubborn)
    thread.start()
    held.wait(5.0)
    with link.urgent():
        assert ask(link, "dark") == "dark!"
    let_go.set()
    thread.join(5.0)
    assert len(outcome) == 1
    assert ask(link, "b") == "b!"


def test_who_waited_for_a_holder_that_was_cut_off_does_not_come_in_beside_others(link: TcpLink) -> None:
    ask(link, "a")
    held, let_go = threading.Event(), threading.Event()
    inside: list[int] = []
    outcome: list[str] = []

    def stubborn() -> None:
        with suppress(LinkBrokenError, PreemptedError), link.exchange():
            held.set()
            let_go.wait(10.0)

    def patient() -> None:
        try:
            with link.transaction():
                inside.append(1)
        except PreemptedError:
            outcome.append("given up")

    threads = [threading.Thread(target=stubborn), threading.Thread(target=patient)]
    threads[0].start()
    held.wait(5.0)
    threads[1].start()
    with link.urgent():
        let_go.set()
        for thread in threads:
            thread.join(5.0)
        assert (inside, outcome) == ([], ["given up"])
        say(link, "dark")
    say(link, "b")


ENTERING = frozenset(module.__file__ for module in (drivers.links.link, drivers.links.turns))


class StopButton:
    """Breaks into the ``number``-th line of a link's own code.

    Not between the last statement under a lock and the release of the lock: Python looks for signals after calls only.
    """

    def __init__(self, number: int) -> None:
        self.left = number
        self._locked: set[FrameType] = set()

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_filename not in ENTERING:
            return None
        if event == "line":
            if linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip() == "with self._mutex:":
                if frame in self._locked:
                    self._locked.remove(frame)
                    return self
                self._locked.add(frame)
            self.left -= 1
            if not self.left:
                raise Stop
        return self

    def pressed_in(self, action: Callable[[], object]) -> bool:
        """False when ``action`` has fewer lines."""
        before = sys.gettrace()
        sys.settrace(self)
        try:
            with suppress(Stop, LinkError):
                action()
        finally:
            sys.settrace(before)
        return self.left <= 0


def everybody_comes_next(link: TcpLink, when: object) -> None:
    """Whoever comes, of this or another thread, urgent or not, has a sound link, and nobody's place is kept."""
    answers: list[object] = []

    def others() -> None:
        with suppress(LinkError):
            if link._wanted is False:  # a broken-off opening closes it again
                link.open()
            answers.append(ask(link, "other"))
            link.urgently(lambda: answers.append(ask(link, "dark")))

    thread = threading.Thread(target=others, daemon=True)
    thread.start()
    thread.join(5.0)
    assert answers == ["other!", "dark!"], when
    assert ask(link, "own") == "own!", when
    assert link._turns.depth == 0, when
    assert not link._turns.is_urgent, when


def exchange_inside(link: TcpLink) -> None:
    with link.transaction():
        ask(link, "old")


ACTIONS: list[Callable[[TcpLink], object]] = [
    lambda link: ask(link, "old"),
    exchange_inside,
    lambda link: link.urgently(lambda: say(link, "safe")),
    lambda link: link.open(),
]


@pytest.mark.parametrize("action", ACTIONS, ids=["exchange", "transaction", "urgent", "open"])
def test_a_stop_button_at_any_line_leaves_the_link_to_whoever_comes_next(
    link: TcpLink, action: Callable[[TcpLink], object]
) -> None:
    ask(link, "a")
    number = 1
    while StopButton(number).pressed_in(lambda: action(link)):
        everybody_comes_next(link, number)
        number += 1
    assert number > 20


@pytest.mark.parametrize("action", ACTIONS, ids=["exchange", "transaction", "urgent", "open"])
def test_a_signal_at_any_moment_leaves_the_link_to_whoever_comes_next(
    link: TcpLink, action: Callable[[TcpLink], object]
) -> None:
    """A handler that raises, as that of a stop button does, where Python itself runs it."""

    def stop(number: int, frame: object) -> None:
        raise Stop

    rng = random.Random(1)
    before = signal.signal(signal.SIGALRM, stop)
    try:
        for shot in range(60):
            with suppress(Stop, LinkError):
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, 1.5e-3))
                action(link)
                signal.setitimer(signal.ITIMER_REAL, 0)
            everybody_comes_next(link, shot)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_thread_that_holds_the_link_for_ever_is_told_of(
    link: TcpLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(link, "a")
    monkeypatch.setattr(drivers.links.link, "WAIT_S", 0.05)
    inside, let_go, failed = threading.Event(), threading.Event(), []

    def hold(urgently: bool) -> None:
        with link.urgent() if urgently else link.transaction():
            inside.set()
            let_go.wait(10.0)

    for urgently in (False, True):
        inside.clear()
        let_go.clear()
        thread = threading.Thread(target=hold, args=(urgently,))
        thread.start()
        inside.wait(5.0)
        with pytest.raises(NotReadyError, match="another thread") as caught:
            ask(link, "b")
        failed.append(caught.value)
        if urgently:
            with pytest.raises(NotReadyError, match="another thread"), link.urgent():
                pass
        let_go.set()
        thread.join(5.0)
    assert all(each.instrument == "box" and each.address for each in failed)
    say(link, "c")


def test_two_that_make_safe_at_once_both_do(link: TcpLink, talker: Talker) -> None:
    ask(link, "a")
    talker.slowness_s = 0.15
    failed: list[Exception] = []

    def dark() -> None:
        for word in ("dark", "is it", "really"):
            say(link, word)

    def make_safe() -> None:
        try:
            link.urgently(dark)
        except LinkError as error:
            failed.append(error)

    threads = [threading.Thread(target=make_safe) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10.0)
    assert failed == []
    assert not link._turns.is_urgent
    say(link, "b")


def test_an_instrument_that_refuses_for_a_moment_is_made_safe(
    link: TcpLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = iter([True] * 4)

    def refusing(timeout_s: float) -> None:
        if next(refusals, False):
            raise link.error(LinkBrokenError, "refused")
        TcpLink._open(link, timeout_s)

    monkeypatch.setattr(link, "_open", refusing)
    begun = time.monotonic()
    link.urgently(lambda: say(link, "dark"))
    assert time.monotonic() - begun < 1.0


def test_a_bring_up_that_hangs_is_no_bring_up_for_others(link: TcpLink, ups: list[str]) -> None:
    begun, let_go = threading.Event(), threading.Event()
    ordinary = link.bring_up

    def hangs() -> None:
        link.bring_up = ordinary
        begun.set()
        let_go.wait(10.0)

    def first_use() -> None:
        with suppress(LinkBrokenError, PreemptedError):
            ask(link, "a")

    link.bring_up = hangs
    thread = threading.Thread(target=first_use)
    thread.start()
    begun.wait(5.0)
    link.urgently(lambda: say(link, "dark"))
    say(link, "b")
    assert ups == ["who!"]
    let_go.set()
    thread.join(5.0)
    say(link, "c")


def test_waiting_holds_nothing_and_tells_progress(link: TcpLink, caplog: pytest.LogCaptureFixture) -> None:
    ticks = iter(range(0, 1000, 3))
    link._clock = lambda: float(next(ticks))
    answers = iter([False] * 6 + [True])
    with caplog.at_level("INFO"):
        link.wait_until(lambda: next(answers), 60.0, "moving", pause=lambda s: None)
    assert "box at" in caplog.text
    assert "moving" in caplog.text
    with pytest.raises(NotReadyError, match=r"box at .*moving: not done after 60\.0 s"):
        link.wait_until(lambda: False, 60.0, "moving", pause=lambda s: None)


def test_a_wait_ends_when_the_instrument_is_made_safe(link: TcpLink) -> None:
    ask(link, "a")

    def pause(seconds: float) -> None:
        with link.urgent():
            ask(link, "dark")

    with pytest.raises(PreemptedError, match="moving"):
        link.wait_until(lambda: False, 60.0, "moving", pause=pause)


def test_a_tap_sees_both_directions(link: TcpLink) -> None:
    seen: list[tuple[str, bytes]] = []
    link.tap = lambda direction, data: seen.append((direction, data))
    ask(link, "a")
    assert seen == [
        ("opened", b""),
        ("sent", b"who\n"),
        ("received", b"who!\n"),
        ("sent", b"a\n"),
        ("received", b"a!\n"),
    ]


class Service:
    """A ZeroMQ service on one port, which can restart."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self.context = context
        self.port = 0
        self.start()

    def start(self) -> None:
        self.socket = self.context.socket(zmq.REP)
        self.socket.setsockopt(zmq.LINGER, 0)
        if not self.port:
            self.port = self.socket.bind_to_random_port("tcp://127.0.0.1")
            return
        wait_for(self._bound)

    def _bound(self) -> bool:
        """Whether the port is ours again; ZeroMQ gives it back a moment after the socket was closed."""
        try:
            self.socket.bind(f"tcp://127.0.0.1:{self.port}")
        except zmq.ZMQError:
            return False
        return True

    def serve(self, count: int) -> threading.Thread:
        def run() -> None:
            for _ in range(count):
                self.socket.send(self.socket.recv() + b"!")

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread


def test_a_reconnect_that_zeromq_made_by_itself_is_noticed() -> None:
    with zmq.Context() as context:
        service = Service(context)
        ups: list[str] = []
        link = RequestLink("127.0.0.1", service.port, instrument="box", timeout_s=5.0)
        link.bring_up = lambda: ups.append(link.request("who"))
        thread = service.serve(2)
        assert link.request("a") == "a!"
        thread.join()
        service.socket.close(linger=0)
        service.start()
        thread = service.serve(2)
        wait_for(lambda: link._monitor is not None and bool(link._monitor.poll(10)))
        assert link.request("b") == "b!"
        assert ups == ["who!", "who!"]
        thread.join()
        link.close()
        service.socket.close(linger=0)


def test_a_service_that_ends_in_the_middle_is_broken_not_slow() -> None:
    with zmq.Context() as context:
        service = Service(context)
        link = RequestLink("127.0.0.1", service.port, instrument="box", timeout_s=30.0)
        thread = service.serve(1)
        assert link.request("a") == "a!"
        thread.join()

        def leave() -> None:
            service.socket.recv()
            service.socket.close(linger=0)

        threading.Thread(target=leave, daemon=True).start()
        with pytest.raises(LinkBrokenError, match="connection was lost"):
            link.request("b")
        link.close()


def wait_for(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5.0
    while not happened():
        assert time.monotonic() < deadline
        threading.Event().wait(0.002)
