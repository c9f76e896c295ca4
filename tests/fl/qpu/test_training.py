"""Training on a backend: gradients by the shift rule, a cost first, steps that survive an interruption."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pennylane as qml
import pytest

from fl.qpu.backends import Device, open_device
from fl.qpu.errors import ModelError, QpuFolderError, UnconfirmedCostError
from fl.qpu.model import CircuitModel
from fl.qpu.options import RunOptions, RunOptionsError, TrainingPlan
from fl.qpu.runner import QpuEvent
from fl.qpu.training import exact_gradient, loss_of, train

OPTIONS = RunOptions(shots=2_000, sets_per_job=100, optimization_level=1, mitigation="none")
PLAN = TrainingPlan(steps=2, n_weights=2, batch=3, learning_rate=0.3)


def yes(cost: object) -> bool:
    return True


@pytest.fixture
def wrong(make_model: Callable[..., CircuitModel]) -> CircuitModel:
    """A model with some labels that it does not give."""
    model = make_model(8)
    return replace(model, labels=np.arange(8) % 2)


def test_the_shift_rule_gives_the_derivative(wrong: CircuitModel) -> None:
    gradient = exact_gradient(wrong, (0, 3, 4))
    for position, index in enumerate((0, 3, 4)):
        step = np.zeros(6)
        step[index] = 1e-5
        up, down = (
            loss_of(wrong, wrong.with_weights(wrong.weights + sign * step).exact(), wrong.labels)
            for sign in (1, -1)
        )
        assert gradient[position] == pytest.approx((up - down) / 2e-5, abs=1e-6)


def test_steps_follow_the_exact_gradient_within_shot_noise(wrong: CircuitModel, tmp_path: Path) -> None:
    trained = train(wrong, open_device("aer"), OPTIONS, PLAN, tmp_path, agree=yes)
    assert len(trained.state.trained) == 2
    for record in trained.state.steps:
        pulls = (np.array(record.gradient) - record.exact_gradient) / record.gradient_error
        assert np.all(np.abs(pulls) < 5)
        assert max(record.gradient_error) < 0.1
        assert record.loss == pytest.approx(record.exact_loss, abs=0.1)
    changed = np.flatnonzero(trained.weights != wrong.weights)
    assert tuple(changed) == trained.state.trained
    before, after = (
        loss_of(model, model.exact(), model.labels) for model in (wrong, wrong.with_weights(trained.weights))
    )
    assert after < before


def test_nothing_runs_before_it_is_allowed(wrong: CircuitModel, tmp_path: Path) -> None:
    seen: list[Any] = []

    def no(cost: Any) -> bool:
        seen.append(cost)
        return False

    with pytest.raises(UnconfirmedCostError, match="--allow-training"):
        train(wrong, open_device("aer"), OPTIONS, PLAN, tmp_path / "new", agree=no)
    assert seen[0].parameter_sets == 2 * 3 * 5
    assert not (tmp_path / "new").exists()


def test_an_interrupted_training_goes_on_where_it_was(wrong: CircuitModel, tmp_path: Path) -> None:
    device = open_device("aer")
    whole = train(wrong, device, OPTIONS, PLAN, tmp_path / "whole", agree=yes)
    steps = 0

    def die(event: QpuEvent) -> None:
        nonlocal steps
        steps += event.kind == "submitted"
        if steps == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(wrong, device, OPTIONS, PLAN, tmp_path / "cut", agree=yes, report=die)
    events: list[QpuEvent] = []
    cut = train(wrong, device, OPTIONS, PLAN, tmp_path / "cut", agree=yes, report=events.append)
    assert [event.kind for event in events] == ["again", "submitted", "done"]
    assert cut.state == whole.state
    with pytest.raises(QpuFolderError, match="another model"):
        train(wrong.with_weights(wrong.weights + 1), device, OPTIONS, PLAN, tmp_path / "cut", agree=yes)


def test_a_step_on_a_real_machine_is_paid_for_once(
    wrong: CircuitModel, cloud: Any, device: Device, tmp_path: Path
) -> None:
    def die(job: Any) -> None:
        if len(cloud.jobs) == 2:
            cloud.on_submit = lambda job: None
            raise KeyboardInterrupt

    cloud.on_submit = die
    options = msgspec.structs.replace(OPTIONS, shots=256, layout_trials=1)
    arguments: dict[str, Any] = {"agree": yes, "sleep": lambda seconds: None}
    with pytest.raises(KeyboardInterrupt):
        train(wrong, device, options, PLAN, tmp_path, **arguments)
    trained = train(wrong, device, options, PLAN, tmp_path, **arguments)
    assert (len(cloud.jobs), len(trained.state.steps)) == (2, 2)


def test_weights_without_a_shift_rule_are_not_trained(wrong: CircuitModel, tmp_path: Path) -> None:
    def circuit(inputs: Any, weights: Any) -> None:
        qml.RY(inputs[0], wires=0)
        qml.RY(weights[0], wires=1)
        qml.RY(weights[0], wires=2)
        qml.CRX(weights[1], wires=[0, 1])
        qml.RX(weights[2], wires=2)

    model = replace(wrong, quantum_function=circuit)
    trained = train(model, open_device("aer"), OPTIONS, TrainingPlan(1, 1, 2), tmp_path, agree=yes)
    assert trained.state.trained == (2,)
    with pytest.raises(ModelError, match="1 of 6 are in exactly one rotation"):
        train(model, open_device("aer"), OPTIONS, TrainingPlan(1, 2, 2), tmp_path / "b", agree=yes)
    with pytest.raises(ModelError, match="batch of 9"):
        train(wrong, open_device("aer"), OPTIONS, TrainingPlan(1, 1, 9), tmp_path / "c", agree=yes)


@pytest.mark.parametrize("change", [{"steps": 0}, {"n_weights": 65}, {"batch": 0}, {"learning_rate": 0.0}])
def test_plans_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(RunOptionsError, match=next(iter(change))):
        TrainingPlan(**change)
