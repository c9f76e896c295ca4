"""The BASIK driver against its twin on a real pseudo-terminal."""

import math
import os
import struct
import threading
import time

import numpy as np
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
    PreemptedError,
    WrongInstrumentError,
)
from drivers.links.interbus import MessageType, Telegram, TelegramReader, encode
from sim_backends.faults import FaultInjector
from sim_backends.lasers.nkt_basik import NKTBasikTwin
from sim_backends.serial_server import PtyServer


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


@pytest.fixture(params=[{}, {"left_by_someone": True}], ids=["fresh", "left by someone"])
def found(request):
    """How the twin is found."""
    return request.param


def test_identity(bench):
    _, laser = bench(connect=False)
    assert laser.connect() == Identity("NKT Photonics", "Koheras BASIK K1x2", "SIM00001", "01.07")
    assert laser.get_idn()["model"] == "Koheras BASIK K1x2"


def test_settings_reach_the_light(bench, light, found):
    twin, laser = bench(wavelength_nm=1550.12, **found)
    laser.wavelength_offset_pm(0.0)
    light.clear()
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


def test_module_refuses_what_it_cannot_do(bench, found):
    twin, laser = bench(max_power_mw=20.0, **found)
    laser.power_mw(5.0)
    with pytest.raises(InstrumentRefusedError, match="0x22"):
        laser.power_mw(30.0)
    assert laser.power_mw() == 5.0
    assert twin.state()["power_mw"] == 5.0


def test_interlock_stops_light_and_keeps_it_off(bench, light, found):
    twin, laser = bench(**found)
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


def test_late_answer_is_not_taken_for_the_next(bench, found):
    """A reply that comes after its time-out carries the old source address and is passed over."""
    twin, laser = bench(timeout_s=0.2, resends=0, **found)
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
        laser.link.bring_up = None  # the script has no answers to that
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


def test_after_a_broken_line_passive_settings_return_and_light_does_not(bench, light, found):
    twin, laser = bench(**found)
    laser.power_mw(33.0)
    laser.wavelength_offset_pm(12.5)
    laser.emission(True)
    twin.faults.disconnect()
    with pytest.raises(LinkBrokenError):
        laser.power_mw()
    laser.disconnect()
    with pytest.raises(LinkClosedError, match="connect"):
        laser.power_mw()
    other = NKTBasik("other", laser.address, timeout_s=0.1)  # somebody changes the laser meanwhile
    other.connect()
    assert other.emission() is True  # a first connection leaves the laser as it is
    other.power_mw(1.0)
    other.close()
    laser.connect()
    assert laser.emission() is False
    assert light[-1][0] == 0.0
    assert laser.power_mw() == 33.0
    assert laser.wavelength_offset_pm() == 12.5


def test_error_code_is_named(bench, found):
    twin, laser = bench(**found)
    twin.faults.latched_error = "8"
    assert "error code present" in laser.status_flags()
    with pytest.raises(NotReadyError, match="module disabled"):
        laser.check_emitting()


def test_snapshot_holds_settings(bench):
    _, laser = bench()
    laser.power_mw(3.0)
    assert laser.snapshot()["parameters"]["power_mw"]["value"] == 3.0


class Module:
    """A module that is nothing but its registers, on a line that others may disturb."""

    def __init__(self, registers, address=1):
        self.registers, self.address, self.writes = dict(registers), address, []
        self._reader = TelegramReader()
        self._server = PtyServer(self._receive, FaultInjector(), on_tick=self._disturb, tick_s=0.01)
        self.noise = b""
        self.path = self._server.serve()
        self.close = self._server.close

    def _receive(self, data):
        for item in self._reader.feed(data):
            if isinstance(item, Telegram) and item.destination == self.address:
                self._server.send(encode(self._answer(item)))

    def _answer(self, item):
        kind, data = MessageType.NACK, b""
        if item.register in self.registers:
            if item.kind == MessageType.READ:
                kind, data = MessageType.DATAGRAM, self.registers[item.register]
            else:
                kind, self.registers[item.register] = MessageType.ACK, item.data
                self.writes.append((item.register, item.data))
        return Telegram(item.source, item.destination, kind, item.register, data)

    def _disturb(self):
        if self.noise:
            self._server.send(self.noise)


