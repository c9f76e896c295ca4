"""The power meter's twin as two independent drivers use it: pymeasure's PM100USB and QMI's PM100D."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import qmi
from pymeasure.instruments.thorlabs import ThorlabsPM100USB
from qmi.core.exceptions import QMI_InstrumentException
from qmi.instruments.thorlabs.pm100d import Thorlabs_PM100D

from sim_backends.powermeters.thorlabs_pm100d import PM100DTwin

POWER_W = 1.25e-6


@pytest.fixture(params=[False, True], ids=["fresh", "left by someone"])
def twin(request: pytest.FixtureRequest) -> Iterator[PM100DTwin]:
    twin = PM100DTwin(read_power_w=lambda: POWER_W, left_by_someone=request.param)
    yield twin
    twin.close()


@pytest.fixture
def pymeasure(twin: PM100DTwin) -> Iterator[ThorlabsPM100USB]:
    address = twin.serve("127.0.0.1", 0)
    ends = {"read_termination": "\n", "write_termination": "\n"}
    with pytest.warns(FutureWarning, match="SCPI"):
        meter = ThorlabsPM100USB(address, visa_library="@py", timeout=2000, **ends)
    meter.reset()  # as users begin, whoever used it last
    meter.clear()
    yield meter
    meter.adapter.close()


@pytest.fixture
def qmi_meter(twin: PM100DTwin) -> Iterator[Thorlabs_PM100D]:
    logging.getLogger("qmi").setLevel(logging.CRITICAL)
    qmi.start("powermeter", console_loglevel="CRITICAL")
    host, port = twin.serve("127.0.0.1", 0).split("::")[1:3]
    meter = Thorlabs_PM100D(qmi.context(), "meter", f"tcp:{host}:{port}")
    meter.open()
    meter.reset()
    yield meter
    meter.close()
    qmi.stop()


def test_pymeasure_knows_meter_and_sensor(pymeasure: ThorlabsPM100USB) -> None:
    assert pymeasure.id == "Thorlabs,PM100D,SIM00001,2.4.0"
    assert pymeasure.sensor_name == "S155C"
    assert pymeasure.is_power_sensor
    assert pymeasure.wavelength_settable
    assert pymeasure.has_temperature_sensor
    assert not pymeasure.is_energy_sensor


def test_pymeasure_sets_the_wavelength_and_reads_power(pymeasure: ThorlabsPM100USB, twin: PM100DTwin) -> None:
    pymeasure.wavelength = 1310.125
    assert pymeasure.wavelength == twin.state()["wavelength_nm"] == 1310.125
    pymeasure.wavelength = 2500  # pymeasure asks for the limits and keeps to them
    assert pymeasure.wavelength == pymeasure.wavelength_max
    assert pymeasure.power == POWER_W
    assert pymeasure.check_errors() == []


def test_pymeasure_reads_errors_and_resets(pymeasure: ThorlabsPM100USB) -> None:
    pymeasure.wavelength = 1310
    pymeasure.write("NO:SUCH:COMMAND")
    assert pymeasure.next_error[0] == -113
    assert pymeasure.next_error[0] == 0
    pymeasure.reset()
    pymeasure.clear()
    assert pymeasure.complete
    assert pymeasure.wavelength != 1310


def test_qmi_reads_identity_sensor_and_values(qmi_meter: Thorlabs_PM100D) -> None:
    identity = qmi_meter.get_idn()
    assert (identity.vendor, identity.model, identity.serial) == ("Thorlabs", "PM100D", "SIM00001")
    assert qmi_meter.get_sensor_info().flags == 289
    assert qmi_meter.get_power() == POWER_W
    assert qmi_meter.get_current() == POWER_W  # 1 A/W


def test_qmi_sets_range_and_wavelength(qmi_meter: Thorlabs_PM100D, twin: PM100DTwin) -> None:
    assert qmi_meter.get_autorange()
    qmi_meter.set_range(1e-3)
    assert qmi_meter.get_range() == 1e-3
    assert not qmi_meter.get_autorange()
    qmi_meter.set_autorange(True)
    assert twin.state()["auto_range"]
    qmi_meter.set_wavelength(1310.5)
    assert qmi_meter.get_wavelength() == 1310.5
    with pytest.raises(QMI_InstrumentException, match="-222"):
        qmi_meter.set_wavelength(99999.0)
    qmi_meter.reset()
    assert qmi_meter.get_wavelength() != 1310.5
