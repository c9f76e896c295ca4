"""A plan whose launch attenuation the relay could not set is refused before anybody takes light in."""

from __future__ import annotations

from pathlib import Path

import pytest

from drivers.attenuators.keysight_attenuators import ATTENUATION_LIMITS_DB
from lab.light_of import LAUNCH_LIMIT_DB
from lab.runs.testbeds.folder import template_path
from lab.testbed import parse_testbed, read_testbed
from orchestrator.light.launching import FIRST_DB, LOW_DB
from orchestrator.protocols.block_planning import protocol_named


def test_whatever_may_be_planned_can_be_opened_low() -> None:
    assert FIRST_DB + ATTENUATION_LIMITS_DB[1] >= LAUNCH_LIMIT_DB + LOW_DB


@pytest.mark.parametrize(("power_mw", "refused"), [(5.0, False), (20.0, True)])
def test_a_laser_too_bright_for_the_launch_is_told_in_the_plan(power_mw: float, refused: bool) -> None:
    data = read_testbed(template_path("simulated-reference"))
    data["ring"]["laser_power_mw"] = power_mw
    testbed = parse_testbed(data, Path("t.toml"))
    reasons = protocol_named(testbed.protocol.name).refusals(testbed, "alice", "bob")
    assert any("lower the laser's power" in each for each in reasons) is refused
