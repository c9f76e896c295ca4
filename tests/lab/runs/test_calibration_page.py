"""The page of a ring's calibrations."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from msgspec import structs

from lab.calibration.errors import CalibrationRefusedError
from lab.calibration.finding import Curve, Finding, Measured
from lab.calibration.keeping import FINDINGS, keep, kept_findings
from lab.calibration.steps import Step
from lab.runs.pages.calibration_page import write_page
from lab.runs.testbeds.folder import template_path
from lab.testbed import load_testbed, read_testbed, write_testbed

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
CURVE = Curve(
    "Clicks by level", "voltage / V", "clicks", [0.0, 0.1, 0.2], {"D1": [3.0, 2.0, 1.0]}, {"D1": [3.1, 2.0, 0.9]},
    {"D1": [1.0, 1.0, 1.0]},
)  # fmt: skip
FINDING = Finding(
    step=Step.PHASE,
    owner="alice",
    partner="<b>carol</b>",
    values={"v_pi_v": Measured(3.97, 0.0025, "V")},
    figures={"half_wave_v": Measured(0.2, 0.0001, "V")},
    settings={"rf_gain": 20.0},
    quality={"chi2": 501.0},
    counts={"D1": [3, 2, 1]},
    curves=[CURVE],
    light_s=1.4,
)


@pytest.fixture
def testbed(tmp_path: Path) -> Path:
    path = tmp_path / "testbed.toml"
    write_testbed(read_testbed(template_path("simulated-four-node")), path)
    return path


def test_the_latest_finding_stands_with_its_figures_and_those_before(testbed: Path) -> None:
    keep(testbed, FINDING, AT)
    later = structs.replace(FINDING, values={"v_pi_v": Measured(3.98, 0.0025, "V")})
    keep(testbed, later, AT + timedelta(hours=1))
    page = write_page("ring", kept_findings(testbed), testbed.parent / FINDINGS).read_text()
    assert "phase of alice" in page
    assert "2026-03-01 13:00:00 UTC" in page
    assert "3.98" in page
    assert "3.97" not in page
    assert page.count("data:image/png") == 2  # the curve, and the history
    assert "<b>carol</b>" not in page
    assert load_testbed(testbed).user("alice").v_pi_v == 3.98


def test_a_file_that_is_no_finding_is_named(testbed: Path) -> None:
    keep(testbed, FINDING, AT)
    (testbed.parent / FINDINGS / "0-broken.json").write_text('{"format": 1, "step": 3}')
    with pytest.raises(ValueError, match=r"0-broken\.json is no finding"):
        kept_findings(testbed)


def test_values_that_no_testbed_may_have_are_refused_and_nothing_of_them_is_kept(testbed: Path) -> None:
    keep(testbed, FINDING, AT)
    before = load_testbed(testbed)
    wrong = structs.replace(FINDING, values={"v_pi_v": Measured(-3.0, 0.01, "V")})
    with pytest.raises(CalibrationRefusedError, match=r"users\[0\]\.v_pi_v"):
        keep(testbed, wrong, AT + timedelta(hours=1))
    assert load_testbed(testbed) == before
    assert len(kept_findings(testbed)) == 1
