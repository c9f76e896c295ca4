"""Alarms as a state machine: what holds after any course of values, acknowledgements, shelves and time."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.alarms.book import AlarmBook, NoAlarmError, Observed
from lab.alarms.limits import DEAD_BAND, GOOD, RANK, Judged, Limits, judge
from lab.alarms.states import LONGEST_SHELF_S, AlarmState
from lab.alarms.table import TABLE, AlarmRow, table_with
from orchestrator.events.status import Alarm, AlarmName

LIMITS = Limits(low_major=-10.0, low_minor=-5.0, high_minor=5.0, high_major=10.0, stale_s=60.0)
values = st.floats(-20, 20) | st.sampled_from([s * v for s in (-1, 1) for v in (4.8, 5.0, 9.6, 10.0)])
judgements = st.builds(
    lambda severity: Judged(severity, "" if severity == "none" else "high"),
    st.sampled_from(["none", "minor", "major", "invalid"]),
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("see"), judgements),
        st.tuples(st.just("acknowledge"), st.none()),
        st.tuples(st.just("shelve"), st.floats(1, LONGEST_SHELF_S)),
        st.tuples(st.just("wait"), st.floats(0, LONGEST_SHELF_S)),
    ),
    max_size=30,
)


@given(value=values, before=judgements)
def test_the_more_severe_limit_wins_and_a_dead_band_only_holds_what_was_there(
    value: float, before: Judged
) -> None:
    fresh = judge(LIMITS, value, 0.0)
    wanted = "major" if abs(value) >= 10 else "minor" if abs(value) >= 5 else "none"
    assert fresh.severity == wanted
    held = judge(LIMITS, value, 0.0, before=before)
    assert RANK[held.severity] >= RANK[fresh.severity]
    if held != fresh:
        assert held.condition == before.condition
        assert RANK[held.severity] <= RANK[before.severity]
        assert held.limit is not None
        assert abs(value - held.limit) <= DEAD_BAND * abs(held.limit)


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_invalid_and_so_is_what_is_too_old(value: float | None) -> None:
    assert judge(LIMITS, value, 0.0) == Judged("invalid", "unreadable")
    assert judge(LIMITS, 0.0, 60.1).condition == "stale"
    assert judge(LIMITS, 0.0, 60.0) == GOOD


def test_drift_is_from_where_it_was() -> None:
    limits = Limits(drift=2.0)
    assert judge(limits, 22.0, 0.0, reference=20.0) == GOOD
    assert judge(limits, 22.1, 0.0, reference=20.0) == Judged("minor", "drift", 2.0)


@pytest.mark.parametrize(
    "given_",
    [
        {"low_minor": 2.0, "high_minor": 1.0},
        {"high_minor": 5.0, "high_major": 4.0},
        {"drift": 0.0},
        {"stale_s": -1.0},
    ],
)
def test_limits_that_do_not_fit_together_are_refused(given_: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"rise from|above 0"):
        Limits(**given_)


@given(steps=steps, latching=st.booleans())
def test_whatever_happens_an_alarm_obeys_its_rules(steps: list[tuple[str, object]], latching: bool) -> None:
    state, now_s = AlarmState(), 0.0
    for step, argument in steps:
        before = state
        match step, argument:
            case "see", Judged() as judged:
                state = state.observed(judged, now_s, latching=latching)
                assert state.judged.severity == judged.severity
                assert state.stands >= state.is_active, "what is wrong stands"
                if judged.severity != "none":
                    assert RANK[state.worst] >= RANK[judged.severity]
                    if RANK[judged.severity] > RANK[before.worst]:
                        assert not state.acknowledged, "worse than what was acknowledged"
                    elif before.is_active:
                        assert state.acknowledged == before.acknowledged
                elif before.stands:
                    assert state.stands == (latching and not before.acknowledged)
                if not before.stands and state.stands:
                    assert state.since_s == now_s
            case "acknowledge", _:
                state = state.acknowledge()
                assert state.stands == before.is_active, "one that is over ends"
                assert state.acknowledged == before.is_active
            case "shelve", float() as for_s:
                state = state.shelve(now_s + for_s, now_s)
                assert state.shelved(now_s)
                assert not state.shelved(now_s + for_s), "no shelf without an end"
                assert (state.judged, state.worst, state.acknowledged) == (
                    before.judged,
                    before.worst,
                    before.acknowledged,
                )
            case "wait", float() as for_s:
                now_s += for_s
        if not latching and not state.is_active:
            assert not state.stands


@pytest.mark.parametrize("for_s", [0.0, -1.0, LONGEST_SHELF_S + 1, math.nan])
def test_a_shelf_has_an_end_within_a_day(for_s: float) -> None:
    with pytest.raises(ValueError, match="shelved for more than 0 and at most 24 hours"):
        AlarmState().shelve(for_s, 0.0)


def test_every_alarm_that_may_be_said_is_in_the_table_with_what_to_do() -> None:
    assert set(TABLE) == set(AlarmName.__args__)  # type: ignore[attr-defined]
    assert all(row.what and row.what_to_do for row in TABLE.values())


def test_the_testbed_file_changes_limits_and_only_those() -> None:
    table = table_with({"temperature": {"high_minor": 30.0, "high_major": None}}, 1e6, 0.03)
    limits = table["temperature"].limits
    assert limits is not None
    assert (limits.high_minor, limits.high_major, limits.low_minor) == (30.0, 55.0, 10.0)
    assert table["qber"].limits == Limits(high_minor=0.02, high_major=0.03)
    assert table["detector-rate"].limits == Limits(high_minor=3e5, high_major=1e6)
    with pytest.raises(ValueError, match=r"alarms.temperature: limits must rise"):
        table_with({"temperature": {"high_minor": 90.0}}, 1e6, 0.03)
    with pytest.raises(ValueError, match=r"alarms.store is a state"):
        table_with({"store": {"high_minor": 90.0}}, 1e6, 0.03)


# -- the book of one role ----------------------------------------------------------------------------

ROWS: dict[AlarmName, AlarmRow] = {
    "temperature": AlarmRow(
        "temperature", "cool it", "degC", Limits(high_minor=40.0, high_major=50.0, drift=15.0)
    ),
    "tampering": AlarmRow("refused", "look", "1/h", Limits(high_minor=3.0), latching=True),
    "store": AlarmRow("store", "look", severity="major"),
}


def warm(value: float | None, at_s: float = 0.0, text: str = "") -> Observed:
    return Observed("temperature", value, at_s, part="laser", text=text)


def test_an_alarm_is_told_when_it_begins_changes_and_ends_and_not_in_between() -> None:
    book = AlarmBook("relay", ROWS)
    assert book.observe([warm(35.0)], 0.0) == []
    (begun,) = book.observe([warm(41.0)], 1.0)
    assert (begun.severity, begun.condition, begun.part, begun.value) == ("minor", "high", "laser", 41.0)
    assert begun.text == "temperature: 41 degC, at or above 40"
    assert begun.what_to_do == "cool it"
    assert book.observe([warm(42.0)], 2.0) == []
    (worse,) = book.observe([warm(51.0)], 3.0)
    assert worse.severity == "major"
    (unreadable,) = book.observe([warm(None, text="laser: no answer")], 4.0)
    assert (unreadable.severity, unreadable.text) == (
        "invalid",
        "temperature cannot be read: laser: no answer",
    )
    (over,) = book.observe([warm(35.0)], 5.0)
    assert over == Alarm("temperature", "", None, on=False, part="laser")
    assert book.standing(6.0) == []


def test_what_is_not_observed_any_more_is_over_unless_it_latches() -> None:
    book = AlarmBook("alice", ROWS)
    refused = Observed("tampering", 5.0, 0.0, peer="bob")
    assert len(book.observe([refused, Observed("store", text="full")], 0.0)) == 2
    over, cleared = book.observe([], 1.0)
    assert (over.name, over.on) == ("store", False)
    assert (cleared.name, cleared.on, cleared.active) == ("tampering", True, False)
    (gone,) = book.acknowledge("alice/tampering/bob", 2.0)
    assert (gone.name, gone.on) == ("tampering", False)
    assert book.observe([], 3.0) == []


def test_a_shelved_alarm_is_listed_and_comes_back_by_itself() -> None:
    book = AlarmBook("relay", ROWS)
    book.observe([warm(41.0)], 0.0)
    (shelved,) = book.shelve("relay/temperature/laser", 100.0, 1.0)
    assert shelved.shelved_s == 100.0
    assert book.observe([warm(41.5)], 50.0) == []
    assert [each.shelved_s for each in book.standing(51.0)] == [50.0]
    (back,) = book.observe([warm(41.5)], 101.0)
    assert back.shelved_s == 0.0
    book.shelve("relay/temperature/laser", 100.0, 102.0)
    (again,) = book.shelve("relay/temperature/laser", 0.0, 103.0)
    assert again.shelved_s == 0.0


def test_an_acknowledged_alarm_that_gets_worse_asks_again_and_drift_counts_from_there() -> None:
    book = AlarmBook("relay", ROWS)
    book.observe([warm(20.0)], 0.0)
    (drifted,) = book.observe([warm(36.0)], 1.0)
    assert drifted.condition == "drift"
    (seen,) = book.acknowledge("relay/temperature/laser", 2.0)
    assert seen.acknowledged
    (over,) = book.observe([warm(36.0)], 3.0)
    assert not over.on, "that is where it is"
    (hot,) = book.observe([warm(45.0)], 4.0)
    assert not hot.acknowledged


def test_an_alarm_that_is_not_there_is_refused_with_those_that_are() -> None:
    book = AlarmBook("relay", ROWS)
    with pytest.raises(NoAlarmError, match="its alarms: none"):
        book.acknowledge("relay/store", 0.0)
    book.observe([warm(41.0)], 0.0)
    for wrong in ("relay/temperature", "alice/temperature/laser", ""):
        with pytest.raises(NoAlarmError, match="its alarms: relay/temperature/laser"):
            book.shelve(wrong, 10.0, 0.0)
