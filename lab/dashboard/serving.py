"""``qunetlab dashboard`` as a process: one socket, one loop, its watches, until it is told to end."""

from __future__ import annotations

import ipaddress
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import uvicorn

from lab.dashboard import presence
from lab.dashboard.actions import token_of
from lab.dashboard.application import INDEX, MISSING, Application
from lab.dashboard.board import Board
from lab.dashboard.door import Tokens
from lab.dashboard.machine_watch import MachineWatch
from lab.dashboard.series import Series
from lab.dashboard.watching import Watch
from lab.runs.addresses import LISTEN_OPTION, ListenError, host_and_port, url_of
from lab.runs.testbeds.folder import SECRETS, FolderError
from lab.runs.testbeds.machine import Machine
from lab.testbed import load_testbed

logger = logging.getLogger(__name__)
KEEP_ALIVE_S = 5
LOOPBACK = ("127.0.0.1", "localhost", "::1")
CHECK_S = 0.2


def listen_at(text: str, machine: Machine) -> socket.socket:
    """A socket that listens at ``HOST:PORT``; port 0 is any free one.  Raises ValueError, ListenError."""
    host, port = host_and_port(text, LISTEN_OPTION, "127.0.0.1:8642")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise ListenError(f"cannot listen at {text}: {error.strerror or error}") from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen()
    except OSError as error:
        bound.close()
        raise ListenError(
            f"cannot listen at {text}: {error.strerror or error}; {_who_is_there(host, port, machine)}"
        ) from error
    return bound


def _who_is_there(host: str, port: int, machine: Machine) -> str:
    """What somebody can do whose address is taken."""
    other = presence.serving(machine)
    if other is not None and other.url.endswith(f":{port}/"):
        return f"{other}: open that, or end it first"
    there = presence.at(host, port)
    instead = "choose another address with --listen HOST:PORT (port 0 is any that is free)"
    return f"{there} is there; {instead}" if there else instead


def names_of(bound: socket.socket) -> list[str]:
    """Names under which a browser may ask for us: of this machine only, unless others may reach it."""
    host = bound.getsockname()[0]
    if ipaddress.ip_address(host).is_loopback:
        return [*LOOPBACK, host]
    return [*LOOPBACK, host, socket.gethostname()]


def tokens_of(machine: Machine) -> tuple[str, Tokens]:
    """The token, and what checks it; a dashboard whose folder cannot be used shows everything and does nothing."""
    try:
        token = token_of(machine)
    except (OSError, ValueError) as error:
        why = f"the dashboard's token cannot be kept: {error}"
        logger.warning("%s", why)
        return "", Tokens("", why)
    return token, Tokens(token)


def ready_text(url: str, token: str, machine: Machine) -> str:
    """What people are told once a browser may come."""
    other = presence.serving(machine)
    lines = [url]
    if other is not None and other.url != url:
        lines.append(f"({other} as well)")
    if token:
        lines.append(f"Actions other than stopping ask for this token: {token}")
    else:
        folder = machine.folder(presence.FOLDER)
        lines.append(f"{folder} cannot be written, so no action but stopping is possible")
    return "\n".join([*lines, "Ctrl-C ends the dashboard; the ring goes on."])


@contextmanager
def web_server(application: Application, bound: socket.socket) -> Iterator[threading.Thread]:
    """Serves in a thread, ready when this yields it; streams end when the application's ``ending`` says so."""
    server = uvicorn.Server(
        uvicorn.Config(
            application.asgi(names_of(bound)),
            log_config=None,  # its lines are lines of our log
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=2,
            limit_concurrency=256,
            ws="none",
        )
    )
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [bound]}, name="dashboard-http", daemon=True
    )
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise ListenError("the server did not start; what it said stands above")
            time.sleep(0.01)
        yield thread
    finally:
        server.should_exit = True
        thread.join()


def serve(
    machine: Machine,
    secrets: Path | None,
    listen: str,
    stop: threading.Event,
    ready: Callable[[str, str], None],
) -> int:
    """Serve until ``stop`` is set; ``ready`` gets the address, and words for people, once a browser may come."""
    if not INDEX.is_file():
        raise FolderError(MISSING)
    bound = listen_at(listen, machine)
    host, port = bound.getsockname()[:2]
    alone = ipaddress.ip_address(host).is_loopback
    url = url_of(host, port, "/")
    board, series = Board(time.monotonic), Series()
    token, tokens = tokens_of(machine)
    application = Application(board, machine, tokens, stop.is_set, alone=alone, series=series)
    secrets = secrets or machine.path.parent / SECRETS
    with ExitStack() as stack:
        stack.enter_context(presence.announced(machine, url))
        thread = stack.enter_context(web_server(application, bound))
        stack.callback(stop.set)
        for watch in (
            Watch(board, machine.testbed, secrets, reread=partial(load_testbed, machine.path), series=series),
            MachineWatch(board, machine, alone=alone),
        ):
            watch.start()
            stack.callback(watch.close)
        ready(url, ready_text(url, token, machine))
        while thread.is_alive() and not stop.wait(CHECK_S):
            pass
    return 0
