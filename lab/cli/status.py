"""``qunetlab status``: what the running orchestrator knows, seen as its observer.

The observer has a CURVE key of its own (role ``observer``) and may only listen: the hub sends it the latest
telemetry of every kind, and then what changes.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import typer

from lab.cli.folder import SECRETS, find_testbed
from lab.testbed import load_testbed

CONNECT_TIMEOUT_S = 5.0
SETTLE_S = 0.5


def show_status(path: Path, secrets: Path | None, as_json: bool, *, watch: bool = False) -> int:
    """Print one snapshot, or with ``watch`` every change until Ctrl-C; 3 if the hub does not answer."""
    from orchestrator.hub.connect import connect_agent
    from orchestrator.wire.messages import Subscribe, TelemetryItem

    testbed_path = find_testbed(path)
    testbed = load_testbed(testbed_path)
    agent = connect_agent(testbed, "observer", (secrets or testbed_path.parent / SECRETS) / "observer")
    try:
        if not agent.wait_up(CONNECT_TIMEOUT_S):
            raise ConnectionError(
                f"the orchestrator at {testbed.hub.control} did not answer within {CONNECT_TIMEOUT_S:g} s "
                f"({agent.link_state.value}); is it running, and is this its testbed file?"
            )
        agent.control_send(Subscribe())
        latest: dict[str, Any] = {"epoch": agent.epoch}
        deadline = time.monotonic() + SETTLE_S
        while watch or time.monotonic() < deadline:
            item = agent.control_recv(0.1)
            if isinstance(item, TelemetryItem):
                latest[item.kind] = item.data
                if watch:
                    typer.echo(json.dumps({item.kind: item.data}) if as_json else _row(item.kind, item.data))
        typer.echo(json.dumps(latest) if as_json else _text(latest))
    finally:
        agent.close()
    return 0


def _text(latest: dict[str, Any]) -> str:
    rows = [f"epoch {latest['epoch']}"]
    rows += [_row(kind, data) for kind, data in sorted(latest.items()) if kind != "epoch"]
    return "\n".join(rows)


def _row(kind: str, data: dict[str, Any]) -> str:
    return f"{kind:24s} " + ", ".join(f"{key} {_short(value)}" for key, value in data.items())


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