K1X2 = {
    0x22: struct.pack("<H", 200), 0x2A: bytes(2), 0x30: bytes(1), 0x31: bytes(2), 0x61: b"\x33", 0x64: b"\x07\x01",
    0x65: b"00000001", 0x66: b"\x00\x00", 0x67: b"\x00", 0xA0: struct.pack("<h", 301), 0xB5: b"\x00", 0xB6: b"\x00",
}  # fmt: skip
K80 = {
    0x11: struct.pack("<H", 25000), 0x18: bytes(2), 0x19: b"\xfa\x00", 0x1B: struct.pack("<H", 12000),
    0x23: struct.pack("<H", 9000), 0x25: struct.pack("<H", 25000), 0x30: b"\x01", 0x31: b"\x01", 0x32: b"\x00",
    0x61: b"\x21", 0x64: b"\x07\x01", 0x65: b"00000001", 0x66: b"\x00\x00", 0x67: b"\x00",
}  # fmt: skip
"""Register file 21 of the vendor's."""


@pytest.fixture
def module():
    """Builds (module, driver) pairs."""
    opened = []

    def build(registers, address=1, **options):
        fake = Module(registers, address)
        laser = NKTBasik("laser", fake.path, **{"timeout_s": 0.05, "resends": 2, **options})
        opened.extend((laser, fake))
        return fake, laser

    yield build
    for item in opened:
        item.close()


class TestStoredSetPoints:
    """What somebody left in the laser is held against the limits before there is light."""

    def test_a_power_above_the_limit_keeps_emission_off_until_it_is_set(self, bench, light):
        twin, laser = bench(driver_options={"max_power_mw": 5.0})
        with pytest.raises(LimitError, match=r"10\.00 mW, above max_power_mw = 5 mW; set power_mw"):
            laser.emission(True)
        assert twin.state()["emission"] is False
        laser.power_mw(5.0)
        laser.emission(True)
        assert light == [(0.005, 1550.12)]

    def test_so_does_one_that_only_the_dbm_register_holds(self, module):
        fake, laser = module({**K1X2, 0xA0: struct.pack("<h", 1500)}, max_power_mw=5.0)
        laser.connect()
        with pytest.raises(LimitError, match=r"15\.00 dBm"):
            laser.emission(True)
        assert fake.writes == []

    @pytest.mark.parametrize(
        ("centimilliwatt", "dbm", "limit"), [(500, 699, 5.0), (1, -2000, 0.01), (0, -32768, 1.0)]
    )
    def test_at_the_limit_is_allowed_in_both_registers(self, module, centimilliwatt, dbm, limit):
        registers = {**K1X2, 0x22: struct.pack("<H", centimilliwatt), 0xA0: struct.pack("<h", dbm)}
        fake, laser = module(registers, max_power_mw=limit)
        laser.connect()
        laser.emission(True)
        assert fake.registers[0x30] == b"\x01"

    def test_an_offset_beyond_the_limit_keeps_emission_off(self, module):
        _, laser = module({**K1X2, 0x2A: struct.pack("<h", -1001)}, max_offset_pm=100.0)
        laser.connect()
        with pytest.raises(LimitError, match=r"-100\.1 pm, beyond max_offset_pm = 100 pm"):
            laser.emission(True)
        with pytest.raises(LimitError, match="pm"):
            laser.wavelength_offset_pm(100.1)
        laser.wavelength_offset_pm(-100.0)
        laser.emission(True)


