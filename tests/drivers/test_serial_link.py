"""Serial ports that vanish, come back, belong to somebody else, or send nothing: what is said, and what works again."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import serial
from serial.tools.list_ports_common import ListPortInfo

from drivers.attenuators.oz_dd100 import OzDD100
from drivers.lasers.nkt_basik import NKTBasik
from drivers.links import serial_ports
from drivers.links.errors import (
    LinkBrokenError,
    LinkError,
    LinkTimeoutError,
    PreemptedError,
    WrongInstrumentError,
)
from drivers.links.serial_link import SerialLink
from sim_backends.attenuators.oz_dd100 import OzDD100Twin


@pytest.fixture
def ports(monkeypatch: pytest.MonkeyPatch) -> list[ListPortInfo]:
    """The ports that this machine has according to pyserial."""
    present: list[ListPortInfo] = []
    monkeypatch.setattr("serial.tools.list_ports.comports", lambda include_links=False: present)
    return present


def usb_port(device: str, serial_number: str | None) -> ListPortInfo:
    port = ListPortInfo(device)
    port.serial_number, port.product = serial_number, "FT232R USB UART"
    return port


class Adapter:
    """A USB adapter with an attenuator behind it, plugged in under ``name``."""

    def __init__(self, name: Path) -> None:
        self.name = name
        self.twin: OzDD100Twin | None = None

    def plug_in(self, **options: Any) -> None:
        self.twin = OzDD100Twin(**options)
        self.name.symlink_to(self.twin.serve())

    def unplug(self) -> None:
        assert self.twin is not None
        self.name.unlink()
        self.twin.close()


@pytest.fixture
def adapter(tmp_path: Path) -> Iterator[Adapter]:
    adapter = Adapter(tmp_path / "ttyUSB0")
    adapter.plug_in()
    yield adapter
    if adapter.twin is not None:
        adapter.twin.close()


@pytest.fixture
def attenuator(adapter: Adapter) -> Iterator[OzDD100]:
    driver = OzDD100("voa", str(adapter.name), timeout_s=0.2)
    driver.connect()
    yield driver
    driver.close()


def test_a_port_that_vanishes_is_gone_and_the_present_ones_are_told(
    adapter: Adapter, attenuator: OzDD100, ports: list[ListPortInfo]
) -> None:
    ports.append(usb_port("/dev/ttyUSB1", "A10K1Z3P"))

    def ask_and_unplug() -> None:
        with attenuator.link.exchange():
            adapter.unplug()
            attenuator.link.drain()

    with pytest.raises(LinkBrokenError, match=r"the port is gone: .*ttyUSB1") as gone:
        ask_and_unplug()
    with pytest.raises(LinkBrokenError, match=r"cannot open the serial port: it is not there") as absent:
        attenuator.attenuation_db()
    for caught in (gone, absent):
        assert "voa at" in str(caught.value)
        assert "USB serial number A10K1Z3P" in str(caught.value)
        assert "hwgrep://A10K1Z3P" in str(caught.value)


def test_one_that_comes_back_under_its_name_works_at_the_next_use(
    adapter: Adapter, attenuator: OzDD100, ports: list[ListPortInfo]
) -> None:
    adapter.unplug()
    with pytest.raises(LinkBrokenError):
        attenuator.attenuation_db()
    adapter.plug_in(homed=True)
    attenuator.attenuation_db(20.0)
    assert attenuator.attenuation_db() == 20.0


def test_one_that_was_away_between_two_requests_is_opened_again_by_the_second(
    adapter: Adapter, attenuator: OzDD100
) -> None:
    assert attenuator.attenuation_db() == 60.0
    adapter.unplug()
    adapter.plug_in()
    assert attenuator.attenuation_db() == 60.0


def test_another_instrument_behind_the_same_name_is_refused(
    adapter: Adapter, attenuator: OzDD100, ports: list[ListPortInfo]
) -> None:
    adapter.unplug()
    with pytest.raises(LinkBrokenError):
        attenuator.attenuation_db()
    adapter.plug_in(serial_number="OTHER")
    with pytest.raises(WrongInstrumentError, match=r"OTHER answers where SIM0001 did"):
        attenuator.attenuation_db()


def test_a_machine_without_ports_says_so(ports: list[ListPortInfo], tmp_path: Path) -> None:
    link = SerialLink(str(tmp_path / "ttyUSB0"), baudrate=9600, instrument="voa")
    with pytest.raises(LinkBrokenError, match="no serial port at present"):
        link.open()


def test_a_lasting_name_of_no_port_is_told(ports: list[ListPortInfo]) -> None:
    ports.append(usb_port("/dev/ttyUSB1", "A10K1Z3P"))
    link = SerialLink("hwgrep://B20", baudrate=9600, instrument="voa")
    with pytest.raises(LinkBrokenError, match=r"it is not there; present are /dev/ttyUSB1"):
        link.open()


def test_lasting_names_are_found(ports: list[ListPortInfo], tmp_path: Path) -> None:
    device, by_id = tmp_path / "ttyUSB3", tmp_path / "by-id"
    device.touch()
    by_id.mkdir()
    (by_id / "usb-FTDI_FT232R_A9-if00-port0").symlink_to(device)
    ports.extend([usb_port(str(device), "A9"), usb_port("/dev/ttyS0", None)])
    named, plain = sorted(serial_ports.present(by_id), key=lambda port: port.device != str(device))
    assert named.lasting_name == str(by_id / "usb-FTDI_FT232R_A9-if00-port0")
    assert plain.lasting_name == ""
    assert str(plain) == "/dev/ttyS0 (FT232R USB UART)"


HOLDER = """
import serial, sys
port = serial.Serial(sys.argv[1], exclusive=True)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_port_of_another_process_is_refused_with_its_name(adapter: Adapter) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(adapter.name)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        driver = OzDD100("voa", str(adapter.name), timeout_s=0.2)
        try:
            with pytest.raises(
                LinkBrokenError, match=rf"process {holder.pid} .*has it; one program at a time"
            ):
                driver.connect()
        finally:
            driver.close()
            holder.communicate("")


