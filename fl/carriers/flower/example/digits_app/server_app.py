"""The server: FedAvg over protected updates, evaluated on the task's test set after every round."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
from flwr.app import Array, ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Result

from fl.carriers.flower.configured import secure_run_of
from fl.carriers.flower.outcome import NoRoundCompletedError
from fl.carriers.flower.secure_run import SecureRun
from fl.carriers.flower.strategy import QkdFedAvg
from fl.workloads import open_task, parse_task
from fl.workloads.base import Task

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """One run."""
    run = context.run_config
    task = open_task(str(run["task"]), Path(str(run["data"])) if run["data"] else None)
    strategy = QkdFedAvg(secure_run_of(run, settings(str(run["task"]), task)), run_config=run)
    try:
        result = strategy.start(
            grid,
            ArrayRecord({"parameters": Array(task.initial_parameters(int(run["seed"])))}),
            num_rounds=int(run["rounds"]),
            timeout=float(run["round-timeout"]),
            evaluate_fn=evaluation(task),
        )
    except NoRoundCompletedError as error:
        save(str(run["results"]), strategy, error.result)
        raise
    save(str(run["results"]), strategy, result)


def save(path: str, strategy: QkdFedAvg, result: Result) -> None:
    """Write the outcome of the rounds to a file, if one is configured."""
    if not path:
        return
    metrics = result.evaluate_metrics_serverapp
    curves = {key: [metrics[number][key] for number in sorted(metrics)] for key in ("accuracy", "loss")}
    rounds = [json.loads(msgspec.json.encode(outcome)) for outcome in strategy.outcomes]
    Path(path).write_text(json.dumps({"rounds": rounds, **curves}, indent=1), encoding="utf-8")


def settings(name: str, task: Task) -> SecureRun:
    """What suits the task, where the run configuration says nothing."""
    return SecureRun(app=parse_task(name).task[:20], levels=task.defaults.levels, clip=task.defaults.clip)


def evaluation(task: Task) -> Callable[[int, ArrayRecord], MetricRecord]:
    """Accuracy and loss of the global model."""

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        found = task.evaluate(arrays["parameters"].numpy())
        return MetricRecord({"accuracy": found.accuracy, "loss": found.loss})

    return evaluate
