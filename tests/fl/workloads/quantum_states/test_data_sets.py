"""Generated states: the same for the same seed, near their targets, and never read from a damaged cache."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fl.workloads.data import DataError
from fl.workloads.quantum_states import data_sets, generators
from fl.workloads.quantum_states.ansatz import GENERATORS, GeneratorAnsatz
from fl.workloads.quantum_states.data_sets import (
    DATA_SETS,
    DataSetSpec,
    StateDataSet,
    check_data_set,
    load_data_set,
    make_data_set,
    oracle_accuracy,
    read_data_set,
    write_data_set,
)
from fl.workloads.quantum_states.generators import (
    GeneratorError,
    StateClass,
    product_states,
    train_generator,
)
from fl.workloads.quantum_states.measures import concentratable_entanglement

WANTED = StateClass("concentratable-entanglement", 0.20, 0.15, None)


def shorten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two starts of twenty steps are enough for three qubits and a wide tolerance."""
    monkeypatch.setattr(generators, "SCREENED_STARTS", 2)
    monkeypatch.setattr(generators, "SCREENING_STEPS", 20)
    monkeypatch.setattr(generators, "TRAINING_STEPS", 20)
    monkeypatch.setattr(generators, "TRAINING_BATCH", 16)


@pytest.fixture
def path(tiny: StateDataSet, tmp_path: Path) -> Path:
    """A cache file of the tiny data set."""
    path = tmp_path / "cache.npz"
    write_data_set(tiny, path)
    return path


@pytest.mark.parametrize("ansatz", GENERATORS, ids=lambda ansatz: ansatz.name)
def test_a_generator_reaches_its_target(ansatz: GeneratorAnsatz, monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch)
    generator = train_generator(ansatz, WANTED, 3, 2, [1])
    states = generator.states(product_states(200, 3, None, np.random.default_rng(5)))
    assert concentratable_entanglement(states).mean().item() == pytest.approx(0.20, abs=0.15)


def test_the_same_specification_gives_the_same_states(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch)
    spec = DataSetSpec("one", (WANTED, WANTED), n_qubits=2, n_layers=(2,), n_training=4, n_test=2)
    told: list[str] = []
    first = make_data_set(spec, told.append)
    assert [text.split(" to ")[0] for text in told] == [
        "one: training generator circuit 1 of 2",
        "one: training generator circuit 2 of 2",
    ]
    assert np.array_equal(first.states, make_data_set(spec, told.append).states)
    assert not np.array_equal(first.states, make_data_set(replace(spec, seed=1), told.append).states)
    assert np.abs(np.linalg.norm(first.states, axis=-1) - 1).max() < 1e-6


def test_a_target_out_of_reach_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch)
    monkeypatch.setattr(generators, "ATTEMPTS", 1)
    monkeypatch.setattr(generators, "TRAINING_STEPS", 3)
    wanted = StateClass("concentratable-entanglement", 0.9, 0.05, None)
    with pytest.raises(GeneratorError, match=r"cz-ring with 2 layers does not reach .* 0\.9"):
        train_generator(GENERATORS[1], wanted, 2, 2, [1])


def test_uniform_inputs_average_to_the_maximally_mixed_state() -> None:
    """The reason why one copy is not enough; clustered inputs do not have it."""

    def average(polar_angle: float | None) -> torch.Tensor:
        states = product_states(20_000, 2, polar_angle, np.random.default_rng(3))
        return (states[:, :, None] * states[:, None, :].conj()).mean(0)

    assert (average(None) - torch.eye(4) / 4).abs().max() < 0.02
    assert average(0.5)[0, 0].real > 0.8


def test_a_cache_is_read_back_as_written(tiny: StateDataSet, path: Path) -> None:
    assert np.array_equal(read_data_set(tiny.spec, path).states, tiny.states)
    assert sorted(file.name for file in path.parent.iterdir()) == ["cache.json", "cache.npz"]


def test_a_flipped_bit_is_noticed(tiny: StateDataSet, path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="SHA-256"):
        read_data_set(tiny.spec, path)


