"""The attenuator twin as QMI and pylablib read it: framing rules of both, over a real terminal."""

import os
import select

import pytest

from sim_backends.attenuators.oz_dd100 import OzDD100Twin


@pytest.fixture
def exchange():
    """Writes a command and reads until the reply ends in ``terminator``."""
    twin = OzDD100Twin(insertion_loss_db=1.0, max_attenuation_db=60.0)
    descriptor = os.open(twin.serve(), os.O_RDWR | os.O_NOCTTY)

    def run(command, terminator):
        os.write(descriptor, command)
        answer = b""
        while not answer.endswith(terminator):
            assert select.select([descriptor], [], [], 2.0)[0], f"only {answer!r} arrived"
            answer += os.read(descriptor, 4096)
        return answer

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
