"""The task quantum-states: shares, determinism, learning on a small data set, and what one copy cannot do."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from bench_circuits import pennylane_logits

from fl.rounds.quantise import Quantiser, quantisation_rng
from fl.workloads import load_task
from fl.workloads.base import training_seed
from fl.workloads.quantum_states import data_sets, network
from fl.workloads.quantum_states.data_sets import StateDataSet
from fl.workloads.quantum_states.generators import product_states
from fl.workloads.quantum_states.sources import SPLITS
from fl.workloads.quantum_states.splits import client_states, mixture, rounded
from fl.workloads.quantum_states.task import STATES_PER_CLASS, QuantumStatesTask

MakeStates = Callable[[int, int, np.random.Generator], torch.Tensor]
N_GENERATORS, AVAILABLE = 4, 500
PER_CLASS = 12


def shares(split: str, n_clients: int, seed: int) -> list[list[np.ndarray]]:
    return [
        client_states(
            split,  # type: ignore[arg-type]
            client,
            per_class=16,
            n_generators=N_GENERATORS,
            n_available=AVAILABLE,
            seed=seed,
        )
        for client in range(n_clients)
    ]


@pytest.mark.parametrize("split", SPLITS)
def test_no_state_belongs_to_two_clients_and_all_have_equally_many(split: str) -> None:
    for seed in range(5):
        given = shares(split, 8, seed)
        assert {sum(len(part) for part in parts) for parts in given} == {16}
        for one, other in combinations(given, 2):
            for mine, theirs in zip(one, other, strict=True):
                assert not set(mine) & set(theirs)


def test_splits_differ_in_the_generators_a_client_meets() -> None:
    met = {
        split: [np.count_nonzero([len(part) for part in parts]) for parts in shares(split, 4, 1)]
        for split in SPLITS
    }
    assert met["iid"] == [4, 4, 4, 4]
    assert met["one-generator"] == [1, 1, 1, 1]
    own = [max(len(part) for part in parts) for parts in shares("mixed", 4, 1)]
    assert met["mixed"] == [4, 4, 4, 4]
    assert own == [13, 13, 13, 13]
    together = sum(np.array([[len(part) for part in parts] for parts in shares("one-generator", 4, 1)]))
    assert together.tolist() == [16, 16, 16, 16]


def test_the_generator_that_the_fourth_client_brings_depends_on_the_seed() -> None:
    brought = {int(mixture("one-generator", 3, N_GENERATORS, seed).argmax()) for seed in range(30)}
    assert brought == {0, 1, 2, 3}


def test_shares_are_rounded_to_the_right_total() -> None:
    rng = np.random.default_rng(1)
    assert rounded(np.array([0.5, 0.3, 0.2]), 8, rng).tolist() == [4, 2, 2]
    assert rounded(np.array([1 / 3, 1 / 3, 1 / 3]), 16, rng).sum() == 16


def test_no_generator_is_favoured_by_rounding() -> None:
    """Six states in shares of 3/4 and 1/4 leave one state over, which any other generator may get."""
    counts = [
        [len(part) for part in parts]
        for seed in range(50)
        for parts in (
            client_states(
                "mixed", client, per_class=6, n_generators=N_GENERATORS, n_available=AVAILABLE, seed=seed
            )
            for client in range(4)
        )
    ]
    assert {tuple(sorted(row)) for row in counts} == {(0, 0, 1, 5)}
    received = np.array(counts).sum(0) - 5 * 50
    assert received.sum() == 4 * 50
    assert received.min() > 30


def test_states_run_out_with_an_error() -> None:
    with pytest.raises(ValueError, match="500 training states of each class"):
        shares("one-generator", 4 * (AVAILABLE // 16) + 1, 1)


@pytest.fixture
def task(tiny: StateDataSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> QuantumStatesTask:
    """The task on two-qubit states (four qubits with their copies)."""
    monkeypatch.setitem(data_sets.DATA_SETS, "tiny", tiny.spec)
    monkeypatch.setitem(STATES_PER_CLASS, "tiny", PER_CLASS)
    monkeypatch.setattr(data_sets, "make_data_set", lambda spec, progress: tiny)
    data_sets.cached_data_set.cache_clear()
    return QuantumStatesTask("tiny", "iid", tmp_path)


def test_a_further_client_leaves_the_shares_of_the_others(task: QuantumStatesTask) -> None:
    for client in range(3):
        with_three, with_four = task.client_data(client, 3, 5), task.client_data(client, 4, 5)
        assert np.array_equal(with_three.inputs, with_four.inputs)
        assert with_three.inputs.dtype == np.float32
        assert with_three.inputs.shape == (2 * PER_CLASS, 4, 2)
        assert np.bincount(with_three.labels).tolist() == [PER_CLASS, PER_CLASS]
    with pytest.raises(ValueError, match="client 3"):
        task.client_data(3, 3, 5)


def test_training_is_deterministic_and_learns(task: QuantumStatesTask) -> None:
    start, data = task.initial_parameters(1), task.client_data(0, 2, 1)
    update = task.local_train(start, data, training_seed(1, 1, 0))
    assert update.dtype == np.float32
    assert update.shape == (task.n_parameters,)
    assert np.array_equal(update, task.local_train(start, data, training_seed(1, 1, 0)))
    assert not np.array_equal(update, task.local_train(start, data, training_seed(1, 2, 0)))
    trained = task.train_centralised(1, steps=150)
    assert trained.loss < task.evaluate(start).loss - 0.1
    assert trained.accuracy > 0.85
    assert task.oracle_accuracy() >= trained.accuracy - 0.05


def test_a_cut_update_is_close_to_the_quantised_one(task: QuantumStatesTask) -> None:
    """The default clip cuts nothing of a round's update, and 127 levels move a model by little."""
    start, data = task.initial_parameters(1), task.client_data(0, 2, 1)
    update = task.local_train(start, data, training_seed(1, 1, 0))
    quantiser = Quantiser(task.defaults.clip, task.defaults.levels)
    values, losses = quantiser.quantise_counted(update, quantisation_rng(1, 1, 0), client="a", round_number=1)
    assert losses.clipped == 0
    read = quantiser.mean(values.astype(np.int64), 1)
    assert np.abs(read - update).max() <= quantiser.clip / quantiser.levels * 1.001


