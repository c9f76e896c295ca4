"""The attenuator twin as QMI and pylablib read it: framing rules of both, over a real terminal."""

import os
import select
import threading
import time

import pytest

from sim_backends.attenuators.oz_dd100 import OzDD100Twin

REPLY_S = 2.0


def received(descriptor, ended, most=4096):
    """What arrives, in whatever cuts of at most ``most`` bytes, until ``ended`` is true of it; fails after a while."""
    deadline = time.monotonic() + REPLY_S
    answer = b""
    while not ended(answer):
        wait_s = max(deadline - time.monotonic(), 0.0)
        assert select.select([descriptor], [], [], wait_s)[0], f"only {answer!r} arrived"
        answer += os.read(descriptor, most)
    return answer


def next_bytes(descriptor, count):
    """The next ``count`` bytes and no more, so that what follows them waits for the next reading."""
    return received(descriptor, lambda answer: len(answer) == count, most=1)


@pytest.fixture(params=[False, True], ids=["fresh", "left by someone"])
def exchange(request):
    """Writes a command and reads until the reply ends in ``terminator``."""
    twin = OzDD100Twin(insertion_loss_db=1.0, max_attenuation_db=60.0, left_by_someone=request.param)
    descriptor = os.open(twin.serve(), os.O_RDWR | os.O_NOCTTY)

    def run(command, terminator):
        os.write(descriptor, command)
        return received(descriptor, lambda answer: answer.endswith(terminator))

    if request.param:  # somebody left the echo on, and the attenuator wide open
        assert run(b"E0\r", b"Done\r\n\r\n") == b"E0\rDone\r\n\r\n"
        run(b"A60.00\r", b"Done\r\n\r\n")
    yield run
    os.close(descriptor)
    twin.close()


def qmi_response(answer):
    """QMI's ``_read_response``: lines up to Done and the empty line that it insists on."""
    lines = answer.decode("ascii").split("\r\n")
    assert lines[-3:] == ["Done", "", ""]
    return lines[:-3]


def test_qmi_position(exchange):
    response = qmi_response(exchange(b"D\r", b"Done\r\n\r\n"))
    assert len(response) == 2
    assert int(response[0].removeprefix("DPos:")) > 0
    assert float(response[1].removeprefix("ATTEN:")) == 60.0


def test_qmi_set_attenuation(exchange):
    response = qmi_response(exchange(b"A12.34\r", b"Done\r\n\r\n"))
    assert int(response[-1].removeprefix("Pos:")) == 12.34 * 200
    assert qmi_response(exchange(b"D\r", b"Done\r\n\r\n"))[1] == "ATTEN:12.34"


def test_qmi_home_and_configuration(exchange):
    qmi_response(exchange(b"H\r", b"Done\r\n\r\n"))
    assert "MAX ATTEN:60.00" in qmi_response(exchange(b"CD\r", b"Done\r\n\r\n"))


def test_pylablib_ends_commands_by_crlf_and_stops_at_done(exchange):
    lines = [s.strip() for s in exchange(b"CD\r\n", b"Done\r\n\r\n").decode().splitlines() if s.strip()]
    found = {key: next(ln for ln in lines if ln.upper().startswith(key)) for key in ("IL:", "MAX ATTEN:")}
    assert float(found["IL:"][3:]) == 1.0
    assert float(found["MAX ATTEN:"][10:]) == 60.0


@pytest.mark.parametrize("command", [b"A99.99\r\n", b"A0.50\r\n", b"Anonsense\r\n", b"XYZ\r\n", b"A-3\r\n"])
def test_pylablib_sees_an_error_line(exchange, command):
    lines = exchange(command, b"Error!\r\n").decode().splitlines()
    assert lines[0].startswith("Error")
    assert "ATTEN:60.00" in exchange(b"D\r\n", b"Done\r\n\r\n").decode()


def test_two_commands_in_one_write_and_one_in_pieces(exchange):
    both = exchange(b"A10.00\rD\r", b"ATTEN:10.00\r\nDone\r\n\r\n")
    assert both.count(b"Done") == 2
    exchange(b"A2", b"")
    assert exchange(b"0.00\r", b"Done\r\n\r\n").startswith(b"Pos:")


