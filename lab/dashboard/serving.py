"""``qunetlab dashboard`` as a process: one socket, one loop, one watch, until it is told to end."""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import uvicorn

from lab.dashboard.actions import token_of
from lab.dashboard.application import Application
from lab.dashboard.board import Board
from lab.dashboard.machine_watch import MachineWatch
from lab.dashboard.watching import Watch
from lab.runs.testbeds.folder import SECRETS
from lab.runs.testbeds.machine import Machine

KEEP_ALIVE_S = 5
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
CHECK_S = 0.2


class ListenError(OSError):
    """The address cannot be listened at; the text says what to do."""


def listen_at(text: str) -> socket.socket:
    """A socket bound to ``HOST:PORT``; port 0 is any free one.  Raises ValueError, ListenError."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"--listen {text!r} is no HOST:PORT, such as 127.0.0.1:8642")
    try:
        family, _, _, _, address = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise ListenError(
            f"cannot listen at {text}: {error.strerror or error}; another dashboard may be there: open it, or choose another"
            " address with --listen HOST:PORT (port 0 is any that is free)"
        ) from error
    return bound


def hosts_of(bound: socket.socket) -> list[str]:
    """Names under which a browser may ask for us: of this machine only, unless others may reach it."""
    host = bound.getsockname()[0]
    address = ipaddress.ip_address(host)
    if address.is_loopback:
        return [*LOOPBACK, host]
    return ["*"] if address.is_unspecified else [host, socket.gethostname(), *LOOPBACK]


def serve(
    machine: Machine,
    secrets: Path | None,
    listen: str,
    stop: threading.Event,
    ready: Callable[[str, str], None],
) -> int:
    """Serve until ``stop`` is set; ``ready`` gets address and token once a browser may come."""
    bound = listen_at(listen)
    host, port = bound.getsockname()[:2]
    board = Board(time.monotonic)
    token = token_of(machine)
    alone = ipaddress.ip_address(host).is_loopback
    application = Application(board, machine, token, stop.is_set, alone=alone)
    config = uvicorn.Config(
        application.asgi(hosts_of(bound)),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=2,
        limit_concurrency=256,
        ws="none",
    )
    server = uvicorn.Server(config)
    watches = (
        Watch(board, machine.testbed, secrets or machine.path.parent / SECRETS),
        MachineWatch(board, machine, alone=alone),
    )
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [bound]}, name="dashboard-http", daemon=True
    )
    thread.start()
    for watch in watches:
        watch.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        ready(f"http://{f'[{host}]' if ':' in host else host}:{port}/", token)
        while thread.is_alive() and not stop.wait(CHECK_S):
            pass
    finally:
        stop.set()
        server.should_exit = True
        for watch in watches:
            watch.close()
        thread.join()
    return 0
