"""What ``train sentiment`` says of itself, without running it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fl.experiments.base import Plan, plan_for
from fl.experiments.options import TrainOptions
from fl.workloads import load_task
from fl.workloads.sentiment.experiment import CUT_NOTE, NO_ADAPTERS_NOTE, VALIDATION_NOTE
from fl.workloads.sentiment.task import MODELS


def plan(task: str, **options: Any) -> Plan:
    return plan_for(TrainOptions(task=task, **options), load_task(task), None)


def test_a_run_on_the_validation_part_says_so_and_so_do_all_its_cells() -> None:
    experiment = plan("sentiment:hybrid@validation")
    assert experiment.notes == (VALIDATION_NOTE,)
    assert {cell.config.task.rpartition("@")[2] for cell in experiment.cells} == {"validation"}
    assert plan("sentiment:hybrid@iid").notes == plan("sentiment:hybrid@skewed").notes == ()


def test_where_adapters_take_too_long_the_run_says_that_they_are_left_out() -> None:
    assert plan("sentiment-imdb:hybrid@iid").notes == (CUT_NOTE, NO_ADAPTERS_NOTE)
    assert plan("sentiment-imdb:hybrid@iid", baselines=False).notes == (CUT_NOTE,)
    assert plan("sentiment-imdb:linear@iid").notes == (CUT_NOTE,)


def test_a_short_run_names_what_the_full_one_has() -> None:
    assert "5 seeds" in plan("sentiment:hybrid@iid", quick=True).notes[0]
    assert "includes adapters" in plan("sentiment:hybrid@iid", quick=True).notes[1]
    assert not any(
        "includes adapters" in note for note in plan("sentiment-imdb:hybrid@iid", quick=True).notes
    )


def test_adapters_and_heads_train_as_many_rounds_as_suit_each(monkeypatch: pytest.MonkeyPatch) -> None:
    longer = replace(MODELS["hybrid-lora"].defaults, rounds=9)
    monkeypatch.setitem(MODELS, "hybrid-lora", replace(MODELS["hybrid-lora"], defaults=longer))
    cells = {cell.name: cell for cell in plan("sentiment:hybrid@skewed").cells}
    for name, model in (("federated", "hybrid"), ("control", "classical"), ("adapters", "hybrid-lora")):
        assert cells[name].config.rounds == MODELS[model].defaults.rounds
        assert cells[name].config.clip == MODELS[model].defaults.clip
    asked = plan("sentiment:hybrid@skewed", rounds=2)
    assert {cell.config.rounds for cell in asked.cells} == {2}
