"""MNIST: fair and pathological splits, and gradients written out by hand that agree with automatic ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from bench_cohort import cohort_config
from scipy.fft import dctn

from fl.carriers.in_process.run import run_cohort
from fl.experiments.base import plan_for
from fl.experiments.options import TrainOptions
from fl.rounds.compression import Compression, saving_vs_float32
from fl.rounds.quantise import smallest_ring_width
from fl.workloads import UnknownTaskError, load_task, parse_task
from fl.workloads.base import Examples
from fl.workloads.mnist.perceptron import perceptron, train_perceptron
from fl.workloads.mnist.sources import DATA
from fl.workloads.mnist.task import DEVIATION, MEAN, MnistTask, frequencies, two_shards, whole
from fl.workloads.network import LocalTraining, mlp, strided_cnn, train, train_together

HAS_FILES = DATA.usual_folder.is_dir()


def labels_like_mnist(n: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 10, n).astype(np.uint8)


@pytest.mark.parametrize(("n", "n_clients"), [(6000, 200), (1001, 7), (20, 10)])
def test_two_shards_are_disjoint_complete_and_even(n: int, n_clients: int) -> None:
    labels = labels_like_mnist(n)
    mine = [two_shards(labels, client, n_clients, seed=1) for client in range(n_clients)]
    assert sorted(np.concatenate(mine)) == list(range(n))
    assert max(map(len, mine)) - min(map(len, mine)) <= 2


def test_most_clients_know_only_two_digits() -> None:
    """A shard of the sorted examples spans two digits only where one digit ends (nine places)."""
    labels = labels_like_mnist(60_000)
    digits = [len(set(labels[two_shards(labels, client, 200, seed=3)])) for client in range(200)]
    assert max(digits) <= 4
    assert sum(count > 2 for count in digits) <= 9
    assert sum(count == 2 for count in digits) > 150


def test_shards_are_drawn_from_the_seed() -> None:
    labels = labels_like_mnist(2000)
    assert np.array_equal(two_shards(labels, 3, 20, seed=1), two_shards(labels, 3, 20, seed=1))
    assert not np.array_equal(two_shards(labels, 3, 20, seed=1), two_shards(labels, 3, 20, seed=2))


def test_shards_that_cannot_be_cut_are_refused() -> None:
    with pytest.raises(ValueError, match="client 5 does not exist among 5"):
        two_shards(labels_like_mnist(100), 5, 5, seed=0)
    with pytest.raises(ValueError, match="19 examples are too few for two shards for each of 10 clients"):
        two_shards(labels_like_mnist(19), 0, 10, seed=0)


@pytest.mark.parametrize(
    "plan",
    [
        LocalTraining(0.1, 0.0, 1, 10, falling=False),
        LocalTraining(0.1, 0.0, 2, 7),
    ],
)
def test_written_out_gradients_are_the_automatic_ones(plan: LocalTraining) -> None:
    network, rng = perceptron(20, 16, 4), np.random.default_rng(0)
    data = Examples(rng.normal(0, 1, (45, 20)).astype(np.float32), rng.integers(0, 4, 45))
    start = network.initial(1)
    by_hand = train_perceptron(network, start, data, plan, (1, 2, 3))
    automatic = train(network, start, data, plan, (1, 2, 3))
    assert np.abs(automatic).max() > 0.05
    assert np.allclose(by_hand, automatic, atol=1e-6)
    assert np.array_equal(start, network.initial(1))
    assert not np.allclose(by_hand, train_perceptron(network, start, data, plan, (1, 2, 4)), atol=1e-4)


def test_written_out_gradients_are_for_one_hidden_layer_without_momentum() -> None:
    data = Examples(np.zeros((2, 4), np.float32), np.zeros(2, np.int64))
    for network, momentum in ((mlp(4, 3, 2), 0.0), (perceptron(4, 3, 2), 0.9)):
        with pytest.raises(ValueError, match="one hidden layer and no momentum"):
            train_perceptron(network, network.initial(0), data, LocalTraining(0.1, momentum, 1, 1), (0,))


def test_clients_that_train_together_learn_what_they_would_alone() -> None:
    network, rng = strided_cnn(8, (2, 3), 4, 3), np.random.default_rng(0)
    plan, seeds = LocalTraining(0.1, 0.0, 2, 4), [(1, 1, client) for client in range(3)]
    data = [
        Examples(rng.normal(0, 1, (11, 1, 8, 8)).astype(np.float32), rng.integers(0, 3, 11)) for _ in seeds
    ]
    start = network.initial(0)
    together = train_together(network, start, data, plan, seeds)
    alone = [train(network, start, examples, plan, seed) for examples, seed in zip(data, seeds, strict=True)]
    assert np.allclose(together, alone, atol=1e-6)
    assert np.abs(together[0] - together[1]).max() > 1e-3
    with pytest.raises(ValueError, match="equally many examples"):
        train_together(network, start, [data[0], data[1].take(np.arange(5))], plan, seeds[:2])


@pytest.mark.parametrize(("model", "n_parameters"), [("small-cnn", 2698), ("mlp", 101_770), ("cnn", 20_466)])
def test_models_have_the_size_they_state(model: str, n_parameters: int) -> None:
    task = load_task(f"mnist:{model}@two-shard")
    assert task.n_parameters == n_parameters
    assert task.initial_parameters(0).shape == (n_parameters,)
    assert task.name == str(parse_task(f"mnist:{model}@two-shard"))


def test_models_and_splits_have_fingerprints_of_their_own() -> None:
    names = [
        f"mnist:{model}@{split}" for model in ("small-cnn", "mlp", "cnn") for split in ("iid", "two-shard")
    ]
    assert len({load_task(name).fingerprint for name in names}) == len(names)


def test_unknown_models_and_splits_are_told_with_the_known_ones() -> None:
    with pytest.raises(UnknownTaskError, match="small-cnn, mlp, cnn"):
        parse_task("mnist:resnet")
    with pytest.raises(UnknownTaskError, match="iid, two-shard"):
        parse_task("mnist:mlp@sorted")


def test_pixels_are_standardised() -> None:
    images = np.zeros((2, 28, 28), np.uint8)
    images[1] = 255
    pixels = whole(images)
    assert pixels.shape == (2, 1, 28, 28)
    assert np.allclose(pixels[0], -MEAN / DEVIATION)
    assert np.allclose(pixels[1], (1 - MEAN) / DEVIATION)


def test_the_cosine_transform_is_orthogonal_and_ends_with_low_frequencies() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28)).astype(np.uint8)
    images[4] = 200
    transformed, pixels = frequencies(images), whole(images).reshape(5, -1)
    assert np.allclose(transformed @ transformed.T, pixels @ pixels.T, rtol=1e-4)
    assert abs(transformed[4, -1]) == pytest.approx(float(np.linalg.norm(pixels[4])), rel=1e-4)
    assert np.allclose(transformed[4, :-1], 0, atol=1e-3)
    expected = dctn(pixels[0].reshape(28, 28), norm="ortho")
    assert transformed[0, 0] == pytest.approx(float(expected[27, 27]), abs=1e-4)
    assert np.allclose(sorted(transformed[0, -3:-1]), sorted([expected[0, 1], expected[1, 0]]), atol=1e-4)


@pytest.mark.skipif(not HAS_FILES, reason="MNIST is not fetched: qunetlab data fetch mnist")
def test_two_shard_clients_of_the_real_files_hold_few_digits() -> None:
    task = MnistTask(Path(DATA.usual_folder), "mlp", "two-shard")
    for client in (0, 7):
        data = task.client_data(client, 200, seed=0)
        assert len(data) == 300
        assert len(np.unique(data.labels)) <= 4
    assert abs(float(task.client_data(0, 2, 0).inputs.mean())) < 0.05


@pytest.mark.skipif(not HAS_FILES, reason="MNIST is not fetched: qunetlab data fetch mnist")
def test_a_few_steps_of_the_perceptron_learn() -> None:
    task = MnistTask(None, "mlp", "iid")
    start, data = task.initial_parameters(0), task.client_data(0, 20, 0)
    update = task.local_train(start, data, (0, 1, 0))
    assert task.evaluate(start + update).accuracy > 0.85
    assert task.evaluate(start).accuracy < 0.25


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_a_crowd_sends_a_tenth_of_float32(model: str) -> None:
    """Ring width included, for 200 clients; a few clients send every coordinate."""
    task = load_task(f"mnist:{model}")
    suited = task.defaults.suited(200)
    compression = Compression(suited.keep, suited.levels)
    ring_width = smallest_ring_width(suited.levels, 200)
    saving = saving_vs_float32(compression.n_values(task.n_parameters), ring_width, task.n_parameters)
    assert saving >= 0.9
    assert task.defaults.suited(4).keep == 1.0


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.skipif(not HAS_FILES, reason="MNIST is not fetched: qunetlab data fetch mnist")
@pytest.mark.parametrize("split", ["iid", "two-shard"])
def test_a_crowd_learns_as_fast_with_a_tenth_of_the_bytes(split: str) -> None:
    """Twelve rounds of 200 clients; without protection, which changes no bit."""
    config = cohort_config(f"mnist:mlp@{split}", 200, 12, "plain", seed=1)
    compressed = run_cohort(config, workers=0)
    whole = run_cohort(config, workers=0, float32=True)
    assert compressed.rounds[-1].upload_bytes_per_client <= 0.1 * whole.rounds[-1].upload_bytes_per_client
    assert compressed.accuracy > (0.93 if split == "iid" else 0.88)
    assert abs(compressed.accuracy - whole.accuracy) < 0.01


def test_what_shares_save_and_cost_beside_pairwise_pads_is_said() -> None:
    """N = 200, T = 100, U = 151: 29513 values in 51 pieces of 579 symbols, all of 11 bits, and 6 tag keys."""
    task = load_task("mnist:mlp@iid")
    (note,) = plan_for(TrainOptions(task=task.name, mode="lightsecagg"), task, None).notes
    pads, shares = 29_513 * 11, 2 * (579 * 11 + 384)
    assert f"{pads / shares:.1f} times less than pairwise pads" in note
    update, share = -(-pads // 8), -(-579 * 11 // 8)
    beside = 199 * (share + 2 * 16) + share
    assert f"{update + beside:,} bytes, of which {beside:,} are shares and answers" in note
    assert f"{update:,} under pairwise pads and {4 * 101_770:,} as float32" in note
    assert plan_for(TrainOptions(task=task.name), task, None).notes == ()
