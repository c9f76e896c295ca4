"""The client: ordinary Flower training; the mod sees to it that no model leaves the client unprotected."""

from __future__ import annotations

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fl.carriers.flower.mod import qkd_secagg_mod

from .task import make_model, shard
from .task import train as train_model

app = ClientApp(mods=[qkd_secagg_mod])


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the model of the message on this client's examples; returns it."""
    run, node = context.run_config, context.node_config
    model = make_model()
    model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    inputs, classes = shard(int(node["partition-id"]), int(node["num-partitions"]))
    train_model(model, inputs, classes, int(run["local-steps"]), float(run["learning-rate"]))
    content = RecordDict(
        {
            "arrays": ArrayRecord(model.state_dict()),
            "metrics": MetricRecord({"num-examples": len(inputs)}),
        }
    )
    return Message(content, reply_to=message)
