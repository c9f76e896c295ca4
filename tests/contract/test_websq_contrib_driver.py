"""The WebSQ twin as Single Quantum's own QCoDeS driver (qcodes_contrib_drivers) uses it."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from qcodes_contrib_drivers.drivers.SingleQuantum.SingleQuantum import WebSQControlqcode

from sim_backends.detectors.websq import WebSQTwin

RATES_HZ = [1000.0, 2000.0, 3000.0]


@pytest.fixture(params=[False, True], ids=["fresh", "left by someone"])
def twin(request: pytest.FixtureRequest) -> Iterator[WebSQTwin]:
    """On an address of its own: the driver knows no other port for counts than 12345."""
    served = WebSQTwin(
        3,
        count_rates=lambda: RATES_HZ,
        measurement_period_ms=10.0,
        control_port=0,
        calibration_s=0.1,
        left_by_someone=request.param,
    )
    pick = random.SystemRandom().randint
    served.address = served.serve(f"127.{pick(1, 250)}.{pick(1, 250)}.{pick(1, 250)}")  # type: ignore[attr-defined]
    yield served
    served.close()


@pytest.fixture
def driver(twin: WebSQTwin) -> Iterator[WebSQControlqcode]:
    host, port = twin.address.split(":")  # type: ignore[attr-defined]
    instrument = WebSQControlqcode("contrib", host, int(port))
    yield instrument
    talk, counts = instrument.comm.talk, instrument.comm.cnts
    talk.shutdown = counts.shutdown = True  # its threads look at this only after they heard something
    talk.send(json.dumps({"request": "labelProps", "value": "None"}))
    for thread in (talk, counts):
        thread.join(timeout=5)
        assert not thread.is_alive()
        thread.close()
    instrument.close()


def soon(condition: Callable[[], bool]) -> None:
    """The driver learns of a change when the controller broadcasts it."""
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "the change was never broadcast"
        time.sleep(0.005)


def test_settings_come_back_by_broadcast(driver: WebSQControlqcode, twin: WebSQTwin) -> None:
    assert driver.number_of_detectors() == 3
    driver.bias_current([1.0, 2.0, 3.0])
    driver.trigger_level([-10.0, 20.0, 30.0])
    driver.measurement_periode(20.0)
    soon(lambda: driver.bias_current() == [1.0, 2.0, 3.0])
    soon(lambda: driver.comm.get_trigger_level() == [-10.0, 20.0, 30.0])
    soon(lambda: driver.measurement_periode() == 20.0)
    assert twin.state()["BiasCurrent"] == [1.0, 2.0, 3.0]


def test_counts_of_biased_detectors(driver: WebSQControlqcode, twin: WebSQTwin) -> None:
    driver.comm.enable_detectors(True)
    soon(lambda: twin.state()["DetectorEnable"] is True)
    driver.comm.cnts.get_n(1)  # a line that was on its way
    driver.npts(3)
    driver.counters()
    for channel, rate in enumerate(RATES_HZ, 1):
        np.testing.assert_array_equal(driver.parameters[f"channel{channel}"](), [rate / 100] * 3)
    assert np.all(np.diff(driver.timing()) > 0)
    driver.comm.enable_detectors(False)
    soon(twin.is_safe)


def test_a_value_beyond_the_controller_is_an_error_message(driver: WebSQControlqcode) -> None:
    heard: list[object] = []
    before = driver.bias_current()
    driver.comm.talk.error_callback = heard.append
    driver.bias_current([99.0, 2.0, 3.0])
    soon(lambda: any("not accepted" in str(each) for each in heard))
    assert driver.bias_current() == before


def test_the_automatic_calibration_of_the_bias(driver: WebSQControlqcode) -> None:
    driver.comm.set_dark_counts_auto_iv([100.0, 100.0, 100.0])
    driver.comm.auto_cali_bias_currents()
    soon(lambda: all(driver.comm.talk.get_label("BiasCurrentAutoIV")["value"]))
    soon(driver.comm.auto_cali_finished)
    assert len(driver.comm.talk.get_label("BiasCurrentAutoIV")["value"]) == 3


def test_a_bias_voltage_follows_the_bias(driver: WebSQControlqcode, twin: WebSQTwin) -> None:
    driver.bias_current([1.0, 2.0, 3.0])
    driver.comm.enable_detectors(True)
    soon(lambda: twin.state()["DetectorEnable"] is True)
    soon(lambda: driver.bias_voltage()[2] > driver.bias_voltage()[0] > 0)