def test_a_port_of_this_process_too(adapter: Adapter, attenuator: OzDD100) -> None:
    second = OzDD100("second", attenuator.address)
    with pytest.raises(LinkBrokenError, match="this process itself has it"):
        second.connect()
    second.close()


def test_a_holder_without_a_lock_is_found_by_its_open_files(tmp_path: Path) -> None:
    """A terminal program that only keeps the port for itself; the table of processes is a copy."""
    port = tmp_path / "ttyUSB0"
    port.touch()
    (tmp_path / "4321" / "fd").mkdir(parents=True)
    (tmp_path / "4321" / "fd" / "3").symlink_to(port)
    (tmp_path / "4321" / "cmdline").write_bytes(b"screen\0/dev/ttyUSB0\0")
    (tmp_path / "locks").write_text("")
    assert serial_ports.holders(str(port), tmp_path) == ["process 4321 (screen /dev/ttyUSB0)"]


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (errno.EACCES, "no permission .* dialout"),
        (errno.EBUSY, "another program has it"),
        (errno.EIO, "check the address"),
    ],
)
def test_why_a_port_does_not_open(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int, told: str
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise serial.SerialException(code, os.strerror(code))

    port = tmp_path / "ttyS0"
    port.touch()
    monkeypatch.setattr(serial, "serial_for_url", refuse)
    with pytest.raises(LinkBrokenError, match=told):
        SerialLink(str(port), baudrate=9600, instrument="voa").open()


def test_a_file_is_no_port(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.touch()
    with pytest.raises(LinkBrokenError, match="check the address"):
        SerialLink(str(path), baudrate=9600, instrument="voa").open()


@pytest.fixture
def terminal() -> Iterator[tuple[int, str]]:
    """Our end of a pseudo-terminal, and the name of the other."""
    ours, theirs = os.openpty()
    yield ours, os.ttyname(theirs)
    os.close(ours)
    os.close(theirs)


def test_what_was_sent_is_no_failure_however_late_the_clock_is_looked_at(terminal: tuple[int, str]) -> None:
    """A process that stands still after the write finds the time over; the telegram is out all the same."""
    ours, name = terminal
    link = SerialLink(name, baudrate=115200, instrument="laser", timeout_s=1e-9)
    with link.exchange():
        link.write(b"emission off")
    assert os.read(ours, 100) == b"emission off"
    link.close()


def test_a_line_that_takes_only_a_part_is_a_timeout(terminal: tuple[int, str]) -> None:
    link = SerialLink(terminal[1], baudrate=115200, instrument="laser", timeout_s=0.1)
    with pytest.raises(LinkTimeoutError, match=r"bytes could not be sent in 0\.1 s"), link.exchange():
        link.write(bytes(1 << 20))
    link.close()


def test_somebody_urgent_need_not_wait_for_a_line_that_takes_nothing(terminal: tuple[int, str]) -> None:
    link = SerialLink(terminal[1], baudrate=115200, instrument="laser", timeout_s=60.0)
    full, given_up = threading.Event(), []
    link.tap = lambda direction, data: full.set() if direction == "sent" else None

    def fill() -> None:
        with pytest.raises(LinkError) as caught, link.exchange():
            link.write(bytes(1 << 20))
        given_up.append(caught.value)

    writer = threading.Thread(target=fill)
    writer.start()
    assert full.wait(10.0)
    with link.urgent():
        pass
    writer.join(10.0)
    assert [type(error) for error in given_up] == [PreemptedError]
    link.close()


class StuckPort:
    """A port with flow control that nobody lets send: no terminal of the system can play that."""

    cts = False

    def __init__(self, full: bool) -> None:
        self.full = full
        self.unsent = b""
        self.timeout = self.write_timeout = 0.0
        self.in_waiting = 0

    def write(self, data: bytes) -> None:
        self.unsent += data
        if self.full:
            raise serial.SerialTimeoutException("Write timeout")

    def read(self, size: int) -> bytes:
        return b""

    def reset_output_buffer(self) -> None:
        self.unsent = b""

    def close(self) -> None:
        assert not self.unsent, "closing would wait for these bytes"


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], tuple[StuckPort, NKTBasik]]:
    def build(full: bool) -> tuple[StuckPort, NKTBasik]:
        port = StuckPort(full)
        monkeypatch.setattr(serial, "serial_for_url", lambda *args, **kwargs: port)
        return port, NKTBasik("laser", "/dev/ttyUSB0", timeout_s=0.01, resends=1)

    return build


@pytest.mark.parametrize("full", [False, True])
def test_flow_control_that_lets_nothing_out_is_said(
    stuck: Callable[[bool], tuple[StuckPort, NKTBasik]], full: bool
) -> None:
    """A telegram fits into the system's buffer, so that it looks sent; what is kept there never goes out later."""
    port, laser = stuck(full)
    with pytest.raises(LinkTimeoutError, match="CTS is off") as caught:
        laser.connect()
    assert re.search("laser at /dev/ttyUSB0", str(caught.value))
    assert port.unsent == b""
    laser.close()
