"""Roles take up what is calibrated while they run."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from lab.calibration.book import BOOK_FILE, Value, fingerprint, read_book, write_book
from lab.calibration.current import CurrentTestbed
from lab.calibration.steps import Step
from lab.runs.testbeds.folder import template_path
from lab.testbed import load_testbed, read_testbed, write_testbed

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
DATA = read_testbed(template_path("simulated-four-node"))


@pytest.fixture
def testbed(tmp_path: Path) -> Path:
    path = tmp_path / "testbed.toml"
    write_testbed(DATA, path)
    return path


def found(path: Path, v_pi_v: float) -> None:
    value = Value(value=v_pi_v, uncertainty=0.01, step=Step.PHASE, measured=AT)
    write_book(path, read_book(path, DATA).with_values("alice", {"v_pi_v": value}))


def test_a_new_value_is_there_at_the_next_look_and_nothing_else_changes(testbed: Path) -> None:
    current = CurrentTestbed(testbed, load_testbed(testbed))
    before = current()
    assert current() is before
    found(testbed, 3.9)
    after = current()
    assert after.user("alice").v_pi_v == 3.9
    assert after is current()
    assert after.model_copy(update={"users": before.users}) == before


def test_a_book_that_cannot_be_used_leaves_the_last_values(
    testbed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    current = CurrentTestbed(testbed, load_testbed(testbed))
    found(testbed, 3.9)
    good = current()
    (testbed.parent / BOOK_FILE).write_text("ring = [")
    assert current() is good
    assert "stay as they are" in caplog.text
    found_again = read_book_text(testbed)
    (testbed.parent / BOOK_FILE).write_text(found_again)
    assert current().user("alice").v_pi_v == 4.1


def read_book_text(testbed: Path) -> str:
    (testbed.parent / BOOK_FILE).unlink()
    found(testbed, 4.1)
    return (testbed.parent / BOOK_FILE).read_text()


def test_the_ring_is_the_same_whether_a_number_is_written_whole_or_not() -> None:
    simulation = DATA["simulation"]
    whole = {**DATA, "simulation": {**simulation, "length_km": 6}}
    broken = {**DATA, "simulation": {**simulation, "length_km": 6.0}}
    assert fingerprint(whole) == fingerprint(broken)
