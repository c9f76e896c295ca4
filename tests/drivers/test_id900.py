"""The ID900 driver against its twin over real ZeroMQ sockets."""

import json
import math
import socket
import threading

import numpy as np
import pytest
import zmq
from tagger_bench import Light, own_host

from drivers.links.addresses import split_address
from drivers.links.errors import (
    InstrumentRefusedError,
    LimitError,
    LinkBrokenError,
    LinkClosedError,
    LinkTimeoutError,
    MalformedReplyError,
    NotReadyError,
    WrongInstrumentError,
)
from drivers.timetaggers.id900 import ID900
from sim_backends.timetaggers.id900 import MESSAGE_PAIRS, ID900Twin

DURATION_PS = 4_000_000_000


@pytest.fixture
def light():
    return Light()


whoever = pytest.mark.parametrize("bench", [False, True], indirect=True, ids=["fresh", "left by someone"])
"""The test holds whoever used the instrument before."""


@pytest.fixture
def bench(light, request):
    """Builds (twin, tagger) pairs, connected and streaming channels 1 and 2."""
    opened = []
    left = getattr(request, "param", False)

    def build(*, connect=True, stream=True, timeout_s=5.0, transfer_timeout_s=5.0, **twin_options):
        twin = ID900Twin(on_record=light, scpi_port=0, dlt_port=0, left_by_someone=left, **twin_options)
        address = twin.serve(own_host())
        tagger = ID900(
            f"tagger{len(opened)}",
            address,
            dlt_address=twin.dlt_address,
            timeout_s=timeout_s,
            transfer_timeout_s=transfer_timeout_s,
        )
        opened.extend((tagger, twin))
        if connect:
            tagger.connect()
            tagger.configure([1, 2], 0.1)
            if stream:
                tagger.start_streams([1, 2])
        return twin, tagger

    yield build
    light.go.set()
    for item in opened:
        item.close()


def play(tagger, duration_ps=DURATION_PS):
    tagger.play_record(duration_ps)
    while tagger.record_playing():
        pass


class Service:
    """A ZeroMQ service with scripted replies; the last one is repeated, None is silence."""

    def __init__(self, *replies):
        self.requests = []
        self._replies = list(replies)
        self._context = zmq.Context()
        router = self._context.socket(zmq.ROUTER)
        router.bind("tcp://127.0.0.1:*")
        self.address = router.getsockopt_string(zmq.LAST_ENDPOINT).removeprefix("tcp://")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(router,), daemon=True)
        self._thread.start()

    def _run(self, router):
        while not self._stop.is_set():
            if router.poll(20):
                identity, _, request = router.recv_multipart()
                self.requests.append(request.decode())
                reply = self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]
                if reply is not None:
                    router.send_multipart([identity, b"", reply])
        router.close(linger=0)

    def close(self):
        self._stop.set()
        self._thread.join()
        self._context.term()


@pytest.fixture
def service():
    opened = []

    def build(*replies):
        opened.append(Service(*replies))
        return opened[-1]

    yield build
    for item in opened:
        item.close()


# Identity and settings


def test_identity(bench):
    _, tagger = bench(connect=False, identity="ID Quantique,ID900,1234,2.2.0")
    identity = tagger.connect()
    assert (identity.model, identity.serial_number, identity.firmware) == ("ID900", "1234", "2.2.0")
    assert tagger.time_base_ps() == 13


@pytest.mark.parametrize(
    ("reply", "serial_number"),
    [
        ("ID Quantique Gen\u00e8ve,ID900,42,2.2.0".encode("latin-1"), "42"),
        ("ID Quantique Gen\u00e8ve,ID900,42,2.2.0".encode(), "42"),
        (b"IDQ ID1000\n", ""),
        (b"ID Quantique,ID900,1.0", ""),
    ],
)
def test_odd_identities(bench, monkeypatch, reply, serial_number):
    twin, tagger = bench(connect=False)
    answer = twin.faults.reply
    monkeypatch.setattr(twin.faults, "reply", lambda data: reply if b"SIM0001" in data else answer(data))
    assert tagger.connect().serial_number == serial_number
    assert tagger.get_idn()["serial"] == serial_number


