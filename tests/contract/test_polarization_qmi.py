"""The twins of polarisation controllers as QMI drives them: QuTech's own drivers of EPC-400 and MPC320."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import pytest
import qmi
from qmi.core.context import QMI_Context
from qmi.core.exceptions import QMI_TimeoutException
from qmi.instruments.ozoptics.epc_driver import OzOptics_EpcDriver
from qmi.instruments.thorlabs.apt_protocol import AptChannelState
from qmi.instruments.thorlabs.mpc320 import Thorlabs_Mpc320

from sim_backends.polarization.oz_epc400 import OzEPC400Twin
from sim_backends.polarization.thorlabs_mpc320 import ThorlabsMPC320Twin


@pytest.fixture(scope="module", autouse=True)
def context() -> Iterator[QMI_Context]:
    logging.getLogger("qmi").setLevel(logging.CRITICAL)
    qmi.start("contract", console_loglevel="CRITICAL")
    yield qmi.context()
    qmi.stop()


@pytest.fixture
def squeezers(context: QMI_Context) -> Iterator[tuple[OzOptics_EpcDriver, OzEPC400Twin]]:
    twin = OzEPC400Twin(left_by_someone=True)
    driver = OzOptics_EpcDriver(context, "epc", f"serial:{twin.serve()}:baudrate=9600")
    driver.open()
    yield driver, twin
    driver.close()
    twin.close()


@pytest.fixture
def paddles(context: QMI_Context) -> Iterator[tuple[Thorlabs_Mpc320, ThorlabsMPC320Twin]]:
    twin = ThorlabsMPC320Twin()
    driver = Thorlabs_Mpc320(context, "mpc", f"serial:{twin.serve()}")
    driver.open()
    driver._apt_protocol._timeout = 0.2  # it sleeps for as long as that before it reads
    yield driver, twin
    driver.close()
    twin.close()


def test_every_command_of_the_epc(squeezers: tuple[OzOptics_EpcDriver, OzEPC400Twin]) -> None:
    driver, twin = squeezers
    assert driver.get_operating_mode() == "AC"
    assert driver.get_waveform_type() == "Triangle"
    driver.set_waveform_type_sine()
    assert driver.get_waveform_type() == "Sine"
    driver.set_frequency(2, 47)
    assert driver.get_frequencies() == (7, 47, 37, 71)
    driver.set_operating_mode_dc()
    assert driver.get_operating_mode() == "DC"
    driver.set_voltage(3, 2500)
    driver.set_high(1)
    driver.set_low(2)
    driver.set_zero(4)
    assert driver.get_voltages() == (5000, -5000, 2500, 0)
    assert twin.state()["voltages_mv"] == [5000, -5000, 2500, 0]
    driver.enable_dc_in_ac_mode()
    driver.toggle_channel_ac_dc(2)
    assert driver.is_in_dc_in_ac_mode()
    assert driver.get_ac_dc_channel_status() == ("F", "V", "F", "F")
    driver.save_to_flash()


def test_a_voltage_that_the_epc_has_not_is_refused(
    squeezers: tuple[OzOptics_EpcDriver, OzEPC400Twin],
) -> None:
    """QMI checks before it sends; what it would wait for then is a second line."""
    driver, twin = squeezers
    before = twin.state()
    with pytest.raises(QMI_TimeoutException):
        driver._ask("V1,5001", timeout=0.05)
    assert twin.state() == before


def test_paddles_are_told_and_moved(paddles: tuple[Thorlabs_Mpc320, ThorlabsMPC320Twin]) -> None:
    driver, twin = paddles
    assert driver.get_idn().model == b"MPC320"
    assert driver.get_idn().serial == 38_000_001
    driver.move_absolute(1, 85.0)  # no motor is enabled yet
    assert driver.get_status_update(1).position == 0.0
    driver.enable_channels([1, 3])
    assert driver.get_channel_state(1) == AptChannelState.ENABLE
    assert driver.get_channel_state(2) == AptChannelState.DISABLE
    driver.set_polarisation_parameters(100, 0, 10, 20, 30)
    assert driver.get_polarisation_parameters().velocity == 100
    driver.move_absolute(1, 85.0)
    deadline = time.monotonic() + 5
    while not driver.is_move_completed(1, 0.05):
        assert time.monotonic() < deadline
    assert driver.get_status_update(1).position == pytest.approx(85.0)
    assert twin.state()["counts"] == [685, 0, 0]
    driver.home_channel(1)
    deadline = time.monotonic() + 5
    while not driver.is_channel_homed(1, 0.05):
        assert time.monotonic() < deadline
    assert driver.get_status_update(1).position == 0.0
