"""The task as clients and server see it, on an encoder small enough to train in a second."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fl.experiments.reference import train_reference
from fl.rounds.quantise import Quantiser
from fl.workloads import load_task
from fl.workloads.base import training_seed
from fl.workloads.data import DataError
from fl.workloads.sentiment.adapters import AdapterPlan
from fl.workloads.sentiment.circuit import compiled_head
from fl.workloads.sentiment.corpus import Corpus
from fl.workloads.sentiment.data import Reviews
from fl.workloads.sentiment.encoder import Encoder
from fl.workloads.sentiment.sources import DATA
from fl.workloads.sentiment.task import MODELS, SentimentTask
from fl.workloads.sentiment.training import TrainingPlan

PLAN = TrainingPlan(head_rate=0.02, epochs=4, batch_size=16, adapter_rate=0.02)


def little_task(corpus: Corpus, model: str = "hybrid", split: str = "iid") -> SentimentTask:
    settings = replace(MODELS[model], training=PLAN)
    if settings.adapters is not None:
        settings = replace(settings, adapters=AdapterPlan(layers=1, rank=2, scale=1.0))
    return SentimentTask(model, split, corpus=corpus, settings=settings)


@pytest.mark.parametrize("model", list(MODELS))
def test_every_model_trains_deterministically_and_learns(tiny_corpus: Corpus, model: str) -> None:
    task = little_task(tiny_corpus, model)
    start = task.initial_parameters(1)
    assert start.shape == (task.n_parameters,)
    assert start.dtype == np.float32
    data = task.client_data(0, 2, 1)
    assert data.inputs.dtype == np.float32
    update = task.local_train(start, data, training_seed(1, 1, 0))
    assert np.array_equal(update, task.local_train(start, data, training_seed(1, 1, 0)))
    assert not np.array_equal(update, task.local_train(start, data, training_seed(1, 2, 0)))
    assert np.array_equal(start, task.initial_parameters(1))
    before, after = task.evaluate(start), task.evaluate(start + update)
    assert after.loss < before.loss
    assert after.accuracy > 0.6


def test_federated_training_quantised_keeps_up_with_training_in_one_place(tiny_corpus: Corpus) -> None:
    task = little_task(tiny_corpus)
    defaults = MODELS["hybrid"].defaults
    run = train_reference(task, 4, 6, seed=0, quantiser=Quantiser(defaults.clip, defaults.levels))
    centralised = task.train_centralised(0, rounds=6)
    assert centralised.accuracy > 0.85
    assert run.accuracy > centralised.accuracy - 0.1


def test_adapters_are_trained_beside_the_head(tiny_corpus: Corpus) -> None:
    task = little_task(tiny_corpus, "hybrid-lora")
    assert task.n_parameters == task.n_head_parameters + 2 * 2 * 2 * 16
    start = task.initial_parameters(0)
    update = task.local_train(start, task.client_data(0, 2, 0), (0, 1, 0))
    adapters = update[task.n_head_parameters :]
    assert np.count_nonzero(adapters) > 0.9 * len(adapters)
    frozen = little_task(tiny_corpus, "hybrid")
    head = start[: task.n_head_parameters]
    assert task.evaluate(start).loss == pytest.approx(frozen.evaluate(head).loss, abs=0.01)


@pytest.mark.parametrize("split", ["iid", "skewed"])
@pytest.mark.parametrize("model", ["hybrid", "hybrid-lora"])
def test_clients_share_the_training_sentences_and_nobody_has_a_test_sentence(
    tiny_corpus: Corpus, model: str, split: str
) -> None:
    lora = little_task(tiny_corpus, "hybrid-lora", split)
    numbers = np.concatenate([lora.client_data(index, 3, 2).inputs[:, 0] for index in range(3)])
    training, test = tiny_corpus.split
    assert sorted(numbers) == training.tolist()
    assert set(numbers).isdisjoint(test.tolist())
    shard = little_task(tiny_corpus, model, split).client_data(1, 3, 2)
    assert np.array_equal(shard.labels, lora.client_data(1, 3, 2).labels)


def test_settings_are_chosen_without_a_test_sentence(tiny_corpus: Corpus) -> None:
    lora = little_task(tiny_corpus, "hybrid-lora", "validation")
    numbers = np.concatenate([lora.client_data(index, 3, 2).inputs[:, 0] for index in range(3)])
    judged = lora.test_examples.inputs[:, 0]
    assert sorted([*numbers, *judged]) == tiny_corpus.split[0].tolist()
    assert len(judged) == round(0.2 * len(tiny_corpus.split[0]))
    assert little_task(tiny_corpus, split="validation").fingerprint != little_task(tiny_corpus).fingerprint


def test_on_the_validation_split_training_in_one_place_sees_what_the_clients_see(
    tiny_corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = little_task(tiny_corpus, "hybrid-lora", "validation")
    seen: list[np.ndarray] = []
    monkeypatch.setattr(
        task, "_train", lambda start, data, *rest: seen.append(data.inputs[:, 0]) or start * 0
    )
    task.train_centralised(0)
    shares = [task.client_data(index, 3, 0).inputs[:, 0] for index in range(3)]
    assert sorted(seen[0]) == sorted(np.concatenate(shares))


def test_the_skewed_split_differs_from_the_even_one(tiny_corpus: Corpus) -> None:
    even, skewed = (little_task(tiny_corpus, "hybrid-lora", split) for split in ("iid", "skewed"))
    assert set(even.client_data(0, 4, 0).inputs[:, 0]) != set(skewed.client_data(0, 4, 0).inputs[:, 0])
    for task in (even, skewed):
        with pytest.raises(ValueError, match="client 4 does not exist among 4"):
            task.client_data(4, 4, 0)


def test_circuit_and_read_out_taken_apart_give_the_same_logits(tiny_corpus: Corpus) -> None:
    """Running the circuit elsewhere, with these three functions, classifies as the task does."""
    import torch

    for model in ("hybrid", "hybrid-lora"):
        task = little_task(tiny_corpus, model)
        start = task.initial_parameters(3)
        parameters = start + task.local_train(start, task.client_data(0, 1, 3), (3, 1, 0))
        test = task.test_examples
        inputs = task.circuit_inputs(parameters, test.inputs)
        weights = torch.from_numpy(task.circuit_weights(parameters))
        expectations = compiled_head()(torch.from_numpy(inputs), weights).numpy()
        logits = task.read_out(parameters, expectations)
        assert logits.shape == (len(test), 2)
        accuracy = float((logits.argmax(1) == test.labels).mean())
        assert accuracy == pytest.approx(task.evaluate(parameters).accuracy, abs=0.021)
    with pytest.raises(ValueError, match="has no circuit"):
        little_task(tiny_corpus, "classical").circuit_weights(parameters)


def test_the_fingerprint_tells_models_splits_plans_and_vocabularies_apart(
    tiny_corpus: Corpus,
    tmp_path: Path,
    make_encoder: Callable[..., Path],
    make_reviews: Callable[..., Reviews],
) -> None:
    base = little_task(tiny_corpus)
    assert base.fingerprint == little_task(tiny_corpus).fingerprint

    def with_encoder(name: str, **changes: object) -> SentimentTask:
        encoder = Encoder(make_encoder(tmp_path / name, **changes))
        return little_task(Corpus("little", tiny_corpus.reviews, encoder, tmp_path))

    same = with_encoder("same")
    assert same.fingerprint == base.fingerprint
    others = [
        little_task(tiny_corpus, "classical"),
        little_task(tiny_corpus, split="skewed"),
        SentimentTask(
            corpus=tiny_corpus, settings=replace(MODELS["hybrid"], training=replace(PLAN, epochs=5))
        ),
        little_task(replace(tiny_corpus, reviews=make_reviews(240, seed=9))),
        with_encoder("weights", seed=1),
        with_encoder("vocabulary", vocabulary=tuple(reversed(make_vocabulary(tiny_corpus)))),
    ]
    assert len({task.fingerprint for task in [base, *others]}) == 1 + len(others)


def make_vocabulary(corpus: Corpus) -> list[str]:
    return sorted({word for text in corpus.reviews.texts for word in text.split()})


def test_names_sizes_and_fingerprints_need_no_files(tmp_path: Path) -> None:
    sizes = {}
    for model in MODELS:
        for split in ("iid", "skewed"):
            task = load_task(f"sentiment:{model}@{split}", tmp_path)
            assert task.name == f"sentiment:{model}@{split}"
            assert len(task.fingerprint) == 64
            assert len(task.initial_parameters(0)) == task.n_parameters
        sizes[model] = task.n_parameters
    assert sizes["hybrid"] == sizes["classical"] == 1566
    assert sizes["hybrid-lora"] == sizes["classical-lora"] <= 60_000
    assert load_task("sentiment-imdb", tmp_path).name == "sentiment-imdb:hybrid@iid"


def test_without_the_files_the_error_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="qunetlab data fetch sentiment"):
        load_task("sentiment", tmp_path).client_data(0, 4, 0)
    with pytest.raises(ValueError, match="no split 'odd'; there are iid, skewed"):
        SentimentTask("hybrid", "odd")


@pytest.mark.long
def test_real_reviews_are_classified_as_well_as_documented() -> None:
    if not DATA.usual_folder.exists():
        pytest.skip("reviews and encoder are not fetched: qunetlab data fetch sentiment")
    task = load_task("sentiment")
    defaults = task.defaults
    run = train_reference(task, 4, defaults.rounds, 0, quantiser=Quantiser(defaults.clip, defaults.levels))
    assert run.accuracy > 0.735
