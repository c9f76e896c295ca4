"""What was measured of a ring, beside its testbed file."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.calibration.book import (
    BOOK_FILE,
    USER_VALUES,
    Book,
    BookError,
    Value,
    calibrated,
    fingerprint,
    read_book,
    stale,
    write_book,
)
from lab.calibration.steps import STEPS, Step, in_order
from lab.runs.testbeds.folder import template_path
from lab.testbed import TestbedError, load_testbed, parse_testbed, read_testbed, write_testbed

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
DATA = read_testbed(template_path("simulated-four-node"))


def value(number: float | list[float], step: Step = Step.PHASE, at: datetime = AT) -> Value:
    return Value(value=number, uncertainty=0.01, step=step, measured=at)


@pytest.fixture
def testbed(tmp_path: Path) -> Path:
    path = tmp_path / "testbed.toml"
    write_testbed(DATA, path)
    return path


def test_measured_values_stand_in_the_place_of_those_of_the_file(testbed: Path) -> None:
    book = read_book(testbed, DATA)
    book = book.with_values(
        "alice", {"v_pi_v": value(3.9), "modulator_delays_ps": value([4531861.6, 26566957.2])}
    )
    book = book.with_values("relay", {"visibility": value(0.975), "relay_loss_db": value(3.3)})
    write_book(testbed, book)
    loaded, before = load_testbed(testbed), parse_testbed(DATA, testbed)
    assert loaded.user("alice").v_pi_v == 3.9
    assert loaded.user("alice").modulator_delays_ps == (4531862, 26566957)
    assert (loaded.calibration.visibility, loaded.ring.relay_loss_db) == (0.975, 3.3)
    assert loaded.user("bob") == before.user("bob")


numbers = st.floats(-1e9, 1e9) | st.lists(st.floats(-1e9, 1e9), min_size=2, max_size=2)
values = st.builds(
    Value,
    value=numbers,
    uncertainty=numbers,
    step=st.sampled_from(Step),
    measured=st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1)).map(
        lambda at: at.replace(microsecond=0, tzinfo=UTC)
    ),
)


@given(
    parts=st.dictionaries(
        st.sampled_from(("alice", "bob")), st.dictionaries(st.sampled_from(USER_VALUES), values)
    )
)
def test_a_book_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, parts: dict[str, dict[str, Value]]
) -> None:
    path = tmp_path_factory.mktemp("book") / "testbed.toml"
    book = Book(ring=fingerprint(DATA), users=parts)
    write_book(path, book)
    assert read_book(path, DATA) == book


def test_what_bounds_the_proof_is_read_on_the_safe_side(testbed: Path) -> None:
    found = Value(value=36.0, uncertainty=0.5, step=Step.CARVER, measured=AT)
    write_book(testbed, Book(ring=fingerprint(DATA)).with_values("relay", {"extinction_db": found}))
    assert load_testbed(testbed).carver.extinction_db == 35.0


def test_a_later_value_replaces_its_own_only() -> None:
    book = Book(ring=fingerprint(DATA)).with_values("alice", {"v_pi_v": value(3.9), "rf_gain": value(20.0)})
    later = book.with_values("alice", {"v_pi_v": value(4.0, at=AT + timedelta(hours=1))})
    assert (later.part("alice")["v_pi_v"].value, later.part("alice")["rf_gain"].value) == (4.0, 20.0)


@pytest.mark.parametrize(
    ("owner", "name"), [("alice", "visibility"), ("relay", "v_pi_v"), ("relay", "position_km")]
)
def test_a_value_of_somebody_else_is_refused(owner: str, name: str) -> None:
    with pytest.raises(BookError, match=f"no values of {owner}"):
        Book(ring=fingerprint(DATA)).with_values(owner, {name: value(1.0)})


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data["simulation"].update(ring_seed=2),
        lambda data: data["instruments"][0].update(serial_number="K123"),
        lambda data: data["users"][0].update(name="eve"),
    ],
    ids=["built-anew", "another-laser", "another-user"],
)
def test_the_book_of_another_ring_is_refused(testbed: Path, change: Any) -> None:
    import copy

    write_book(testbed, Book(ring=fingerprint(DATA)).with_values("alice", {"v_pi_v": value(3.9)}))
    other = copy.deepcopy(DATA)
    change(other)
    write_testbed(other, testbed)
    with pytest.raises(TestbedError, match="another ring"):
        load_testbed(testbed)


def test_what_happens_on_a_ring_makes_no_other_ring_of_it() -> None:
    assert fingerprint({**DATA, "simulation": {**DATA["simulation"], "seed": 99}}) == fingerprint(DATA)
    assert fingerprint({**DATA, "users": [{**u, "v_pi_v": 1.0} for u in DATA["users"]]}) == fingerprint(DATA)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("schema_version = 2\nring = 'x'", "schema_version"),
        ("ring = [", "no calibration file"),
        ("ring = 'aaaaaaaaaaaaaaaa'\n[relay.visibility]\nvalue = 'high'", "visibility"),
        ("ring = 'aaaaaaaaaaaaaaaa'\n[relay.visibility]\nvalue = nan\nuncertainty = 0.1\n", "visibility"),
    ],
)
def test_a_file_that_is_no_book_is_told_with_its_place(testbed: Path, content: str, told: str) -> None:
    (testbed.parent / BOOK_FILE).write_text(content)
    with pytest.raises(TestbedError, match=told) as refused:
        load_testbed(testbed)
    assert BOOK_FILE in str(refused.value)


def test_a_value_that_the_testbed_would_refuse_is_refused_in_its_place(testbed: Path) -> None:
    write_book(testbed, Book(ring=fingerprint(DATA)).with_values("relay", {"visibility": value(1.7)}))
    with pytest.raises(TestbedError, match=r"calibration\.visibility"):
        load_testbed(testbed)


@pytest.mark.parametrize("broken", [{"users": "alice"}, {"instruments": 3}, {"simulation": 1}, {}])
def test_a_book_beside_a_broken_testbed_file_leaves_its_mistakes_to_be_told(broken: dict[str, Any]) -> None:
    book = Book(ring=fingerprint(broken)).with_values("relay", {"visibility": value(0.9)})
    calibrated(broken, book.with_values("alice", {"v_pi_v": value(4.0)}))


def test_a_step_does_not_rest_on_what_is_too_old() -> None:
    old = AT - timedelta(hours=STEPS[Step.DELAYS].valid_h + 1)
    book = Book(ring=fingerprint(DATA)).with_values(
        "alice", {"modulator_delays_ps": value([1.0, 2.0], Step.DELAYS, old)}
    )
    assert [*stale(book, Step.PHASE, ("alice", "bob"), AT)] == [
        "delays of alice is 25 h old and good for 24 h"
    ]
    assert not [*stale(book, Step.PHASE, ("bob",), AT)]


def test_a_date_ahead_of_the_clock_is_not_trusted() -> None:
    ahead = AT + timedelta(days=3)
    book = Book(ring=fingerprint(DATA)).with_values(
        "alice", {"modulator_delays_ps": value([1.0, 2.0], Step.DELAYS, ahead)}
    )
    assert "ahead of this machine's clock" in next(stale(book, Step.PHASE, ("alice",), AT))


def test_every_step_comes_behind_what_it_needs() -> None:
    order = [*in_order(Step)]
    assert set(order) == set(Step)
    for step in order:
        assert all(order.index(needed) < order.index(step) for needed in STEPS[step].needs)
