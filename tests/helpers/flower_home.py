"""A home of its own for a command of Flower's, off the network, and an end of what it leaves running."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path


def flower_home(home: Path) -> dict[str, str]:
    """Makes ``home``; the environment of the command.  uv is told to stay off the network."""
    home.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return {
        "FLWR_HOME": str(home),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(port),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "UV_OFFLINE": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "no_proxy": "*",
    }


def stop_superlink(home: Path) -> None:
    """Stop what ``flwr run`` leaves running: the SuperLink that keeps its log in ``home``."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
        except OSError:  # it is gone
            continue
        if b"flower-superlink" in command and os.fsencode(home) in command:
            os.kill(int(entry.name), signal.SIGTERM)
