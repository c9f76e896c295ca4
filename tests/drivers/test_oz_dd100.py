"""The DD-100 driver against its twin on a real pseudo-terminal."""

import math
import os
import random
import socket
import threading
import time

import numpy as np
import pytest

from drivers.attenuators.oz_dd100 import OzDD100
from drivers.links.errors import (
    InstrumentRefusedError,
    LimitError,
    LinkBrokenError,
    LinkClosedError,
    LinkTimeoutError,
    MalformedReplyError,
    NoReadingError,
    PreemptedError,
    WrongInstrumentError,
)
from sim_backends.attenuators.oz_dd100 import OzDD100Twin

pytestmark = pytest.mark.early


@pytest.fixture
def moves():
    return []


@pytest.fixture
def bench(moves):
    """Builds (twin, connected driver) pairs and closes them."""
    opened = []

    def build(*, connect=True, motor_db_per_s=None, driver_options=None, **twin_options):
        twin = OzDD100Twin(on_attenuation=moves.append, speed_db_per_s=motor_db_per_s, **twin_options)
        options = {"timeout_s": 0.2, "move_timeout_s": 1.0, "home_timeout_s": 1.0, **(driver_options or {})}
        attenuator = OzDD100(f"oz{len(opened)}", twin.serve(), **options)
        opened.extend((attenuator, twin))
        if connect:
            attenuator.connect()
        return twin, attenuator

    yield build
    for item in opened:
        item.close()


@pytest.fixture
def scripted():
    """Builds a driver whose instrument answers each command by the next scripted bytes."""
    master, slave = os.openpty()
    attenuator = OzDD100("scripted", os.ttyname(slave), timeout_s=0.2)
    threads = []

    def build(*replies):
        def answer():
            for reply in replies:
                while b"\r" not in os.read(master, 100):
                    pass
                os.write(master, reply)

        threads.append(threading.Thread(target=answer, daemon=True))
        threads[-1].start()
        return attenuator

    yield build
    attenuator.close()
    for thread in threads:
        thread.join(timeout=5)
    os.close(master)
    os.close(slave)


CONFIGURATION = b"IL:1.20\r\nMAX ATTEN:50.00\r\nDone\r\n\r\n"
POSITION = b"DPos:10\r\nATTEN:20.00\r\nDone\r\n\r\n"
CONNECTING = (CONFIGURATION, CONFIGURATION, POSITION)


@pytest.fixture(params=[{}, {"left_by_someone": True}], ids=["fresh", "left by someone"])
def found(request):
    """How the twin is found."""
    return request.param


def test_identity_and_range(bench, moves):
    _, attenuator = bench(connect=False, insertion_loss_db=1.5, max_attenuation_db=50.0, serial_number="77")
    identity = attenuator.connect()
    assert (identity.vendor, identity.model, identity.serial_number) == ("OZ Optics", "DD-100", "77")
    assert attenuator.insertion_loss_db() == 1.5
    assert attenuator.max_attenuation_db() == 50.0
    assert attenuator.attenuation_db() == 50.0
    assert moves == [50.0]  # connecting moves nothing


def test_attenuation_is_set_and_read_back(bench, moves, found):
    twin, attenuator = bench(**found)
    attenuator.attenuation_db(12.34)
    assert attenuator.attenuation_db() == 12.34
    assert moves[-1] == 12.34
    assert twin.state()["attenuation_db"] == 12.34


def test_setting_returns_when_the_motor_has_stopped(bench, moves):
    """A move of 40 dB at 200 dB/s takes 0.2 s: longer than a plain reply may, within what a move may."""
    twin, attenuator = bench(motor_db_per_s=200.0, driver_options={"timeout_s": 0.1})
    attenuator.attenuation_db(20.0)
    assert moves[-1] == 20.0
    assert twin.state() == {"attenuation_db": 20.0, "moving": False, "homed": True}


def test_a_motor_slower_than_it_should_be_is_a_timeout(bench):
    _, attenuator = bench(motor_db_per_s=100.0, driver_options={"move_timeout_s": 0.1})
    with pytest.raises(LinkTimeoutError, match="not done within"):
        attenuator.attenuation_db(20.0)


