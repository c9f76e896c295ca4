"""The DD-100 driver against its twin on a real pseudo-terminal."""

import math
import os
import socket
import threading

import pytest

from drivers.attenuators.oz_dd100 import OzDD100
from drivers.links.errors import (
    InstrumentRefusedError,
    LimitError,
    LinkBrokenError,
    LinkTimeoutError,
    MalformedReplyError,
    NotReadyError,
    WrongInstrumentError,
)
from sim_backends.attenuators.oz_dd100 import OzDD100Twin


@pytest.fixture
def moves():
    return []


@pytest.fixture
def bench(moves):
    """Builds (twin, connected driver) pairs and closes them."""
    opened = []

    def build(*, connect=True, timeout_s=0.2, speed_db_per_s=1000.0, motor_db_per_s=None, **twin_options):
        twin = OzDD100Twin(on_attenuation=moves.append, speed_db_per_s=motor_db_per_s, **twin_options)
        attenuator = OzDD100(
            f"oz{len(opened)}", twin.serve(), timeout_s=timeout_s, speed_db_per_s=speed_db_per_s
        )
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


def test_identity_and_range(bench, moves):
    _, attenuator = bench(connect=False, insertion_loss_db=1.5, max_attenuation_db=50.0, serial_number="77")
    identity = attenuator.connect()
    assert (identity.vendor, identity.model, identity.serial_number) == ("OZ Optics", "DD-100", "77")
    assert attenuator.insertion_loss_db() == 1.5
    assert attenuator.max_attenuation_db() == 50.0
    assert attenuator.attenuation_db() == 50.0
    assert moves == [50.0]  # connecting moves nothing


def test_attenuation_is_set_and_read_back(bench, moves):
    twin, attenuator = bench()
    attenuator.attenuation_db(12.34)
    assert attenuator.attenuation_db() == 12.34
    assert moves[-1] == 12.34
    assert twin.state()["attenuation_db"] == 12.34


def test_setting_returns_when_the_motor_has_stopped(bench, moves):
    """A move of 40 dB at 200 dB/s takes 0.2 s: longer than a plain reply may, within what its travel needs."""
    twin, attenuator = bench(timeout_s=0.1, speed_db_per_s=100.0, motor_db_per_s=200.0)
    attenuator.attenuation_db(20.0)
    assert moves[-1] == 20.0
    assert twin.state() == {"attenuation_db": 20.0, "moving": False, "homed": True}


def test_a_motor_slower_than_it_should_be_is_a_timeout(bench):
    _, attenuator = bench(timeout_s=0.05, speed_db_per_s=1000.0, motor_db_per_s=100.0)
    with pytest.raises(LinkTimeoutError, match="not done within"):
        attenuator.attenuation_db(20.0)


def test_a_lost_reply_is_a_timeout_not_a_guess(bench):
    twin, attenuator = bench(timeout_s=0.15)
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


def test_safe_state_is_the_largest_attenuation(bench):
    twin, attenuator = bench()
    attenuator.attenuation_db(3.0)
    attenuator.safe_state()
    attenuator.safe_state()
    assert twin.state()["attenuation_db"] == 60.0


def test_homing(bench):
    _, attenuator = bench(homed=False)
    with pytest.raises(NotReadyError, match="home"):
        attenuator.attenuation_db()
    with pytest.raises(InstrumentRefusedError):
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
    twin, attenuator = bench(timeout_s=0.15)
    twin.faults.garbage(1)
    with pytest.raises((MalformedReplyError, LinkTimeoutError)):
        attenuator.attenuation_db()
    assert attenuator.attenuation_db() == 60.0


def test_late_reply_is_not_taken_for_the_next(bench):
    twin, attenuator = bench(timeout_s=0.2)
    attenuator.attenuation_db(10.0)
    twin.faults.delay_s = 0.3
    with pytest.raises(LinkTimeoutError):
        attenuator.attenuation_db()
    twin.faults.delay_s = 0.0
    assert attenuator.max_attenuation_db() == 60.0
    assert attenuator.attenuation_db() == 10.0


def test_disconnect_and_reconnect(bench):
    twin, attenuator = bench()
    attenuator.attenuation_db(15.0)
    twin.faults.disconnect()
    with pytest.raises(LinkBrokenError):
        attenuator.attenuation_db()
    assert attenuator.attenuation_db() == 15.0  # motion is never started by connecting


def test_port_is_held_exclusively(bench):
    _, attenuator = bench()
    second = OzDD100("second", attenuator.address)
    with pytest.raises(LinkBrokenError, match="cannot open"):
        second.connect()
    second.close()


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
    attenuator = scripted(CONFIGURATION, CONFIGURATION, position)
    attenuator.connect()
    with pytest.raises(MalformedReplyError):
        attenuator.attenuation_db()


def test_a_unit_that_stops_elsewhere_is_noticed(scripted):
    attenuator = scripted(
        CONFIGURATION, CONFIGURATION, b"Pos:4000\r\nDone\r\n\r\n", b"DPos:1\r\nATTEN:7.00\r\nDone\r\n\r\n"
    )
    attenuator.connect()
    with pytest.raises(NotReadyError, match=r"7\.00"):
        attenuator.attenuation_db(20.0)


def test_an_echoed_command_is_tolerated(scripted):
    echo = b"D\r\nDPos:10\r\nATTEN:20.00\r\nDone\r\n\r\n"
    attenuator = scripted(CONFIGURATION, b"CD\r\n" + CONFIGURATION, echo)
    attenuator.connect()
    assert attenuator.attenuation_db() == 20.0


def test_a_line_that_never_ends_is_given_up(scripted):
    attenuator = scripted(b"x" * 5000)
    with pytest.raises(MalformedReplyError, match="line end"):
        attenuator.connect()


def test_a_serial_server_on_the_network():
    """pyserial URLs work where device paths do: here a terminal server on TCP."""
    replies = [CONFIGURATION, CONFIGURATION, b"DPos:10\r\nATTEN:20.00\r\nDone\r\n\r\n"]

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
