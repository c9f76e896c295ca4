"""The WebSQ driver beside others: what somebody left in the controller, what its interface does meanwhile, and making
it safe while another thread waits."""

import json
import logging
import threading
import time
from contextlib import suppress

import numpy as np
import pytest
from websq_pairs import websq_pairs

from drivers.links.errors import (
    InstrumentRefusedError,
    LimitError,
    LinkError,
    LinkTimeoutError,
    MalformedReplyError,
    NotReadyError,
)


@pytest.fixture
def bench():
    """Builds (twin, driver) pairs on free ports and closes them."""
    with websq_pairs() as pairs:

        def build(*, connect=True, max_bias_ua=25.0, timeout_s=0.5, settle_s=0.3, **twin_options):
            driver = {"max_bias_ua": max_bias_ua, "timeout_s": timeout_s, "settle_s": settle_s}
            return pairs(connect, driver, **twin_options)

        yield build


# What was stored


@pytest.mark.parametrize(
    ("label", "stored", "why"),
    [
        ("NumberOfDetectors", 10**9, "BiasCurrent holds 2 numbers for 1000000000 detectors"),
        ("TriggerLevel", [10.0], "TriggerLevel holds 1 numbers for 2 detectors"),
        ("TriggerLevel", ["1,5", "1,5"], "TriggerLevel holds '1,5', not a number"),
        ("BiasCurrent", [10**400, 1.0], "BiasCurrent holds '1000.*, not a number"),
        ("BiasCurrent", [None, 1.0], "BiasCurrent holds 'None', not a number"),
    ],
)
def test_labels_that_make_no_sense_are_refused_at_once(bench, label, stored, why):
    twin, snspd = bench(connect=False)
    twin._values[label] = stored
    with pytest.raises(MalformedReplyError, match=why):
        snspd.connect()


def test_a_voltage_is_read_for_each_detector_or_none(bench):
    twin, snspd = bench()
    twin._values["BiasVoltage"] = [1.0]
    with pytest.raises(MalformedReplyError, match="BiasVoltage holds 1 numbers for 2 detectors"):
        snspd.bias_voltage_mv()


def test_what_may_be_a_scan_is_stopped_when_it_is_made_safe(bench):
    twin, snspd = bench()
    twin._values["IVScanEnable"] = "running"
    with suppress(MalformedReplyError):  # it was not told that it had stopped before
        snspd.safe_state()
    assert twin.state()["IVScanEnable"] is False


@pytest.mark.parametrize(
    ("label", "stored", "mend"),
    [
        ("BiasCurrent", [80.0, 10.0], lambda snspd: snspd.bias_current_ua([20.0, 20.0])),
        ("BiasCurrent", [10.0, -25.2], lambda snspd: snspd.ch2.bias_current_ua(-25.0)),
        ("TriggerLevel", [10.0, 1200.0], lambda snspd: snspd.trigger_level_mv([10.0, 900.0])),
    ],
)
def test_stored_values_beyond_the_limits_are_not_switched_on(bench, label, stored, mend):
    twin, snspd = bench()
    twin.press_dial(label, stored)
    with pytest.raises(LimitError, match=f"{label} of detector . at .*set allowed values"):
        snspd.enabled(True)
    assert twin.is_safe()
    mend(snspd)
    snspd.enabled(True)
    assert twin.state()["DetectorEnable"] is True


def test_detectors_found_biased_beyond_the_limits_are_switched_off(bench, caplog):
    twin, snspd = bench(connect=False, left_by_someone=True)
    assert not twin.is_safe()
    snspd.connect()
    assert twin.is_safe()
    assert "BiasCurrent of detector 1 at 80 uA (limit 25 uA)" in caplog.text
    with pytest.raises(LimitError, match=r"detector 2 at 32\.5 uA"):
        snspd.enabled(True)


def test_detectors_found_biased_within_the_limits_stay_on(bench):
    twin, snspd = bench(connect=False, left_by_someone=True, max_bias_ua=90.0)
    snspd.connect()
    assert snspd.enabled() is True
    assert twin.state()["DetectorEnable"] is True


def test_after_a_silence_detectors_are_off_and_levels_as_they_were(bench):
    twin, snspd = bench()
    snspd.trigger_level_mv([50.0, 60.0])
    snspd.bias_current_ua([10.0, 10.0])
    snspd.enabled(True)
    twin.faults.drop_replies(1)
    with pytest.raises(LinkTimeoutError):
        snspd.bias_current_ua()
    twin.press_dial("TriggerLevel", [0.0, 0.0])
    assert snspd.trigger_level_mv() == [50.0, 60.0]
    assert twin.is_safe()


# What the vendor's interface does


