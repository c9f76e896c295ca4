"""The laser twin against clients that are not ours: exact bytes of QMI's tests and pylablib's addressing."""

import os
import select

import pytest

from sim_backends.lasers.nkt_basik import NKTBasikTwin


@pytest.fixture
def line():
    """Writes hexadecimal bytes to the terminal and returns at least ``size`` bytes of the answer."""
    twin = NKTBasikTwin(wavelength_nm=1064.4, serial_number="12345678")
    descriptor = os.open(twin.serve(), os.O_RDWR | os.O_NOCTTY)

    def exchange(request, size=0, wait_s=2.0):
        os.write(descriptor, bytes.fromhex(request))
        answer = b""
        while len(answer) < size and select.select([descriptor], [], [], wait_s)[0]:
            answer += os.read(descriptor, 4096)
        return answer.hex()

    yield exchange
    os.close(descriptor)
    twin.close()


def test_qmi_get_request(line):
    """test_get_request: standard wavelength 10644000 x 0.1 pm, from source 161."""
    assert line("0d01a1043226cd0a", 12) == "0da1010832206aa2002c8c0a"


def test_qmi_set_request(line):
    """test_set_request: wavelength offset 840 x 0.1 pm, answered by an acknowledgement without data."""
    assert line("0d01a1052a48038cd10a", 8) == "0da101032a7b890a"


def test_qmi_second_request_from_the_other_source(line):
    """test_two_requests: the same register read from source 162 after 740 was written."""
    assert bytes.fromhex(line(_telegram("01a1052ae402"), 8))[3] == 3  # acknowledged
    assert line("0d01a2042aeca40a", 10) == "0da201082ae402f8c90a"


def test_pylablib_source_address_is_echoed(line):
    """pylablib asks from 0x40 and checks that the answer goes there."""
    answer = bytes.fromhex(line(_telegram("01400461"), 9))
    assert answer[1:5] == bytes((0x40, 0x01, 0x08, 0x61))
    assert answer[5] == 0x33


def test_serial_number_is_ascii(line):
    assert b"12345678" in bytes.fromhex(line(_telegram("01a10465"), 16))


def test_unknown_register_is_nacked(line):
    answer = bytes.fromhex(line(_telegram("01a104fe"), 8))
    assert answer[1:5] == bytes((0xA1, 0x01, 0x00, 0xFE))


def test_wrong_check_sum_is_answered_by_type_1(line):
    answer = bytes.fromhex(line("0d01a1043226ce0a", 8))
    assert answer[1:5] == bytes((0xA1, 0x01, 0x01, 0x32))


def test_other_addresses_get_no_answer(line):
    assert line(_telegram("02a10461"), 1, wait_s=0.1) == ""


def test_a_telegram_in_two_pieces(line):
    assert line("0d01a1") == ""
    assert line("043226cd0a", 12) == "0da1010832206aa2002c8c0a"


def _telegram(body):
    """Framing after the NKT manual, written out here: bitwise CRC, then escaping."""
    data = bytes.fromhex(body)
    crc = 0
    for value in data:
        crc ^= value << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x1021) & 0xFFFF if crc & 0x8000 else crc << 1
    out = "0d"
    for value in data + crc.to_bytes(2, "big"):
        out += f"5e{value + 0x40:02x}" if value in (0x0A, 0x0D, 0x5E) else f"{value:02x}"
    return out + "0a"
