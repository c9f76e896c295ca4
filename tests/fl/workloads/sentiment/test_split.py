"""Shares of the reviews: nothing of the test set in training, and skew that is really there."""

from __future__ import annotations

import numpy as np
import pytest

from fl.workloads.sentiment.split import held_out, skewed_shards, validation_split


def test_a_fifth_is_held_out_and_the_same_words_stay_on_one_side() -> None:
    texts = [f"Film number {index}." for index in range(100)]
    texts += [f"film, NUMBER {index}!" for index in range(100)]
    labels = np.tile(np.arange(100) % 2, 2)
    training, test = held_out(texts, labels)
    assert sorted([*training, *test]) == list(range(200))
    assert len(test) == 40
    assert labels[test].mean() == 0.5
    assert {index % 100 for index in test}.isdisjoint({index % 100 for index in training})
    assert held_out(texts, labels)[1].tolist() == test.tolist()
    assert held_out(texts, labels, seed=1)[1].tolist() != test.tolist()


def test_the_validation_part_is_a_fifth_of_the_training_part_and_shares_no_words_with_anything() -> None:
    texts = [f"Film number {index}." for index in range(100)]
    texts += [f"film, NUMBER {index}!" for index in range(100)]
    labels = np.tile(np.arange(100) % 2, 2)
    training, test = held_out(texts, labels)
    kept, validation = validation_split(texts, labels, training)
    assert sorted([*kept, *validation]) == training.tolist()
    assert len(validation) == 32
    assert labels[validation].mean() == 0.5
    words = [{index % 100 for index in part} for part in (kept, validation, test)]
    assert sum(len(part) for part in words) == len(set.union(*words)) == 100


@pytest.mark.parametrize("n_clients", [4, 50, 1000])
def test_skewed_shards_are_disjoint_complete_and_of_equal_size(n_clients: int) -> None:
    rng = np.random.default_rng(0)
    labels, lengths = rng.integers(0, 2, 2003), rng.integers(3, 50, 2003)
    shards = skewed_shards(labels, lengths, n_clients, 3)
    assert sorted(np.concatenate(shards)) == list(range(2003))
    assert {len(shard) for shard in shards} <= {2003 // n_clients, 2003 // n_clients + 1}


def test_the_skew_is_in_labels_and_lengths_and_depends_on_the_seed() -> None:
    rng = np.random.default_rng(1)
    labels, lengths = np.arange(4000) % 2, rng.integers(3, 50, 4000)

    def spread(values: np.ndarray, seed: int) -> float:
        means = [values[shard].mean() for shard in skewed_shards(labels, lengths, 8, seed)]
        return float(np.std(means))

    even = rng.permutation(4000).reshape(8, 500)
    assert np.mean([spread(labels, seed) for seed in range(4)]) > 0.15 > 3 * np.std(labels[even].mean(1))
    assert np.mean([spread(lengths, seed) for seed in range(4)]) > 3 * np.std(lengths[even].mean(1))
    first, second = (skewed_shards(labels, lengths, 8, seed)[0] for seed in (0, 1))
    assert not np.array_equal(first, second)


def test_too_few_examples_are_refused() -> None:
    labels = np.zeros(5, np.int64)
    with pytest.raises(ValueError, match="cannot be split over 6"):
        skewed_shards(labels, labels, 6, 0)