@whoever
def test_settings_reach_the_instrument(bench):
    twin, tagger = bench()
    tagger.configure([2, 3], -0.25)
    state = twin.state()
    assert [c for c, on in state["enabled"].items() if on] == [0, 2, 3]
    assert state["thresholds_v"][3] == -0.25
    tagger.clock_source("internal")
    assert tagger.clock_source() == "internal"
    tagger.resolution("low")
    assert tagger.time_base_ps() == 100


@pytest.mark.parametrize(
    ("channels", "threshold_v"), [([0], 0.1), ([5], 0.1), ([1], 2.01), ([1], -2.01), ([1], math.nan)]
)
def test_limits_are_checked_before_the_wire(bench, channels, threshold_v):
    twin, tagger = bench()
    before = twin.state()
    with pytest.raises(LimitError):
        tagger.configure(channels, threshold_v)
    assert twin.state() == before


@pytest.mark.parametrize("duration_ps", [0, -1, 10**16, math.nan])
def test_record_durations_have_limits(bench, light, duration_ps):
    _, tagger = bench()
    with pytest.raises(LimitError, match="ps"):
        tagger.play_record(duration_ps)
    assert light.records == []


def test_error_replies_are_refusals(bench):
    _, tagger = bench()
    for command in ("NONSENSE?", "INPU1:THRE high", "INPU1:THRE 9V", "REC:DUR"):
        with pytest.raises(InstrumentRefusedError, match="SCPI_ERR"):
            tagger.ask(command)
    assert tagger.time_base_ps() == 13


@whoever
def test_input_errors_are_named_and_cleared(bench, light):
    _, tagger = bench()
    assert tagger.input_error(3) == (5, "input disabled")
    light.clicks = {1: np.arange(1000) * 1000}
    play(tagger, 1_000_000)  # 1000 clicks in 1 us
    assert tagger.input_error(1) == (2, "rate above 25 MHz")
    assert tagger.input_error(1) == (0, "none")


# Records and tags


@whoever
def test_tags_of_one_record(bench, light):
    _, tagger = bench()
    light.clicks = {1: [0, 12, 13, 26_000_005], 2: [39]}
    play(tagger)
    assert light.records == [(DURATION_PS, 0)]
    tags = tagger.read_tags(1)
    assert tags.dtype == np.uint64
    assert tags.flags.c_contiguous
    assert tags[:, 0].tolist() == [0, 0, 13, 26_000_000]  # steps of 13 ps, rounded down
    assert tags[:, 1].tolist() == [0, 0, 0, 0]
    assert tagger.read_tags(2)[:, 0].tolist() == [39]
    assert tagger.read_tags(1).shape == (0, 2)


@whoever
def test_records_are_told_apart_by_their_reference_pulse(bench, light):
    _, tagger = bench()
    for clicks in ([13], [], [26, 39]):
        light.clicks = {1: clicks}
        play(tagger)
    assert tagger.read_tags(1).tolist() == [[13, 0], [26, 2], [39, 2]]
    assert tagger.read_tags(2).shape == (0, 2)


