"""Cells over seeds: nothing twice, nothing lost, and only into the plan it was begun with."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from fl.experiments.assemble import Surroundings, results_of
from fl.experiments.base import Plan, continued, plan_for, read_plan, write_plan
from fl.experiments.options import OptionsError, TrainOptions
from fl.experiments.results import RoundRow, SeedRun
from fl.experiments.runner import CellDone, ExperimentStoppedError, RoundDone, Runner
from fl.workloads import full_name, load_task

TASK = "digits:mlp@iid"


def plan(**options: Any) -> Plan:
    asked = TrainOptions(**{"task": TASK, "rounds": 2, "seeds": 2, "clients": 3, **options})
    return plan_for(asked, load_task(asked.task), None)


def runner(folder: Path, cohort: Any, events: list[Any] | None = None) -> Runner:
    report = (lambda event: None) if events is None else events.append
    return Runner(folder, None, 1, threading.Event(), report, cohort)


def test_every_cell_runs_once_per_seed_with_the_same_seeds(tmp_path: Path, small_cohort: Any) -> None:
    cohort, events = small_cohort(), []
    outcome = runner(tmp_path, cohort, events).run(plan())
    assert cohort.calls == [
        ("federated-1", False),
        ("float32-1", True),
        ("federated-2", False),
        ("float32-2", True),
    ]
    assert {name: sorted(runs) for name, runs in outcome.items()} == {"federated": [1, 2], "float32": [1, 2]}
    assert sum(isinstance(event, RoundDone) for event in events) == 8
    again = small_cohort()
    assert runner(tmp_path, again).run(plan()) == outcome
    assert again.calls == []


def test_a_stopped_run_goes_on_with_the_round_it_was_in(tmp_path: Path, small_cohort: Any) -> None:
    whole = runner(tmp_path / "whole", small_cohort()).run(plan())
    first = small_cohort(stop_after=3)
    with pytest.raises(ExperimentStoppedError, match=r"float32.*seed 1, after 1 of 2 rounds"):
        runner(tmp_path / "cut", first).run(plan())
    second, events = small_cohort(), []
    outcome = runner(tmp_path / "cut", second, events).run(plan())
    assert first.trained + second.trained == 8
    assert [event.resumed for event in events if isinstance(event, CellDone)] == [True, False, False, False]
    for name, runs in whole.items():
        assert [run.rounds for run in runs.values()] == [run.rounds for run in outcome[name].values()]


def test_a_stop_before_the_first_cell_runs_nothing(tmp_path: Path, small_cohort: Any) -> None:
    cohort = small_cohort()
    stopped = runner(tmp_path, cohort)
    stopped.stop.set()
    with pytest.raises(ExperimentStoppedError):
        stopped.run(plan())
    assert cohort.calls == []


def test_only_the_same_options_go_on_with_a_run(tmp_path: Path) -> None:
    write_plan(plan(), tmp_path)
    stored = read_plan(tmp_path)
    assert continued(stored, TrainOptions(task=TASK)) == stored.options
    assert continued(stored, TrainOptions(task=TASK, rounds=2, mode="otp", levels=127)) == stored.options
    with pytest.raises(OptionsError, match="mode is otp there, not plain; rounds is 2 there, not 5"):
        continued(stored, TrainOptions(task=TASK, rounds=5, mode="plain"))


def test_the_plan_on_disk_is_the_plan(tmp_path: Path) -> None:
    write_plan(plan(), tmp_path)
    assert read_plan(tmp_path) == plan()
    older = (
        (tmp_path / "plan.json")
        .read_text()
        .replace('"format": 2', '"format": 1')
        .replace("ring_width", "ring_bits")
    )
    (tmp_path / "plan.json").write_text(older)
    with pytest.raises(
        OptionsError,
        match="can resume: it has format 1, this version reads 2: use the version of qunetlab that wrote it",
    ):
        read_plan(tmp_path)
    (tmp_path / "plan.json").write_text('{"title": 3}')
    with pytest.raises(OptionsError, match="not a plan"):
        read_plan(tmp_path)
    with pytest.raises(OptionsError, match="holds no run"):
        read_plan(tmp_path / "nowhere")


def about(**more: Any) -> Surroundings:
    return Surroundings(1810, 1810, 10, "simulated", **more)


def test_results_describe_the_run_and_put_its_baselines_beside_it(tmp_path: Path, small_cohort: Any) -> None:
    outcome = runner(tmp_path, small_cohort()).run(plan())
    results = results_of(plan(), outcome, about())
    assert (results.task, results.mode, results.split, results.clients) == ("digits", "otp", "iid", 3)
    assert results.key_supply == "simulated"
    assert results.security == "information-theoretic"
    assert results.complete
    assert set(results.baselines) == {"float32"}
    baseline = results.baselines["float32"]
    assert (baseline.security, baseline.mode) == ("none", "none")
    paired = results.comparisons["federated-float32"]
    assert paired.per_seed == pytest.approx(
        [a.accuracy - b.accuracy for a, b in zip(results.runs, baseline.runs, strict=True)]
    )
    assert results.compression.saving_vs_float32 == pytest.approx(1 - 100 / (4 * 1810))
    assert results.key_budget.record is not None
    assert results.key_budget.record.used_bits == 120


def test_results_of_an_unfinished_run_say_so(tmp_path: Path, small_cohort: Any) -> None:
    outcome = runner(tmp_path, small_cohort()).run(plan())
    del outcome["float32"][2]
    results = results_of(plan(), outcome, about())
    assert not results.complete
    assert any("unfinished" in note for note in results.notes)
    outcome["federated"].clear()
    with pytest.raises(ValueError, match="no seed"):
        results_of(plan(), outcome, about())


def test_a_quick_run_says_that_it_is_not_the_whole_thing() -> None:
    short = plan(quick=True, rounds=None, seeds=None)
    assert any("NOT the full experiment" in note for note in short.notes)
    full = plan(rounds=None, seeds=None)
    assert not full.notes
    assert short.steps < full.steps / 2


def test_a_wrapping_ring_and_thresholds_are_refused_in_the_plan() -> None:
    with pytest.raises(ValueError, match="use b = 10 for L = 127"):
        plan(ring_width=8)
    with pytest.raises(ValueError, match="U = 2"):
        plan(mode="lightsecagg", clients=5, colluders=2, survivors=2)
    with pytest.raises(ValueError, match="belong to lightsecagg"):
        plan(survivors=2)


@pytest.mark.parametrize(
    ("name", "model", "split", "expected"),
    [
        ("digits", None, None, "digits:mlp@iid"),
        ("mnist", None, None, "mnist:mlp@iid"),
        ("mnist", "cnn", "two-shard", "mnist:cnn@two-shard"),
        ("mnist@two-shard", "cnn", None, "mnist:cnn@two-shard"),
        ("mnist:small-cnn", None, "two-shard", "mnist:small-cnn@two-shard"),
        ("mnist", None, "two-shard", "mnist:mlp@two-shard"),
    ],
)
def test_names_and_options_give_one_name(
    name: str, model: str | None, split: str | None, expected: str
) -> None:
    assert full_name(name, model, split) == expected


def test_a_name_and_an_option_that_say_the_same_thing_are_refused() -> None:
    with pytest.raises(ValueError, match="give one of them"):
        full_name("mnist@iid", None, "two-shard")


def test_a_run_cut_short_in_one_seed_keeps_the_mean_to_where_all_are() -> None:
    rows = tuple(RoundRow(n, 0.5, 0.1, 10, 5, 0, True) for n in (1, 2, 3))
    outcome = {"federated": {1: SeedRun(1, rows), 2: SeedRun(2, rows[:2])}, "float32": {}}
    assert len(results_of(plan(), outcome, about()).rounds) == 2
