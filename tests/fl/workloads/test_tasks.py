"""Tasks: deterministic, fairly split, and as good quantised as in float32."""

from __future__ import annotations

import numpy as np
import pytest

from fl.experiments.reference import train_reference
from fl.rounds.quantise import Quantiser
from fl.workloads import UnknownTaskError, load_task
from fl.workloads.base import Examples, Task, iid_shard, training_seed
from fl.workloads.mnist.task import MnistTask, pooled
from fl.workloads.network import LocalTraining, evaluate, mlp, small_cnn, train


@pytest.fixture(scope="module")
def digits() -> Task:
    return load_task("digits")


def test_digits_has_the_size_it_states(digits: Task) -> None:
    assert digits.n_parameters == 1810
    parameters = digits.initial_parameters(3)
    assert parameters.shape == (1810,)
    assert parameters.dtype == np.float32
    assert not np.array_equal(parameters, digits.initial_parameters(4))


def test_shards_are_disjoint_complete_and_even() -> None:
    shards = [iid_shard(1437, index, 4, seed=5) for index in range(4)]
    assert sorted(np.concatenate(shards)) == list(range(1437))
    assert {len(shard) for shard in shards} <= {359, 360}
    assert not np.array_equal(shards[0], iid_shard(1437, 0, 4, seed=6))
    with pytest.raises(ValueError, match="client 4 does not exist among 4"):
        iid_shard(1437, 4, 4, seed=5)
    with pytest.raises(ValueError, match="cannot be split"):
        iid_shard(3, 0, 4, seed=5)


def test_local_training_repeats_bit_for_bit_and_depends_on_the_round(digits: Task) -> None:
    start = digits.initial_parameters(1)
    data = digits.client_data(0, 4, 1)
    first = digits.local_train(start, data, training_seed(1, 1, 0))
    assert np.array_equal(first, digits.local_train(start, data, training_seed(1, 1, 0)))
    assert not np.array_equal(first, digits.local_train(start, data, training_seed(1, 2, 0)))
    assert np.array_equal(start, digits.initial_parameters(1))


def test_the_clients_together_hold_all_but_the_test_digits(digits: Task) -> None:
    assert sum(len(digits.client_data(index, 4, 0)) for index in range(4)) == 1797 - 360


def test_five_quantised_rounds_are_within_a_point_of_float32(digits: Task) -> None:
    quantiser = Quantiser(digits.defaults.clip, digits.defaults.levels)
    plain = train_reference(digits, 4, 5, seed=0)
    quantised = train_reference(digits, 4, 5, seed=0, quantiser=quantiser)
    assert plain.accuracy > 0.94
    assert abs(plain.accuracy - quantised.accuracy) <= 0.01
    assert not np.array_equal(plain.parameters, quantised.parameters)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(20))
def test_ten_quantised_rounds_are_within_a_point_of_float32(digits: Task, seed: int) -> None:
    quantiser = Quantiser(digits.defaults.clip, digits.defaults.levels)
    plain = train_reference(digits, 4, 10, seed)
    quantised = train_reference(digits, 4, 10, seed, quantiser=quantiser)
    assert plain.accuracy > 0.95
    assert abs(plain.accuracy - quantised.accuracy) <= 0.01


def test_too_coarse_a_quantiser_is_visible(digits: Task) -> None:
    """The comparison above can fail: one level over a wide clip drowns the update in rounding noise."""
    coarse = train_reference(digits, 4, 3, seed=0, quantiser=Quantiser(50.0, 1))
    assert train_reference(digits, 4, 3, seed=0).accuracy - coarse.accuracy > 0.2


def test_the_reference_reports_every_round(digits: Task) -> None:
    seen: list[int] = []
    run = train_reference(digits, 2, 2, seed=0, on_round=lambda number, _: seen.append(number))
    assert seen == [1, 2]
    assert len(run.rounds) == 2
    assert run.accuracy == run.rounds[-1].accuracy


def test_pooling_averages_blocks_of_four_pixels() -> None:
    image = np.zeros((1, 28, 28), np.uint8)
    image[0, 0:2, 2:4] = [[255, 255], [255, 51]]
    small = pooled(image)
    assert small.shape == (1, 1, 14, 14)
    assert small[0, 0, 0, 1] == pytest.approx((3 + 0.2) / 4)
    assert small.sum() == pytest.approx(0.8)


def test_mnist_states_its_size_without_its_files() -> None:
    task = MnistTask()
    assert task.n_parameters == 2698
    assert task.initial_parameters(0).shape == (2698,)


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_networks_learn_a_separable_problem(kind: str) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    images = rng.normal(0, 0.3, (200, 1, 8, 8)).astype(np.float32)
    images[labels == 1, :, :4] += 1
    network = mlp(64, 8, 2) if kind == "mlp" else small_cnn(8, (2, 4), 2)
    data = Examples(images.reshape(200, 64) if kind == "mlp" else images, labels.astype(np.int64))
    start = network.initial(0)
    update = train(network, start, data, LocalTraining(0.1, 0.9, 5, 16), (0,))
    assert evaluate(network, start + update, data).accuracy > 0.98
    assert evaluate(network, start + update, data).loss < evaluate(network, start, data).loss


def test_an_unknown_task_names_the_known_ones() -> None:
    with pytest.raises(UnknownTaskError, match="digits, mnist"):
        load_task("cats")
