"""``qunetlab monitor``: what the meter shows of what was told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from lab.cli.monitor import page, tell_lines
from lab.runs.following.document import document_of
from lab.runs.following.meter import meter
from lab.runs.following.observer import Observer
from orchestrator.events.status import BlockReport, LightNow, Readings, Ready
from orchestrator.hub.agent import LinkUp
from orchestrator.wire.messages import SnapshotEnd, TelemetryItem

if TYPE_CHECKING:
    from tests.lab.conftest import Command

Make = Callable[..., Observer]
WORDS: list[tuple[str, Any, float]] = [
    ("relay", LightNow("alice", "bob", 500, 1000, 0, 20_000.0, 10_000.0, 400.0), 0.3),
    ("relay", Readings("laser", "temperature_c", 51.0, "degC", 10.0, 45.0, 2.0), 1.0),
    ("relay", Readings("laser", "emission", True), 1.0),
    ("alice", Readings("awg\x1b[2J", "temperature_c", 5.0, "degC", 10.0, 45.0), 1.0),
    ("alice", BlockReport(1, 7, "alice", "bob", True, secret_bits=42_000, qber=0.01), 9.0),
    ("bob", BlockReport(1, 7, "alice", "bob", True, secret_bits=42_000, qber=0.01), 9.0),
    ("alice", Ready(True), 9.0),
]


@pytest.fixture
def watched(observed: Make) -> Observer:
    items = [TelemetryItem.of(role, n, age_s, item) for n, (role, item, age_s) in enumerate(WORDS)]
    observer = observed(LinkUp(1), *items, SnapshotEnd(len(items)))
    observer.poll()
    return observer


def test_counts_visibility_and_readings_stand_there_with_limits_and_age(watched: Observer) -> None:
    lines = page(watched, "").splitlines()
    assert any(line.startswith("light: alice-bob 50 % of a block, D1 20k/s, D2 10k/s") for line in lines)
    bars = {line[:2]: line.count("#") for line in lines if "#" in line}
    assert bars["D1"] == 2 * bars["D2"] > 0
    (block,) = (line for line in lines if line.startswith("alice-bob"))
    assert block.split() == ["alice-bob", "1.00", "%", "0.9800", "42k", "bit", "9.0", "s"]
    (hot,) = (line for line in lines if "laser.temperature_c" in line)
    assert hot.split()[2:] == ["51", "degC", "10", "..", "45", "HIGH", "3.0", "s"]
    (cold,) = (line for line in lines if "awg" in line)
    assert "LOW" in cold
    assert "\x1b" not in cold
    assert any("laser.emission on" in " ".join(line.split()) for line in lines)
    assert "awg" not in page(watched, "relay")


@pytest.mark.parametrize("width", [60, 80, 200])
def test_it_fits_the_terminal(watched: Observer, width: int) -> None:
    assert max(map(len, meter(document_of(watched), "", width).splitlines())) <= width


def test_a_ring_of_which_nothing_is_told_yet_says_so(observed: Make) -> None:
    observer = observed(LinkUp(1), SnapshotEnd(0))
    observer.poll()
    assert page(observer, "").splitlines()[1:] == ["light: nothing is told of it", "", "no block yet"]


def test_lines_for_programs_are_of_the_published_schema(
    watched: Observer, capsys: pytest.CaptureFixture[str]
) -> None:
    going_on = iter([True, False])
    tell_lines(watched, "relay", lambda: next(going_on))
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["kind"] for row in told] == ["LightNow", "Readings", "Readings", "BlockReport", "BlockReport"]
    published = (Path(__file__).parents[2] / "docs/status.schema.json").read_text(encoding="utf-8")
    validator = jsonschema.Draft202012Validator(json.loads(published))
    for row in told:
        validator.validate(row)


def test_a_role_that_is_none_is_refused_with_those_there_are(qunetlab: Command) -> None:
    said = qunetlab("monitor", "simulated-four-node", "--role", "eve")
    assert said.returncode == 2
    assert "roles are relay, alice, bob, carol, dave" in said.stderr
