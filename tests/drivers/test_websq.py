"""The WebSQ driver against its twin on real TCP sockets, and the framing of both directions."""

import json
import math
import socket
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websq_pairs import websq_pairs

from drivers.base import Identity
from drivers.detectors.websq import WebSQ
from drivers.links.errors import (
    InstrumentRefusedError,
    LimitError,
    LinkBrokenError,
    LinkTimeoutError,
    MalformedReplyError,
    WrongInstrumentError,
)
from drivers.links.websq_json import (
    MAX_DEPTH,
    FrameError,
    ReplyReader,
    RequestReader,
    encode_reply,
    encode_request,
)

modest = settings(max_examples=50, derandomize=True, deadline=None)
leaves = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)
values = st.recursive(
    leaves, lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(), v, max_size=4), max_leaves=8
)
messages = st.lists(st.dictionaries(st.text(), values, max_size=4), max_size=4)
cut_sizes = st.lists(st.integers(1, 30), min_size=1, max_size=10)


def fed_in_pieces(reader, stream, sizes):
    found, k = [], 0
    while stream:
        size = sizes[k % len(sizes)]
        found += reader.feed(stream[:size])
        stream, k = stream[size:], k + 1
    return found


# Framing


@modest
@given(messages, cut_sizes)
def test_replies_survive_any_splitting(wanted, sizes):
    stream = b"".join(encode_reply(message) for message in wanted)
    assert fed_in_pieces(ReplyReader(), stream, sizes) == wanted


@modest
@given(messages, cut_sizes, st.sampled_from([b"", b" ", b"\r\n"]))
def test_bare_concatenated_requests_survive_any_splitting(wanted, sizes, between):
    stream = between.join(encode_request(message) for message in wanted)
    assert fed_in_pieces(RequestReader(), stream, sizes) == wanted


@modest
@given(st.binary(max_size=200))
def test_garbage_is_an_error_or_nothing_and_the_readers_recover(garbage):
    message = {"request": "labelProps"}
    replies = ReplyReader()
    try:
        replies.feed(garbage + b"\x17")
    except FrameError:
        assert replies.feed(encode_reply(message)) == [message]
    assert RequestReader().feed(garbage.replace(b"{", b"") + encode_request(message))[-1] == message


@pytest.mark.parametrize(
    "text", [b"[1]", b"3", b'{"a":NaN}', b'{"a":Infinity}', b'{"a":}', b'{"a":"\xff"}', b""]
)
def test_what_is_no_object(text):
    with pytest.raises(FrameError):
        ReplyReader().feed(text + b"\x17")


@pytest.mark.parametrize("text", ['"', "\\", '\\"', "}{", '"}', "{[", "\x17"])
def test_brackets_and_quotes_inside_strings_do_not_frame(text):
    message = {text: [text, {"value": text}]}
    assert RequestReader().feed(encode_request(message) * 2) == [message, message]
    assert ReplyReader().feed(encode_reply(message) * 2) == [message, message]


def test_deep_nesting_is_refused_without_recursion():
    errors = RequestReader().feed(b'{"a":' * (MAX_DEPTH + 1))
    assert "nested" in str(errors[0])
    with pytest.raises(FrameError):
        ReplyReader().feed(b'{"a":' * 100_000 + b"\x17")


# Driver and twin


@pytest.fixture
def bias():
    return []


whoever = pytest.mark.parametrize("bench", [False, True], indirect=True, ids=["fresh", "left by someone"])
"""The test holds whoever used the controller before."""


@pytest.fixture
def bench(bias, request):
    """Builds (twin, connected driver) pairs on free ports and closes them."""
    left = getattr(request, "param", False)
    with websq_pairs() as pairs:

        def build(*, connect=True, timeout_s=0.3, settle_s=1.0, driver_options=None, **twin_options):
            driver = {"timeout_s": timeout_s, "settle_s": settle_s, **(driver_options or {})}
            twin = {"left_by_someone": left, "on_bias": lambda ua, on: bias.append((ua, on)), **twin_options}
            return pairs(connect, driver, **twin)

        yield build