class TestKnownState:
    def test_a_laser_left_by_someone_is_dark_and_plain_after_connecting(self, bench, light, caplog):
        twin, laser = bench(left_by_someone=True, driver_options={"max_power_mw": 50.0})
        assert light[0][0] == 0.1  # constant current: all it can, whatever the set point says
        assert light[-1][0] == 0.0
        state = twin.state()
        assert (state["emission"], state["modulated"], state["setup"]) == (False, False, 0x0002)
        assert state["power_mw"] == 80.0  # what is stored stays; it only gives no light
        for told in (
            "emission is switched off",
            "80.00 mW",
            "pump at constant current",
            "amplitude modulation",
        ):
            assert told in caplog.text
        laser.power_mw(20.0)
        laser.emission(True)
        assert light[-1][0] == 0.02

    def test_what_was_changed_since_connecting_is_set_again_before_light(self, bench, light):
        twin, laser = bench()
        laser.write("0xB5 01")
        laser._bus.write(0x31, b"\x00\x01")  # somebody else's program
        assert twin.state()["modulated"] is True
        laser.emission(True)
        assert twin.state()["modulated"] is False
        assert light == [(0.01, 1550.12)]

    def test_a_mikro_has_no_modulation(self, bench):
        _, laser = bench(module_type=0x36, left_by_someone=True)
        assert laser.identify().model == "Koheras BASIK MIKRO K0x2"

    def test_the_set_up_is_asked_for_once(self, bench):
        _, laser = bench(connect=False)
        sent = []
        laser.link.tap = lambda direction, data: sent.append(data) if direction == "sent" else None
        laser.connect()
        asked = [telegram.register for telegram in TelegramReader().feed(b"".join(sent))]
        assert [asked.count(register) for register in (0x31, 0x2F, 0xB5, 0xB6)] == [1, 1, 1, 1]

    def test_a_set_up_that_does_not_change_is_refused(self, module):
        fake, laser = module({**K1X2, 0xB6: b"\x01"})
        fake.writes = Deaf(fake, 0xB6)
        with pytest.raises(InstrumentRefusedError, match="0xB6"):
            laser.connect()


class Deaf(list):
    """A register that acknowledges and keeps its value."""

    def __init__(self, module, register):
        super().__init__()
        self.module, self.register, self.value = module, register, module.registers[register]

    def append(self, item):
        self.module.registers[self.register] = self.value


class TestOtherModules:
    def test_a_k80_1_is_refused_by_name_and_nothing_is_written(self, module):
        fake, laser = module(K80, address=0x0A, module=0x0A, max_power_mw=10.0)
        with pytest.raises(WrongInstrumentError, match="type 0x21, Koheras BASIK K80-1"):
            laser.connect()
        with pytest.raises(LinkClosedError):
            laser.emission(True)
        assert fake.writes == []

    def test_a_frame_is_said_to_be_one_and_its_laser_is_found(self, bench):
        _, laser = bench(connect=False, frame=True, driver_options={"module": 0x80})
        with pytest.raises(WrongInstrumentError, match=r"ADJUSTIK.*on this bus are module = 1 .*BASIK K1x2"):
            laser.connect()

    def test_an_empty_address_in_a_frame_is_told_with_who_is_there(self, bench):
        _, laser = bench(connect=False, frame=True, timeout_s=0.05, driver_options={"module": 5})
        with pytest.raises(
            LinkTimeoutError, match=r"module 5 does not answer.*module = 1 .*module = 128 .*frame"
        ):
            laser.connect()

    def test_a_type_of_two_bytes_with_a_description(self, module):
        _, laser = module({**K1X2, 0x61: b"\x33\x00Koheras BASIK\x00"})
        assert laser.connect().model == "Koheras BASIK K1x2"

    def test_latin_1_in_a_serial_number(self, bench):
        _, laser = bench(connect=False, serial_number="K\xf8benhavn 7")
        assert laser.connect().serial_number == "K\xf8benhavn 7"


