"""Windows and batches for any stock, any runs and any wishes."""

from __future__ import annotations

import contextlib
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.delivery.applications.messages import (
    MOST_KEYS,
    Announce,
    Answer,
    Arrived,
    Batch,
    Kept,
    KeyNote,
    Linked,
    Links,
    NotNow,
    Where,
)
from orchestrator.keystore.errors import KeyStoreError
from orchestrator.keystore.lanes import Lane, Range, places
from orchestrator.keystore.windows import (
    LEAST_WINDOW_BITS,
    MOST_WINDOW_BITS,
    WINDOW_SHARE,
    LeasedKey,
    Use,
    window_bits,
    window_too_large,
)
from orchestrator.wire.codec import WireError, decode, encode
from tests.helpers.key_delivery import KeyWorld

sizes = st.lists(st.integers(1, 600), min_size=1, max_size=12)


@st.composite
def runs(draw: st.DrawFn) -> list[Range]:
    reached, made = 0, []
    for gap, n_bits in draw(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 2000)), max_size=6)):
        made.append(Range(reached + gap, n_bits))
        reached = made[-1].end
    return made


@given(runs(), sizes)
def test_places_lie_in_runs_in_order_and_none_over_a_gap(held: list[Range], wanted: list[int]) -> None:
    found = places(held, wanted)
    if found is None:
        assert sum(run.n_bits for run in held) < sum(wanted) + len(held) * max(wanted)
        return
    assert [place.n_bits for place in found] == wanted
    assert all(before.end <= after.start for before, after in pairwise(found))
    assert all(any(run.start <= place.start and place.end <= run.end for run in held) for place in found)


@given(st.integers(0, 1 << 34), st.integers(1, 1 << 28))
def test_a_window_is_a_part_of_the_stock_that_the_peer_accepts(stock: int, wanted: int) -> None:
    size = window_bits(stock, wanted)
    assert size % 8 == 0
    assert size <= min(stock, MOST_WINDOW_BITS)
    assert size <= max(stock // WINDOW_SHARE, LEAST_WINDOW_BITS)
    assert not window_too_large(size, stock)
    assert not window_too_large(size, stock // 2 + 8), "stocks may differ by a block on its way"


notes = st.builds(
    KeyNote,
    st.binary(min_size=16, max_size=16),
    st.integers(0, 1 << 50),
    st.integers(1, 1 << 17).map(lambda n_bytes: 8 * n_bytes),
    st.text("abc-1", min_size=1, max_size=20),
    st.text("abc-1", min_size=1, max_size=20),
    st.lists(st.sampled_from(["bob", "carol"]), max_size=2).map(tuple),
    st.binary(max_size=64),
)
words = st.one_of(
    st.builds(Batch, st.integers(0, 1 << 50), st.lists(notes, min_size=1, max_size=5).map(tuple)),
    st.builds(Kept, st.integers(0, 1 << 50)),
    st.builds(Where, st.lists(st.binary(min_size=16, max_size=16), max_size=5).map(tuple)),
    st.builds(Arrived, st.just(()), st.lists(st.binary(min_size=16, max_size=16), max_size=5).map(tuple)),
    st.builds(Linked, st.dictionaries(st.sampled_from(["bob", "carol"]), st.integers(0, 1 << 40))),
    st.builds(Links),
    st.builds(NotNow),
)
KINDS = Batch | Kept | Where | Arrived | Linked | Links | NotNow | Announce | Answer


@given(words)
def test_words_come_back_as_they_were_said(word: object) -> None:
    assert decode(encode(word), KINDS) == word  # type: ignore[type-var]


@given(st.binary(max_size=200))
def test_any_bytes_are_a_word_or_a_wire_error(data: bytes) -> None:
    with contextlib.suppress(WireError):
        decode(data, KINDS)


def test_a_batch_has_a_bound() -> None:
    note = KeyNote(b"0" * 16, 0, 8, "a", "b")
    with pytest.raises(WireError):
        decode(encode(Batch(0, (note,) * (MOST_KEYS + 1))), KINDS)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_batch_leaves_balanced_books_and_no_bit_twice(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Batches wherever somebody likes them, at an owner's store: what leaves was in a window, once."""
    folder: Path = tmp_path_factory.mktemp("windows")
    world = KeyWorld(folder, blocks=1, block_bytes=8192).start("alice")
    try:
        store, lane = world.stores["alice"], Lane.OTP_AB
        context = store.windows.new_context()
        store.windows.opened("bob", store.propose_reservation("bob", lane, 4096, context), context)
        left: set[int] = set()
        for number in range(data.draw(st.integers(1, 6))):
            start = 8 * data.draw(st.integers(0, 400))
            reached, keys = start + 256, []
            for index in range(data.draw(st.integers(0, 3))):
                reached += 8 * data.draw(st.integers(-1, 4))
                n_bits = 8 * data.draw(st.integers(1, 60))
                keys.append(LeasedKey(bytes([number, index]) * 8, Range(reached, n_bits)))
                reached += n_bits
            try:
                bits = store.windows.deliver("bob", start, keys, [Use("a", "master", 1, 1, 8)])
            except KeyStoreError:
                continue
            for key in keys:
                taken = set(range(key.place.start, key.place.end))
                assert not taken & left
                assert taken <= set(range(4096))
                assert len(bits[key.key_id]) == key.place.n_bits
                left |= taken
        assert store.lane_ledger("bob", lane).delivered == len(left)
        assert store.ledger("bob").balanced
        store._core.check_books()
    finally:
        world.stop("alice")
