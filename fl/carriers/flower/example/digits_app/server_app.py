"""The server: FedAvg over protected updates, evaluated on the task's test set after every round."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from flwr.app import Array, ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Result

from fl.carriers.flower.outcome import NoRoundCompletedError
from fl.carriers.flower.participant import SetupError, TestbedKeys, state_home
from fl.carriers.flower.roster import Roster
from fl.carriers.flower.secure_run import SecureRun
from fl.carriers.flower.strategy import QkdFedAvg
from fl.workloads import open_task, parse_task
from fl.workloads.base import Task
from orchestrator.wire.curve import load_keys

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """One run."""
    run = context.run_config
    task = open_task(str(run["task"]), Path(str(run["data"])) if run["data"] else None)
    roster = open_roster(run)
    strategy = QkdFedAvg(
        settings(run, task),
        roster,
        state_home(run),
        run_config=run,
        min_available_nodes=int(run["clients"]) or len(roster.users()),
    )
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


def settings(run: Any, task: Task) -> SecureRun:
    """The run configuration as settings of secure aggregation."""
    return SecureRun(
        mode=run["mode"],
        app=parse_task(str(run["task"])).task[:20],
        run_id=str(run["run-id"]),
        levels=int(run["levels"]) or task.defaults.levels,
        clip=float(run["clip"]) or task.defaults.clip,
        keep=float(run["keep"]),
        colluders=int(run["colluders"]),
        survivors=int(run["survivors"]),
        quorum=int(run["quorum"]),
        seed=int(run["seed"]),
        pause_s=float(run["pause"]),
        wait_timeout_s=float(run["key-timeout"]),
    )


def open_roster(run: Any) -> Roster:
    """Who may take part: the users of the testbed file, or whoever is simulated."""
    if run["key-supply"] == "simulated":
        return Roster(None)
    if not run["run-id"]:
        raise SetupError('the users consent to a run by its name: give it one with run-id="NAME"')
    file = TestbedKeys.read(Path(str(run["testbed"] or "testbed.toml")))
    secrets = Path(str(run["secrets"] or file.path.parent / "secrets"))
    return Roster.of_testbed(file.clients(), load_keys(secrets / "fl-server"))


def evaluation(task: Task) -> Callable[[int, ArrayRecord], MetricRecord]:
    """Accuracy and loss of the global model."""

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        found = task.evaluate(arrays["parameters"].numpy())
        return MetricRecord({"accuracy": found.accuracy, "loss": found.loss})

    return evaluate