@pytest.mark.parametrize("label", ["StartAutoIV", "IVScanEnable"])
def test_a_running_scan_is_refused_in_words(bench, label):
    twin, snspd = bench()
    twin.press_dial(label, True)
    for change in (
        lambda: snspd.enabled(True),
        lambda: snspd.bias_current_ua([1.0, 1.0]),
        lambda: snspd.ch1.trigger_level_mv(5.0),
        snspd.connect,
    ):
        with pytest.raises(NotReadyError, match=f"{label} shows .* vendor's interface"):
            change()
    twin.press_dial(label, False)
    snspd.connect()
    snspd.enabled(True)


def test_a_calibration_by_another_client_is_stopped_for_safety_only(bench):
    twin, snspd = bench(calibration_s=60.0)
    snspd.write('{"command": "AutoCaliBiasCurrents", "label": "StartAutoIV", "value": true}')
    while twin.state()["StartAutoIV"] is not True:
        time.sleep(0.001)
    with pytest.raises(NotReadyError, match="AutoCaliBiasCurrents"):
        snspd.enabled(True)
    assert twin.state()["DetectorEnable"] is True
    snspd.safe_state()
    assert twin.is_safe()
    assert twin.state()["StartAutoIV"] is False


def test_errors_of_others_are_logged_and_charged_to_nobody(bench, caplog):
    twin, snspd = bench(connect=False, left_by_someone=True)
    snspd.connect()
    assert caplog.text.count("reports Error: Detector 2 latched") == 1
    twin.report_error("helium low")
    twin.press_dial("BiasVoltage", [1.0, 2.0])
    snspd.bias_current_ua([10.0, 12.0])
    late = threading.Timer(0.02, twin.report_error, args=("late",))
    late.start()
    for _ in range(20):
        snspd.trigger_level_mv([5.0, 6.0])
    late.join()
    assert snspd.trigger_level_mv() == [5.0, 6.0]
    assert "helium low" in caplog.text
    assert "reports Error: late" in caplog.text


def test_a_refusal_quotes_what_the_controller_said(bench):
    twin, snspd = bench(settle_s=0.1)
    twin.report_error("old")
    twin.faults.latched_error = "cryostat warm"
    with pytest.raises(
        InstrumentRefusedError, match=r"shows False after 0\.1 s; meanwhile .*'cryostat warm'"
    ):
        snspd.enabled(True)


def test_two_answers_to_one_request_are_never_used(bench):
    twin, snspd = bench()
    twin.answers = 2
    for current in (1.0, 2.0, 3.0, 4.0, 5.0):
        twin.press_dial("BiasCurrent", [current, current])
        with suppress(MalformedReplyError):
            assert snspd.bias_current_ua() == [current, current]
    twin.answers = 1
    assert snspd.bias_current_ua() == [5.0, 5.0]


def test_a_change_that_is_told_in_two_pieces_does_not_damage_the_next_answer(bench):
    twin, snspd = bench()
    message = b'{"label": "BiasCurrent", "value": [3.0, 4.0]}\x17'
    for client in twin._clients:
        client.connection.sendall(message[:20])
    time.sleep(0.02)
    threading.Timer(0.05, lambda: [c.connection.sendall(message[20:]) for c in twin._clients]).start()
    time.sleep(0.1)
    assert snspd.bias_current_ua() == [0.0, 0.0]


def test_a_burst_that_pauses_is_awaited(bench, monkeypatch):
    """A slow network delivers the labels of one answer in two pieces."""
    twin, snspd = bench(connect=False)
    send = twin._send

    def in_two_pieces(clients, data):
        cut = data.find(b"DetectorEnable") - 20
        send(clients, data[:cut])
        time.sleep(0.12)
        send(clients, data[cut:])

    monkeypatch.setattr(twin, "_send", in_two_pieces)
    snspd.connect()
    assert snspd.enabled() is False


# Safe within a second


def waits_for_a_setting(twin, snspd):
    twin.ignores = {"SetAllTriggerLevels"}
    snspd.trigger_level_mv([77.0, 77.0])


def waits_for_counts(twin, snspd):
    snspd.count_rates()


def waits_for_a_reply(twin, snspd):
    twin.faults.drop_replies(1)
    snspd.bias_current_ua()


@pytest.mark.parametrize("wait", [waits_for_a_setting, waits_for_counts, waits_for_a_reply])
def test_bias_is_off_within_a_second_while_another_thread_waits(bench, wait):
    twin, snspd = bench(timeout_s=20.0, settle_s=20.0, measurement_period_ms=10_000.0)
    snspd.bias_current_ua([10.0, 10.0])
    snspd.enabled(True)
    ended = []

    def work():
        with pytest.raises(Exception) as caught:  # noqa: PT011 - which one is asserted below
            wait(twin, snspd)
        ended.append(caught.value)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    time.sleep(0.1)
    begun = time.monotonic()
    snspd.safe_state()
    assert time.monotonic() - begun < 1.0
    assert twin.is_safe()
    if wait is not waits_for_counts:
        thread.join(1.0)
        assert "made safe meanwhile" in str(ended[0])
    assert snspd.enabled() is False