def test_one_copy_cannot_see_entanglement_of_uniform_states(tiny_states: MakeStates) -> None:
    """No observable tells the classes' average one-copy states apart; two-copy states differ much.

    The trace norm of their difference bounds what any network can do on average.
    """
    distances = {}
    for copies in (1, 2):
        averages = []
        for label in range(2):
            states = network.interleaved_copies(
                tiny_states(label, 4000, np.random.default_rng(label)), copies
            )
            averages.append(states.T @ states.conj() / len(states))
        distances[copies] = float(torch.linalg.matrix_norm(averages[1] - averages[0], "nuc")) / 2
    assert distances[1] < 0.05
    assert distances[2] > 0.2


def test_copies_are_interleaved() -> None:
    states = torch.randn(2, 4, dtype=torch.complex128, generator=torch.Generator().manual_seed(1))
    doubled = network.interleaved_copies(states, 2).reshape(2, 2, 2, 2, 2)
    for a, a_copy, b, b_copy in np.ndindex(2, 2, 2, 2):
        expected = states[:, 2 * a + b] * states[:, 2 * a_copy + b_copy]
        torch.testing.assert_close(doubled[:, a, a_copy, b, b_copy], expected)
    with pytest.raises(ValueError, match="one or two"):
        network.interleaved_copies(states, 3)


def test_the_network_computes_what_pennylane_computes() -> None:
    states = product_states(4, 4, None, np.random.default_rng(2))
    prepared = network.interleaved_copies(states, 2)
    parameters = torch.from_numpy(network.initial_parameters(8, 1)).double().requires_grad_(True)
    ours, theirs = network.logits(parameters, prepared), pennylane_logits(parameters, prepared)
    torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=0)
    (mine,) = torch.autograd.grad(ours.sum(), parameters)
    (reference,) = torch.autograd.grad(theirs.sum(), parameters)
    torch.testing.assert_close(mine, reference, atol=1e-8, rtol=0)


def test_the_task_is_found_by_name() -> None:
    task = load_task("quantum-states:magic@one-generator")
    assert isinstance(task, QuantumStatesTask)
    assert (task.name, task.split) == ("quantum-states:magic@one-generator", "one-generator")
    assert load_task("quantum-states").name == "quantum-states:entanglement@iid"
    fingerprints = {
        load_task(f"quantum-states:{data}@{split}").fingerprint
        for data in ("entanglement", "magic")
        for split in SPLITS
    }
    assert len(fingerprints) == 6
    with pytest.raises(ValueError, match="entanglement"):
        load_task("quantum-states:colour@iid")


@pytest.fixture(scope="module")
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("states")


def accuracy(data: StateDataSet, folder: Path, copies: int) -> float:
    task = QuantumStatesTask(data.spec.name, "iid", folder, copies=copies)
    return task.train_centralised(1).accuracy


@pytest.mark.long
@pytest.mark.timeout(600)
def test_two_copies_classify_entanglement_and_one_copy_stays_at_chance(cache_folder: Path) -> None:
    data_sets.cached_data_set.cache_clear()
    data = data_sets.cached_data_set("entanglement", cache_folder)
    two = accuracy(data, cache_folder, 2)
    one = accuracy(data, cache_folder, 1)
    assert two >= 0.93
    assert one < 0.6


@pytest.mark.long
@pytest.mark.timeout(600)
def test_clustered_inputs_make_magic_learnable(cache_folder: Path) -> None:
    data_sets.cached_data_set.cache_clear()
    data = data_sets.cached_data_set("magic", cache_folder)
    assert accuracy(data, cache_folder, 2) >= 0.93
