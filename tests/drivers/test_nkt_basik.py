"""The BASIK driver against its twin on a real pseudo-terminal."""

import math
import os
import threading

import pytest

from drivers.base import Identity
from drivers.lasers.nkt_basik import NKTBasik
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
from drivers.links.interbus import MessageType, Telegram, TelegramReader, encode
from sim_backends.lasers.nkt_basik import NKTBasikTwin


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def light():
    return []


@pytest.fixture
def bench(light):
    """Builds (twin, connected driver) pairs and closes them."""
    opened = []

    def build(*, connect=True, resends=2, timeout_s=0.1, driver_options=None, **twin_options):
        twin = NKTBasikTwin(on_output=lambda power_w, nm: light.append((power_w, nm)), **twin_options)
        laser = NKTBasik(
            "laser", twin.serve(), timeout_s=timeout_s, resends=resends, **(driver_options or {})
        )
        opened.extend((laser, twin))
        if connect:
            laser.connect()
        return twin, laser

    yield build
    for item in opened:
        item.close()


def test_identity(bench):
    _, laser = bench(connect=False)
    assert laser.connect() == Identity("NKT Photonics", "Koheras BASIK K1x2", "SIM00001", "01.07")
    assert laser.get_idn()["model"] == "Koheras BASIK K1x2"


def test_settings_reach_the_light(bench, light):
    twin, laser = bench(wavelength_nm=1550.12)
    laser.power_mw(12.34)
    assert light == []  # setting the power makes no light
    laser.emission(True)
    laser.wavelength_offset_pm(-100.5)
    assert light == [(pytest.approx(0.01234), 1550.12), (pytest.approx(0.01234), pytest.approx(1550.0195))]
    assert laser.power_mw() == 12.34
    assert laser.power_readout_mw() == 12.34
    assert laser.wavelength_offset_pm() == -100.5
    assert laser.wavelength_nm() == pytest.approx(1550.0195)
    assert laser.temperature_c() == 25.4
    assert laser.supply_voltage_v() == 12.04
    assert laser.status_flags() == ["emission", "wavelength stabilized"]
    assert laser.error_code() == 0
    laser.safe_state()
    laser.safe_state()
    assert light[-1][0] == 0.0
    assert twin.state()["emission"] is False


@pytest.mark.parametrize("power_mw", [-0.01, 50.01, math.nan, math.inf])
def test_power_outside_the_hard_limit_is_not_sent(bench, power_mw):
    twin, laser = bench(driver_options={"max_power_mw": 50.0})
    before = twin.state()["requests"]
    with pytest.raises(LimitError, match="mW"):
        laser.power_mw(power_mw)
    assert twin.state()["requests"] == before


def test_module_refuses_what_it_cannot_do(bench):
    twin, laser = bench(max_power_mw=20.0)
    laser.power_mw(5.0)
    with pytest.raises(InstrumentRefusedError, match="0x22"):
        laser.power_mw(30.0)
    assert laser.power_mw() == 5.0
    assert twin.state()["power_mw"] == 5.0


def test_interlock_stops_light_and_keeps_it_off(bench, light):
    twin, laser = bench()
    laser.emission(True)
    twin.set_interlock(False)
    assert light[-1][0] == 0.0
    with pytest.raises(InstrumentRefusedError):
        laser.emission(True)
    with pytest.raises(NotReadyError, match="interlock"):
        laser.check_emitting()
    twin.set_interlock(True)
    assert laser.emission() is False


def test_light_comes_after_the_emission_delay(bench, light):
    clock = Clock()
    twin, laser = bench(emission_delay_s=30.0, clock=clock)
    laser.emission(True)
    assert light == []
    assert "waiting for temperature" in laser.status_flags()
    assert laser.power_readout_mw() == 0.0
    with pytest.raises(NotReadyError):
        laser.check_emitting()
    clock.now += 30.0
    twin.tick()
    assert light[0][0] > 0
    laser.check_emitting()


def test_lost_requests_are_sent_again(bench):
    twin, laser = bench(timeout_s=0.05, resends=4, drop_every=5)
    for _ in range(12):
        assert laser.power_mw() == 10.0
    assert laser.resend_count() >= 3
    assert twin.state()["requests"] > 12 + laser.resend_count()


def test_resends_are_bounded(bench):
    twin, laser = bench(timeout_s=0.05, resends=3)
    before = twin.state()["requests"]
    twin.faults.drop_replies(100)
    with pytest.raises(LinkTimeoutError, match="4 requests"):
        laser.power_mw()
    assert twin.state()["requests"] == before + 4
    twin.faults.drop_replies(0)
    assert laser.power_mw() == 10.0


def test_late_answer_is_not_taken_for_the_next(bench):
    """A reply that comes after its time-out carries the old source address and is passed over."""
    twin, laser = bench(timeout_s=0.2, resends=0)
    laser.power_mw(7.0)
    twin.faults.delay_s = 0.3
    with pytest.raises(LinkTimeoutError):
        laser.power_mw()
    twin.faults.delay_s = 0.0
    assert laser.temperature_c() == 25.4
    assert laser.power_mw() == 7.0