def test_the_manuals_other_commands(exchange):
    """A?, S?, S<n>, S+<n>, F and B (COO-Utilities/ozoptics) move and report; none of them is refused."""
    end = b"Done\r\n\r\n"
    assert qmi_response(exchange(b"S2468\r", end)) == ["Pos:2468"]
    assert qmi_response(exchange(b"A?\r", end)) == ["ATTEN:12.34"]
    assert qmi_response(exchange(b"S+200\r", end)) == ["Pos:2668"]
    assert qmi_response(exchange(b"S-200\r", end)) == ["Pos:2468"]
    assert qmi_response(exchange(b"RES?\r", end)) == ["Pos:2468"]


@pytest.fixture
def line():
    """Builds a twin and opens its terminal."""
    opened = []

    def build(**options):
        twin = OzDD100Twin(**options)
        descriptor = os.open(twin.serve(), os.O_RDWR | os.O_NOCTTY)
        opened.append((twin, descriptor))
        return twin, descriptor

    yield build
    for twin, descriptor in opened:
        os.close(descriptor)
        twin.close()


def lines_of(descriptor, command):
    """The reply's lines as COO-Utilities/ozoptics and keckogeco read them: until Done, or one that says Error."""
    os.write(descriptor, command)
    answer = received(
        descriptor,
        lambda answer: b"Done\r\n\r\n" in answer or (b"Error" in answer and answer.endswith(b"\r\n")),
    )
    return [text for text in answer.decode("ascii").split("\r\n") if text]


def test_the_other_firmware_says_unknown_until_the_first_set(line):
    _, descriptor = line(homed=False, firmware="mixed")
    assert lines_of(descriptor, b"A?\r\n") == ["Atten:unknown", "Done"]
    assert lines_of(descriptor, b"A12.00\r\n") == ["Pos:2400", "Done"]
    assert lines_of(descriptor, b"A?\r\n") == ["Atten:12.00(dB)", "Done"]
    assert lines_of(descriptor, b"D\r\n") == ["Pos:2400", "Atten:12.00(dB)", "Done"]
    assert lines_of(descriptor, b"H\r\n") == ["Diff=0", "Done"]
    assert lines_of(descriptor, b"X\r\n") == ["Error-2"]


@pytest.mark.parametrize(("while_moving", "reached"), [("queue", 60.0), ("ignore", 11.0)])
def test_a_move_is_answered_on_arrival(line, while_moving, reached):
    """What comes meanwhile is executed afterwards or lost: which of both a real unit does no source says."""
    now = [0.0]
    twin, descriptor = line(
        left_by_someone=True, speed_db_per_s=10.0, while_moving=while_moving, clock=lambda: now[0]
    )
    os.write(descriptor, b"A11.00\r")
    assert next_bytes(descriptor, len(b"A11.00\r")) == b"A11.00\r"  # the echo comes at once
    os.write(descriptor, b"A60.00\r")
    assert next_bytes(descriptor, len(b"A60.00\r")) == b"A60.00\r"
    assert select.select([descriptor], [], [], 0.05)[0] == []
    assert twin.state() == {"attenuation_db": 1.0, "moving": True, "homed": True}
    now[0] = 1.0
    assert next_bytes(descriptor, len(b"Pos:2200\r\nDone\r\n\r\n")) == b"Pos:2200\r\nDone\r\n\r\n"
    if while_moving == "queue":  # the next move begins by the twin's clock a moment after that reply
        deadline = time.monotonic() + 5.0
        while not twin.state()["moving"]:
            assert time.monotonic() < deadline
            threading.Event().wait(0.002)
    now[0] = 5.9
    if while_moving == "queue":
        assert next_bytes(descriptor, len(b"Pos:12000\r\nDone\r\n\r\n")) == b"Pos:12000\r\nDone\r\n\r\n"
    else:
        assert select.select([descriptor], [], [], 0.05)[0] == []
    assert twin.state()["attenuation_db"] == reached
