"""A client whose key is revoked at the running learning server's control socket."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from orchestrator.wire.control_socket import ControlRefusedError, Revoke, Revoked, ShowKeys, ShowRevoked, ask
from orchestrator.wire.links import Link, LinkState, Target, Waiter
from orchestrator.wire.zeromq import ZeroMQ

WITHIN_S = 2.0


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def connect(world: Any, stack: ExitStack, name: str) -> tuple[Link, Waiter]:
    """A connection under the key of ``name`` that comes again and again, and what watches it."""
    transport = stack.enter_context(ZeroMQ())
    waiter = transport.waiter()
    target = Target(world.endpoint, world.server_keys.public)
    link = transport.connect(waiter, world.client_keys[name], target)
    stack.callback(link.close)
    while link.state is LinkState.CONNECTING:
        waiter.wait(10.0)
    return link, waiter


def test_a_revoked_client_is_out_within_two_seconds_and_after_a_restart(
    world: Any, stack: ExitStack, tmp_path: Path
) -> None:
    role_dir = tmp_path / "fl-server"
    role_dir.mkdir()
    revoked, other = world.names[:2]
    world.start_server(role_dir=role_dir)
    links = [connect(world, stack, name) for name in (revoked, other)]
    assert [link.state for link, _ in links] == [LinkState.UP] * 2
    started = time.monotonic()
    ask(role_dir, Revoke(f"fl-{revoked}"))
    link, waiter = links[0]
    while link.state is not LinkState.REFUSED:
        waiter.wait(WITHIN_S)
    assert time.monotonic() - started < WITHIN_S
    assert ask(role_dir, ShowRevoked()) == Revoked([f"fl-{revoked}"])
    with pytest.raises(ControlRefusedError, match="no role 'eve' is served here"):
        ask(role_dir, Revoke("eve"))
    with pytest.raises(ControlRefusedError, match="ask the node"):
        ask(role_dir, ShowKeys())
    world.stop("server")
    world.start_server(role_dir=role_dir)
    assert connect(world, stack, revoked)[0].state is LinkState.REFUSED
    assert connect(world, stack, other)[0].state is LinkState.UP
