"""The client: ordinary Flower training; the mod sees to it that no model leaves the node unprotected."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fl.carriers.flower.mod import qkd_secagg_mod
from fl.carriers.flower.participant import local_choices
from fl.workloads import load_task
from fl.workloads.base import Task

app = ClientApp(mods=[qkd_secagg_mod])


@lru_cache(maxsize=1)
def open_task(name: str, data: str, trusted: str) -> Task:
    """The task, loaded once per process."""
    return load_task(name, Path(data) if data else None, trusted=trusted or None)


def task_of(context: Context) -> Task:
    """The task of the run.  Data, and a workload of one's own by its module, are what the node's operator names; in a
    simulation, whose nodes name no user, the run names them."""
    run = context.run_config
    named = context.node_config if "user" in context.node_config else run
    return open_task(str(run["task"]), str(named.get("data", "")), str(named.get("task", "")))


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train on this client's share of the data; returns the model."""
    run, node = context.run_config, context.node_config
    task = task_of(context)
    index, seed = int(node["partition-id"]), int(run["seed"])
    data = task.client_data(index, int(node["num-partitions"]), seed)
    model = message.content.array_records["arrays"]["parameters"].numpy()
    number = int(str(message.content.config_records["config"]["server-round"]))
    update = task.local_train(model, data, local_choices(context).training(number, index))
    content = RecordDict(
        {
            "arrays": ArrayRecord({"parameters": Array(model + update)}),
            "metrics": MetricRecord({"num-examples": len(data)}),
        }
    )
    return Message(content, reply_to=message)