def test_labels_are_checked_even_if_the_checksum_is_right(tiny: StateDataSet, path: Path) -> None:
    write_data_set(StateDataSet(tiny.spec, tiny.states[:, ::-1], tiny.values[:, ::-1]), path)
    with pytest.raises(DataError, match=r"wanted 0\.0 within"):
        read_data_set(tiny.spec, path)
    with pytest.raises(DataError, match="differs by"):
        check_data_set(StateDataSet(tiny.spec, tiny.states, tiny.values + np.float32(0.01)))
    with pytest.raises(DataError, match="shapes"):
        check_data_set(StateDataSet(tiny.spec, tiny.states[:1], tiny.values))


def test_a_damaged_cache_is_reported_and_made_anew(
    tiny: StateDataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[DataSetSpec] = []

    def make(spec: DataSetSpec, progress: object) -> StateDataSet:
        made.append(spec)
        return tiny

    monkeypatch.setattr(data_sets, "make_data_set", make)
    told: list[str] = []
    load_data_set(tiny.spec, tmp_path, told.append)
    load_data_set(tiny.spec, tmp_path, told.append)
    assert (len(made), told) == (1, [])
    (path,) = (tmp_path / "quantum-states").glob("*.npz")
    path.write_bytes(b"not a cache")
    again = load_data_set(tiny.spec, tmp_path, told.append)
    assert np.array_equal(again.states, tiny.states)
    assert len(made) == 2
    assert str(path) in told[0]
    assert "made anew: SHA-256" in told[0]
    assert np.array_equal(read_data_set(tiny.spec, path).states, tiny.states)


def test_where_nothing_can_be_kept_the_states_are_made_and_that_is_told(
    tiny: StateDataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[DataSetSpec] = []

    def make(spec: DataSetSpec, progress: object) -> StateDataSet:
        made.append(spec)
        return tiny

    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(data_sets, "make_data_set", make)
    told: list[str] = []
    (tmp_path / "no-folder").touch()
    for folder in (tmp_path / "no-folder", tmp_path):
        monkeypatch.setattr(data_sets, "replace_file", full)
        assert load_data_set(tiny.spec, folder, told.append) is tiny
    assert len(made) == 2
    assert "no-folder" in told[0]
    assert "No space left on device" in told[1]
    assert all("set QUNETLAB_DATA to a folder that can be written" in text for text in told)


def test_a_cache_that_can_only_be_read_is_enough(
    tiny: StateDataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_sets, "make_data_set", lambda spec, progress: tiny)
    load_data_set(tiny.spec, tmp_path)
    (tmp_path / "quantum-states" / f".{tiny.spec.name}-{tiny.spec.digest[:12]}.lock").unlink()
    monkeypatch.setattr(data_sets, "_one_at_a_time", lambda path: pytest.fail("wrote to the cache"))
    assert np.array_equal(load_data_set(tiny.spec, tmp_path).states, tiny.states)


def test_the_oracle_is_the_best_threshold(tiny: StateDataSet) -> None:
    noisy = tiny.values + np.random.default_rng(1).normal(0, 0.2, tiny.values.shape).astype(np.float32)
    data = StateDataSet(tiny.spec, tiny.states, noisy)
    values, labels = data.test_values, data.test_labels
    best = max(float(((values > cut) == (labels == 1)).mean()) for cut in [-1.0, *values])
    assert 0.6 < best < 0.9
    assert oracle_accuracy(data) == pytest.approx(best)
    assert oracle_accuracy(tiny) == 1.0
    assert len(labels) == len(data.test_states) == 2 * 2 * tiny.spec.n_test


def test_named_data_sets_have_specifications_of_their_own() -> None:
    assert len({spec.digest for spec in DATA_SETS.values()}) == len(DATA_SETS)
    assert data_sets.ENTANGLEMENT.digest != replace(data_sets.ENTANGLEMENT, seed=1).digest


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(DATA_SETS))
def test_full_data_sets_can_be_made(name: str) -> None:
    data = make_data_set(DATA_SETS[name], lambda text: None)
    check_data_set(data)
    assert oracle_accuracy(data) > 0.95
