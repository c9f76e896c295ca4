"""Rounds of Flower side by side: plain FedAvg, our mod, and Flower's own SecAgg+.

The clients add a constant to the model instead of training.  A round is what the server app does and waits
for, from asking the first client to having the new model.  Two engines: ``ray`` is Flower's simulation
(``run_simulation``), with its processes and polling, in wall seconds; ``local`` makes function calls of the
messages (``flower_local_grid``) and counts processor seconds, of all clients and the server together,
which a busy machine does not change.  Keys of our mod are simulated.  SecAgg+ shares every client's keys with
all others, as pairwise pads do, and quantises to 22 bits at a ring width of 32; we send 8-bit values packed at the
width of the ring.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypeAlias

import numpy as np
from flower_local_grid import LocalGrid
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from fl.carriers.flower.call import ClientAppCallable
from fl.carriers.flower.mod import qkd_secagg_mod
from fl.carriers.flower.roster import Roster
from fl.carriers.flower.secure_run import SecureRun
from fl.carriers.flower.strategy import QkdFedAvg

Way: TypeAlias = Literal["plain", "otp", "lightsecagg", "secagg+"]
Engine: TypeAlias = Literal["ray", "local"]
RAY_PROCESSES = 2
STEP = np.float32(0.01)
"""What every client adds to every parameter."""


def flower_benchmark(
    ways: Iterable[Way] = ("plain", "otp", "secagg+"),
    n_clients: int = 20,
    n_parameters: int = 100_000,
    rounds: int = 4,
    engine: Engine = "ray",
) -> dict[str, dict[str, Any]]:
    """Seconds of the rounds after the first (which starts processes and compiles), and their median.

    ``moved`` says by how much the model moved per round, which must be close to 0.01 in all of them.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    logging.getLogger("flwr").setLevel(logging.ERROR)
    clock = time.process_time if engine == "local" else time.perf_counter
    found: dict[str, dict[str, Any]] = {}
    for way in ways:
        with TemporaryDirectory() as folder:
            noted = _Noted(clock)
            case = _Case(way, n_clients, n_parameters, rounds, Path(folder), noted)
            server, client = _secagg_plus(case) if way == "secagg+" else _message_api(case)
            _run(server, client, n_clients, engine)
        found[way] = {
            "engine": engine,
            "median_s": median(noted.seconds[1:]),
            "seconds": [round(value, 3) for value in noted.seconds],
            "moved": float(np.abs(noted.models[-1] / len(noted.seconds)).mean()),
            "n_clients": n_clients,
            "n_parameters": n_parameters,
        }
    return found


@dataclass
class _Noted:
    """What a run leaves: seconds of every round by ``clock``, and models."""

    clock: Callable[[], float]
    seconds: list[float] = field(default_factory=list)
    models: list[np.ndarray] = field(default_factory=list)


@dataclass(frozen=True)
class _Case:
    way: Way
    n_clients: int
    n_parameters: int
    rounds: int
    folder: Path
    noted: _Noted


def _run(server: ServerApp, client: ClientApp, n_clients: int, engine: Engine) -> None:
    if engine == "local":
        server(grid=LocalGrid(client, n_clients), context=Context(1, 1, {}, RecordDict(), {}))
        return
    from flwr.simulation import run_simulation

    run_simulation(
        server,
        client,
        n_clients,
        backend_config={
            "init_args": {"num_cpus": RAY_PROCESSES, "log_to_driver": False},
            "client_resources": {"num_cpus": 1.0, "num_gpus": 0.0},
        },
    )


