"""Compression: the same coordinates for everybody, sums that never wrap, and nothing lost but what is discarded."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl.rounds.compression import Compression, CompressionError, ErrorFeedback, expand, saving_vs_float32
from fl.rounds.config import FLConfig
from fl.rounds.quantise import Quantiser, UpdateNotFiniteError, smallest_ring_width
from orchestrator.delivery.masking import add_packed, pack_values, unpack_values


def an_update(seed: int, size: int, scale: float = 0.1) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, scale, size).astype(np.float32)


@given(
    size=st.integers(1, 300),
    keep=st.floats(0.01, 1.0),
    seed=st.integers(0, 2**32),
    first=st.integers(1, 1000),
)
@settings(max_examples=80, deadline=None)
def test_every_coordinate_is_sent_within_a_cycle(size: int, keep: float, seed: int, first: int) -> None:
    compression = Compression(keep=keep)
    n_values = compression.n_values(size)
    windows = [compression.coordinates(seed, first + step, size) for step in range(compression.cycle(size))]
    for window in windows:
        assert len(window) == n_values
        assert np.all(np.diff(window) > 0)
    assert set(np.concatenate(windows)) == set(range(size))


def test_half_of_what_is_sent_is_always_the_end_of_the_model() -> None:
    compression = Compression(keep=0.2)
    windows = [compression.coordinates(0, number, 1000) for number in (1, 2, 9)]
    for window in windows:
        assert np.array_equal(window[100:], np.arange(900, 1000))
        assert window[:100].max() < 900
    assert not set(windows[0][:100]) & set(windows[1][:100])
    assert compression.cycle(1000) == 9
    assert np.array_equal(windows[0], compression.coordinates(0, 10, 1000))
    assert Compression().cycle(1000) == 1


def test_coordinates_depend_on_seed_and_round_only() -> None:
    compression = Compression(keep=0.3)
    window = compression.coordinates(1, 4, 1000)
    assert np.array_equal(window, Compression(keep=0.3, levels=1, clip=9.0).coordinates(1, 4, 1000))
    assert not np.array_equal(window, compression.coordinates(1, 5, 1000))
    assert not np.array_equal(window, compression.coordinates(2, 4, 1000))


def test_without_compression_nothing_changes() -> None:
    config = FLConfig(run_id="r", task="digits", clients=("a", "b"))
    feedback = ErrorFeedback(Compression.from_config(config), 7, 50)
    update = an_update(0, 50)
    values = feedback.compress(update, 1, np.random.default_rng(5), client="a")
    plain = Quantiser(1.0, 127).quantise(update, np.random.default_rng(5), client="a", round_number=1)
    assert np.array_equal(values, plain)
    assert values.dtype == np.int64
    feedback.commit()
    assert not feedback.residual.any()


@given(
    n_clients=st.integers(2, 40),
    levels=st.integers(1, 20),
    keep=st.floats(0.05, 1.0),
    scale=st.floats(1e-3, 1e3),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=50, deadline=None)
def test_the_sum_of_compressed_updates_never_wraps(
    n_clients: int, levels: int, keep: float, scale: float, seed: int
) -> None:
    """However large the updates, the sum read from the smallest allowed ring is the true one."""
    size, ring_width = 64, smallest_ring_width(levels, n_clients)
    compression = Compression(keep=keep, levels=levels, clip=0.1, error_feedback=True)
    n_values = compression.n_values(size)
    total, packed = np.zeros(n_values, np.int64), pack_values(np.zeros(n_values, np.int64), ring_width)
    for client in range(n_clients):
        update = np.abs(an_update(seed + client, size, scale))
        feedback = ErrorFeedback(compression, seed, size)
        values = feedback.compress(update, 1, np.random.default_rng(client), client="c")
        total += values
        packed = add_packed(packed, pack_values(values, ring_width), n_values, ring_width)
    assert np.array_equal(unpack_values(packed, n_values, ring_width), total)


@given(
    keep=st.floats(0.05, 1.0),
    levels=st.integers(1, 127),
    decay=st.floats(0.5, 1.0),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=50, deadline=None)
def test_what_is_sent_and_what_is_kept_is_all_there_was(
    keep: float, levels: int, decay: float, seed: int
) -> None:
    size = 200
    compression = Compression(keep, levels, 0.1, decay, error_feedback=True)
    feedback, rng = ErrorFeedback(compression, seed, size), np.random.default_rng(seed)
    owed, sent = np.zeros(size), np.zeros(size)
    for number in range(1, 6):
        update = an_update(seed + number, size)
        before = feedback.residual.copy()
        values = feedback.compress(update, number, rng, client="a")
        feedback.commit()
        step = compression.mean(values, 1, compression.coordinates(seed, number, size), number, size)
        assert np.allclose(step + feedback.residual, update + before, atol=1e-6)
        owed, sent = owed + update, sent + step
    assert np.allclose(sent + feedback.residual, owed, atol=1e-5)


@pytest.mark.parametrize("keep", [0.1, 0.35, 1.0])
def test_without_memory_a_cycle_moves_every_parameter_as_far_as_its_updates_say(keep: float) -> None:
    """200 parameters whose updates are the same in every round of a whole number of turns of the window."""
    size, compression, update = 200, Compression(keep=keep, levels=127, clip=0.5), an_update(3, 200)
    feedback, rng = ErrorFeedback(compression, 0, size), np.random.default_rng(0)
    n_window = compression.n_values(size) - (compression.n_values(size) // 2 if keep < 1 else 0)
    n_others = size - (compression.n_values(size) // 2 if keep < 1 else 0)
    rounds = 2 * math.lcm(n_window, n_others) // n_window
    moved = np.zeros(size)
    for number in range(1, rounds + 1):
        values = feedback.compress(update, number, rng, client="a")
        feedback.commit()
        moved += compression.mean(values, 1, compression.coordinates(0, number, size), number, size)
    assert np.allclose(moved / rounds, update, atol=5 * 0.5 / 127 / np.sqrt(2) * n_others / n_window)
    assert np.corrcoef(moved, update)[0, 1] > 0.99


def test_without_error_feedback_what_is_cut_is_not_kept() -> None:
    feedback = ErrorFeedback(Compression(keep=0.5, levels=1, clip=0.1), 0, 20)
    feedback.compress(an_update(0, 20), 1, np.random.default_rng(0), client="a")
    feedback.commit()
    assert not feedback.residual.any()


def test_what_was_uploaded_in_an_aborted_round_is_never_sent_again() -> None:
    size, compression = 30, Compression(keep=0.5, levels=3, clip=0.1, error_feedback=True)
    feedback, rng = ErrorFeedback(compression, 0, size), np.random.default_rng(0)
    feedback.compress(an_update(1, size), 1, rng, client="a")
    feedback.commit()
    kept = feedback.residual.copy()
    feedback.compress(an_update(2, size), 2, rng, client="a")
    feedback.discard()
    uploaded = compression.coordinates(0, 2, size)
    assert kept[uploaded].any()
    assert not feedback.residual[uploaded].any()
    elsewhere = np.setdiff1d(np.arange(size), uploaded)
    assert np.array_equal(feedback.residual[elsewhere], kept[elsewhere])


def test_a_round_that_ended_before_the_upload_leaves_the_residual_as_it_was() -> None:
    feedback = ErrorFeedback(Compression(keep=0.5, levels=3, clip=0.1, error_feedback=True), 0, 30)
    rng = np.random.default_rng(0)
    feedback.compress(an_update(1, 30), 1, rng, client="a")
    feedback.commit()
    kept = feedback.residual.copy()
    feedback.compress(an_update(2, 30), 2, rng, client="a")
    feedback.discard(uploaded=False)
    assert np.array_equal(feedback.residual, kept)


def test_every_round_is_committed_or_discarded_once() -> None:
    feedback, rng = ErrorFeedback(Compression(), 0, 5), np.random.default_rng(0)
    with pytest.raises(CompressionError, match="no round is open"):
        feedback.commit()
    feedback.compress(an_update(0, 5), 3, rng, client="a")
    with pytest.raises(CompressionError, match="round 3 was neither committed nor discarded"):
        feedback.compress(an_update(0, 5), 4, rng, client="a")
    feedback.discard()
    with pytest.raises(CompressionError):
        feedback.discard()


@pytest.mark.parametrize("error_feedback", [False, True])
def test_a_value_that_is_not_finite_is_refused_even_where_it_is_not_sent(error_feedback: bool) -> None:
    compression = Compression(keep=0.1, error_feedback=error_feedback)
    update = an_update(0, 100)
    update[np.setdiff1d(np.arange(100), compression.coordinates(0, 1, 100))[0]] = np.nan
    with pytest.raises(UpdateNotFiniteError, match="client bob, round 1"):
        ErrorFeedback(compression, 0, 100).compress(update, 1, np.random.default_rng(0), client="bob")


def test_the_clip_shrinks_as_the_schedule_says() -> None:
    compression = Compression(clip=0.4, clip_decay=0.5)
    assert [compression.quantiser(number).clip for number in (1, 2, 3)] == [0.4, 0.2, 0.1]


def test_an_interrupted_client_takes_up_its_residual() -> None:
    compression = Compression(keep=0.5, levels=3, clip=0.1, error_feedback=True)
    first = ErrorFeedback(compression, 0, 30)
    first.compress(an_update(1, 30), 1, np.random.default_rng(0), client="a")
    first.commit()
    again = ErrorFeedback(compression, 0, 30, first.residual.copy())
    sent = [f.compress(an_update(2, 30), 2, np.random.default_rng(1), client="a") for f in (first, again)]
    assert np.array_equal(*sent)
    with pytest.raises(CompressionError, match="a residual of 30 values for 31 parameters"):
        ErrorFeedback(compression, 0, 31, first.residual)


@pytest.mark.parametrize(
    "settings_", [{"keep": 0.0}, {"keep": 1.1}, {"clip_decay": 0.0}, {"clip_decay": 1.5}]
)
def test_settings_without_sense_are_refused(settings_: dict[str, float]) -> None:
    with pytest.raises(CompressionError):
        Compression(**settings_)  # type: ignore[arg-type]


def test_expanding_puts_values_where_they_belong() -> None:
    full = expand(np.array([1.0, 2.0], np.float32), np.array([1, 3]), 5)
    assert full.tolist() == [0, 1, 0, 2, 0]


def test_the_saving_counts_the_ring() -> None:
    assert saving_vs_float32(1000, 16, 1000) == pytest.approx(0.5)
    assert saving_vs_float32(1000, 11, 3438) == pytest.approx(0.9, abs=1e-4)
