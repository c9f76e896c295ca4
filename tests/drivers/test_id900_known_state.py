"""The ID900 driver with an instrument that somebody left as it suited him, beside other users of the DataLinkTarget
service, and for people: known state, foreign acquisitions, restarts, safe within a second, counts and histograms."""

import threading
import time

import numpy as np
import pytest
from tagger_bench import Light, own_host

from drivers.links.errors import (
    InstrumentRefusedError,
    LimitError,
    LinkBrokenError,
    LinkTimeoutError,
    MalformedReplyError,
    NotReadyError,
    PreemptedError,
)
from drivers.links.zmq_reqrep import RequestLink
from drivers.timetaggers.id900 import ID900
from drivers.timetaggers.id900_state import Known, known_state
from sim_backends.timetaggers.id900 import ID900Twin
from sim_backends.timetaggers.id900_settings import SETTINGS

DURATION_PS = 4_000_000_000


@pytest.fixture
def light():
    return Light()


@pytest.fixture
def bench(light):
    """Builds (twin, driver) pairs and closes them; ``connect`` also configures inputs 1 and 2."""
    opened = []

    def build(*, connect=True, twin_options=None, **driver_options):
        twin = ID900Twin(on_record=light, scpi_port=0, dlt_port=0, **(twin_options or {}))
        address = twin.serve(own_host())
        options = {"timeout_s": 5.0, "transfer_timeout_s": 5.0, **driver_options}
        tagger = ID900(f"tagger{len(opened)}", address, dlt_address=twin.dlt_address, **options)
        opened.extend((tagger, twin))
        if connect:
            tagger.connect()
            tagger.configure([1, 2], 0.1)
        return twin, tagger

    yield build
    light.go.set()
    for item in opened:
        item.close()


def play(tagger):
    tagger.play_record(DURATION_PS)
    while tagger.record_playing():
        pass


LEFT = {"left_by_someone": True}


# Known state


def values(twin):
    return {(s.header, channel): twin.value(s.header, channel) for s in SETTINGS for channel in s.channels}


def test_whoever_used_it_last_the_state_is_the_same(bench):
    twins = [bench(twin_options=options)[0] for options in ({}, LEFT)]
    fresh, left = (values(twin) for twin in twins)
    untold = {
        (header, channel)
        for header, channel in fresh
        if fresh[header, channel] != left[header, channel]
        # routes that lead nowhere from what is known, times that nothing uses, and what the light panel shows
        and not header.startswith(("TSCOmbiner#:WINDow:BEGIn", "DELAy#:", "RAW#:SEND", "RECord:DURation"))
    }
    assert untold == set()
    assert all(
        left[f"DELAy#:{name}", n] == fresh[f"DELAy#:{name}", n]
        for name in ("VALUe", "[INPOrt:]LINK")
        for n in (1, 2, 3, 4)
    )
    assert [twin.ask("REC:NUM?") for twin in twins] == ["1", "1"]


def test_tags_are_right_whoever_used_it_last(bench, light):
    _, tagger = bench(twin_options=LEFT)
    tagger.start_streams([1, 2])
    light.clicks = {1: [0, 13, 26_000_000], 2: [39], 3: [999]}
    play(tagger)
    assert tagger.read_tags(1)[:, 0].tolist() == [0, 13, 26_000_000]
    assert tagger.read_tags(2)[:, 0].tolist() == [39]