class TestSafeState:
    """Dark within a second."""

    @pytest.fixture
    def shining(self, module):
        def build(**options):
            fake, laser = module(K1X2, **{"timeout_s": 0.2, "resends": 8, **options})
            fake.registers[0x30] = b"\x01"
            return fake, laser

        return build

    def dark_in_time(self, fake, laser):
        begun = time.monotonic()
        laser.safe_state()
        assert time.monotonic() - begun < 1.0
        assert fake.registers[0x30] == b"\x00"

    def test_never_connected(self, shining):
        self.dark_in_time(*shining())

    def test_while_another_thread_is_in_its_resends(self, shining):
        fake, laser = shining()
        laser.connect()
        fake.address, raised = 99, []
        reading = threading.Event()

        def read():
            reading.set()
            with pytest.raises(PreemptedError) as caught:
                laser.power_mw()
            raised.append(caught.value)

        thread = threading.Thread(target=read)
        thread.start()
        reading.wait()
        time.sleep(0.3)  # in the midst of nine requests
        fake.address = 1
        self.dark_in_time(fake, laser)
        thread.join(timeout=1.0)
        assert len(raised) == 1

    def test_with_noise_on_the_line(self, shining):
        fake, laser = shining()
        laser.connect()
        fake.noise = b"\x00\xff\x0d\x01\x0a"
        self.dark_in_time(fake, laser)

    def test_when_the_first_telegram_is_lost(self, bench):
        twin, laser = bench(timeout_s=0.2, resends=8)
        laser.emission(True)
        twin.faults.drop_replies(1)
        begun = time.monotonic()
        laser.safe_state()
        assert time.monotonic() - begun < 1.0
        assert twin.is_safe()

    def test_a_laser_that_does_not_go_dark_is_an_error(self, module):
        fake, laser = module({**K1X2, 0x30: b"\x01"})
        fake.writes = Deaf(fake, 0x30)
        with pytest.raises(InstrumentRefusedError, match="0x30"):
            laser.safe_state()


def test_another_length_is_an_error_and_changes_nothing(module):
    fake, laser = module({**K1X2, 0x66: b"\x01"})
    laser.connect()
    fake.registers[0x30] = b"\x01"
    with pytest.raises(MalformedReplyError, match=r"0x66 holds 1 bytes \(01\), 2 were expected"):
        laser.status()
    assert laser.emission() is True
    assert fake.writes == []


def test_a_busy_module_is_waited_for_and_not_for_ever(bench):
    twin, laser = bench(timeout_s=0.1, resends=3)
    twin.busy = 3
    assert laser.power_mw() == 10.0
    twin.busy = 10_000
    with pytest.raises(NotReadyError, match="busy"):
        laser.power_mw()
    twin.busy = 0
    assert laser.power_mw() == 10.0


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int16, np.int64])
def test_numpy_scalars(bench, kind):
    _, laser = bench()
    laser.power_mw(kind(7))
    laser.wavelength_offset_pm(kind(-3))
    laser.emission(np.bool_(True))
    assert (laser.power_mw(), laser.wavelength_offset_pm(), laser.emission()) == (7.0, -3.0, True)


def test_registers_are_read_and_written_by_number(bench):
    _, laser = bench()
    assert laser.ask("0x61") == "33"
    assert laser.ask("50") == (15501200).to_bytes(4, "little").hex()
    laser.write("0x2B f401")
    assert laser.ask("0x2B") == "f401"
    for register in ("0x22", "0xA0", "0x2A", "0x30", "0x31"):
        with pytest.raises(LimitError, match="has limits"):
            laser.write(f"{register} 01")
    with pytest.raises(ValueError, match="0x00 to 0xFF"):
        laser.ask("0x100")


def test_refused_emission_says_why(bench):
    twin, laser = bench()
    twin.set_interlock(False)
    with pytest.raises(InstrumentRefusedError, match=r"interlock off.*error: interlock"):
        laser.emission(True)


@pytest.mark.parametrize(
    "options",
    [
        {"max_power_mw": 0.0},
        {"max_power_mw": math.nan},
        {"max_offset_pm": -1.0},
        {"module": 161},
        {"module": 0},
    ],
)
def test_options_that_make_no_sense_are_refused_by_name(options):
    with pytest.raises(LimitError, match=f"{next(iter(options))} = "):
        NKTBasik("laser", "/dev/ttyUSB0", **options)