@pytest.fixture
def scripted():
    """Builds a driver whose laser answers each telegram by the telegrams that a function of it returns."""
    master, slave = os.openpty()
    laser = NKTBasik("scripted", os.ttyname(slave), timeout_s=1.0, resends=0)
    laser.link.bring_up = None
    threads = []

    def build(*answers):
        def run():
            reader = TelegramReader()
            for answer in answers:
                requests = []
                while not requests:
                    requests = reader.feed(os.read(master, 4096))
                for telegram in answer(requests[0]):
                    os.write(master, encode(telegram))

        threads.append(threading.Thread(target=run, daemon=True))
        threads[-1].start()
        laser.link.open()
        return laser

    yield build
    laser.close()
    for thread in threads:
        thread.join(timeout=5)
    os.close(master)
    os.close(slave)


def power(request, centimilliwatt):
    """The answer to a read of the power setpoint."""
    data = centimilliwatt.to_bytes(2, "little")
    return Telegram(request.source, 1, MessageType.DATAGRAM, request.register, data)


def test_an_old_answer_to_the_same_question_is_passed_over(scripted):
    """The second answer to the first request, which was sent twice, comes when the next one is waited for."""
    late = []

    def first(request):
        late.append(power(request, 100))
        return late

    laser = scripted(first, lambda request: [*late, power(request, 250)])
    assert laser.power_mw() == 1.0
    assert laser.power_mw() == 2.5


def test_a_value_that_the_module_clips_is_an_error(scripted):
    laser = scripted(
        lambda request: [Telegram(request.source, 1, MessageType.ACK, request.register)],
        lambda request: [power(request, 800)],
    )
    with pytest.raises(InstrumentRefusedError, match="it holds 2003"):
        laser.power_mw(10.0)


def test_registers_of_another_size_are_refused(scripted):
    laser = scripted(
        lambda request: [Telegram(request.source, 1, MessageType.DATAGRAM, request.register, b"\x01")]
    )
    with pytest.raises(MalformedReplyError, match="1 bytes"):
        laser.power_mw()


def test_a_busy_module_is_asked_again(scripted):
    laser = scripted(
        lambda request: [Telegram(request.source, 1, MessageType.BUSY, request.register)],
        lambda request: [power(request, 300)],
    )
    laser._bus._resends = 1
    assert laser.power_mw() == 3.0


def test_garbage_is_survived_by_a_resend_or_reported(bench):
    twin, laser = bench(timeout_s=0.2, resends=1)
    twin.faults.garbage(1)
    assert laser.power_mw() == 10.0
    twin.faults.garbage(2)
    with pytest.raises(MalformedReplyError):
        laser.power_mw()
    assert laser.power_mw() == 10.0


def test_absent_module_is_silence(bench):
    _, laser = bench(connect=False, module=7, timeout_s=0.02)
    with pytest.raises(LinkTimeoutError, match="module 1"):
        laser.connect()
    with pytest.raises(LinkClosedError):
        laser.power_mw()


def test_other_modules_are_refused(bench):
    _, laser = bench(connect=False, module_type=0x70)
    with pytest.raises(WrongInstrumentError, match="0x70"):
        laser.connect()


def test_silent_line():
    master, slave = os.openpty()
    laser = NKTBasik("laser", os.ttyname(slave), timeout_s=0.02, resends=1)
    try:
        with pytest.raises(LinkTimeoutError):
            laser.connect()
    finally:
        laser.close()
        os.close(master)
        os.close(slave)


def test_no_such_port(tmp_path):
    laser = NKTBasik("laser", str(tmp_path / "none"))
    with pytest.raises(LinkBrokenError, match="cannot open"):
        laser.connect()
    laser.close()


def test_after_a_broken_line_passive_settings_return_and_light_does_not(bench, light):
    twin, laser = bench()
    laser.power_mw(33.0)
    laser.wavelength_offset_pm(12.5)
    laser.emission(True)
    twin.faults.disconnect()
    with pytest.raises(LinkBrokenError):
        laser.power_mw()
    other = NKTBasik("other", laser.address, timeout_s=0.1)  # somebody changes the laser meanwhile
    other.connect()
    assert other.emission() is True  # a first connection leaves the laser as it is
    other.power_mw(1.0)
    other.close()
    assert laser.emission() is False
    assert light[-1][0] == 0.0
    assert laser.power_mw() == 33.0
    assert laser.wavelength_offset_pm() == 12.5


def test_error_code_is_named(bench):
    twin, laser = bench()
    twin.faults.latched_error = "8"
    assert "error code present" in laser.status_flags()
    with pytest.raises(NotReadyError, match="module disabled"):
        laser.check_emitting()


def test_snapshot_holds_settings(bench):
    _, laser = bench()
    laser.power_mw(3.0)
    assert laser.snapshot()["parameters"]["power_mw"]["value"] == 3.0
