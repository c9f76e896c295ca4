"""The sentiment model on its way to a QPU: same angles, same logits, same labels as the task's own evaluation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fl.qpu.backends import open_device
from fl.qpu.errors import ModelError, QpuFolderError
from fl.qpu.evaluate import evaluate
from fl.qpu.journal import QpuFolder
from fl.qpu.options import RunOptions
from fl.qpu.request import QpuRequest, keep_request, kept_request, trained_model
from fl.qpu.tasks import (
    circuit_model,
    latest_model,
    load_parameters,
    open_circuit_task,
    train_quickly,
    training_model,
    with_circuit_weights,
)
from fl.workloads.sentiment.task import MODELS, SentimentTask
from fl.workloads.sentiment.training import TrainingPlan

WIDTH, COUNT = 8, 160


def little_corpus(count: int = COUNT) -> Any:
    """Embeddings of two classes around opposite points; all good ones first, as packaged data often is.

    The first hundred in random order are for training, the rest for testing.
    """
    rng = np.random.default_rng(0)
    labels = np.repeat([1, 0], count // 2).astype(np.int64)
    embeddings = rng.normal(size=(count, WIDTH)) + 1.2 * (2 * labels[:, None] - 1)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    order = rng.permutation(count)
    return SimpleNamespace(
        encoder=SimpleNamespace(width=WIDTH),
        reviews=SimpleNamespace(labels=labels, texts=["words"] * count),
        split=(np.sort(order[:100]), np.sort(order[100:])),
        embeddings=embeddings.astype(np.float32),
        fingerprint="little",
    )


def little_task(count: int = COUNT) -> SentimentTask:
    """``sentiment:hybrid`` on the little corpus, learning fast."""
    plan = TrainingPlan(head_rate=0.02, epochs=4, batch_size=16)
    return SentimentTask(corpus=little_corpus(count), settings=replace(MODELS["hybrid"], training=plan))


@pytest.fixture(scope="module")
def task() -> SentimentTask:
    return little_task()


@pytest.fixture(scope="module")
def parameters(task: SentimentTask) -> Any:
    return train_quickly(task, seed=1, rounds=5)


def test_the_circuit_gives_the_tasks_own_accuracy(task: SentimentTask, parameters: Any) -> None:
    model = circuit_model(task, parameters, 60, seed=2)
    accuracy = np.mean(model.predict(model.exact()) == model.labels)
    assert accuracy == pytest.approx(task.evaluate(parameters).accuracy)
    assert accuracy > 0.8


def test_examples_are_a_seeded_mixture(task: SentimentTask, parameters: Any) -> None:
    some = circuit_model(task, parameters, 20, seed=2)
    assert 4 <= some.labels.sum() <= 16
    np.testing.assert_array_equal(some.inputs, circuit_model(task, parameters, 60, seed=2).inputs[:20])
    assert not np.array_equal(some.inputs, circuit_model(task, parameters, 20, seed=3).inputs)
    for count in (0, 61):
        with pytest.raises(ModelError, match="1 to 60"):
            circuit_model(task, parameters, count, seed=2)
    assert len(training_model(task, parameters, 1000, seed=1).labels) == 100


def test_labels_agree_on_a_noisy_device(task: SentimentTask, parameters: Any, tmp_path: Path) -> None:
    model = circuit_model(task, parameters, 40, seed=2)
    options = RunOptions(shots=1024, layout_trials=3)
    with QpuFolder(tmp_path / "run") as folder:
        report = evaluate(model, open_device("fake_manila"), options, folder)
    assert report.export_deviation < 1e-6
    assert report.comparison.agreement >= 0.95


@pytest.mark.long
@pytest.mark.parametrize("backend", ["FakeManilaV2", "FakeBrisbane"])
def test_labels_agree_on_two_hundred_sentences(backend: str, tmp_path: Path) -> None:
    task = little_task(300)
    model = circuit_model(task, train_quickly(task, seed=1, rounds=5), 200, seed=1)
    with QpuFolder(tmp_path / "run") as folder:
        report = evaluate(model, open_device(backend), RunOptions(), folder)
    assert report.comparison.agreement >= 0.95
    assert abs(report.comparison.accuracy_backend - report.comparison.accuracy_exact) <= 0.03


def test_circuit_weights_are_put_back_where_they_came_from(task: SentimentTask, parameters: Any) -> None:
    weights = np.linspace(-1, 1, 16)
    changed = with_circuit_weights(task, parameters, weights)
    np.testing.assert_allclose(task.circuit_weights(changed), weights, atol=1e-7)
    assert int(np.sum(changed != parameters)) == 16


def test_models_come_from_files_and_run_folders(task: SentimentTask, parameters: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "own.npy", parameters)
    np.testing.assert_array_equal(load_parameters(task, tmp_path / "own.npy"), parameters)
    for folder, numbers in (("cohort", (2, 10)), ("experiment/cells/federated-3", (7,))):
        (tmp_path / folder).mkdir(parents=True)
        for number in numbers:
            np.save(tmp_path / folder / f"model-{number:05d}.npy", parameters + number)
    assert latest_model(tmp_path / "cohort").name == "model-00010.npy"
    np.testing.assert_array_equal(load_parameters(task, tmp_path / "experiment"), parameters + np.float32(7))


def test_what_is_no_model_is_refused(task: SentimentTask, parameters: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "short.npy", parameters[:-1])
    np.save(tmp_path / "broken.npy", parameters * np.nan)
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("short.npy", "parameters"),
        ("broken.npy", "not finite"),
        ("text.npy", "not a file of trained parameters"),
        ("empty", "holds no trained model"),
        ("nowhere", "no file or folder"),
    ):
        with pytest.raises(ModelError, match=message):
            load_parameters(task, tmp_path / name)
    for name in ("digits", "sentiment:linear"):
        with pytest.raises(ModelError, match="sentiment:hybrid"):
            open_circuit_task(name)


@pytest.mark.parametrize("state", ["cohort.json", "run.json"])
def test_a_control_of_the_same_size_is_not_taken_for_the_hybrid(
    task: SentimentTask, parameters: Any, tmp_path: Path, state: str
) -> None:
    np.save(tmp_path / "model-00005.npy", parameters)
    for trained in ("sentiment:hybrid@skewed", "sentiment:classical@iid"):
        (tmp_path / state).write_text(json.dumps({"format": 1, "config": {"task": trained, "rounds": 5}}))
        if "hybrid" in trained:
            np.testing.assert_array_equal(load_parameters(task, tmp_path), parameters)
        else:
            with pytest.raises(ModelError, match="was trained as sentiment:classical"):
                load_parameters(task, tmp_path)


def test_a_request_is_kept_with_its_model(
    task: SentimentTask, parameters: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fl.qpu.request.open_circuit_task", lambda name, folder: task)
    lines: list[str] = []
    request, _, found = trained_model(QpuRequest("aer"), None, lines.append)
    assert "trained here" in request.model
    assert "no --model given" in lines[0]
    keep_request(tmp_path, request, found)
    kept, _, again = kept_request(tmp_path)
    assert kept == request
    np.testing.assert_array_equal(again, found)
    with pytest.raises(QpuFolderError, match="qpu run"):
        kept_request(tmp_path, "train")
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(QpuFolderError, match="already holds"):
        keep_request(tmp_path, request, parameters)


def test_a_workload_of_ones_own_has_no_circuit() -> None:
    with pytest.raises(ModelError, match="mytask:Wine@own has no circuit for a QPU"):
        open_circuit_task("mytask:Wine")