def test_times_are_picoseconds_on_the_grid_of_either_resolution(bench, light):
    _, tagger = bench()
    light.clicks = {1: [12_345, 26_000_005]}
    for mode, step in (("high", 13), ("low", 100)):
        tagger.resolution(mode)
        tagger.start_streams([1])
        play(tagger)
        assert tagger.read_tags(1)[:, 0].tolist() == [t // step * step for t in light.clicks[1]]


def test_what_was_found_and_old_errors_are_logged(bench, caplog):
    caplog.set_level("INFO")
    twin, tagger = bench(connect=False, twin_options=LEFT, clock_source="internal")
    tagger.connect()
    for words in (
        "found a record at stage ARMED; stopping it",
        "input 1 had 7 lost time stamps and error 2 (rate above 25 MHz) from before",
        "found DEVIce:SYNC at EXTERNAL, setting INTErnal",
        "found INPUt2:THREshold at -1.2V, setting 1V",
        "found DELAy3:VALUe at 300000TB, setting 0",
    ):
        assert words in caplog.text
    assert twin.is_safe()
    assert twin.ask("RAW1:ERRORS?") == "0"


@pytest.mark.parametrize(("option", "value"), [("clock_source", "internal"), ("resolution", "low")])
def test_the_testbed_says_clock_and_resolution(bench, option, value):
    _, tagger = bench(**{option: value})
    assert tagger.parameters[option]() == value


def test_a_setting_that_is_not_held_is_refused(bench, monkeypatch):
    twin, tagger = bench()
    monkeypatch.setattr(
        twin._scpi,
        "_fitted",
        lambda setting, value: "LOWRES" if setting.header == "DEVIce:RESolution" else value,
    )
    tagger.resolution("low")
    with pytest.raises(InstrumentRefusedError, match="RESolution was set to HIRES and holds LOWRES"):
        tagger.resolution("high")


def test_blocks_that_the_licence_lacks_are_passed_over(bench, monkeypatch):
    twin, tagger = bench(connect=False)
    search = twin._scpi._search
    twin._scpi._find = lambda name, query: search(
        "NONE" if name.startswith(("TSCO", "HIST")) or "HIRES:" in name else name, query
    )
    tagger.connect()
    assert tagger.time_base_ps() == 13


@pytest.mark.parametrize(
    ("known", "reply", "held"),
    [
        (Known("A", "RISIng"), "RISING", True),
        (Known("A", "RISIng"), "risi", True),
        (Known("A", "RISIng"), "FALLING", False),
        (Known("A", "INPUt1"), "INPU1", True),
        (Known("A", 0.1, "V", 1e-3), "0.1V", True),
        (Known("A", 0.1, "V", 1e-3), "100.4mV", True),
        (Known("A", 0.1, "V", 1e-3), "0.102V", False),
        (Known("A", 0.1, "V", 1e-3), "0.1", False),
        (Known("A", 3e12, "TB"), "3000 GTB", True),
        (Known("A", 3e12, "TB"), "3000", False),
        (Known("A", 1.0), "INF", False),
        (Known("A", 1.0), "1", True),
    ],
)
def test_replies_are_compared_with_their_units(known, reply, held):
    assert known.is_held(reply) is held


def test_every_known_setting_is_one_of_the_instrument(bench):
    twin, _ = bench(connect=False)
    for known in known_state("internal", "high", 100.0):
        assert "SCPI_ERR" not in twin.ask(f"{known.header} {known.text}"), known


# Other users of the DataLinkTarget service


def test_acquisitions_of_others_are_left_alone(bench, light):
    twin, tagger = bench(twin_options=LEFT)
    others = set(twin.state()["acquisitions"])
    assert len(others) == 2
    tagger.start_streams([1, 2])
    light.clicks = {1: [13]}
    play(tagger)
    assert len(tagger.read_tags(1)) == 1
    tagger.restart_streams()
    tagger.stop_streams()
    tagger.start_streams([1])
    tagger.safe_state()
    tagger.start_streams([1])
    tagger.close()
    assert set(twin.state()["acquisitions"]) == others


def test_a_channel_that_another_client_acquires_is_an_error_that_names_it(bench):
    twin, tagger = bench()
    other = twin.acquire_elsewhere(2)
    with pytest.raises(InstrumentRefusedError, match=f"channel 2 .*{other}.*did not start") as caught:
        tagger.start_streams([1, 2])
    assert "sole_user" in str(caught.value)
    assert other in twin.state()["acquisitions"]
    tagger.start_streams([1])
    assert set(twin.state()["acquisitions"]) > {other}


def test_a_stream_port_that_another_client_uses_is_an_error_that_names_it(bench):
    twin, tagger = bench()
    other = tagger.dlt.start_stream(twin._host, 3, 4242)  # the port of channel 1
    with pytest.raises(InstrumentRefusedError, match=f"channel 1 cannot be streamed to port 4242.*{other}"):
        tagger.start_streams([1])
    assert list(twin.state()["acquisitions"]) == [other]


def test_own_streams_of_before_the_links_were_opened_again_are_stopped(bench):
    twin, tagger = bench()
    tagger.start_streams([1])
    own = set(twin.state()["acquisitions"])
    tagger.connect()
    tagger.start_streams([1])
    assert own.isdisjoint(twin.state()["acquisitions"])


# Restarts


@pytest.mark.parametrize("service", ["the instrument", "the DataLinkTarget service"])
def test_after_a_reconnect_that_zeromq_made_by_itself_streams_have_to_be_started(bench, light, service):
    twin, tagger = bench()
    tagger.threshold_2_v(0.25)
    tagger.start_streams([1, 2])
    light.clicks = {1: [13], 2: [26]}
    play(tagger)
    if service == "the instrument":
        twin.ask("DEVIce:CONFiguration:LOAD INIT")
        twin.restart("scpi")
    else:
        twin.restart("dlt")
    failures = []
    while not failures:  # the loss is seen as soon as ZeroMQ sees it
        try:
            tagger.read_tags(1)
        except (NotReadyError, LinkBrokenError) as error:
            failures.append(error)
    with pytest.raises(NotReadyError, match="start the streams again"):
        tagger.read_tags(2)
    assert twin.value("INPUt#:THREshold", 2) == 0.25
    assert twin.value("INPUt#:ENABle", 2) == "ON"
    tagger.start_streams([1, 2])
    play(tagger)
    assert tagger.read_tags(2)[:, 0].tolist() == [26]


# Safe within a second


@pytest.mark.parametrize(
    "wait", ["a record's tags", "tags that were lost", "a reply", "the service's reply", "a count"]
)
def test_no_trigger_leaves_within_a_second_while_another_thread_waits(bench, light, wait):
    twin, tagger = bench(timeout_s=20.0, transfer_timeout_s=20.0)
    tagger.start_streams([1])
    light.clicks = {1: np.arange(1000) * 13}
    ended = []
    if wait == "tags that were lost":
        twin.lose_messages = 1
        play(tagger)
    elif wait == "the service's reply":
        play(tagger)
        twin.faults.drop_replies(1)
    light.go.clear()

    def work():
        try:
            if wait == "a record's tags":
                tagger.play_record(DURATION_PS)
                tagger.read_tags(1)
            elif wait == "a reply":
                twin.faults.drop_replies(1)
                tagger.record_playing()
            elif wait == "a count":
                tagger.integration_time_ms(20_000.0)
                tagger.count_rate_1()
            else:
                tagger.read_tags(1)
        except Exception as error:  # noqa: BLE001 - which one is asserted below
            ended.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    time.sleep(0.15)
    begun = time.monotonic()
    tagger.safe_state()
    assert time.monotonic() - begun < 1.0
    assert twin.is_safe()
    assert twin.state()["acquisitions"] == {}
    thread.join(1.0)
    assert isinstance(ended[0], PreemptedError), ended
    light.go.set()
    assert tagger.record_playing() is False


def test_a_driver_that_was_never_connected_makes_safe(bench):
    twin, tagger = bench(connect=False, twin_options=LEFT)
    twin.ask("REC:PLAY")
    assert not twin.is_safe()
    others = set(twin.state()["acquisitions"])
    begun = time.monotonic()
    tagger.safe_state()
    tagger.safe_state()
    assert time.monotonic() - begun < 1.0
    assert twin.is_safe()
    assert set(twin.state()["acquisitions"]) == others


def test_a_record_that_does_not_stop_is_not_called_safe(bench, light, monkeypatch):
    twin, tagger = bench()
    light.go.clear()
    tagger.play_record(DURATION_PS)
    monkeypatch.setattr(type(twin._scpi), "stage", "PLAYING")
    with pytest.raises(NotReadyError, match="at stage PLAYING after REC:STOP"):
        tagger.safe_state()


@pytest.mark.parametrize("nonsense", [b"", b"garbage", b"0", b"PLAY ING"])
def test_a_stage_that_is_none_is_neither_playing_nor_safe(bench, light, monkeypatch, nonsense):
    twin, tagger = bench()
    light.go.clear()
    tagger.play_record(DURATION_PS)
    answer = twin.faults.reply
    monkeypatch.setattr(twin.faults, "reply", lambda data: nonsense if data == b"PLAYING" else answer(data))
    with pytest.raises(MalformedReplyError, match="REC:STAGe"):
        tagger.record_playing()
    monkeypatch.setattr(
        twin.faults, "reply", lambda data: nonsense if data in (b"PLAYING", b"STOPPED") else answer(data)
    )
    with pytest.raises(MalformedReplyError, match="REC:STAGe"):
        tagger.safe_state()
    assert twin.is_safe()


def test_a_stop_button_while_tags_are_read_or_a_record_starts_voids_the_streams(bench, light, monkeypatch):
    _, tagger = bench()
    ask = RequestLink._ask

    def stop(*_, **__):
        raise KeyboardInterrupt

    def stop_at_play(link, command, *others):
        return stop() if "PLAY" in command else ask(link, command, *others)

    for place, stopping, use in (
        ("drivers.timetaggers.tag_stream.TagStream._receive", stop, lambda: tagger.read_tags(1)),
        (
            "drivers.links.zmq_reqrep.RequestLink._ask",
            stop_at_play,
            lambda: tagger.play_record(DURATION_PS),
        ),
    ):
        tagger.start_streams([1])
        light.clicks = {1: [13, 26]}
        play(tagger)
        with monkeypatch.context() as stopped:
            stopped.setattr(place, stopping)
            with pytest.raises(KeyboardInterrupt):
                use()
        with pytest.raises(NotReadyError, match="start the streams again"):
            tagger.read_tags(1)
    tagger.start_streams([1])
    play(tagger)
    assert tagger.read_tags(1)[:, 0].tolist() == [13, 26]


def test_a_dead_service_does_not_keep_the_record_going(bench, light, caplog):
    twin, tagger = bench(timeout_s=0.3)
    tagger.start_streams([1])
    light.go.clear()
    tagger.play_record(DURATION_PS)
    tagger.dlt.link.close()
    tagger.dlt.link.port = 1
    tagger.safe_state()
    assert twin.is_safe()
    assert "streams are not stopped" in caplog.text
    tagger.dlt.link.port = int(twin.dlt_address.partition(":")[2])


# For people


def test_thresholds_of_single_inputs(bench):
    twin, tagger = bench()
    tagger.threshold_3_v(np.float32(-0.125))
    tagger.threshold_start_v(0.5)
    assert twin.state()["thresholds_v"] == {0: 0.5, 1: 0.1, 2: 0.1, 3: -0.125, 4: 0.1}
    assert tagger.threshold_3_v() == -0.125
    with pytest.raises(LimitError, match="V"):
        tagger.threshold_3_v(2.1)


def test_count_rates(bench):
    rates = {1: 1e5, 2: 2e4}
    _, tagger = bench(connect=False, twin_options={"input_rates": lambda: rates}, integration_ms=10.0)
    tagger.connect()
    assert tagger.count_rate_1() == 0.0  # disabled
    tagger.ask("INPU1:ENAB ON")
    assert tagger.count_rate_1() == pytest.approx(1e5)  # the counter cycles
    tagger.configure([1, 2], 0.1)  # it accumulates
    assert tagger.count_rate_1() == pytest.approx(1e5, rel=0.2)
    assert tagger.integration_time_ms() == 10
    tagger.integration_time_ms(np.int64(20))
    assert tagger.ask("INPU4:COUN:INTE?") == "20"


def test_units_of_a_firmware_that_counts_in_nanoseconds(bench):
    twin, tagger = bench(connect=False, counter_unit_ms=1e-3, integration_ms=10.0)
    tagger.connect()
    assert twin.value("INPUt#:COUNter:INTEgrationtime", 1) == 10_000.0
    assert tagger.integration_time_ms() == pytest.approx(10.0)


def test_histograms_have_a_time_axis(bench, light):
    _, tagger = bench(twin_options=LEFT)
    tagger.histogram_2_bin_width_ps(130)
    tagger.histogram_2_bin_count(np.int64(20))
    tagger.histogram_2_begin_ps(1300)
    light.clicks = {2: [1300, 1430, 1431, 1300 + 130 * 19, 1300 + 130 * 20, 0]}
    play(tagger)
    play(tagger)
    counts = tagger.histogram_2()
    assert counts.dtype == np.int64
    assert counts.tolist() == [2, 4, *([0] * 17), 2]
    times = tagger.histogram_2.setpoints[0]
    assert times.unit == "ns"
    np.testing.assert_allclose(times()[:2], [1.365, 1.495])
    assert tagger.histogram_1().sum() == 0  # what somebody left in it is gone
    tagger.flush_histogram(2)
    assert tagger.histogram_2().sum() == 0
    tagger.histogram_2_bin_width_ps(100.0)
    assert tagger.histogram_2_bin_width_ps() == 104  # the nearest multiple of the resolution


def test_a_reading_that_is_late_is_not_the_next_ones(bench):
    twin, tagger = bench(timeout_s=0.2)
    twin.faults.delay_s = 0.3
    with pytest.raises(LinkTimeoutError):
        tagger.counts_1()
    twin.faults.delay_s = 0.0
    tagger.link.timeout_s = 5.0
    assert tagger.clock_source() == "external"
