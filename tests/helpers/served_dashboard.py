"""A dashboard that serves, as tests ask it: through sockets."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any

from lab.dashboard.board import Board
from lab.dashboard.series import Series
from lab.runs.testbeds.machine import Machine

LIMIT_S = 30.0


@dataclass
class Served:
    """A dashboard."""

    url: str
    text: str
    board: Board
    machine: Machine
    series: Series

    @property
    def host(self) -> str:
        return self.url.removeprefix("http://").rstrip("/")

    @property
    def token(self) -> str:
        return (self.machine.folder("dashboard") / "token").read_text()

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the answer."""
        connection = http.client.HTTPConnection(self.host, timeout=LIMIT_S)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def act(self, name: str, asked: Any, token: str | None = None) -> tuple[int, dict[str, Any]]:
        """Ask for an action, by default with the right token."""
        shown = self.token if token is None else token
        status, _, body = self.ask(
            "POST", f"/api/act/{name}", json.dumps(asked).encode(), Authorization=f"Bearer {shown}"
        )
        return status, json.loads(body)