def test_a_lost_reply_is_a_timeout_not_a_guess(bench):
    twin, attenuator = bench(driver_options={"move_timeout_s": 0.15})
    twin.faults.drop_replies(1)
    with pytest.raises(LinkTimeoutError, match=r"A20\.00"):
        attenuator.attenuation_db(20.0)
    assert attenuator.attenuation_db() == 20.0  # the line works again, and the truth is read


@pytest.mark.parametrize("attenuation_db", [-1.0, 0.99, 60.01, 100.5, math.nan, math.inf])
def test_out_of_range_is_refused_before_the_wire(bench, moves, attenuation_db):
    _, attenuator = bench()
    with pytest.raises(LimitError, match="dB"):
        attenuator.attenuation_db(attenuation_db)
    assert moves == [60.0]


def test_safe_state_is_the_largest_attenuation(bench, found):
    twin, attenuator = bench(**found)
    attenuator.attenuation_db(3.0)
    attenuator.safe_state()
    attenuator.safe_state()
    assert twin.state()["attenuation_db"] == 60.0


@pytest.mark.parametrize("firmware", ["upper", "mixed"])
def test_an_unknown_position_is_one_missing_reading(bench, moves, firmware):
    """A healthy unit after a power cycle: it is connected to, and its first move homes it."""
    _, attenuator = bench(homed=False, firmware=firmware)
    assert moves == [60.0]
    with pytest.raises(NoReadingError, match="unknown"):
        attenuator.attenuation_db()
    assert attenuator.max_attenuation_db() == 60.0
    attenuator.attenuation_db(10.0)
    assert attenuator.attenuation_db() == 10.0


def test_a_unit_that_insists_on_homing(bench):
    _, attenuator = bench(homed=False, refuses_unhomed=True)
    with pytest.raises(InstrumentRefusedError, match=r"A10\.00"):
        attenuator.attenuation_db(10.0)
    attenuator.home()
    attenuator.attenuation_db(10.0)
    assert attenuator.attenuation_db() == 10.0


def test_refusal_does_not_break_the_line(bench):
    twin, attenuator = bench()
    twin.faults.latched_error = "motor fault"
    with pytest.raises(InstrumentRefusedError, match="'D'"):
        attenuator.attenuation_db()
    twin.faults.latched_error = None
    assert attenuator.attenuation_db() == 60.0


def test_garbage_is_an_error_and_the_next_query_is_clean(bench):
    twin, attenuator = bench()
    twin.faults.garbage(1)
    with pytest.raises((MalformedReplyError, LinkTimeoutError)):
        attenuator.attenuation_db()
    assert attenuator.attenuation_db() == 60.0


def test_late_reply_is_not_taken_for_the_next(bench, found):
    twin, attenuator = bench(**found)
    attenuator.attenuation_db(10.0)
    twin.faults.delay_s = 0.3
    with pytest.raises(LinkTimeoutError):
        attenuator.attenuation_db()
    twin.faults.delay_s = 0.0
    assert attenuator.max_attenuation_db() == 60.0
    assert attenuator.attenuation_db() == 10.0


def test_disconnect_and_reconnect(bench, found):
    twin, attenuator = bench(**found)
    attenuator.attenuation_db(15.0)
    twin.faults.disconnect()
    with pytest.raises(LinkBrokenError):
        attenuator.attenuation_db()
    assert attenuator.attenuation_db() == 15.0  # the next use opens the line again, and moves nothing
    attenuator.disconnect()
    with pytest.raises(LinkClosedError, match="connect"):
        attenuator.attenuation_db()


def test_port_is_held_exclusively(bench):
    _, attenuator = bench()
    second = OzDD100("second", attenuator.address)
    with pytest.raises(LinkBrokenError, match="cannot open"):
        second.connect()
    second.close()


