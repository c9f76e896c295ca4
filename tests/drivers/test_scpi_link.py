"""The SCPI link: typed errors, a whole query under one lock, and reopening before anything stale is read."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pyvisa.constants import StatusCode
from pyvisa.errors import VisaIOError

from drivers.base import Identity
from drivers.links import scpi_visa
from drivers.links.errors import (
    InstrumentRefusedError,
    LinkBrokenError,
    LinkClosedError,
    LinkError,
    LinkTimeoutError,
    MalformedReplyError,
    NoReadingError,
    WrongInstrumentError,
)
from drivers.links.scpi_visa import ScpiLink, parse_identity
from sim_backends.faults import FaultInjector
from sim_backends.servers import Call, ScpiDevice, ScpiError, ScpiServer

SHORT_S = 0.15


class Echo(ScpiDevice):
    """Answers what it is asked, and keeps what it is told."""

    def __init__(self, faults: FaultInjector, model: str = "ECHO") -> None:
        super().__init__(f"Acme,{model},1,1.0", faults)
        self.blocks: list[bytes] = []
        self.add("ECHO?", lambda call: call.text(0))
        self.add("NOTHing", lambda call: None)
        self.add("FAIL", self._fail)
        self.add("BLOCk", self._block)

    def _fail(self, call: Call) -> None:
        for code in (-222, -224):
            self.errors.push(ScpiError(code, f"error {code}"))

    def _block(self, call: Call) -> None:
        assert call.block is not None
        self.blocks.append(bytes(call.block))


class Bench:
    def __init__(self, model: str = "ECHO") -> None:
        self.faults = FaultInjector()
        self.device = Echo(self.faults, model)
        self.server = ScpiServer(self.device, self.faults)
        self.address = self.server.serve("127.0.0.1", 0)

    @property
    def port(self) -> int:
        return int(self.address.split("::")[2])


def accept(identity: Identity) -> None:
    if identity.model != "ECHO":
        raise WrongInstrumentError(f"answers as {identity.model}", instrument="echo")


def link_to(address: str, restore: Callable[[], object] = lambda: None, timeout_s: float = 2.0) -> ScpiLink:
    def bring_up() -> None:
        accept(link.identify())
        restore()

    link = ScpiLink("echo", address, timeout_s=timeout_s, bring_up=bring_up)
    return link


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.server.close()


@pytest.fixture
def link(bench: Bench) -> Iterator[ScpiLink]:
    link = link_to(bench.address, timeout_s=5.0)
    link.open()
    yield link
    link.close()


def test_open_identifies(bench: Bench) -> None:
    link = link_to(bench.address)
    link.open()
    assert link.identify() == Identity("Acme", "ECHO", "1", "1.0")
    assert link.is_open
    link.close()
    link.close()
    with pytest.raises(LinkClosedError, match="connect"):
        link.query("ECHO? 1")


def test_a_port_where_nobody_listens_is_a_broken_link() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"TCPIP::127.0.0.1::{unused.getsockname()[1]}::SOCKET"
    with pytest.raises(LinkBrokenError, match=r"echo at TCPIP.*opening the link.*check address"):
        link_to(address).open()


def test_a_peer_that_accepts_and_says_nothing_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"TCPIP::127.0.0.1::{silent.getsockname()[1]}::SOCKET"
        link = link_to(address, timeout_s=SHORT_S)
        with pytest.raises(LinkTimeoutError):
            link.open()
        assert not link.is_open


def test_another_model_is_refused_and_the_link_is_closed() -> None:
    bench = Bench(model="OTHER")
    link = link_to(bench.address)
    with pytest.raises(WrongInstrumentError):
        link.open()
    with pytest.raises(LinkClosedError):
        link.query("ECHO? 1")
    bench.server.close()


def test_nagle_is_off(link: ScpiLink) -> None:
    transport = link._transport
    assert isinstance(transport, scpi_visa._SocketTransport)
    assert transport._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


def test_after_a_timeout_the_late_reply_is_never_taken_for_the_next_one(bench: Bench, link: ScpiLink) -> None:
    late = threading.Event()
    bench.faults._pause = lambda seconds: late.wait(5.0)
    bench.faults.delay_s = 1.0
    link.timeout_s = SHORT_S
    with pytest.raises(LinkTimeoutError, match=r"ECHO\? 1"):
        link.query("ECHO? 1")
    bench.faults.delay_s = 0.0
    late.set()
    assert link.query("ECHO? 2") == "2"
    assert link.renewed == 2
    assert link.query("ECHO? 3") == "3"
    assert link.renewed == 2


def test_a_dropped_reply_times_out_and_the_next_query_works(bench: Bench, link: ScpiLink) -> None:
    link.timeout_s = SHORT_S
    bench.faults.drop_replies(1)
    with pytest.raises(LinkTimeoutError):
        link.query("ECHO? 1")
    assert link.query("ECHO? 2") == "2"


def test_garbage_is_a_malformed_reply_at_once(bench: Bench, link: ScpiLink) -> None:
    bench.faults.garbage(1)
    started = time.monotonic()
    with pytest.raises(MalformedReplyError, match="not text"):
        link.query("ECHO? 1")
    assert time.monotonic() - started < 2.0
    assert link.query("ECHO? 2") == "2"
    assert link.renewed == 2


def test_a_reply_that_is_no_number_is_malformed(link: ScpiLink) -> None:
    with pytest.raises(MalformedReplyError, match="not a number"):
        link.query_float("ECHO? maybe")
    assert link.query_float("ECHO? 1.5") == 1.5
    with pytest.raises(MalformedReplyError):
        link.query_int("ECHO? 1.5")


@pytest.mark.parametrize("reply", ["9.9E37", "-9.9E37", "9.91E37", "+9.90000000E+037"])
def test_words_for_no_number_are_no_value_of_a_sound_link(link: ScpiLink, reply: str) -> None:
    renewed = link.renewed
    with pytest.raises(NoReadingError, match="echo at"):
        link.query_float(f"ECHO? {reply}")
    assert link.query_float("ECHO? 9.8E37") == 9.8e37
    assert link.renewed == renewed


@pytest.mark.parametrize(
    ("reply", "on"), [("1", True), ("0", False), ("+0", False), ("ON", True), ("off", False)]
)
def test_a_switch_is_on_or_off(link: ScpiLink, reply: str, on: bool) -> None:
    assert link.query_bool(f"ECHO? {reply}") is on


def test_a_reply_that_is_none_of_the_words_is_malformed(link: ScpiLink) -> None:
    for reply in ("2", "1.5", "maybe", "1 1"):
        with pytest.raises(MalformedReplyError, match="none of 0, 1"):
            link.query_bool(f"ECHO? {reply}")
    states = {"0": "stopped", "2": "running"}
    assert link.query_word("ECHO? 2", states) == "running"
    with pytest.raises(MalformedReplyError, match="none of 0, 2"):
        link.query_word("ECHO? 1", states)
    assert link.query_word("ECHO? 0", states) == "stopped"


def test_a_closed_peer_is_seen_at_once_and_the_next_use_reopens(bench: Bench, link: ScpiLink) -> None:
    bench.faults.disconnect()
    started = time.monotonic()
    with pytest.raises(LinkBrokenError, match=r"ECHO\? 1"):
        link.query("ECHO? 1")
    assert time.monotonic() - started < 2.0
    assert link.query("ECHO? 2") == "2"


def test_reopening_restores_before_the_query_and_only_once(bench: Bench) -> None:
    order: list[str] = []
    link = link_to(bench.address, lambda: order.append(link.query("ECHO? restored")))
    link.open()
    order.clear()
    bench.faults.disconnect()
    with pytest.raises(LinkBrokenError):
        link.query("ECHO? 1")
    order.append(link.query("ECHO? 2"))
    assert order == ["restored", "2"]
    link.close()


def test_a_failed_restore_is_tried_again(bench: Bench) -> None:
    calls: list[int] = []

    def restore() -> None:
        calls.append(1)
        if len(calls) == 2:
            link.command("FAIL")

    link = link_to(bench.address, restore)
    link.open()
    bench.faults.disconnect()
    with pytest.raises(LinkBrokenError):
        link.query("ECHO? 1")
    with pytest.raises(InstrumentRefusedError):
        link.query("ECHO? 2")
    assert link.query("ECHO? 3") == "3"
    assert len(calls) == 3
    link.close()


def test_another_instrument_behind_the_same_address_is_refused_until_the_right_one_is_back(
    bench: Bench, link: ScpiLink
) -> None:
    port = bench.port
    bench.server.close()
    faults = FaultInjector()
    server = ScpiServer(Echo(faults, "OTHER"), faults)
    server.serve("127.0.0.1", port)
    for _ in range(2):
        with pytest.raises(WrongInstrumentError):
            link.query("ECHO? 1")
    server.close()
    with pytest.raises(LinkBrokenError):
        link.query("ECHO? 1")
    back = ScpiServer(bench.device, bench.faults)
    back.serve("127.0.0.1", port)
    assert link.query("ECHO? 4") == "4"
    back.close()


def test_a_refusal_carries_the_first_code_and_leaves_an_empty_queue(bench: Bench, link: ScpiLink) -> None:
    with pytest.raises(InstrumentRefusedError, match="-222 error -222") as caught:
        link.command("FAIL")
    assert caught.value.code == -222
    assert len(bench.device.errors) == 0
    link.command("NOTHing")
    with pytest.raises(InstrumentRefusedError, match="-113"):
        link.command("NO:SUCH 1")


def test_a_latched_error_is_reported_and_does_not_hang(bench: Bench, link: ScpiLink) -> None:
    bench.faults.latched_error = "Over temperature"
    with pytest.raises(InstrumentRefusedError, match="Over temperature") as caught:
        link.command("NOTHing")
    assert caught.value.code == -310


def test_a_block_arrives_whole_and_the_reply_after_it_is_in_step(bench: Bench, link: ScpiLink) -> None:
    data = bytes(range(256)) * 5000
    link.write_block("BLOCk ", memoryview(data), timeout_s=5.0)
    assert bench.device.blocks == [data]
    assert link.query("ECHO? 7") == "7"


def test_a_block_to_a_peer_that_stops_reading_meets_its_deadline() -> None:
    release = threading.Event()

    def deaf() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(100)
            connection.sendall(b"Acme,ECHO,1,1.0\n")
            connection.recv(100)
            connection.sendall(b'0,"No error"\n')
            release.wait(20.0)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=deaf)
        thread.start()
        link = link_to(f"TCPIP::127.0.0.1::{listener.getsockname()[1]}::SOCKET")
        link.open()
        with pytest.raises(LinkTimeoutError, match="block of 67108864 bytes"):
            link.write_block("BLOCk ", memoryview(bytes(64 << 20)), timeout_s=SHORT_S)
        link.close()
        release.set()
        thread.join()


def test_threads_share_the_link_and_each_gets_its_own_reply(link: ScpiLink) -> None:
    wrong: list[tuple[str, str]] = []

    def ask(name: str) -> None:
        for n in range(60):
            reply = link.query(f"ECHO? {name}{n}")
            if reply != f"{name}{n}":
                wrong.append((name, reply))

    threads = [threading.Thread(target=ask, args=(name,)) for name in "abcdef"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert link.renewed == 1


def test_an_interrupted_query_leaves_no_stale_reply(link: ScpiLink, monkeypatch: pytest.MonkeyPatch) -> None:
    transport = link._transport
    assert isinstance(transport, scpi_visa._SocketTransport)

    def interrupted(timeout_s: float) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(transport, "read_line", interrupted)
    with pytest.raises(KeyboardInterrupt):
        link.query("ECHO? 1")
    assert link.query("ECHO? 2") == "2"


class FakeResource:
    """A VISA session that is no raw socket: counts what it is told, fails when it is told to."""

    session = "fake"

    def __init__(self) -> None:
        self.timeout = 0.0
        self.sent: list[bytes] = []
        self.replies: list[bytes | Exception] = []

    def write_raw(self, data: bytes) -> None:
        self.sent.append(data)

    def read_raw(self) -> bytes:
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def close(self) -> None:
        self.sent.append(b"closed")


class FakeManager:
    def __init__(self, outcome: FakeResource | Exception) -> None:
        self.outcome = outcome
        self.visalib = object()

    def open_resource(self, address: str, open_timeout: int) -> FakeResource:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


def test_threads_that_ask_first_at_once_get_a_whole_resource_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    """As PyVISA's own: given away from its beginning on, whole a moment later."""
    half, asked = threading.Event(), threading.Event()
    made: list[Any] = []

    class Manager:
        whole = False

        def __new__(cls, library: str) -> "Manager":
            if not made:
                made.append(object.__new__(cls))
                half.set()
                asked.wait(0.3)
                made[0].whole = True
            return made[0]

    monkeypatch.setattr(scpi_visa.pyvisa, "ResourceManager", Manager)
    scpi_visa._made_manager.cache_clear()
    got: list[bool] = []

    def ask() -> None:
        got.append(scpi_visa.resource_manager().whole)  # type: ignore[attr-defined]
        asked.set()

    threads = [threading.Thread(target=ask) for _ in range(2)]
    try:
        threads[0].start()
        assert half.wait(5)
        threads[1].start()
        for each in threads:
            each.join(5)
    finally:
        scpi_visa._made_manager.cache_clear()
    assert got == [True, True]


