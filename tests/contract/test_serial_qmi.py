"""The serial twins as QMI drives them: QuTech's own drivers of the Koheras laser and of the OZ attenuator."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import qmi
from qmi.core.context import QMI_Context
from qmi.core.exceptions import QMI_InstrumentException, QMI_TimeoutException
from qmi.instruments.nkt_photonics.adjustik import KoherasAdjustikLaser
from qmi.instruments.ozoptics.dd100mc import OZOptics_DD100MC

from sim_backends.attenuators.oz_dd100 import OzDD100Twin
from sim_backends.lasers.nkt_basik import NKTBasikTwin


@pytest.fixture(scope="module", autouse=True)
def context() -> Iterator[QMI_Context]:
    """QMI makes instruments in a context of the process; its log of expected refusals stays silent."""
    logging.getLogger("qmi").setLevel(logging.CRITICAL)
    qmi.start("contract", console_loglevel="CRITICAL")
    yield qmi.context()
    qmi.stop()


@pytest.fixture(params=[False, True], ids=["fresh", "left by someone"])
def laser(
    context: QMI_Context, request: pytest.FixtureRequest
) -> Iterator[tuple[KoherasAdjustikLaser, NKTBasikTwin]]:
    twin = NKTBasikTwin(wavelength_nm=1550.12, left_by_someone=request.param)
    driver = KoherasAdjustikLaser(context, "laser", f"serial:{twin.serve()}")
    driver.open()
    yield driver, twin
    driver.close()
    twin.close()


@pytest.fixture
def attenuator(context: QMI_Context) -> Iterator[tuple[OZOptics_DD100MC, OzDD100Twin]]:
    twin = OzDD100Twin()
    driver = OZOptics_DD100MC(context, "voa", f"serial:{twin.serve()}")
    driver.open()
    yield driver, twin
    driver.close()
    twin.close()


def test_a_laser_is_identified_and_set(laser: tuple[KoherasAdjustikLaser, NKTBasikTwin]) -> None:
    driver, twin = laser
    assert driver.get_basik_module_type() == 0x33
    assert driver.get_basik_standard_wavelength() == 1550120.0
    driver.set_basik_output_power_setpoint_mW(12.34)
    assert driver.get_basik_output_power_setpoint_mW() == 12.34
    assert driver.get_basik_output_power_setpoint_dBm() == 10.91
    driver.set_basik_output_power_setpoint_dBm(7.0)
    assert driver.get_basik_output_power_setpoint_mW() == 5.01
    driver.set_basik_wavelength_offset_setpoint(-12.3)
    assert driver.get_basik_wavelength_offset_setpoint() == driver.get_basik_wavelength_offset() == -12.3
    assert twin.state()["wavelength_nm"] == pytest.approx(1550.12 - 0.0123)


def test_light_goes_on_and_off(laser: tuple[KoherasAdjustikLaser, NKTBasikTwin]) -> None:
    driver, twin = laser
    driver.set_basik_setup_bits(0)
    driver.set_basik_output_power_setpoint_mW(10.0)
    driver.disable_basik_emission()
    assert driver.get_basik_output_power_mW() == 0.0
    driver.enable_basik_emission()
    assert driver.get_basik_emission() == 1
    assert driver.get_basik_status_bits() & 1
    assert driver.get_basik_output_power_mW() == 10.0
    assert driver.get_basik_output_power_dBm() == 10.0
    driver.disable_basik_emission()
    assert driver.get_basik_emission() == 0
    assert twin.is_safe()


def test_modulation_is_kept(laser: tuple[KoherasAdjustikLaser, NKTBasikTwin]) -> None:
    driver, _ = laser
    driver.set_basik_wavelength_modulation_frequency(1.5, 2500.0)
    driver.set_basik_wavelength_modulation_level(12.5)
    driver.set_basik_wavelength_modulation_offset(-3.5)
    driver.set_basik_modulation_setup_bits(5)
    driver.set_basik_setup_bits(1 << 4)
    assert driver.get_basik_wavelength_modulation_frequency() == (1.5, 2500.0)
    assert driver.get_basik_wavelength_modulation_level() == 12.5
    assert driver.get_basik_wavelength_modulation_offset() == -3.5
    assert driver.get_basik_modulation_setup_bits() == 5
    assert driver.get_basik_setup_bits() == 1 << 4
    assert driver.get_basik_amplitude_modulation_frequency() == (0.0, 0.0)
    assert driver.get_basik_amplitude_modulation_depth() == 0.0
    assert len(driver.get_basik_user_area()) == 240


def test_every_register_that_qmi_reads_is_there(laser: tuple[KoherasAdjustikLaser, NKTBasikTwin]) -> None:
    driver, _ = laser
    reads = [name for name in dir(KoherasAdjustikLaser) if name.startswith("get_basik_")]
    assert len(reads) >= 18
    for name in reads:
        assert getattr(driver, name)() is not None, name


def test_a_set_point_beyond_the_laser_is_refused(laser: tuple[KoherasAdjustikLaser, NKTBasikTwin]) -> None:
    driver, _ = laser
    before_mw = driver.get_basik_output_power_setpoint_mW()
    with pytest.raises(QMI_InstrumentException, match="NACK"):
        driver.set_basik_output_power_setpoint_mW(500.0)
    with pytest.raises(QMI_InstrumentException, match="NACK"):
        driver.set_basik_wavelength_offset_setpoint(3000.0)
    assert driver.get_basik_output_power_setpoint_mW() == before_mw


def test_qmi_asks_again_when_the_laser_drops_a_request(
    laser: tuple[KoherasAdjustikLaser, NKTBasikTwin], monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, twin = laser
    driver._interbus._timeout = 0.05
    driver.set_basik_output_power_setpoint_mW(10.0)
    twin.drop_every = 3
    assert [driver.get_basik_output_power_setpoint_mW() for _ in range(6)] == [10.0] * 6


def test_no_frame_answers_where_a_bare_module_is(laser: tuple[KoherasAdjustikLaser, NKTBasikTwin]) -> None:
    driver, _ = laser
    driver._interbus._timeout = 0.01
    with pytest.raises(QMI_TimeoutException):
        driver.get_adjustik_module_type()


def test_an_attenuator_moves(attenuator: tuple[OZOptics_DD100MC, OzDD100Twin]) -> None:
    driver, twin = attenuator
    assert "MAX ATTEN:60.00" in driver.get_configuration_display()
    assert driver.set_attenuation(12.34) > 0
    assert driver.get_position().attenuation == 12.34
    assert twin.state()["attenuation_db"] == 12.34
    driver.home()
    assert driver.get_position().attenuation == 1.0


def test_an_attenuator_refuses_what_it_cannot(attenuator: tuple[OZOptics_DD100MC, OzDD100Twin]) -> None:
    """QMI waits for ``Done``, so that a refusal is a time-out to it."""
    driver, twin = attenuator
    driver.RESPONSE_TIMEOUT = 0.05
    with pytest.raises(QMI_TimeoutException):
        driver.set_attenuation(99.0)
    assert twin.state()["attenuation_db"] == 60.0
