"""Trends: means that are right, memory that is bounded, and whatever a role may call a number."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from served_dashboard import Served

from lab.dashboard.series import TIERS, Series, Tier
from lab.runs.testbeds.machine import Machine
from orchestrator.events.status import BlockReport, LightNow, QueueStatus, Readings

SMALL = (Tier(1.0, 5), Tier(4.0, 6))
VALUES = st.floats(-1e6, 1e6)


@given(st.lists(st.tuples(st.floats(0.0, 3.0), VALUES), max_size=60))
def test_every_point_is_of_the_values_of_its_stretch_and_the_newest_are_kept(
    steps: list[tuple[float, float]],
) -> None:
    series, at_s = Series(SMALL), 100.0
    came: list[tuple[float, float]] = []
    for step_s, value in steps:
        at_s += step_s
        series.add("x", value, at_s)
        came.append((at_s, value))
    for tier in SMALL:
        trend = series.trend("x", tier.span_s, at_s)
        if not came:
            assert trend is None
            continue
        assert trend is not None
        assert trend.step_s == tier.step_s
        stretches: dict[float, list[float]] = {}
        for moment_s, value in came:
            stretches.setdefault(math.floor(moment_s / tier.step_s) * tier.step_s, []).append(value)
        newest = sorted(stretches)[-tier.kept :]
        expected = [start for start in newest if start > at_s - tier.span_s - tier.step_s]
        assert [point.at_s for point in trend.points] == expected
        for point in trend.points:
            values = stretches[point.at_s]
            assert point.mean == pytest.approx(sum(values) / len(values), abs=1e-6)
            assert (point.low, point.high) == (min(values), max(values))


def test_a_month_of_seconds_is_bounded_and_its_ends_are_right() -> None:
    series = Series((Tier(1.0, 60), Tier(60.0, 60), Tier(900.0, 48)))
    for second in range(30 * 3600):
        series.add("x", float(second % 100), float(second))
    now_s = 30 * 3600.0
    for span_s, points, step_s in (
        (60.0, 60, 1.0),
        (3600.0, 60, 60.0),
        (43_200.0, 48, 900.0),
        (1e9, 48, 900.0),
    ):
        trend = series.trend("x", span_s, now_s)
        assert trend is not None
        assert (len(trend.points), trend.step_s) == (points, step_s)
    assert trend.points[-1].mean == pytest.approx(49.5)
    assert (trend.points[-1].low, trend.points[-1].high) == (0.0, 99.0)


def test_the_kept_points_cover_what_the_pages_promise() -> None:
    assert [tier.span_s for tier in TIERS] == [600.0, 86_400.0, 30 * 86_400.0]


def test_what_is_no_number_and_what_was_told_before_changes_nothing() -> None:
    series = Series(SMALL)
    for value in (math.nan, math.inf, -math.inf):
        series.add("x", value, 10.0)
    series.add("x", 1.0, math.nan)
    assert series.trend("x", 5.0, 10.0) is None
    series.add("x", 1.0, 10.0)
    series.add("x", 9.0, 3.0)
    trend = series.trend("x", 5.0, 10.5)
    assert trend is not None
    assert [(point.at_s, point.mean) for point in trend.points] == [(10.0, 1.0)]


def test_a_clock_that_leaps_leaves_a_gap_and_no_points() -> None:
    series = Series(SMALL)
    for at_s in (10.0, 11.0, 1e9, 1e9 + 1):
        series.add("x", 1.0, at_s)
    trend = series.trend("x", 5.0, 1e9 + 1)
    assert trend is not None
    assert [point.at_s for point in trend.points] == [1e9, 1e9 + 1]


def test_the_series_that_was_silent_longest_makes_room() -> None:
    series = Series(SMALL, at_most=3)
    for key in ("a", "b", "c", "a", "d"):
        series.add(key, 1.0, 1.0)
    assert series.keys() == ["a", "c", "d"]


def test_the_numbers_of_items_have_series_of_their_own() -> None:
    series = Series()
    series.note("item/relay/LightNow", LightNow("a", "b", 5, 10, 0, 1e4, None, None), 1.0)
    series.note("item/relay/Readings/laser/emission", Readings("laser", "emission", True), 1.0)
    series.note("item/a/BlockReport/a/b", BlockReport(1, 1, "a", "b", True, qber=0.01, secret_bits=7), 1.0)
    series.note("item/orchestrator/QueueStatus", QueueStatus(1, 0), 1.0)
    assert series.keys() == [
        "item/a/BlockReport/a/b/qber",
        "item/a/BlockReport/a/b/secret_bits",
        "item/relay/LightNow/d1_cps",
        "item/relay/Readings/laser/emission/value",
    ]


def test_a_page_asks_for_a_trend_and_is_told_what_is_wrong_with_its_question(
    serve: Callable[..., Served], machine: Machine
) -> None:
    served = serve(machine)
    key = "item/relay/LightNow/d1_cps"
    now_s = json.loads(served.ask("GET", "/api/board")[2])["now"]
    served.series.add(key, 12_345.0, now_s)
    status, _, body = served.ask("GET", f"/api/series?key={quote(key)}&span=600")
    told = json.loads(body)
    assert status == 200
    assert (told["key"], told["step_s"]) == (key, 1.0)
    assert told["points"] == [[math.floor(now_s), 12_345.0, 12_345.0, 12_345.0]]
    assert told["now_s"] >= now_s
    assert json.loads(served.ask("GET", "/api/series")[2]) == {"keys": [key]}
    for query, code, words in (
        ("key=item/nobody", 404, "no series"),
        (f"key={key}&span=soon", 400, "span"),
        (f"key={key}&span=nan", 400, "span"),
        (f"key={key}&span=-1", 400, "span"),
        (f"key={'x' * 5000}", 404, "no series"),
    ):
        status, _, body = served.ask("GET", f"/api/series?{query}")
        assert status == code, query
        assert words in json.loads(body)["error"]
        assert len(body) < 1000