def _message_api(case: _Case) -> tuple[ServerApp, ClientApp]:
    """Plain FedAvg, or our strategy with our mod."""
    way, n_clients, folder, noted = case.way, case.n_clients, case.folder, case.noted
    server_app = ServerApp()
    simulated = {"key-supply": "simulated", "mode": way, "state-folder": str(folder)}

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        quiet: dict[str, Any] = {
            "fraction_evaluate": 0.0,
            "min_train_nodes": n_clients,
            "min_available_nodes": n_clients,
        }
        strategy: FedAvg
        if way == "otp" or way == "lightsecagg":
            strategy = QkdFedAvg(SecureRun(mode=way, clip=0.1), Roster(None), folder, **quiet)
        else:
            strategy = FedAvg(**quiet)
        _time_rounds(strategy, noted)
        initial = ArrayRecord({"parameters": Array(np.zeros(case.n_parameters, np.float32))})
        result = strategy.start(grid, initial, num_rounds=case.rounds, timeout=600)
        noted.models.append(result.arrays["parameters"].numpy())

    def with_settings(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        """The run configuration that ``run_simulation`` cannot pass, for as long as the call lasts."""
        context.run_config.update(simulated)
        try:
            return call_next(message, context)
        finally:
            for key in simulated:
                del context.run_config[key]

    client_app = ClientApp(mods=[] if way == "plain" else [with_settings, qkd_secagg_mod])

    @client_app.train()
    def train(message: Message, context: Context) -> Message:
        model = message.content.array_records["arrays"]["parameters"].numpy()
        content = RecordDict(
            {
                "arrays": ArrayRecord({"parameters": Array(model + STEP)}),
                "metrics": MetricRecord({"num-examples": 1}),
            }
        )
        return Message(content, reply_to=message)

    return server_app, client_app


def _time_rounds(strategy: FedAvg, noted: _Noted) -> None:
    """Note how long each round takes, from its first message to its new model."""
    configure, aggregate = strategy.configure_train, strategy.aggregate_train
    began: list[float] = []

    def timed_configure(number: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Any:
        began.append(noted.clock())
        return configure(number, arrays, config, grid)

    def timed_aggregate(number: int, replies: Iterable[Message]) -> Any:
        result = aggregate(number, replies)
        noted.seconds.append(noted.clock() - began[-1])
        return result

    setattr(strategy, "configure_train", timed_configure)  # noqa: B010 - of this one object
    setattr(strategy, "aggregate_train", timed_aggregate)  # noqa: B010


def _secagg_plus(case: _Case) -> tuple[Any, Any]:
    """Flower's SecAgg+, which exists for its older interface only."""
    from flwr.client import NumPyClient
    from flwr.client.mod import secaggplus_mod
    from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays
    from flwr.server import LegacyContext, ServerConfig
    from flwr.server.strategy import FedAvg as LegacyFedAvg
    from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow

    noted = case.noted

    class Client(NumPyClient):
        def fit(self, parameters: list[np.ndarray], config: dict[str, Any]) -> Any:
            return [parameters[0] + STEP], 1, {}

    def client_fn(context: Context) -> Any:
        return Client().to_client()

    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        strategy = LegacyFedAvg(
            fraction_fit=1.0,
            fraction_evaluate=0.0,
            min_fit_clients=case.n_clients,
            min_available_clients=case.n_clients,
            initial_parameters=ndarrays_to_parameters([np.zeros(case.n_parameters, np.float32)]),
        )
        legacy = LegacyContext(
            context=context, config=ServerConfig(num_rounds=case.rounds), strategy=strategy
        )
        secure = SecAggPlusWorkflow(num_shares=1.0, reconstruction_threshold=0.5)

        def timed(grid: Grid, context: Any) -> None:
            began = noted.clock()
            secure(grid, context)
            noted.seconds.append(noted.clock() - began)
            aggregate = strategy_parameters(context)
            if aggregate is not None:
                noted.models.append(aggregate)

        def strategy_parameters(context: Any) -> np.ndarray | None:
            from flwr.compat.common.recorddict_compat import arrayrecord_to_parameters

            record = context.state.array_records.get("parameters")
            if record is None:
                return None
            return parameters_to_ndarrays(arrayrecord_to_parameters(record, keep_input=True))[0]

        DefaultWorkflow(fit_workflow=timed)(grid, legacy)

    return server_app, ClientApp(client_fn=client_fn, mods=[secaggplus_mod])