@pytest.fixture
def scripted():
    """Builds a driver whose controller answers each request by the next scripted bytes."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads, opened = [], []

    def build(*replies, timeout_s=0.2):
        def answer():
            connection, _ = listener.accept()
            with connection:
                for reply in replies:
                    if not connection.recv(4096):
                        return
                    connection.sendall(reply)
                connection.recv(4096)

        threads.append(threading.Thread(target=answer, daemon=True))
        threads[-1].start()
        opened.append(WebSQ("scripted", f"127.0.0.1:{listener.getsockname()[1]}", timeout_s=timeout_s))
        return opened[-1]

    yield build
    for item in opened:
        item.close()
    for thread in threads:
        thread.join(timeout=5)
    listener.close()


def burst(**changes):
    labels = {
        "NumberOfDetectors": 2,
        "InptMeasurementPeriod": 10,
        "BiasCurrent": [1.0, 2.0],
        "TriggerLevel": [3.0, 4.0],
        "DetectorEnable": False,
        **changes,
    }
    return b"".join(
        json.dumps({"label": label, "value": {"value": value}}).encode() + b"\x17"
        for label, value in labels.items()
        if value is not None
    )


@whoever
def test_identity(bench):
    _, snspd = bench(connect=False, n_detectors=3)
    assert snspd.connect() == Identity("Single Quantum", "WebSQ", "", "")
    assert snspd.n_detectors() == 3


def test_settings_are_verified_by_their_labels(bench, bias):
    twin, snspd = bench()
    snspd.bias_current_ua([10.5, 12.0])
    snspd.trigger_level_mv([100.0, 120.0])
    snspd.enabled(True)
    assert snspd.bias_current_ua() == [10.5, 12.0]
    assert snspd.trigger_level_mv() == [100.0, 120.0]
    assert snspd.enabled() is True
    assert bias == [([10.5, 12.0], False), ([10.5, 12.0], True)]
    assert snspd.bias_voltage_mv() == pytest.approx([1050.0, 1200.0])
    snspd.safe_state()
    snspd.safe_state()
    assert twin.state()["DetectorEnable"] is False
    assert bias[-1] == ([10.5, 12.0], False)


def test_counts_are_rates_of_a_period_after_the_call(bench):
    rates = [1000.0, 2500.0]
    _, snspd = bench(count_rates=lambda: list(rates))
    assert list(snspd.count_rates()) == [0.0, 0.0]  # no bias, no counts
    snspd.enabled(True)
    assert list(snspd.count_rates()) == [1000.0, 2500.0]
    rates[:] = [5000.0, 100.0]
    assert list(snspd.count_rates()) == [5000.0, 100.0]
    snspd.measurement_period_ms(20.0)
    assert list(snspd.count_rates()) == [5000.0, 100.0]


def test_counts_scatter_like_counts(bench):
    rng = np.random.default_rng(5)
    _, snspd = bench(count_rates=lambda: [1e6, 1e6], rng=rng)
    snspd.enabled(True)
    first, second = snspd.count_rates()
    assert abs(first - 1e6) < 6 * math.sqrt(1e6 * 0.01) / 0.01
    assert first != second


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("bias_current_ua", [25.1, 1.0]),
        ("bias_current_ua", [1.0, math.nan]),
        ("bias_current_ua", [1.0]),
        ("trigger_level_mv", [0.0, -2000.0]),
        ("measurement_period_ms", 9.9),
        ("measurement_period_ms", math.nan),
    ],
)
def test_limits_are_checked_before_the_wire(bench, bias, parameter, value):
    twin, snspd = bench(driver_options={"max_bias_ua": 25.0})
    before = twin.state()
    with pytest.raises(LimitError):
        snspd.parameters[parameter](value)
    assert twin.state() == before
    assert bias == []


def test_the_controller_says_no(bench):
    twin, snspd = bench()
    twin.faults.latched_error = "cryostat warm"
    with pytest.raises(InstrumentRefusedError, match="cryostat warm"):
        snspd.enabled(True)
    twin.faults.latched_error = None
    assert snspd.enabled() is False


def test_a_command_that_changes_nothing_is_an_error(bench):
    twin, snspd = bench(settle_s=0.1)
    twin.ignores = {"DetectorEnable"}
    with pytest.raises(InstrumentRefusedError, match="DetectorEnable shows False"):
        snspd.enabled(True)


@whoever
def test_a_current_that_the_controller_cuts_is_an_error(bench):
    twin, snspd = bench(settle_s=0.1)
    twin.clamp_ua = 20.0
    with pytest.raises(InstrumentRefusedError, match=r"shows \[20.0, 10.0\]"):
        snspd.bias_current_ua([25.0, 10.0])
    with pytest.raises(InstrumentRefusedError, match=r"shows \[20.0, 20.0\]"):
        snspd.ch2.bias_current_ua(30.0)


@whoever
def test_lost_answer(bench):
    twin, snspd = bench(timeout_s=0.1)
    snspd.trigger_level_mv([50.0, 60.0])
    twin.faults.drop_replies(1)
    with pytest.raises(LinkTimeoutError):
        snspd.enabled()
    assert snspd.trigger_level_mv() == [50.0, 60.0]


def test_late_answer_is_not_taken_for_the_next(bench):
    twin, snspd = bench(timeout_s=0.2)
    snspd.trigger_level_mv([50.0, 60.0])
    twin.faults.delay_s = 0.4
    with pytest.raises(LinkTimeoutError):
        snspd.bias_current_ua()
    twin.faults.delay_s = 0.0  # for what is asked from here on
    twin._values["BiasCurrent"] = [7.0, 8.0]  # the late answer still holds the old currents
    snspd.link.timeout_s = 5.0
    assert snspd.bias_current_ua() == [7.0, 8.0]
    assert snspd.trigger_level_mv() == [50.0, 60.0]


@whoever
def test_garbage(bench):
    twin, snspd = bench(timeout_s=0.1)
    twin.faults.garbage(1)
    with pytest.raises((MalformedReplyError, LinkTimeoutError)):
        snspd.enabled()
    assert snspd.enabled() is False


@whoever
def test_changes_by_others_are_seen(bench):
    _, snspd = bench()
    other = WebSQ("other", snspd.address, timeout_s=0.3)
    other.connect()
    for level in range(20):  # broadcasts pile up on the first connection
        other.trigger_level_mv([float(level), 0.0])
    assert snspd.trigger_level_mv() == [19.0, 0.0]
    other.close()


def test_after_a_lost_link_detectors_stay_off_and_levels_return(bench, bias):
    twin, snspd = bench()
    snspd.trigger_level_mv([50.0, 60.0])
    snspd.measurement_period_ms(15.0)
    snspd.bias_current_ua([10.0, 10.0])
    snspd.enabled(True)
    twin.faults.disconnect()
    with pytest.raises(LinkBrokenError, match="closed"):
        snspd.enabled()
    other = WebSQ("other", snspd.address, timeout_s=0.3)
    other.connect()
    assert other.enabled() is True  # a first connection changes nothing
    other.trigger_level_mv([1.0, 1.0])
    other.close()
    assert snspd.enabled() is False
    assert bias[-1][1] is False
    assert snspd.trigger_level_mv() == [50.0, 60.0]
    assert snspd.measurement_period_ms() == 15.0


def test_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    snspd = WebSQ("snspd", f"127.0.0.1:{port}", timeout_s=0.2)
    with pytest.raises(LinkBrokenError, match="cannot connect"):
        snspd.connect()
    snspd.close()


def test_silent_controller():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        snspd = WebSQ("snspd", f"127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.05)
        with pytest.raises(LinkTimeoutError):
            snspd.connect()
        snspd.close()


def test_another_instrument_is_refused(scripted):
    snspd = scripted(burst(TriggerLevel=None, BiasCurrent=None), timeout_s=0.1)
    with pytest.raises(WrongInstrumentError, match="BiasCurrent, TriggerLevel"):
        snspd.connect()


@pytest.mark.parametrize(
    ("label", "value", "parameter"),
    [
        ("BiasCurrent", [1.0, "x"], "bias_current_ua"),
        ("BiasCurrent", [1.0, True], "bias_current_ua"),
        ("TriggerLevel", 3.0, "trigger_level_mv"),
        ("NumberOfDetectors", -1, "n_detectors"),
        ("NumberOfDetectors", True, "n_detectors"),
        ("InptMeasurementPeriod", "fast", "measurement_period_ms"),
        ("DetectorEnable", "yes", "enabled"),
        ("DetectorEnable", 1, "enabled"),
        ("TriggerLevel", [3.0], "trigger_level_mv"),
    ],
)
def test_malformed_labels_never_become_a_value(scripted, label, value, parameter):
    snspd = scripted(burst(), burst(), burst(**{label: value}))
    snspd.connect()
    with pytest.raises(MalformedReplyError):
        snspd.parameters[parameter]()


@pytest.mark.parametrize(
    "lines",
    [
        b"1.0,1,2\n1.0,1,2\n",  # the clock stands still
        b"1.0,1,2\n2.0,1\n",
        b"1.0,1,2\n2.0,nan,2\n",
        b"1.0,1,2\n2.0,-1,2\n",
        b"1.0,1,2\nbusy\n",
        b"1.0,1,2\n\xff,1,2\n",
    ],
)
def test_stale_or_malformed_counts_are_refused(scripted, lines):
    snspd = scripted(burst(), burst(), burst())
    snspd.connect()
    with socket.create_server(("127.0.0.1", 0)) as counts:
        snspd._counts._peer = counts.getsockname()

        def answer():
            connection, _ = counts.accept()
            with connection:
                connection.sendall(lines)
                connection.recv(1)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        with pytest.raises(MalformedReplyError):
            snspd.count_rates()
        thread.join(timeout=5)


def test_frozen_counts_are_refused(bench):
    twin, snspd = bench(count_rates=lambda: [100.0, 100.0])
    snspd.enabled(True)
    snspd.count_rates()
    twin.freeze_counts = True
    with pytest.raises(MalformedReplyError, match="stale"):
        snspd.count_rates()
