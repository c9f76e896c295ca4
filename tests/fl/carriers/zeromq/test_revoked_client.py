"""A client whose key is revoked at the running learning server's control socket."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import zmq

from orchestrator.wire.control_socket import ControlRefusedError, Revoke, Revoked, ShowKeys, ShowRevoked, ask
from orchestrator.wire.curve import client_socket
from orchestrator.wire.links import LinkState
from orchestrator.wire.zeromq import LinkMonitor

WITHIN_S = 2.0


def connect(world: Any, name: str) -> LinkMonitor:
    """A connection under the key of ``name`` that comes again and again, and what happens to it."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    monitors: list[LinkMonitor] = []
    client_socket(
        context,
        world.client_keys[name],
        world.server_keys.public,
        world.endpoint,
        before_connect=lambda made: monitors.append(LinkMonitor(made)),
    )
    monitors[0].wait(10.0)
    return monitors[0]


def test_a_revoked_client_is_out_within_two_seconds_and_after_a_restart(world: Any, tmp_path: Path) -> None:
    role_dir = tmp_path / "fl-server"
    role_dir.mkdir()
    revoked, other = world.names[:2]
    world.start_server(role_dir=role_dir)
    links = [connect(world, name) for name in (revoked, other)]
    assert [link.state for link in links] == [LinkState.UP] * 2
    started = time.monotonic()
    ask(role_dir, Revoke(f"fl-{revoked}"))
    while links[0].read() is not LinkState.REFUSED:
        assert links[0].socket.poll(2000)
    assert time.monotonic() - started < WITHIN_S
    assert ask(role_dir, ShowRevoked()) == Revoked([f"fl-{revoked}"])
    with pytest.raises(ControlRefusedError, match="no role 'eve' is served here"):
        ask(role_dir, Revoke("eve"))
    with pytest.raises(ControlRefusedError, match="ask the node"):
        ask(role_dir, ShowKeys())
    world.stop("server")
    world.start_server(role_dir=role_dir)
    assert connect(world, revoked).state is LinkState.REFUSED
    assert connect(world, other).state is LinkState.UP
