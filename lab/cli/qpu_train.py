"""``qunetlab qpu train``: steps of training on a backend, with the cost shown first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from fl.qpu.tasks import training_model, with_circuit_weights
from fl.qpu.training import StepRecord, TrainingState, save_model, train
from lab.cli.qpu_talk import interrupted, teller
from lab.runs.shown import echo

if TYPE_CHECKING:
    from fl.qpu.cost import CostEstimate
    from lab.runs.qpu import Start

EXAMPLES = 64
"""Training examples that batches are drawn from, and that choose which weights are trained."""


class Tested(msgspec.Struct, frozen=True):
    """On the test data, simulated exactly."""

    accuracy: float
    loss: float


class TrainedOnBackend(TrainingState, frozen=True, kw_only=True):
    """The outcome: ``model`` is its file, ``origin`` says where the model came from with which it began."""

    folder: str
    origin: str
    model: str
    before: Tested
    after: Tested


def run_training(start: Start, *, allowed: bool, retry_failed: bool, as_json: bool) -> int:
    """The train command; returns the exit code."""
    plan = start.request.training
    assert plan is not None
    options, task = start.request.options, start.task
    n_examples = max(EXAMPLES, plan.batch)
    model = training_model(task, start.parameters, n_examples, options.seed)

    def agree(cost: CostEstimate) -> bool:
        start.say(f"{plan.steps} steps, {plan.n_weights} weights, {plan.batch} examples each: {cost.text()}")
        return allowed

    def on_step(record: StepRecord) -> None:
        start.say(
            f"step {record.step} of {plan.steps}: loss {record.loss:.4f} on the backend, {record.exact_loss:.4f} exact"
        )

    try:
        trained = train(
            model,
            start.device,
            options,
            plan,
            start.folder.folder,
            agree=agree,
            retry_failed=retry_failed,
            report=teller(start.say),
            on_step=on_step,
        )
    except KeyboardInterrupt:
        return interrupted(start, "train")
    parameters = with_circuit_weights(task, start.parameters, trained.weights)
    path = save_model(start.folder.folder, parameters)
    before, after = task.evaluate(start.parameters), task.evaluate(parameters)
    if as_json:
        report = TrainedOnBackend(
            folder=str(start.folder.folder),
            origin=start.request.model,
            model=str(path),
            before=Tested(before.accuracy, before.loss),
            after=Tested(after.accuracy, after.loss),
            **msgspec.structs.asdict(trained.state),
        )
        echo(msgspec.json.encode(report).decode())
        return 0
    for record in trained.state.steps:
        slopes = ", ".join(
            f"{g:+.3f} ({e:.3f})" for g, e in zip(record.gradient, record.gradient_error, strict=True)
        )
        echo(f"step {record.step}: loss {record.loss:.4f} (exact {record.exact_loss:.4f}), gradient {slopes}")
    echo(
        f"weights {', '.join(map(str, trained.state.trained))} of the circuit trained on {start.device.name}; "
        f"test loss {before.loss:.4f} -> {after.loss:.4f}, accuracy {before.accuracy:.3f} -> {after.accuracy:.3f} "
        f"(exact simulation); model in {path}"
    )
    return 0
