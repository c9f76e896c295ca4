"""The latest deliveries: alike ones of a second are a row, rows are bounded, and whoever follows misses none."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from orchestrator.events.delivery import KeyRequestAnswered, KeysDelivered, KeysRefused
from orchestrator.processes.latest_deliveries import KEPT, LatestDeliveries


class Wall:
    now = datetime(2026, 11, 30, 6, 0, 0, 250_000, UTC)

    def __call__(self) -> datetime:
        return self.now


def test_what_is_alike_within_a_second_is_one_row() -> None:
    wall = Wall()
    latest = LatestDeliveries(wall)
    for _ in range(3):
        latest.tell(KeysDelivered("app1", "bob", 2, 512, "master"))
    latest.tell(KeysRefused("app1", "quota", "master"))
    latest.tell(KeyRequestAnswered("app1", "GET", "status", "app2", 200, 0, 0.001))
    wall.now += timedelta(seconds=1)
    latest.tell(KeysDelivered("app1", "bob", 1, 256, "master"))
    told = [
        (row.number, row.at.second, row.outcome, row.requests, row.keys, row.bits) for row in latest.after(0)
    ]
    assert told == [(1, 0, "delivered", 3, 6, 1536), (2, 0, "quota", 1, 0, 0), (3, 1, "delivered", 1, 1, 256)]


def test_who_follows_gets_every_row_once_and_none_that_may_still_grow() -> None:
    wall = Wall()
    latest = LatestDeliveries(wall)
    latest.tell(KeysDelivered("app1", "bob", 1, 256, "master"))
    assert latest.after(0, whole=True) == []
    latest.tell(KeysDelivered("app1", "bob", 1, 256, "master"))
    wall.now += timedelta(seconds=1)
    (row,) = latest.after(0, whole=True)
    assert (row.number, row.keys) == (1, 2)
    assert latest.after(1, whole=True) == []


def test_rows_are_bounded_and_the_oldest_go() -> None:
    wall = Wall()
    latest = LatestDeliveries(wall)
    for _ in range(KEPT + 10):
        latest.tell(KeysDelivered("app1", "bob", 1, 256, "master"))
        wall.now += timedelta(seconds=1)
    rows = latest.after(0)
    assert (len(rows), rows[0].number, rows[-1].number) == (KEPT, 11, KEPT + 10)