def test_a_million_tags_are_complete(bench, light):
    _, tagger = bench(transfer_timeout_s=30.0)
    rng = np.random.default_rng(1)
    times = np.sort(rng.integers(0, DURATION_PS // 13, 1_000_000, dtype=np.uint64)) * np.uint64(13)
    light.clicks = {1: times, 2: times[: 3 * MESSAGE_PAIRS]}
    play(tagger)
    assert np.array_equal(tagger.read_tags(1)[:, 0], times)
    assert np.array_equal(tagger.read_tags(2)[:, 0], times[: 3 * MESSAGE_PAIRS])


@whoever
def test_reading_waits_for_the_end_of_the_record(bench, light):
    _, tagger = bench()
    light.clicks = {1: [13]}
    light.go.clear()
    tagger.play_record(DURATION_PS)
    assert tagger.record_playing()
    assert tagger.record_stage() == "PLAYING"
    with pytest.raises(NotReadyError, match="still running"):
        tagger.play_record(DURATION_PS)
    threading.Timer(0.05, light.go.set).start()
    assert tagger.read_tags(1)[:, 0].tolist() == [13]
    assert not tagger.record_playing()


@whoever
def test_counters(bench, light):
    _, tagger = bench()
    light.clicks = {1: range(0, 1300, 13), 2: [5], 3: [7]}
    play(tagger)
    play(tagger)
    assert [tagger.counts(channel) for channel in (0, 1, 2, 3)] == [2, 200, 2, 0]  # input 3 is disabled
    assert tagger.counts_1() == 200
    tagger.reset_counts(1)
    assert tagger.counts(1) == 0


def test_what_must_come_first(bench):
    _, tagger = bench(stream=False)
    with pytest.raises(NotReadyError, match="start_streams"):
        tagger.read_tags(1)
    _, fresh = bench(connect=False)
    assert not fresh.record_playing()
    fresh.close()
    with pytest.raises(LinkClosedError, match="connect"):
        fresh.record_playing()
    fresh.connect()
    with pytest.raises(NotReadyError, match="configure"):
        fresh.play_record(DURATION_PS)


def test_safe_state_stops_record_and_streams(bench, light):
    twin, tagger = bench()
    light.go.clear()
    tagger.play_record(DURATION_PS)
    tagger.safe_state()
    tagger.safe_state()
    assert twin.state()["stage"] == "STOPPED"
    assert twin.state()["acquisitions"] == {}
    light.go.set()
    tagger.start_streams([1])
    light.clicks = {1: [13]}
    play(tagger)
    assert tagger.read_tags(1)[:, 0].tolist() == [13]  # nothing of the stopped record


@pytest.fixture
def opened():
    """Drivers of the test's own making, closed at its end."""
    drivers = []
    yield drivers
    for driver in drivers:
        driver.close()


def test_streams_left_by_a_dead_process_are_taken_over_by_the_sole_user(bench, light, opened):
    twin, tagger = bench()
    second = ID900("second", tagger.address, dlt_address=twin.dlt_address, sole_user=True)
    opened.append(second)
    second.connect()
    second.configure([1], 0.1)
    second.start_streams([1])
    light.clicks = {1: [13]}
    play(second)
    assert second.read_tags(1)[:, 0].tolist() == [13]


@whoever
def test_restarting_forgets_an_aborted_frame(bench, light):
    _, tagger = bench()
    light.clicks = {1: [13], 2: [13]}
    play(tagger)
    assert len(tagger.read_tags(1)) == 1  # and channel 2 is left unread
    light.go.clear()
    tagger.play_record(DURATION_PS)
    tagger.restart_streams()
    light.go.set()
    light.clicks = {1: [26], 2: [39]}
    play(tagger)
    assert tagger.read_tags(1)[:, 0].tolist() == [26]
    assert tagger.read_tags(2)[:, 0].tolist() == [39]


# Tags that do not arrive


@whoever
def test_lost_messages_are_never_a_partial_read(bench, light):
    twin, tagger = bench(transfer_timeout_s=0.3)
    light.clicks = {1: np.arange(3 * MESSAGE_PAIRS) * 13}
    twin.lose_messages = 1
    play(tagger)
    with pytest.raises(LinkTimeoutError, match=f"{2 * MESSAGE_PAIRS} of {3 * MESSAGE_PAIRS} tags"):
        tagger.read_tags(1)
    with pytest.raises(NotReadyError, match="start the streams again"):
        tagger.read_tags(1)
    tagger.start_streams([1, 2])
    play(tagger)
    assert len(tagger.read_tags(1)) == 3 * MESSAGE_PAIRS


@whoever
def test_errors_of_the_instrument_void_the_record(bench, light):
    twin, tagger = bench()
    light.clicks = {1: [13], 2: [13]}
    twin.plant_raw_errors(1, 4)
    play(tagger)
    with pytest.raises(InstrumentRefusedError, match="4 timestamp errors"):
        tagger.read_tags(1)
    with pytest.raises(NotReadyError):
        tagger.read_tags(1)
    assert len(tagger.read_tags(2)) == 1


def test_errors_of_the_service_void_the_record(bench, light, caplog):
    _, tagger = bench()
    light.clicks = {1: ["no", "times"]}  # the light model fails
    play(tagger)
    with pytest.raises(InstrumentRefusedError, match="lost tags"):
        tagger.read_tags(1)
    assert "light model failed" in caplog.text


@whoever
def test_a_record_of_somebody_else_is_noticed(bench):
    twin, tagger = bench()
    other = ID900("other", tagger.address, dlt_address=twin.dlt_address)
    other.connect()
    other.configure([1, 2], 0.1)
    play(other)
    play(tagger)
    with pytest.raises(NotReadyError, match="somebody else"):
        tagger.read_tags(1)
    other.close()


def test_a_record_that_never_ends_is_a_timeout(bench, light):
    _, tagger = bench(transfer_timeout_s=0.1)
    light.go.clear()
    tagger.play_record(DURATION_PS)
    with pytest.raises(LinkTimeoutError, match="0 of 1 records"):
        tagger.read_tags(1)


# Links that fail


@whoever
def test_a_lost_reply_does_not_jam_the_socket(bench):
    twin, tagger = bench(timeout_s=0.2)
    twin.faults.drop_replies(1)
    with pytest.raises(LinkTimeoutError, match="REC:STAGe"):
        tagger.record_playing()
    assert tagger.record_playing() is False


def test_a_late_reply_is_not_taken_for_the_next(bench):
    twin, tagger = bench(timeout_s=0.2)
    twin.faults.delay_s = 0.3
    with pytest.raises(LinkTimeoutError):
        tagger.record_playing()
    twin.faults.delay_s = 0.0
    tagger.link.timeout_s = 2.0
    assert tagger.time_base_ps() == 13


def test_a_play_command_without_answer_voids_the_streams(bench, light, monkeypatch):
    twin, tagger = bench(timeout_s=0.2)
    answer = twin.faults.reply
    with monkeypatch.context() as silent:
        silent.setattr(twin.faults, "reply", lambda data: None if b"PLAYING" in data else answer(data))
        with pytest.raises(LinkTimeoutError):
            tagger.play_record(DURATION_PS)
    with pytest.raises(NotReadyError, match="start the streams again"):
        tagger.read_tags(1)


def test_garbage(bench):
    twin, tagger = bench()
    twin.faults.garbage(1)
    with pytest.raises(MalformedReplyError, match="not text"):
        tagger.record_playing()
    assert tagger.record_playing() is False


def test_dead_address():
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    tagger = ID900("tagger", f"127.0.0.1:{port}")
    with pytest.raises(LinkBrokenError, match="nothing accepts"):
        tagger.connect()
    tagger.close()


def test_silent_instrument(service):
    tagger = ID900("tagger", service(None).address, dlt_address=service(b"[]").address, timeout_s=0.1)
    with pytest.raises(LinkTimeoutError, match=r"\*IDN"):
        tagger.connect()
    with pytest.raises(LinkClosedError):
        tagger.identify()
    tagger.close()


def test_an_instrument_that_goes_away_is_broken_not_slow(bench):
    twin, tagger = bench(timeout_s=0.2)
    twin.close()
    for _ in range(2):
        with pytest.raises(LinkBrokenError):
            tagger.record_playing()


def test_a_twin_closes_while_the_end_of_a_record_wakes_its_thread_for_the_last_time(monkeypatch):
    twin = ID900Twin(on_record=lambda duration_ps, index: {}, scpi_port=0, dlt_port=0)
    twin.serve("127.0.0.1")
    connect = zmq.Socket.connect

    def connect_and_lose_the_other_end(socket, address):
        monkeypatch.setattr(zmq.Socket, "connect", connect)
        connect(socket, address)
        twin._ring(socket.context)
        twin._thread.join(5)

    monkeypatch.setattr(zmq.Socket, "connect", connect_and_lose_the_other_end)
    closing = threading.Thread(target=twin.close, daemon=True)
    closing.start()
    closing.join(10)
    assert not closing.is_alive()


def test_another_instrument_is_refused(service):
    tagger = ID900("tagger", service(b"TEKTRONIX,AWG70002A,B0,1").address, dlt_address=service(b"[]").address)
    with pytest.raises(WrongInstrumentError, match="AWG70002A"):
        tagger.connect()
    tagger.close()


@pytest.mark.parametrize("reply", [b"", b"fast", b"nan", b"-13", b"0", b"13.5"])
def test_a_time_base_that_is_none(service, reply):
    tagger = ID900("tagger", service(b"IDQ ID900", reply).address, dlt_address=service(b"[]").address)
    with pytest.raises(MalformedReplyError):
        tagger.connect()
    tagger.close()


@whoever
def test_reconnect_after_a_disconnect(bench, light):
    twin, tagger = bench(timeout_s=0.6)
    tagger.clock_source("external")
    twin.faults.disconnect()
    with pytest.raises((LinkTimeoutError, LinkBrokenError)):
        tagger.record_playing()
    other = ID900("other", tagger.address, dlt_address=twin.dlt_address)
    other.connect()
    other.configure([4], 1.0)
    other.clock_source("internal")
    other.close()
    tagger.connect()
    state = twin.state()
    assert [c for c, on in state["enabled"].items() if on] == [0, 1, 2]
    assert tagger.clock_source() == "external"
    with pytest.raises(NotReadyError, match="start_streams"):
        tagger.read_tags(1)
    tagger.start_streams([1])
    light.clicks = {1: [13]}
    play(tagger)
    assert tagger.read_tags(1)[:, 0].tolist() == [13]


@pytest.mark.parametrize(
    "status",
    [
        b"[]",
        b"nonsense",
        b'{"acquisitions_count": 1}',
        b'{"acquisitions_count": 1, "timestamps_count": -2}',
        b'{"acquisitions_count": true, "timestamps_count": 1}',
        b'{"acquisitions_count": 1, "timestamps_count": 1.5}',
        b"[" * 100_000,
    ],
)
def test_malformed_answers_of_the_service(bench, service, status):
    _, tagger = bench()
    fake = service(status)
    link = tagger.dlt.link
    link.close()
    link.host, link.port = split_address(fake.address, 0)
    link.address = fake.address
    link.bring_up = None  # the service has not restarted, it only answers nonsense
    link.open()
    play(tagger)
    with pytest.raises(MalformedReplyError):
        tagger.read_tags(1)


@pytest.mark.parametrize(
    ("message", "error"),
    [(b"x" * 17, MalformedReplyError), (b"", LinkBrokenError), (b"x" * 48, MalformedReplyError)],
)
def test_malformed_stream_messages(bench, light, message, error):
    """The service announces two tags and sends something else."""
    twin, tagger = bench(transfer_timeout_s=0.5)
    twin.lose_messages = 1
    light.clicks = {1: [13, 26]}
    play(tagger)
    with zmq.Context() as context:
        fake = context.socket(zmq.PAIR)
        port = fake.bind_to_random_port("tcp://127.0.0.1")
        stream = tagger._streams.by_channel[1]
        stream.socket.close(linger=0)
        stream.socket = tagger._streams._context.socket(zmq.PAIR)
        stream.socket.connect(f"tcp://127.0.0.1:{port}")
        fake.send(message)
        with pytest.raises(error):
            tagger.read_tags(1)
        stream.socket.close(linger=0)
        fake.close(linger=0)


@pytest.mark.parametrize(
    "address", ["", ":5555", "host:", "host:port", "host:0", "host:70000", "host:55:5", "host:²"]
)
def test_addresses_that_are_none(address):
    with pytest.raises(ValueError, match="host"):
        split_address(address, 5555)


def test_refusals_of_the_service_name_the_reason(bench):
    twin, tagger = bench()
    with pytest.raises(InstrumentRefusedError, match="unknown acquisition"):
        tagger.dlt.status("nobody")
    twin.faults.latched_error = json.dumps({"error": {"description": "disk full"}})
    with pytest.raises(InstrumentRefusedError, match="disk full"):
        tagger.dlt.acquisitions()