def test_a_session_without_a_socket_goes_through_visa(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = FakeResource()
    monkeypatch.setattr(scpi_visa, "resource_manager", lambda: FakeManager(resource))
    link = link_to("TCPIP::10.0.0.9::INSTR", timeout_s=3.0)
    resource.replies = [b"Acme,ECHO,1,1.0\n", b'0,"No error"\n', b'0,"No error"\n', b"7\r\n"]
    link.open()
    link.write_block("BLOCk ", memoryview(b"a\nb"), timeout_s=9.0)
    assert resource.timeout == pytest.approx(9000.0, rel=0.1)
    assert link.query("ECHO? 7") == "7"
    assert resource.timeout == pytest.approx(3000.0, rel=0.1)
    asked, block = b"SYSTem:ERRor?\n", b"BLOCk #13a\nb\n"
    assert resource.sent == [b"*IDN?\n", asked, block, asked, b"ECHO? 7\n"]
    link.close()
    assert resource.sent[-1] == b"closed"


def test_visa_errors_become_link_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = FakeResource()
    monkeypatch.setattr(scpi_visa, "resource_manager", lambda: FakeManager(resource))
    link = link_to("TCPIP::10.0.0.9::INSTR")
    identity = b"Acme,ECHO,1,1.0\n"
    timeout = VisaIOError(StatusCode.error_timeout)
    lost = VisaIOError(StatusCode.error_connection_lost)
    resource.replies = [identity, timeout, identity, lost, identity, b"\x00\xff", identity, b"fine\n"]
    link.open()
    for expected in (LinkTimeoutError, LinkBrokenError, MalformedReplyError):
        with pytest.raises(expected):
            link.query("ECHO? fine")
    assert link.query("ECHO? fine") == "fine"
    assert link.renewed == 4


def unknown_host() -> Exception:
    failure = Exception("could not connect: name not known")
    failure.__context__ = socket.gaierror(-2, "Name or service not known")
    return failure


@pytest.mark.parametrize(
    ("failure", "expected", "text"),
    [
        (unknown_host(), LinkBrokenError, "Name or service not known"),
        (Exception("could not connect: error_timeout"), LinkTimeoutError, "no answer in time"),
        (ValueError("Please install PyUSB"), LinkBrokenError, "PyUSB"),
        (VisaIOError(StatusCode.error_invalid_resource_name), LinkBrokenError, "VI_ERROR_INV_RSRC_NAME"),
    ],
)
def test_failures_of_opening(
    monkeypatch: pytest.MonkeyPatch, failure: Exception, expected: type[LinkError], text: str
) -> None:
    monkeypatch.setattr(scpi_visa, "resource_manager", lambda: FakeManager(failure))
    with pytest.raises(expected, match=text):
        link_to("TCPIP::10.0.0.9::INSTR").open()


def test_identity_needs_a_vendor_and_a_model() -> None:
    assert parse_identity("A, B ,C,D,E") == Identity("A", "B", "C", "D,E")
    assert parse_identity("A,B,C") == Identity("A", "B", "C", "")
    for wrong in ("", "A", ",B,C,D", "A,,C,D"):
        with pytest.raises(ValueError, match="vendor"):
            parse_identity(wrong)


def test_a_reply_that_is_waited_for_long_says_so(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    link = ScpiLink("awg", "TCPIP::h::4000::SOCKET", clock=lambda: now[0])
    with caplog.at_level("INFO"):
        for _ in link.slices(25.0):
            now[0] += 1.0
    assert [record.message for record in caplog.records] == [
        "awg at TCPIP::h::4000::SOCKET: a reply: 10 of at most 25 s",
        "awg at TCPIP::h::4000::SOCKET: a reply: 20 of at most 25 s",
    ]
