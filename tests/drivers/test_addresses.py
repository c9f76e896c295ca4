"""Addresses as text, and what is said of one that cannot be opened."""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.attenuators.oz_dd100 import OzDD100
from drivers.detectors.websq import WebSQ
from drivers.links.addresses import AddressError, host_meaning, serial_meaning, split_address, visa_meaning
from drivers.links.errors import LinkBrokenError
from drivers.powermeters.thorlabs_pm100d import ThorlabsPM100D
from drivers.timetaggers.id900 import ID900


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("TCPIP::10.0.0.4::4000::SOCKET", "tcpip0::10.0.0.4::4000::socket"),
        ("TCPIP::Meter.lab::INSTR", "TCPIP0::meter.lab.::inst0::INSTR"),
        ("TCPIP::localhost::4000::SOCKET", "TCPIP::127.0.0.1::INSTR"),
        ("TCPIP::10.0.0.4,9999::inst0::INSTR", "TCPIP0::10.0.0.4::9999::SOCKET"),
        ("USB0::0x1313::0x8078::P1::INSTR", "USB::4883::32888::P1::0::INSTR"),
        ("GPIB::5::INSTR", "GPIB0::05::INSTR"),
        ("ASRL/dev/ttyX::INSTR", "asrl/dev/../dev/ttyX::INSTR"),
    ],
)
def test_spellings_of_one_visa_resource_mean_the_same(one: str, other: str) -> None:
    assert visa_meaning(one, 4000) == visa_meaning(other, 4000)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("TCPIP::10.0.0.4::4000::SOCKET", "TCPIP::10.0.0.5::4000::SOCKET"),
        ("TCPIP::10.0.0.4::4000::SOCKET", "TCPIP::10.0.0.4::5025::SOCKET"),
        ("TCPIP::10.0.0.4::gpib0,5::INSTR", "TCPIP::10.0.0.4::gpib0,6::INSTR"),
        ("USB0::0x1313::0x8078::P1::INSTR", "USB0::0x1313::0x8078::P2::INSTR"),
        ("GPIB0::5::INSTR", "GPIB1::5::INSTR"),
    ],
)
def test_different_resources_differ(one: str, other: str) -> None:
    assert visa_meaning(one, 4000) != visa_meaning(other, 4000)


@given(st.text(max_size=40))
def test_any_text_has_a_meaning_or_an_error_that_says_what_to_write(text: str) -> None:
    for meaning in (visa_meaning, serial_meaning, lambda each: host_meaning(each, 5555)):
        said = ""
        try:
            said = meaning(text)
        except AddressError as error:
            said = str(error) if repr(text) in str(error) else ""
        assert said


@given(st.from_regex(r"[a-z0-9]{1,10}(\.[a-z]{1,5})?", fullmatch=True), st.integers(1, 65535))
def test_a_host_and_its_port_are_split(host: str, port: int) -> None:
    assert split_address(f"a{host}:{port}", 1) == (f"a{host}", port)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("TCPIP::127.0.0.1::9::SOCKET", "nothing listens at port 9 of 127.0.0.1"),
        ("TCPIP::127.0.0.1::INSTR", "nothing listens at port 111 of 127.0.0.1"),
        ("TCPIP::127.0.0.1::INSTR", "without VXI-11 an instrument has TCPIP::127.0.0.1::PORT::SOCKET"),
        ("TCPIP::127.0.0.1::hislip0::INSTR", "without HiSLIP an instrument has"),
        ("TCPIP::nosuchhost.invalid::2000::SOCKET", "no host is known as nosuchhost.invalid"),
        ("TCPIP::nosuchhost.invalid::INSTR", "no host is known as nosuchhost.invalid"),
        ("192.168.1.7", "write TCPIP::192.168.1.7::PORT::SOCKET"),
        ("TCPIP::127.0.0.1::2000", "write TCPIP::127.0.0.1::2000::SOCKET"),
        ("GPIB0::5::INSTR", "linux-gpib"),
        ("ASRL/dev/ttyUSB77::INSTR", "/dev/ttyUSB77 is not there"),
    ],
)
def test_what_cannot_be_opened_is_told_with_its_reason(address: str, words: str) -> None:
    with (
        closing(ThorlabsPM100D("pm", address, timeout_s=1.0)) as meter,
        pytest.raises(LinkBrokenError) as caught,
    ):
        meter.connect()
    assert f"pm at {address}: opening the link failed: " in str(caught.value)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("blocked", "words"),
    [
        ("usb", "extra 'usb' brings: pip install pyusb"),
        ("pyvisa_py.usb", "extra 'usb' brings: pip install pyusb"),
    ],
)
def test_a_missing_usb_library_is_named_with_the_extra_that_brings_it(blocked: str, words: str) -> None:
    """In a process of its own, where PyUSB cannot be imported or finds no libusb."""
    missing = (
        'sys.modules["usb"] = None'
        if blocked == "usb"
        else (
            "import usb.core; sys.modules['libusb_package'] = None; "
            "usb.core.find = lambda *_, **__: (_ for _ in ()).throw(usb.core.NoBackendError('No backend available'))"
        )
    )
    code = (
        f"import sys; {missing}\n"
        "from drivers.powermeters.thorlabs_pm100d import ThorlabsPM100D\n"
        "ThorlabsPM100D('pm', 'USB0::0x1313::0x8078::P0000001::INSTR').connect()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    last = ended.stderr.strip().splitlines()[-1]
    assert "LinkBrokenError: pm at USB0::0x1313::0x8078::P0000001::INSTR" in last
    assert words in last


def test_network_drivers_tell_unknown_hosts_and_closed_ports() -> None:
    with socket.socket() as bound:  # bound and not listening: nobody else takes the port meanwhile
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        for driver, address, words in (
            (WebSQ, "nosuchhost.invalid", "no host is known as nosuchhost.invalid"),
            (ID900, "nosuchhost.invalid", "no host is known as nosuchhost.invalid"),
            (WebSQ, f"127.0.0.1:{port}", f"nothing listens at port {port} of 127.0.0.1"),
        ):
            with closing(driver("device", address)) as device, pytest.raises(LinkBrokenError, match=words):
                device.connect()


def test_a_serial_port_that_is_not_there_is_told() -> None:
    with (
        closing(OzDD100("voa", "/dev/ttyUSB77")) as attenuator,
        pytest.raises(LinkBrokenError, match="it is not there; "),
    ):
        attenuator.connect()
