"""``/metrics``, ``/healthz`` and ``/readyz`` of a process, in threads of their own that are never in the way of its work.

``/healthz`` answers 200 while the process lives and its control loop turns, ``/readyz`` while it does its work; else 503 and why::

    {"ready": false, "reasons": ["no link to the hub: nothing listens at the address"]}

A reader has five seconds for everything, however it dribbles; more than eight at a time are turned away, so that slow ones take
nothing from the role, and the next have a place soon.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from lab.runs.addresses import ListenError, url_of

Page = Callable[[str], tuple[str, bytes]]
"""Type and text of the metrics, for the ``Accept`` header of a reader."""
METRICS, HEALTH, READY = "/metrics", "/healthz", "/readyz"
READERS = 8
PATIENCE_S, LOOK_S = 5.0, 0.5
JSON = "application/json"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = READERS

    def __init__(self, address: tuple[str, int], answer: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._places = threading.BoundedSemaphore(READERS)
        self._began_s: dict[Any, float] = {}
        """When each reader came who has a place."""
        super().__init__(address, answer)

    def server_bind(self) -> None:
        """Without looking up the name of the address, as HTTPServer does."""
        socket.socket.bind(self.socket, self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            self._began_s[request] = time.monotonic()
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._began_s.pop(request, None)
            self._places.release()

    def service_actions(self) -> None:
        """Called twice a second, and after every reader: whoever takes too long has had its time."""
        over_s = time.monotonic() - PATIENCE_S
        for request, began_s in tuple(self._began_s.items()):
            if began_s < over_s:
                with suppress(OSError):  # it has just gone
                    request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader that went away is nobody's error."""


class MetricsPage:
    """The pages of a process at ``host``; a context manager."""

    def __init__(
        self,
        page: Page,
        unready: Callable[[], Iterable[str]],
        host: str,
        port: int,
        option: str = "--metrics",
        dead: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        """``unready`` says why the process does not do its work, ``dead`` why it does not live; port 0 is any free one.

        Raises ListenError where the address is taken or not ours, naming ``option``.
        """

        class Answer(BaseHTTPRequestHandler):
            timeout = PATIENCE_S
            server_version, sys_version = "qunetlab", ""

            def do_GET(self) -> None:
                place = self.path.partition("?")[0]
                if place == METRICS:
                    self._say(200, *page(self.headers.get("Accept", "")))
                elif place == HEALTH:
                    self._judge("alive", dead())
                elif place == READY:
                    self._judge("ready", unready())
                else:
                    self._say(404, "text/plain", b"only /metrics, /healthz and /readyz are here\n")

            def _judge(self, word: str, against: Iterable[str]) -> None:
                reasons = list(against)
                told = {word: not reasons, "reasons": reasons}
                self._say(503 if reasons else 200, JSON, json.dumps(told).encode() + b"\n")

            def _say(self, status: int, content_type: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Not every reading is worth a line."""

        try:
            self._server = _Server((host, port), Answer)
        except OSError as error:
            raise ListenError(
                f"cannot listen at {host}:{port}: {error.strerror or error}; choose another address with"
                f" {option} HOST:PORT (port 0 is any that is free)"
            ) from error
        self.url = url_of(host, self._server.server_port, METRICS)

    def __enter__(self) -> MetricsPage:
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": LOOK_S}, name="metrics", daemon=True
        ).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
