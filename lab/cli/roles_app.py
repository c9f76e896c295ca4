"""Commands of the long-running roles with instruments, of the hub, and of the simulator."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from lab.cli.completing import known_users
from lab.cli.naming import told_apart
from lab.cli.options import Json, MetricsListen, SecretsPath, StatePath, StoreKeyOption, TestbedPath
from lab.runs.addresses import LOOPBACK


def simulate(
    testbed: TestbedPath,
    as_json: Json = False,
    resolved: Annotated[
        Path | None, typer.Option(help="Write the testbed with the addresses in use to this file.")
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option("--state", help="State folder of the roles: there it listens for `qunetlab attack`."),
    ] = None,
    metrics: MetricsListen = LOOPBACK,
) -> None:
    """Serve every simulated instrument of a testbed until SIGTERM or Ctrl-C."""
    from lab.runs.roles.processes import simulate_role

    raise typer.Exit(simulate_role(testbed, as_json, resolved, state, metrics))


def orchestrator(
    testbed: TestbedPath,
    secrets: SecretsPath = None,
    state: StatePath = None,
    metrics: MetricsListen = LOOPBACK,
    as_json: Json = False,
) -> None:
    """Run the hub and the scheduler."""
    from lab.cli.role_line import run_role
    from lab.runs.roles.processes import orchestrator_role

    role = partial(orchestrator_role, testbed, secrets, state, metrics=metrics)
    raise typer.Exit(run_role("orchestrator", role, as_json=as_json))


def relay(
    testbed: TestbedPath,
    secrets: SecretsPath = None,
    state: StatePath = None,
    metrics: MetricsListen = LOOPBACK,
    as_json: Json = False,
) -> None:
    """Run the measurement relay: laser, pulse carver, launch, detectors, time tagger."""
    from lab.cli.role_line import run_role
    from lab.runs.roles.processes import relay_role

    role = partial(relay_role, testbed, secrets, state, metrics=metrics)
    raise typer.Exit(run_role("relay", role, as_json=as_json))


def node(
    name: Annotated[str, typer.Argument(autocompletion=known_users, help="User whose node this is.")],
    testbed: TestbedPath,
    secrets: SecretsPath = None,
    state: StatePath = None,
    store_key: StoreKeyOption = "file",
    moved: Annotated[
        bool,
        typer.Option("--moved", help="The key store was used elsewhere, and nothing of it is left there."),
    ] = False,
    metrics: MetricsListen = LOOPBACK,
    as_json: Json = False,
) -> None:
    """Run one user's node: its station in the ring, key generation, key store, key delivery."""
    from lab.cli.role_line import run_role
    from lab.runs.roles.processes import node_role

    name, testbed = told_apart(name, testbed)
    role = partial(node_role, name, testbed, secrets, state, store_key, metrics=metrics, moved=moved)
    raise typer.Exit(run_role(name, role, as_json=as_json))
