"""The twin of the DLC pro as QMI drives it: QuTech's own driver, over TCP."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing

import pytest
import qmi
from qmi.core.context import QMI_Context
from qmi.instruments.toptica import Toptica_DlcPro

from sim_backends.lasers.toptica_dlc_pro import DLCProTwin


@pytest.fixture(scope="module", autouse=True)
def context() -> Iterator[QMI_Context]:
    """QMI makes instruments in a context of the process."""
    logging.getLogger("qmi").setLevel(logging.CRITICAL)
    qmi.start("contract_dlc", console_loglevel="CRITICAL")
    yield qmi.context()
    qmi.stop()


@pytest.fixture(params=[False, True], ids=["fresh", "left by someone"])
def laser(
    context: QMI_Context, request: pytest.FixtureRequest
) -> Iterator[tuple[Toptica_DlcPro, DLCProTwin]]:
    with closing(DLCProTwin(command_port=0, left_by_someone=request.param)) as twin:
        twin._echo = False  # QMI takes an echo for the value
        driver = Toptica_DlcPro(context, "laser", f"tcp:{twin.serve('127.0.0.1')}")
        driver.open()
        yield driver, twin
        driver.close()


def test_light_is_made_and_set(laser: tuple[Toptica_DlcPro, DLCProTwin]) -> None:
    driver, twin = laser
    assert driver.get_parameter("serial-number") == "SIM00001"
    driver.set_multiple_parameters(
        [("laser1:power-stabilization:setpoint", 12.5), ("laser1:ctl:wavelength-set", 1551.25)]
    )
    driver.set_parameter("laser1:power-stabilization:enabled", True)
    driver.set_parameter("laser1:dl:cc:enabled", True)
    named = ("laser1:emission", "laser1:ctl:power:power-act", "laser1:ctl:wavelength-set")
    assert driver.get_multiple_parameters(list(named)) == (True, 12.5, 1551.25)
    assert twin.state()["emitted_mw"] == 12.5
    driver.set_parameter("laser1:dl:cc:enabled", False)
    assert twin.is_safe()


def test_what_is_not_there_is_an_error(laser: tuple[Toptica_DlcPro, DLCProTwin]) -> None:
    driver, _ = laser
    with pytest.raises(ValueError, match="no such parameter"):
        driver.get_parameter("laser1:amp:cc:enabled")
    assert driver.get_parameter("emission-button-enabled") is True
