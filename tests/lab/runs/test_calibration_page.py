"""The page of a ring's calibrations."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from made_reports import CALIBRATED
from msgspec import structs

from lab.calibration.errors import CalibrationRefusedError
from lab.calibration.finding import Measured
from lab.calibration.keeping import FINDINGS, keep, kept_findings
from lab.runs.pages.calibration_page import write_page
from lab.runs.testbeds.folder import template_path
from lab.testbed import load_testbed, read_testbed, write_testbed

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def testbed(tmp_path: Path) -> Path:
    path = tmp_path / "testbed.toml"
    write_testbed(read_testbed(template_path("simulated-four-node")), path)
    return path


def test_the_latest_finding_stands_with_its_figures_and_those_before(testbed: Path) -> None:
    keep(testbed, CALIBRATED, AT)
    later = structs.replace(CALIBRATED, values={"v_pi_v": Measured(3.98, 0.0025, "V")})
    keep(testbed, later, AT + timedelta(hours=1))
    page = write_page("ring", kept_findings(testbed), testbed.parent / FINDINGS).read_text()
    assert "phase of alice" in page
    assert "2026-03-01 13:00:00 UTC" in page
    assert "3.98" in page
    assert "3.97" not in re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL)
    assert page.count("<svg") == 3  # the curve, what its fit leaves, and the history
    assert "<b>carol</b>" not in page
    assert load_testbed(testbed).user("alice").v_pi_v == 3.98


def test_a_file_that_is_no_finding_is_named(testbed: Path) -> None:
    keep(testbed, CALIBRATED, AT)
    (testbed.parent / FINDINGS / "0-broken.json").write_text('{"format": 1, "step": 3}')
    with pytest.raises(ValueError, match=r"0-broken\.json is no finding"):
        kept_findings(testbed)


def test_values_that_no_testbed_may_have_are_refused_and_nothing_of_them_is_kept(testbed: Path) -> None:
    keep(testbed, CALIBRATED, AT)
    before = load_testbed(testbed)
    wrong = structs.replace(CALIBRATED, values={"v_pi_v": Measured(-3.0, 0.01, "V")})
    with pytest.raises(CalibrationRefusedError, match=r"users\[0\]\.v_pi_v"):
        keep(testbed, wrong, AT + timedelta(hours=1))
    assert load_testbed(testbed) == before
    assert len(kept_findings(testbed)) == 1
