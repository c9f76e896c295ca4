"""Owners of one machine keep what they found in one book, at the same time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

from lab.calibration.book import read_book
from lab.calibration.finding import Finding, Measured
from lab.calibration.keeping import keep, kept_findings
from lab.calibration.steps import Step
from lab.runs.testbeds.folder import template_path
from lab.testbed import read_testbed, write_testbed

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
DATA = read_testbed(template_path("simulated-four-node"))
USERS = ("alice", "bob", "carol", "dave")
ROUNDS = 5


def test_owners_that_keep_at_the_same_time_lose_nothing_of_each_other(tmp_path: Path) -> None:
    testbed = tmp_path / "testbed.toml"
    write_testbed(DATA, testbed)

    def keep_some(user: str) -> None:
        for n in range(ROUNDS):
            values = {"v_pi_v": Measured(3.9 + n / 1000, 0.001)}
            finding = Finding(Step.PHASE, user, values, {}, {}, {}, {}, [], 1.0)
            keep(testbed, finding, AT + timedelta(seconds=n))
            mine = read_book(testbed, DATA).users[user]["v_pi_v"]
            assert mine.value == values["v_pi_v"].value, "another owner put an older book in its place"

    with ThreadPoolExecutor(len(USERS)) as pool:
        list(pool.map(keep_some, USERS))
    assert set(read_book(testbed, DATA).users) == set(USERS)
    assert len(kept_findings(testbed)) == ROUNDS * len(USERS)