@pytest.mark.parametrize("left", [b"A12.", b"\n\x02\x0f\x04", b"NONSENSE\r"], ids=["half", "binary", "whole"])
def test_what_another_program_left_on_the_line_is_refused_once_and_passed_over(bench, left):
    """The unit takes it for the beginning of the first question."""
    twin, attenuator = bench(connect=False)
    line = os.open(attenuator.address, os.O_RDWR | os.O_NOCTTY)
    os.write(line, left)
    os.close(line)
    deadline = time.monotonic() + 5.0
    while left.strip(b"\r\n") not in twin._received and left[-1:] != b"\r":
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert attenuator.connect().model == "DD-100"
    assert attenuator.attenuation_db() == 60.0


def test_another_instrument_is_refused(scripted):
    attenuator = scripted(b"EPC400\r\nDone\r\n\r\n")
    with pytest.raises(WrongInstrumentError, match="DD-100"):
        attenuator.connect()


@pytest.mark.parametrize(
    "position",
    [
        b"DPos:10\r\nATTEN:nan\r\nDone\r\n\r\n",
        b"DPos:10\r\nATTEN:\r\nDone\r\n\r\n",
        b"ATTEN:10.00\r\nDone\r\n\r\n",
        b"DPos:10\r\nDone\r\n\r\n",
        b"Done\r\n\r\n",
        b"DPos:10\r\nATTEN:\xff\xfe\r\nDone\r\n\r\n",
    ],
)
def test_malformed_positions_never_become_a_value(scripted, position):
    attenuator = scripted(*CONNECTING, position)
    attenuator.connect()
    with pytest.raises(MalformedReplyError):
        attenuator.attenuation_db()


def test_a_unit_that_stops_elsewhere_is_noticed(scripted):
    attenuator = scripted(*CONNECTING, b"Pos:4000\r\nDone\r\n\r\n", b"DPos:1\r\nATTEN:7.00\r\nDone\r\n\r\n")
    attenuator.connect()
    with pytest.raises(InstrumentRefusedError, match=r"7\.00"):
        attenuator.attenuation_db(20.0)


def test_an_echoed_command_is_tolerated(scripted):
    echo = b"D\r\nDPos:10\r\nATTEN:20.00\r\nDone\r\n\r\n"
    attenuator = scripted(CONFIGURATION, b"CD\r\n" + CONFIGURATION, b"D\r" + POSITION, echo)
    attenuator.connect()
    assert attenuator.attenuation_db() == 20.0


def test_a_unit_whose_insertion_loss_makes_no_sense_is_closed_all_the_same(scripted):
    odd = CONFIGURATION.replace(b"1.20", b"1,20")
    closed = b"DPos:1\r\nATTEN:50.00\r\nDone\r\n\r\n"
    attenuator = scripted(odd, odd, odd, b"Pos:1\r\nDone\r\n\r\n", odd + closed, closed)
    with pytest.raises(MalformedReplyError, match="IL is '1,20'"):
        attenuator.connect()
    sent = []
    attenuator.link.tap = lambda direction, data: sent.append(data) if direction == "sent" else None
    attenuator.safe_state()
    assert b"A50.00\r" in sent


def test_a_line_that_never_ends_is_given_up(scripted):
    attenuator = scripted(b"x" * 5000)
    with pytest.raises(MalformedReplyError, match="line end"):
        attenuator.connect()


def test_a_serial_server_on_the_network():
    """pyserial URLs work where device paths do: here a terminal server on TCP."""
    replies = [*CONNECTING, POSITION]

    def answer(listener):
        connection, _ = listener.accept()
        with connection:
            for reply in replies:
                while b"\r" not in connection.recv(100):
                    pass
                connection.sendall(reply)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, args=(listener,), daemon=True)
        thread.start()
        attenuator = OzDD100("remote", f"socket://127.0.0.1:{listener.getsockname()[1]}", timeout_s=5.0)
        attenuator.connect()
        assert attenuator.attenuation_db() == 20.0
        thread.join(timeout=5)
        with pytest.raises(LinkBrokenError):
            attenuator.attenuation_db()
        attenuator.close()


