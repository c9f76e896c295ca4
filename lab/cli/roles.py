"""The long-running roles: each opens what it owns, runs until told to stop, and leaves instruments safe."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from lab.cli.runtime import Runtime

logger = logging.getLogger(__name__)


def orchestrator_role(path: Path, secrets: Path | None, state: Path | None) -> int:
    """Hub and scheduler."""
    from orchestrator.orchestrator_process import run_orchestrator

    runtime = Runtime("orchestrator", path, secrets, state)
    run_orchestrator(
        runtime.testbed,
        runtime.secrets,
        runtime.state,
        runtime.stop,
        lambda info: runtime.ready(**info),
    )
    return 0


def relay_role(path: Path, secrets: Path | None, state: Path | None) -> int:
    """Measurement relay."""
    from lab.guard import guarded_station
    from orchestrator.relay import run_relay

    runtime = Runtime("relay", path, secrets, state)
    with guarded_station(runtime.testbed, runtime.testbed_path, "relay") as station:
        run_relay(
            runtime.testbed, runtime.secrets, station, runtime.stop, ready=runtime.ready, emit=runtime.emit
        )
    return 0


def node_role(name: str, path: Path, secrets: Path | None, state: Path | None) -> int:
    """One user's node."""
    from lab.guard import guarded_station
    from orchestrator.node import run_node

    runtime = Runtime(name, path, secrets, state)
    _require_user(runtime, name)
    with guarded_station(runtime.testbed, runtime.testbed_path, name) as station:
        run_node(
            runtime.testbed,
            name,
            runtime.secrets,
            runtime.state,
            station,
            runtime.stop,
            ready=runtime.ready,
            emit=runtime.emit,
        )
    return 0


def _require_user(runtime: Runtime, name: str) -> None:
    users = runtime.testbed.user_names()
    if name not in users:
        raise ValueError(f"no user {name!r} in {runtime.testbed_path}; users are {', '.join(users)}")


def _read_config(text: str) -> dict[str, Any]:
    text = Path(text[1:]).read_text(encoding="utf-8") if text.startswith("@") else text
    config = json.loads(text)
    if not isinstance(config, dict):
        raise ValueError("the training configuration must be a JSON object")
    return config
