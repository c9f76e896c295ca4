"""The server: FedAvg over protected updates; accuracy and key of every round stand in the log."""

from __future__ import annotations

from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp

from fl.carriers.flower.strategy import QkdFedAvg

from .task import evaluate as evaluate_model
from .task import make_model

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """One run."""
    strategy = QkdFedAvg()
    strategy.start(
        grid,
        ArrayRecord(make_model().state_dict()),
        num_rounds=int(context.run_config["rounds"]),
        evaluate_fn=evaluate,
    )


def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    """Accuracy and loss of the global model."""
    model = make_model()
    model.load_state_dict(arrays.to_torch_state_dict())
    accuracy, loss = evaluate_model(model)
    return MetricRecord({"accuracy": accuracy, "loss": loss})
