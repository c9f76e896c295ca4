"""What each workload's experiment consists of, without running it."""

from __future__ import annotations

from typing import Any

import pytest

from fl.experiments.base import Plan, plan_for
from fl.experiments.options import OptionsError, TrainOptions
from fl.experiments.results import compare
from fl.workloads import load_task


def plan(task: str, **options: Any) -> Plan:
    return plan_for(TrainOptions(task=task, **options), load_task(task), None)


def test_two_hundred_clients_save_more_than_the_claim_and_stand_beside_float32_ones() -> None:
    experiment = plan("mnist:mlp@iid")
    compressed, float32 = experiment.cells
    assert (compressed.config.n_clients, compressed.config.mode) == (200, "otp")
    config = compressed.config
    assert 1 - config.keep * config.ring_width / 32 > 0.75
    assert float32.kind == "float32"
    assert [versus.name for versus in experiment.comparisons] == ["federated-float32"]
    asked = plan("mnist:mlp@iid", levels=127, keep=1.0, error_feedback=False, clip=1.0).primary.config
    assert (asked.levels, asked.keep, asked.ring_width) == (127, 1.0, 16)


def test_the_fourth_client_is_compared_with_the_first_three_on_the_same_shards() -> None:
    experiment = plan("quantum-states:entanglement@mixed")
    four, three, centralised, oracle = experiment.cells
    assert three.config.clients == four.config.clients[:3]
    assert (three.config.seed, three.config.task) == (four.config.seed, four.config.task)
    assert (centralised.kind, oracle.kind) == ("centralised", "oracle")
    assert centralised.security == oracle.security == "none"
    gain = experiment.comparisons[0]
    assert (gain.first, gain.second) == ("federated", "one-client-fewer")
    assert compare(gain.title, (), ()) is None
    with pytest.raises(OptionsError, match="at least 3"):
        plan("quantum-states:entanglement@iid", clients=2, mode="plain")


def test_the_hybrid_model_stands_beside_a_classical_one_of_its_size() -> None:
    experiment = plan("sentiment:hybrid@iid")
    cells = {cell.name: cell for cell in experiment.cells}
    assert set(cells) == {"federated", "centralised", "control", "adapters"}
    assert cells["control"].config.task == "sentiment:classical@iid"
    for setting in ("clients", "rounds", "seed", "mode", "levels", "ring_width"):
        assert getattr(cells["control"].config, setting) == getattr(cells["federated"].config, setting)
    assert cells["control"].config.task_fingerprint != cells["federated"].config.task_fingerprint
    assert cells["adapters"].config.task == "sentiment:hybrid-lora@iid"
    assert "adapters" not in {cell.name for cell in plan("sentiment:hybrid@iid", quick=True).cells}
    assert "adapters" not in {cell.name for cell in plan("sentiment-imdb:hybrid@iid").cells}


def test_without_baselines_only_the_run_is_left() -> None:
    for task in ("digits:mlp@iid", "mnist:mlp@iid", "quantum-states:magic@iid", "sentiment:hybrid@iid"):
        assert [cell.name for cell in plan(task, baselines=False).cells] == ["federated"]
