"""The benchmark of the dashboard streams what it says, and every page is light."""

from __future__ import annotations

import rows
from bench_dashboard import MOST_PAGE_BYTES, dashboard


def test_two_browsers_get_every_update_and_pages_are_light() -> None:
    assert rows.ROWS["dashboard_share"] == "bench_dashboard:dashboard"
    figure = dashboard(browsers=2, seconds=1.0, loads=2)["dashboard_share"]
    assert figure["value"] > 0
    assert 0.5 < figure["messages_per_update"] <= 1.5
    assert 1000 < figure["bytes_per_s"] < 100_000
    if figure["first_paint_s"] is not None:
        assert 0 < figure["first_paint_s"] < figure["drawn_s"] < 10
    assert 50_000 < figure["page_bytes"] < MOST_PAGE_BYTES
