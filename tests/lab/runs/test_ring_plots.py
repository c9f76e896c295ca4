"""What the ring did in a run: read from the records of its roles, and drawn."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from made_reports import PAIR, RING, block_figures
from msgspec import structs

from lab.runs.pages.ring_plots import error_of, rate_of, ring_plots, time_unit
from lab.runs.records.ring_run import CURVES, homes_of_run, plans_of, ring_run
from lab.runs.testbeds.folder import template_path
from lab.testbed import Testbed, load_testbed
from orchestrator.records.keeping import Records
from orchestrator.records.kinds import BlockEnded, LeaseEnded, PartyTold, SumKept, SymbolCounts

BEGAN = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def testbed() -> Testbed:
    return load_testbed(template_path("simulated-four-node"))


def lease(number: int, ended_s: float, *, ok: bool = True, purpose: str = "key") -> LeaseEnded:
    told = (PartyTold("alice", 24, 0, 10**8, 700_000, 1.0), PartyTold("relay", 24, 0, 10**8, 700_000, 1.0))
    return LeaseEnded(
        at=BEGAN + timedelta(seconds=ended_s), epoch=1, lease_number=number, first=PAIR[0], second=PAIR[1],
        purpose=purpose, ok=ok, ring_s=4.0, told=told,
    )  # fmt: skip


def block(number: int, owner: str = "alice", *, interrupted: bool = False) -> BlockEnded:
    counts = SymbolCounts(0, 10_000, 100, 100, 1, 100, 0, (), (0, 0), (0, 0))
    return BlockEnded(
        epoch=1, lease_number=number, first=PAIR[0], second=PAIR[1], owner=owner, block_id=f"block/1/{number}",
        stored=True, interrupted=interrupted, counts=counts, qber=0.01, secret_bits=5000, light_s=1.0,
    )  # fmt: skip


def summed(at_s: float) -> SumKept:
    return SumKept(
        at=BEGAN + timedelta(seconds=at_s), run_id="r", round=1, context="", participants=(), survivors=(), model="",
        model_after="", total="", uploads={}, upload_bytes=0, key_bits=0, accuracy=0.5, loss=0.5,
    )  # fmt: skip


def kept(home: Path, role: str, *records: LeaseEnded | BlockEnded | SumKept, gathered: bool = True) -> None:
    book = Records(home / role if gathered else home / role / "records")
    for each in records:
        book.keep(each)


@pytest.mark.parametrize("gathered", [True, False])
def test_leases_blocks_and_rounds_stand_on_the_clock_of_the_orchestrator(
    tmp_path: Path, testbed: Testbed, gathered: bool
) -> None:
    kept(tmp_path, "orchestrator", lease(1, 4.0), lease(2, 10.0, ok=False), gathered=gathered)
    kept(tmp_path, "alice", block(1), block(2, interrupted=True), gathered=gathered)
    kept(tmp_path, "carol", block(1, "carol"), gathered=gathered)
    kept(tmp_path, "fl-server", summed(-100.0), summed(7.0), gathered=gathered)
    run = ring_run([tmp_path], testbed, pairs=[PAIR])
    assert run is not None
    assert run.began_at == "2026-03-01T12:00:00+00:00"
    assert [(each.began_s, each.ring_s, each.light_s, each.ok) for each in run.leases] == [
        (0.0, 4.0, 1.0, True),
        (6.0, 4.0, 1.0, False),
    ]
    assert [(each.at_s, each.qber, each.sifted_bits, each.secret_bits) for each in run.blocks] == [
        (4.0, 0.01, 10_000, 5000)
    ]
    assert run.rounds_s == (7.0,)
    assert [each.pair for each in run.plans] == [PAIR]


def test_what_was_before_a_run_and_between_others_is_left_out(tmp_path: Path, testbed: Testbed) -> None:
    kept(tmp_path, "orchestrator", lease(1, 4.0), lease(2, 100.0, purpose="calibration"))
    assert ring_run([tmp_path], testbed, pairs=[("bob", "dave")]) is None
    run = ring_run([tmp_path], testbed, pairs=[PAIR], since=BEGAN + timedelta(seconds=50))
    assert run is not None
    assert [(each.purpose, each.light_s) for each in run.leases] == [("calibration", 0.0)]
    assert ring_run([], testbed) is None


def test_attempts_at_a_run_come_in_their_order(tmp_path: Path) -> None:
    for name in ("ring-10", "ring-2", "ring-1", "run"):
        (tmp_path / "records" / name).mkdir(parents=True)
    assert [each.name for each in homes_of_run(tmp_path)] == ["ring-1", "ring-2", "ring-10"]


def test_the_operating_point_lies_on_the_curve(testbed: Testbed) -> None:
    (plan,) = plans_of(testbed, [PAIR])
    at_point = [point for point in plan.curve if point.loss_db == pytest.approx(plan.loss_db)]
    assert [point.rate_bps for point in at_point] == [pytest.approx(plan.rate_bps)]
    assert [bool(each.curve) for each in plans_of(testbed, [PAIR] * (CURVES + 1))][-2:] == [True, False]


def test_every_plot_has_its_points_limits_and_units() -> None:
    rate, error, schedule = ring_plots(RING)
    for text in ("loss of both arms, dB", "key, kbit per s of light", "alice-carol"):
        assert f">{text}</text>" in rate
    for text in ("time since the first lease, s", "QBER, %", "limit: no key above", "no key"):
        assert f">{text}</text>" in error
    for text in (
        "alice-carol",
        "bob-dave",
        "held the light",
        "ended without success",
        "round of training summed",
    ):
        assert f">{text}</text>" in schedule
    assert "2 leases held the ring for 8 s, 2.0 s of them light for key" in schedule


def test_what_has_no_data_is_not_drawn() -> None:
    assert len(ring_plots(structs.replace(RING, blocks=(), plans=()))) == 1


def test_errors_follow_from_counts_and_from_the_spread_of_blocks() -> None:
    assert error_of(0.01, 10_000) == pytest.approx(0.000995, rel=1e-3)
    assert error_of(0.0, 0) == 0.0
    rate, sigma = rate_of([block_figures(PAIR, 0.0, bits) for bits in (50_000, 54_000)])
    assert (rate, sigma) == (52_000.0, pytest.approx(2000.0))
    assert rate_of([block_figures(PAIR, 0.0, 50_000)]) == (50_000.0, None)
    assert rate_of([]) == (0.0, None)


@pytest.mark.parametrize(("longest_s", "unit"), [(60.0, "s"), (600.0, "min"), (86_400.0, "h")])
def test_times_are_told_in_a_unit_that_suits_them(longest_s: float, unit: str) -> None:
    assert time_unit(longest_s)[1] == unit
