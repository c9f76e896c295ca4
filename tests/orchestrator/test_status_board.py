"""Who may say what, and what those hear who listen."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from orchestrator.events.common import Unknown
from orchestrator.events.status import (
    KEPT_PER_ROLE,
    Alarm,
    BlockReport,
    Epsilons,
    LaneStock,
    Learning,
    LightNow,
    PairStatus,
    PeerStatus,
    Readings,
    Ready,
    Refusals,
    Served,
    Stock,
    objection,
)
from orchestrator.processes.status_board import StatusBoard
from orchestrator.wire.messages import SnapshotEnd, TelemetryItem

USERS = ("a", "a-b", "b-c", "c")
STOCK = Stock([LaneStock("c", "mask", 5)])
BLOCK = BlockReport(1, 1, "a", "c", True)
ITEMS = {
    "stock": STOCK,
    "block": BLOCK,
    "epsilons": Epsilons("c", 0.0, 0.0, 0.0, 0, 0),
    "ready": Ready(True),
    "served": Served(1, 0, 2.0),
    "light": LightNow("a", "c", 10, 100, 0, 1e4, 2e4),
    "readings": Readings("laser", "temperature_c", 25.0, "degC"),
    "alarm": Alarm("store", "full"),
    "learning": Learning("run", "otp", "running", 3),
}
MAY = {
    "a": {"stock", "block", "epsilons", "ready", "readings", "alarm"},
    "relay": {"ready", "served", "light", "readings", "alarm"},
    "fl-server": {"learning", "alarm"},
    "observer": set(),
    "fl-a": set(),
    "orchestrator": set(),
}


class Board(StatusBoard):
    """A board and everything it told, per session."""

    def __init__(self) -> None:
        self.told: dict[int, list[Any]] = {}
        super().__init__(USERS, lambda session, message: self.told.setdefault(session, []).append(message))


@pytest.mark.parametrize("role", MAY)
@pytest.mark.parametrize("kind", ITEMS)
def test_a_role_says_its_own_kinds_only(role: str, kind: str) -> None:
    assert (objection(role, ITEMS[kind], USERS) == "") == (kind in MAY[role])


@pytest.mark.parametrize(
    "item",
    [
        BlockReport(1, 1, "a-b", "c", True),
        BlockReport(1, 1, "a", "a", True),
        BlockReport(1, 1, "a", "relay", True),
        Stock([LaneStock("a", "mask", 1)]),
        Stock([LaneStock("c", "mask", 1), LaneStock("eve", "mask", 1)]),
        Epsilons("a", 0.0, 0.0, 0.0, 0, 0),
        Epsilons("eve", 0.0, 0.0, 0.0, 0, 0),
        Alarm("low-water", "", "a"),
        Alarm("low-water", "", "eve"),
    ],
)
def test_a_node_speaks_of_its_own_pairs_only(item: Any) -> None:
    assert objection("a", item, USERS).startswith("a ")


def test_the_learning_server_names_users_only() -> None:
    run = Learning("run", "otp", "waiting", 3, waits=(("a", "b-c"),))
    assert objection("fl-server", run, USERS) == ""
    assert "who is no user" in objection("fl-server", replace(run, waits=(("a", "eve"),)), USERS)


def test_the_relay_tells_of_light_of_users_only() -> None:
    assert objection("relay", LightNow(), USERS) == ""
    assert "who is no user" in objection("relay", LightNow("a", "eve"), USERS)


def test_what_is_refused_is_counted_shown_once_and_changes_nothing() -> None:
    board = Board()
    board.subscribe(1, 0.0)
    for _ in range(1000):
        assert board.heard("relay", STOCK, 1.0) == "relay may not say Stock"
    board.show_refusals(1.0)
    board.show_refusals(1.0)
    items = [each.item for each in board.told[1] if isinstance(each, TelemetryItem)]
    assert items == [Refusals("relay", 1000, "relay may not say Stock")]


def test_unknown_kinds_are_counted_each_by_itself_and_bounded_as_all_subjects_are() -> None:
    board = Board()
    assert [board.unknown("a", Unknown("Decoyed"), 1.0) for _ in range(3)] == [True, False, False]
    board.subscribe(1, 2.0)
    assert [each.item for each in board.told[1][:-1]] == [Unknown("Decoyed", count=3)]
    told = [board.unknown("a", Unknown(f"kind-{n}"), 3.0) for n in range(2 * KEPT_PER_ROLE)]
    assert told.count(True) == KEPT_PER_ROLE - 1
    board.show_refusals(3.0)
    assert board.told[1][-1].item == Refusals(
        "a", KEPT_PER_ROLE + 1, f"a speaks of more than {KEPT_PER_ROLE} subjects"
    )


def test_no_role_replaces_the_word_of_another() -> None:
    board = Board()
    board.heard("a", BLOCK, 1.0)
    board.heard("c", BlockReport(1, 1, "a", "c", False, "lie"), 1.0)
    board.subscribe(1, 2.0)
    said = {(each.role, each.item.stored) for each in board.told[1][:-1]}
    assert said == {("a", True), ("c", False)}


@given(st.lists(st.tuples(st.sampled_from(USERS), st.sampled_from(USERS)), unique=True, min_size=1))
def test_every_pair_has_its_own_subject(pairs: list[tuple[str, str]]) -> None:
    items: list[Any] = [PairStatus(*pair, 0, 0, 0, 0.0, False, True) for pair in pairs]
    assert len({item.subject for item in items}) == len(pairs)


def test_a_subscription_begins_with_everything_and_its_age_and_counts_on() -> None:
    board = Board()
    board.heard("a", STOCK, 10.0)
    board.heard("a", STOCK, 14.0)
    board.show(PeerStatus("relay", False), 12.0)
    board.subscribe(1, 15.0)
    board.subscribe(2, 15.0)
    board.heard("a", Ready(True), 16.0)
    for session in (1, 2):
        assert board.told[session] == [
            TelemetryItem.of("a", 0, 5.0, STOCK),
            TelemetryItem.of("orchestrator", 1, 3.0, PeerStatus("relay", False)),
            SnapshotEnd(2),
            TelemetryItem.of("a", 2, 0.0, Ready(True)),
        ]
    board.unsubscribe(1)
    board.heard("a", Ready(False), 17.0)
    assert len(board.told[1]) == 4


def test_a_fault_that_only_grew_older_is_not_told_again_and_an_alarm_ends() -> None:
    board = Board()
    board.subscribe(1, 0.0)
    for failing_s in (0.0, 1.0, 2.0):
        board.show(PairStatus("a", "c", 0, 0, 0, 1.0, False, True, "", 1, failing_s, "dark"), failing_s)
    board.heard("a", Alarm("low-water", "auth_ab", "c"), 3.0)
    board.heard("a", Alarm("low-water", "auth_ab", "c", on=False), 4.0)
    assert [type(each.item).__name__ for each in board.told[1][1:]] == ["PairStatus", "Alarm", "Alarm"]
    board.subscribe(2, 5.0)
    assert [type(each.item).__name__ for each in board.told[2][:-1]] == ["PairStatus"]


def test_what_one_role_may_keep_is_bounded() -> None:
    users = [f"u{n}" for n in range(KEPT_PER_ROLE + 5)]
    board = StatusBoard(users, lambda session, message: None)
    answers = [board.heard("u0", Epsilons(peer, 0.0, 0.0, 0.0, 0, 0), 0.0) for peer in users[1:]]
    assert answers.count("") == KEPT_PER_ROLE
    assert f"more than {KEPT_PER_ROLE} subjects" in answers[-1]
