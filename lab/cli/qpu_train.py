"""``qunetlab qpu train``: steps of training on a backend, with the cost shown first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import typer

from fl.qpu.errors import QpuFolderError
from fl.qpu.tasks import training_model, with_circuit_weights
from fl.qpu.training import StepRecord, TrainingPlan, save_model, train

if TYPE_CHECKING:
    from fl.qpu.cost import CostEstimate
    from lab.cli.qpu import Start

EXAMPLES = 64
"""Training examples that batches are drawn from, and that choose which weights are trained."""

PLAN_FILE = "training-plan.json"


def training_plan(resume: Path | None, numbers: dict[str, Any]) -> TrainingPlan:
    """The plan on the command line, or the one kept in the folder of a training that is resumed."""
    if resume is None:
        return TrainingPlan(**{name: value for name, value in numbers.items() if value is not None})
    path = resume / PLAN_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=TrainingPlan)
    except (OSError, ValueError, RecursionError) as error:
        raise QpuFolderError(f"cannot read {path}: {error}") from error


def run_training(
    start: Start, plan: TrainingPlan, *, allowed: bool, retry_failed: bool, as_json: bool
) -> int:
    """The train command; returns the exit code."""
    from lab.cli.qpu import interrupted, teller
    from orchestrator.durable import replace_file

    replace_file(start.folder / PLAN_FILE, msgspec.json.format(msgspec.json.encode(plan), indent=1))
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
            start.folder,
            agree=agree,
            retry_failed=retry_failed,
            report=teller(start.say),
            on_step=on_step,
        )
    except KeyboardInterrupt:
        return interrupted(start.folder, "train")
    parameters = with_circuit_weights(task, start.parameters, trained.weights)
    path = save_model(start.folder, parameters)
    before, after = task.evaluate(start.parameters), task.evaluate(parameters)
    if as_json:
        report = {
            "folder": str(start.folder),
            "origin": start.request.model,
            "model": str(path),
            "before": {"accuracy": before.accuracy, "loss": before.loss},
            "after": {"accuracy": after.accuracy, "loss": after.loss},
            **msgspec.to_builtins(trained.state),
        }
        typer.echo(json.dumps(report))
        return 0
    for record in trained.state.steps:
        slopes = ", ".join(
            f"{g:+.3f} ({e:.3f})" for g, e in zip(record.gradient, record.gradient_error, strict=True)
        )
        typer.echo(
            f"step {record.step}: loss {record.loss:.4f} (exact {record.exact_loss:.4f}), gradient {slopes}"
        )
    typer.echo(
        f"weights {', '.join(map(str, trained.state.trained))} of the circuit trained on {start.device.name}; "
        f"test loss {before.loss:.4f} -> {after.loss:.4f}, accuracy {before.accuracy:.3f} -> {after.accuracy:.3f} "
        f"(exact simulation); model in {path}"
    )
    return 0
