"""The laser twin against clients that are not ours: exact bytes of QMI's tests and pylablib's addressing."""

import os
import select

import pytest

from sim_backends.lasers.nkt_basik import NKTBasikTwin


@pytest.fixture(
    params=[{}, {"left_by_someone": True}, {"frame": True}], ids=["fresh", "left by someone", "in a frame"]
)
def line(request):
    """Writes hexadecimal bytes to the terminal and returns at least ``size`` bytes of the answer."""
    twin = NKTBasikTwin(wavelength_nm=1064.4, serial_number="12345678", **request.param)
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


def test_firmware_is_a_number_and_a_text(line):
    """MSL-Equipment ``nkt.py`` after the SDK manual: 16 bits, then up to 64 characters and a zero byte."""
    answer = bytes.fromhex(line(_telegram("01a10464"), 15))
    assert answer[5:-3] == b"\x07\x011.07\x00"


def test_bits_are_set_cleared_and_toggled(line):
    """Telegram types 6, 7 and 9 change the set-up bits and leave the others alone."""
    line(_telegram("01a105310000"), 8)
    for kind, expected in (("06", "0400"), ("09", "0000"), ("09", "0400"), ("07", "0000")):
        assert bytes.fromhex(line(_telegram(f"01a1{kind}310400"), 8))[3] == 3
        assert bytes.fromhex(line(_telegram("01a10431"), 10))[5:7].hex() == expected


def test_power_is_mirrored_in_dbm(line):
    assert bytes.fromhex(line(_telegram("01a105a0e803"), 8))[3] == 3  # 10.00 dBm
    assert bytes.fromhex(line(_telegram("01a10422"), 10))[5:7].hex() == "e803"  # 10.00 mW


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


def test_a_frame_has_an_address_of_its_own():
    """QMI ``get_adjustik_module_type``: 0x34 at bus address 0x80, beside the laser's own."""
    twin = NKTBasikTwin(frame=True)
    descriptor = os.open(twin.serve(), os.O_RDWR | os.O_NOCTTY)
    try:
        os.write(descriptor, bytes.fromhex(_telegram("80a10461")))
        assert os.read(descriptor, 100)[1:6] == bytes((0xA1, 0x80, 0x08, 0x61, 0x34))
    finally:
        os.close(descriptor)
        twin.close()


def test_a_mikro_has_no_modulation_registers():
    """Register file 36: 0xB5 is not there, 0x31 is."""
    twin = NKTBasikTwin(module_type=0x36)
    descriptor = os.open(twin.serve(), os.O_RDWR | os.O_NOCTTY)
    try:
        for register, kind in (("b5", 0), ("31", 8)):
            os.write(descriptor, bytes.fromhex(_telegram(f"01a104{register}")))
            assert os.read(descriptor, 100)[3] == kind
    finally:
        os.close(descriptor)
        twin.close()