def test_a_driver_that_was_never_connected_makes_safe(bench):
    twin, snspd = bench(connect=False, left_by_someone=True)
    begun = time.monotonic()
    snspd.safe_state()
    snspd.safe_state()
    assert time.monotonic() - begun < 1.0
    assert twin.is_safe()


def test_a_controller_that_stays_on_is_not_called_safe(bench):
    twin, snspd = bench()
    snspd.enabled(True)
    twin.ignores = {"DetectorEnable"}
    with pytest.raises(NotReadyError, match="cut the controller's power"):
        snspd.safe_state()


# For people


def test_each_detector_is_a_channel(bench):
    rates = [1000.0, 2000.0, 3000.0]
    twin, snspd = bench(n_detectors=3, count_rates=lambda: rates)
    snspd.bias_current_ua(np.array([10.0, 11.0, 12.0], dtype=np.float32))
    snspd.ch2.bias_current_ua(np.int64(5))
    snspd.ch3.trigger_level_mv(np.float32(0.25e3))
    assert twin.state()["BiasCurrent"] == [10.0, 5.0, 12.0]
    assert snspd.ch3.trigger_level_mv() == 250.0
    snspd.enabled(np.bool_(True))
    assert [channel.count_rate() for channel in (snspd.ch1, snspd.ch2, snspd.ch3)] == rates
    with pytest.raises(LimitError, match=r"25.1 uA"):
        snspd.ch1.bias_current_ua(25.1)
    assert snspd.ch1.bias_current_ua.unit == "uA"


def test_channels_follow_the_controller(bench):
    twin, snspd = bench(n_detectors=2)
    first = snspd.ch1
    snspd.connect()
    assert snspd.ch1 is first
    twin._n = 1
    for label in ("BiasCurrent", "TriggerLevel", "BiasVoltage"):
        twin._values[label] = [0.0]
    twin._values["NumberOfDetectors"] = 1
    snspd.connect()
    assert list(snspd.submodules) == ["ch1"]
    assert snspd.snapshot(update=True)["submodules"]["ch1"]["parameters"]["bias_current_ua"]["value"] == 0.0


def test_free_text_is_json(bench):
    _, snspd = bench()
    assert json.loads(snspd.ask('{"request": "BiasVoltage"}')) == {
        "label": "BiasVoltage",
        "value": [0.0, 0.0],
    }
    labels = json.loads(snspd.ask('{"request": "labelProps", "value": "None"}'))
    assert {"label": "NumberOfDetectors", "value": {"value": 2}} in labels
    said = snspd.ask('{"command": "SetAllBiasCurrents", "label": "BiasCurrent", "value": [1, 2]}')
    assert json.loads(said)["value"] == [1.0, 2.0]
    assert "not accepted" in snspd.ask(
        '{"command": "SetAllBiasCurrents", "label": "BiasCurrent", "value": 3}'
    )
    with pytest.raises(LimitError, match=r"snspd0 at .* is no JSON object"):
        snspd.ask("enabled?")
    with pytest.raises(LinkTimeoutError):
        snspd.ask('{"request": "Nonsense"}')
    assert snspd.bias_current_ua() == [1.0, 2.0]


def test_a_snapshot_names_what_there_is(bench, caplog):
    caplog.set_level(logging.ERROR)
    _, snspd = bench()
    snapshot = snspd.snapshot(update=True)
    assert snapshot["parameters"]["IDN"]["value"]["model"] == "WebSQ"
    assert snapshot["parameters"]["measurement_period_ms"]["value"] == 10.0
    assert (
        snapshot["parameters"]["count_rates"].get("value") is None
    )  # a count takes two periods and is not made for it
    assert caplog.text == ""


# Before connect()


def test_the_first_use_of_a_channel_connects(bench):
    _, snspd = bench(connect=False)
    assert snspd.ch2.bias_current_ua() == 0.0
    assert snspd.identity is not None
    with pytest.raises(AttributeError, match="ch9"):
        snspd.ch9  # noqa: B018 - asking for it is the point


def test_a_channel_of_a_controller_that_does_not_answer_is_a_link_error(bench):
    twin, snspd = bench(connect=False)
    twin.close()
    with pytest.raises(LinkError, match="snspd0 at 127"):
        snspd.ch1  # noqa: B018 - asking for it is the point
    assert not hasattr(snspd, "chapter")