def test_a_reply_that_comes_twice_is_not_taken_for_the_next(scripted, caplog):
    elsewhere = b"DPos:1\r\nATTEN:30.00\r\nDone\r\n\r\n"
    attenuator = scripted(*CONNECTING, POSITION + POSITION, CONFIGURATION, elsewhere)
    attenuator.connect()
    assert attenuator.attenuation_db() == 20.0
    time.sleep(0.05)  # the second one is there
    assert attenuator.attenuation_db() == 30.0
    assert "came unasked" in caplog.text


def test_an_answer_to_another_question_is_an_error_and_the_next_is_right(scripted):
    """The reply to an earlier move comes in the place of the position, and the position in the next one's."""
    stale, late = b"Pos:2000\r\nDone\r\n\r\n", b"DPos:1\r\nATTEN:7.00\r\nDone\r\n\r\n"
    attenuator = scripted(*CONNECTING, stale, late + CONFIGURATION, CONFIGURATION, POSITION, POSITION)
    attenuator.connect()
    with pytest.raises(MalformedReplyError, match="position query"):
        attenuator.attenuation_db()
    assert attenuator.attenuation_db() == 20.0


def test_limits_shown_are_those_of_the_unit(bench):
    _, attenuator = bench(insertion_loss_db=1.5, max_attenuation_db=50.0)
    assert (attenuator.attenuation_db.vals.min_value, attenuator.attenuation_db.vals.max_value) == (1.5, 50.0)


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int16, np.int64])
def test_numpy_scalars(bench, kind):
    _, attenuator = bench()
    attenuator.attenuation_db(kind(12))
    assert attenuator.attenuation_db() == 12.0


@pytest.mark.parametrize("firmware", ["upper", "mixed"])
def test_left_wide_open_with_the_echo_on(bench, firmware):
    twin, attenuator = bench(left_by_someone=True, firmware=firmware)
    assert attenuator.attenuation_db() == 1.0
    attenuator.attenuation_db(12.34)
    assert attenuator.attenuation_db() == 12.34
    with pytest.raises(InstrumentRefusedError, match="'XYZ' was refused"):
        attenuator.ask("XYZ")
    assert attenuator.ask("S?") == "Pos:2468"
    attenuator.safe_state()
    assert twin.is_safe()


class TestLimitsOfTheSetUp:
    def test_nobody_opens_further(self, bench):
        twin, attenuator = bench(driver_options={"min_attenuation_db": 10.0})
        with pytest.raises(LimitError, match=r"9\.99 dB is outside 10"):
            attenuator.attenuation_db(9.99)
        attenuator.attenuation_db(10.0)
        for command in ("A3", "s0", "B", "H", "RST", "L0"):
            with pytest.raises(LimitError, match="min_attenuation_db"):
                attenuator.write(command)
        for text in ("D\rA3", "D\nA3", "ü"):
            with pytest.raises(LimitError, match="not one command of printable ASCII"):
                attenuator.ask(text)
        assert twin.state()["attenuation_db"] == 10.0

    def test_a_unit_found_further_open_is_closed(self, bench, moves, caplog):
        bench(left_by_someone=True, driver_options={"min_attenuation_db": 10.0})
        assert moves == [1.0, 60.0]
        assert "found at 1.00 dB, below min_attenuation_db = 10 dB" in caplog.text

    def test_no_light_through_a_unit_that_somebody_opened_meanwhile(self, bench):
        twin, attenuator = bench(driver_options={"min_attenuation_db": 10.0})
        attenuator.let_through()
        twin._position = 300
        with pytest.raises(LimitError, match=r"3\.00 dB"):
            attenuator.let_through()

    def test_nor_through_one_whose_position_is_unknown(self, bench):
        _, attenuator = bench(homed=False, driver_options={"min_attenuation_db": 10.0})
        with pytest.raises(NoReadingError):
            attenuator.let_through()

    def test_a_unit_that_cannot_is_refused(self, bench):
        _, attenuator = bench(connect=False, driver_options={"min_attenuation_db": 61.0})
        with pytest.raises(LimitError, match="more than the unit's largest, 60 dB"):
            attenuator.connect()

    @pytest.mark.parametrize("least_db", [-1.0, 100.0, math.nan])
    def test_one_that_makes_no_sense_is_refused_by_name(self, least_db):
        with pytest.raises(LimitError, match="min_attenuation_db = "):
            OzDD100("voa", "/dev/ttyUSB0", min_attenuation_db=least_db)

    def test_another_insertion_loss_is_refused(self, bench):
        """Somebody's ``L`` command shifts all attenuations."""
        _, attenuator = bench(connect=False, insertion_loss_db=3.0, driver_options={"insertion_loss_db": 1.2})
        with pytest.raises(LimitError, match=r"3\.00 dB stored, the set-up says 1\.2 dB"):
            attenuator.connect()


class StopButton(Exception):
    """What a signal handler raises."""


class TestInterrupts:
    """A motor under way, and somebody who does not wait for it."""

    def interrupted(self, monkeypatch, attenuator, after, call):
        """Call, and raise out of the wait for bytes once ``after`` of them were asked for."""
        real, count = attenuator.link._read, [0]

        def read(wait_s):
            count[0] += 1
            if count[0] > after:
                raise StopButton
            return real(wait_s)

        monkeypatch.setattr(attenuator.link, "_read", read)
        try:
            call()
        except StopButton:
            pass
        finally:
            monkeypatch.setattr(attenuator.link, "_read", real)

    @pytest.mark.parametrize("while_moving", ["queue", "ignore"])
    def test_no_reply_is_taken_for_anothers(self, bench, monkeypatch, while_moving):
        rng = random.Random(7)
        twin, attenuator = bench(
            motor_db_per_s=400.0,
            while_moving=while_moving,
            left_by_someone=True,
            driver_options={"timeout_s": 0.1},
        )
        for _ in range(8):
            target = float(rng.randrange(2, 60))
            self.interrupted(
                monkeypatch,
                attenuator,
                rng.randrange(4),
                lambda target=target: attenuator.attenuation_db(target),
            )
            call = rng.choice([attenuator.max_attenuation_db, attenuator.attenuation_db])
            self.interrupted(monkeypatch, attenuator, rng.randrange(4), call)
            assert attenuator.max_attenuation_db() == 60.0
            assert attenuator.attenuation_db() == twin.state()["attenuation_db"]

    def test_a_move_that_was_stopped_is_waited_for_by_the_next_reading(self, bench, monkeypatch):
        """20 dB at 50 dB/s: the truth comes after 0.4 s, longer than a plain reply may take."""
        twin, attenuator = bench(motor_db_per_s=50.0, driver_options={"timeout_s": 0.1})
        self.interrupted(monkeypatch, attenuator, 1, lambda: attenuator.attenuation_db(40.0))
        assert attenuator.attenuation_db() == 40.0
        assert twin.state()["moving"] is False

    @pytest.mark.parametrize("while_moving", ["queue", "ignore"])
    def test_safe_state_is_sent_at_once_and_reached(self, bench, while_moving):
        """Another thread moves towards 1 dB; the largest attenuation goes out within a moment, and is reached."""
        twin, attenuator = bench(
            motor_db_per_s=200.0, while_moving=while_moving, driver_options={"timeout_s": 0.1}
        )
        sent, raised = [], []
        attenuator.link.tap = lambda direction, data: sent.append((direction, data, time.monotonic()))

        def move():
            with pytest.raises(PreemptedError) as caught:
                attenuator.attenuation_db(1.0)
            raised.append(caught.value)

        thread = threading.Thread(target=move)
        thread.start()
        while not any(data == b"A1.00\r" for _, data, _ in list(sent)):
            time.sleep(0.005)
        begun = time.monotonic()
        attenuator.safe_state()
        thread.join(timeout=5)
        assert len(raised) == 1
        first = next((data, at) for direction, data, at in sent if direction == "sent" and at > begun)
        assert first[0] == b"A60.00\r"
        assert first[1] - begun < 0.5
        assert twin.is_safe()
        assert attenuator.attenuation_db() == 60.0

    @pytest.mark.parametrize("options", [{}, {"homed": False}, {"homed": False, "refuses_unhomed": True}])
    def test_safe_state_of_one_that_was_never_connected(self, bench, options):
        twin, attenuator = bench(connect=False, **options)
        attenuator.safe_state()
        assert twin.is_safe()
